"""Contrastive training of images and texts, from pairs to a folder that sentence-transformers loads too."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict
from sentence_transformers import MultiVectorEncoderTrainer, SentenceTransformerTrainer
from sentence_transformers.base.evaluation import SequentialEvaluator

from ..data.pairs import load_pairs
from ..data.summary import evenly_spread
from ..evaluation.evaluate import MAPS_SHOWN, draw_attention_on
from ..modeling_omni_vision_retrieval import OmniVisionForRetrieval
from ..processing_omni_vision_retrieval import OmniVisionRetrievalProcessor
from ..retrieval.augmentation import PairAugmentation
from ..retrieval.build import as_sentence_transformer, build_retrieval
from ..retrieval.evaluation import DIRECTIONS, RANKS, evaluators, retrieval_metrics
from ..retrieval.losses import MAX_CACHED_TEXTS, TwoWayContrastiveLoss, unwrap_retrieval_model
from ..retrieval.worst_queries import draw_worst_queries
from .arguments import check_checkpoint, read_fields
from .callbacks import AfterStepCallback
from .lora import add_lora, merge_lora
from .optimizer import parameter_groups
from .report import Picture
from .resumption import describe_config
from .retrieval_arguments import RetrievalArguments, RetrievalTrainingArguments
from .retrieval_data import ConceptBatches, rows_by_concept, training_pairs
from .run_record import given_recipe
from .skeleton import SkeletonTrainer, TrainingRun


LORA_TARGETS = r".*vision_model.*\.(q_proj|v_proj)"
LARGEST_FACTOR = 100
OF_CHECKPOINTS = ("embedding_dim", "vision_feature_select_strategy", "contrastive_loss")


def train_retrieval(recipe: RetrievalArguments, args: RetrievalTrainingArguments) -> Path:
    """Train a vision tower and a text encoder for search; measure both directions once at the end.

    Returns `args.output_dir`, with any LoRA merged, and raises as [`TrainingRun.run`] does.
    """
    return RetrievalRun(recipe, args).run()


class RetrievalRun(TrainingRun):
    """The run of a retrieval model; see `train_retrieval`."""

    program = "train-retrieval"
    evaluated = {"eval_sequential_score": "ndcg@10"}

    def build(self) -> "SingleVectorTrainer | LateInteractionTrainer":
        """Load the pairs, load or make the model, freeze what is not trained, and return its Trainer."""
        recipe = self.recipe
        self.packages = ("sentence-transformers", *(["peft"] if recipe.lora_rank else []))
        data = load_pairs(recipe.dataset, recipe.image_column, recipe.text_column, recipe.validation_fraction)
        self.data = self.check_data(data)
        model, self.processor = _start(recipe, self.data)
        opened = as_sentence_transformer(model, self.processor, recipe.late_interaction)
        freeze_parameters(unwrap_retrieval_model(opened), recipe.train, recipe.lora_rank)
        return trainer_of(opened, recipe, self.args, self.data)

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics that an evaluation gives: those of each direction, and the mean nDCG@10."""
        ranked = [f"{name}@{rank}" for name in ("accuracy", "precision", "recall") for rank in RANKS]
        ranked += ["ndcg@10", "mrr@10", "map@10"]
        return [*self.evaluated, *(f"eval_{direction}_score_{name}" for direction in DIRECTIONS for name in ranked)]

    def describe(self) -> dict[str, Any]:
        """Return the recipe and the sizes of the data."""
        args = self.args
        return {
            "recipe": given_recipe(self.recipe),
            "arguments": {
                "batch": args.per_device_train_batch_size * args.world_size,
                "learning_rate": args.learning_rate,
                "epochs": args.num_train_epochs,
            },
            "pairs": {name: len(split) for name, split in self.data.items()},
        }

    def seen(self) -> dict[str, Any]:
        """Return also how a step is divided: the negatives of a pair are those of its batch."""
        args = self.args
        batch = (args.per_device_train_batch_size, args.gradient_accumulation_steps, args.world_size)
        return {
            **super().seen(),
            "images": describe_config(self.processor.image_processor),
            "batch, steps accumulated, processes": list(batch),
        }

    def save(self) -> None:
        """Write model and processor, with any LoRA merged."""
        trained = self.trainer.core.float()
        merge_lora(trained)
        if self.trainer.is_world_process_zero():
            trained.save_pretrained(self.folder)
            self.processor.save_pretrained(self.folder)

    def measure(self) -> dict[str, Any]:
        """Measure what was saved, in float32, as others will load it."""
        model: Any = OmniVisionForRetrieval.from_pretrained(self.folder)
        model = model.to(self.args.device)
        size, found = self.args.per_device_eval_batch_size, {}
        for name in ("multi_vector", "single_vector"):
            if self.recipe.vectors in (name, "both"):
                opened = as_sentence_transformer(model, self.processor, name == "multi_vector")
                splits = {split: rows for split, rows in self.data.items() if split != "train"}
                found[name] = {split: retrieval_metrics(opened, rows, size) for split, rows in splits.items()}
        return {"retrieval": found}

    def pictures(self, folder: Path) -> Iterator[Picture | Mapping[str, Any]]:
        """Draw the texts whose image is found worst on validation, and the attention of the vision tower."""
        model, rows = OmniVisionForRetrieval.from_pretrained(self.folder).eval(), self.data["validation"]
        opened = as_sentence_transformer(model, self.processor, self.recipe.late_interaction)
        drawn = draw_worst_queries(opened, rows, folder / "queries.png")
        yield Picture(drawn, "Texts whose image is found worst", "On validation.")
        shown = rows.select(evenly_spread(len(rows), MAPS_SHOWN))
        captions = [some[0] for some in shown["texts"][:]]
        tower, processor = model.vision_model, self.processor.image_processor
        path = draw_attention_on(tower, processor, shown["image"][:], captions, folder / "attention.png")
        yield Picture.of(path, "validation")


def freeze_parameters(model: OmniVisionForRetrieval, train: str, lora_rank: int = 0) -> None:
    """Freeze in place what is not trained; `train` names `all`, the `image` or the `text` tower, or only `heads`.

    With `lora_rank`, the vision tower gets LoRA on the query and value projections and is frozen beside it.
    The projections and the temperature are always trained.
    """
    if lora_rank:
        add_lora(model, lora_rank, LORA_TARGETS)
    for name, parameter in model.named_parameters():
        tower = "image" if name.startswith("vision_model.") else "text" if name.startswith("text_model.") else None
        only_lora = bool(lora_rank) and tower == "image"
        parameter.requires_grad_("lora_" in name if only_lora else tower is None or train in ("all", tower))
    # BERT's pooler is not in use: DDP would wait for gradients that never come.
    for name, parameter in model.text_model.named_parameters():
        if name.startswith("pooler."):
            parameter.requires_grad_(False)


class _RetrievalTrainer(SkeletonTrainer):
    """What both trainers of sentence-transformers share: Muon, batches of concepts, and the loss at chance."""

    image_pair_weight: float = 0.0
    sigmoid: bool = False

    @property
    def core(self) -> OmniVisionForRetrieval:
        """The model inside that of sentence-transformers."""
        return unwrap_retrieval_model(self.model)

    def parameter_groups(self) -> list[dict[str, Any]] | None:
        """Return groups with Muon for the layers of the vision tower, not of the text encoder; None without Muon."""
        if not self.muon_learning_rate:
            return None
        layers, args = self.core.config.vision_config.num_hidden_layers, self.args
        rates = (args.learning_rate, args.weight_decay, self.layer_decay, self.muon_learning_rate)
        return parameter_groups(self.core, layers, *rates, tower="vision_model.")

    def get_batch_sampler(self, *args: Any, **kwargs: Any) -> Any:
        """Make the sampler, with the images of a concept in one batch where they are trained on each other."""
        if self.image_pair_weight:
            return ConceptBatches(*args, **kwargs)
        return super().get_batch_sampler(*args, **kwargs)  # type: ignore[misc]

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Leave out the card of sentence-transformers: what is published has ours."""

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log, with the loss at chance beside each loss of training."""
        if "loss" in logs:
            pairs = self.args.per_device_train_batch_size * self.args.world_size
            logs = {**logs, "chance_loss": chance_loss(pairs, self.sigmoid)}
        super().log(logs, *args, **kwargs)


class SingleVectorTrainer(_RetrievalTrainer, SentenceTransformerTrainer):
    """Trains a single vector for each image and text."""


class LateInteractionTrainer(_RetrievalTrainer, MultiVectorEncoderTrainer):
    """Trains one vector for each patch and word."""


def chance_loss(pairs: int, sigmoid: bool = False) -> float:
    """Return the loss of a batch when all scores are equal: log(pairs) for softmax."""
    if not sigmoid:
        return math.log(pairs)
    share = 1 / pairs
    return -(math.log(share) + (pairs - 1) * math.log1p(-share))


def trainer_of(
    model: Any, recipe: RetrievalArguments, args: RetrievalTrainingArguments, data: DatasetDict
) -> SingleVectorTrainer | LateInteractionTrainer:
    """Return the Trainer of a model of sentence-transformers on the pairs of `load_pairs`.

    Raises:
        ValueError: for an `image_pair_weight` where no concept has two images.
    """
    if recipe.image_pair_weight and all(len(rows) < 2 for rows in rows_by_concept(data["train"]).values()):
        raise ValueError(
            f"`image_pair_weight` needs concepts with several images to train on, got {recipe.image_pair_weight!r} "
            f"and none among {len(data['train'])} pairs. Leave it out."
        )
    kind = LateInteractionTrainer if recipe.late_interaction else SingleVectorTrainer
    if args.ddp_find_unused_parameters is None:
        # With GradCache each pass reaches one tower only. Otherwise everything is in use, and looking for what is not,
        # the default, takes the temperature for it: it is used after the towers.
        args.ddp_find_unused_parameters = bool(recipe.mini_batch_size)
    change = PairAugmentation(recipe.augment, args.seed)
    trainer = kind(
        model=model,
        args=args,
        train_dataset=training_pairs(data["train"], change, recipe.text_sampling),
        loss=TwoWayContrastiveLoss(
            model,
            recipe.mini_batch_size,
            recipe.single_vector_loss_weight,
            recipe.image_pair_weight,
            caches_texts(recipe, args, data["train"]),
        ),
        evaluator=_evaluator(data["validation"], recipe.late_interaction, args.per_device_eval_batch_size),
        epoch_data=change,
    )
    core = unwrap_retrieval_model(model)
    # As in CLIP (https://huggingface.co/papers/2103.00020).
    trainer.add_callback(AfterStepCallback(lambda: core.logit_scale.clamp_(max=math.log(LARGEST_FACTOR))))
    trainer.muon_learning_rate, trainer.image_pair_weight = recipe.muon_learning_rate, recipe.image_pair_weight
    trainer.sigmoid = core.config.contrastive_loss == "sigmoid"
    return trainer


def caches_texts(recipe: RetrievalArguments, args: RetrievalTrainingArguments, train: Dataset) -> bool:
    """Return whether a frozen text encoder should encode each text once, and by itself.

    That costs three times what a text of a batch does (a CPU, MiniLM's size): it has to be read as often to pay.
    """
    if recipe.late_interaction or recipe.train in ("all", "text"):
        return False
    reads = args.max_steps * args.train_batch_size if args.max_steps > 0 else args.num_train_epochs * len(train)
    return len({text for texts in train["texts"][:] for text in texts}) <= min(MAX_CACHED_TEXTS, reads / 3)


def _evaluator(split: Dataset, late_interaction: bool, batch_size: int) -> SequentialEvaluator:
    found = evaluators(split, late_interaction, batch_size)
    return SequentialEvaluator(list(found.values()), main_score_function=lambda scores: sum(scores) / len(scores))


def _start(
    recipe: RetrievalArguments, data: DatasetDict
) -> tuple[OmniVisionForRetrieval, OmniVisionRetrievalProcessor]:
    if recipe.model is not None:
        model = OmniVisionForRetrieval.from_pretrained(recipe.model)
        own = model.config.to_dict()
        check_checkpoint(recipe.model, own, {name: getattr(recipe, name) for name in OF_CHECKPOINTS})
        return model, OmniVisionRetrievalProcessor.from_pretrained(recipe.model)
    new: Any = recipe
    return build_retrieval(
        recipe.vision or recipe.vision_config(),
        new.text,
        (line for lines in data["train"]["texts"][:] for line in lines),
        new.embedding_dim,
        new.vision_feature_select_strategy,
        new.contrastive_loss,
        read_fields("config", recipe.config) if recipe.vision else None,
    )


__all__ = [
    "LateInteractionTrainer",
    "RetrievalRun",
    "SingleVectorTrainer",
    "caches_texts",
    "chance_loss",
    "freeze_parameters",
    "train_retrieval",
    "trainer_of",
]
