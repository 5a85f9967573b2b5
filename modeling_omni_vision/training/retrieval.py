"""One contrastive training run, from pairs to a folder that opens by three doors, with numbers in `metrics.json`."""

import hashlib
import logging
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, DatasetDict
from peft import LoraConfig, PeftModel
from sentence_transformers import MultiVectorEncoderTrainer, SentenceTransformerTrainer
from sentence_transformers.base.evaluation import SequentialEvaluator
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments, set_seed

from ..data.pairs import load_pairs
from ..data.stored_images import open_stored
from ..modeling_omni_vision_retrieval import OmniVisionForRetrieval
from ..processing_omni_vision_retrieval import OmniVisionRetrievalProcessor
from ..records.metrics_file import merge_metrics
from ..retrieval.augmentation import PairAugmentation
from ..retrieval.build import as_sentence_transformer, build_retrieval
from ..retrieval.evaluation import evaluators, retrieval_metrics
from ..retrieval.losses import TwoWayContrastiveLoss, unwrap_retrieval_model
from .batches import ConceptBatches, rows_by_concept
from .callbacks import DataEpochCallback, NonFiniteLossError, set_frozen_to_eval, train_until_done
from .classification import find_checkpoint
from .optimizer import muon_for
from .retrieval_arguments import RetrievalArguments, RetrievalTrainingArguments
from .run_record import describe_machine, recorded_versions


logger = logging.getLogger(__name__)

LORA_TARGETS = r".*vision_model.*\.(q_proj|v_proj)"
HEADS = ("visual_projection", "text_projection")
LARGEST_FACTOR = 100
TEMPERATURE = ("logit_scale", "logit_bias")


def train_retrieval(recipe: RetrievalArguments, args: RetrievalTrainingArguments) -> Path:
    """Train an image tower and a text encoder to find each other; measure both directions once at the end.

    Args:
        recipe: Pairs, model, and what is trained.
        args: Everything that the Trainer of sentence-transformers knows.

    Returns:
        `args.output_dir`: model, processor and code as the Hub wants them (with any LoRA merged), and `metrics.json`.

    Raises:
        TrainingInterruptedError: after SIGTERM, once a checkpoint is saved.
        NonFiniteLossError: if the loss becomes NaN or infinite.
        ValueError: for arguments, data or checkpoints that cannot be used.
    """
    folder = Path(str(args.output_dir))
    checkpoint = find_checkpoint(folder, args.resume_from_checkpoint)
    set_seed(args.seed)
    data = load_pairs(recipe.dataset, recipe.image_column, recipe.text_column, recipe.validation_fraction)
    model, processor = _start(recipe, data)
    door = as_sentence_transformer(model, processor, recipe.late_interaction)
    freeze_parameters(unwrap_retrieval_model(door), recipe.train, recipe.lora_rank)
    trainer = trainer_of(door, recipe, args, data)
    minutes = train_until_done(trainer, checkpoint) / 60
    trained = merged(unwrap_retrieval_model(trainer.model), recipe.lora_rank)
    if trainer.is_world_process_zero():
        trained.save_pretrained(folder)
        processor.save_pretrained(folder)
        sections = {"training": _describe(recipe, args, trainer, data, minutes, checkpoint)}
        # Of what was saved: LoRA is merged by then.
        sections["training"]["parameters"] = trained.num_parameters()
        merge_metrics(folder, sections)
        if args.do_predict:
            # From the files, in float32, as others will open them.
            model = OmniVisionForRetrieval.from_pretrained(folder)
            doors = {
                name: as_sentence_transformer(model, processor, name == "multi_vector")
                for name in ("multi_vector", "single_vector")
                if recipe.vectors in (name, "both")
            }
            tests = {
                name: {
                    split: retrieval_metrics(opened, rows, args.per_device_eval_batch_size)
                    for split, rows in data.items()
                    if split != "train"
                }
                for name, opened in doors.items()
            }
            merge_metrics(folder, {"retrieval": tests})
    return folder


def freeze_parameters(model: OmniVisionForRetrieval, train: str, lora_rank: int = 0) -> None:
    """Freeze in place what is not trained: `all`, the `image` or the `text` tower, or only the `heads`.

    With `lora_rank`, the image tower gets LoRA on the query and value projections and is frozen beside it.
    The projections and the temperature are always trained.
    """
    if lora_rank:
        model.add_adapter(
            LoraConfig(r=lora_rank, lora_alpha=2 * lora_rank, target_modules=LORA_TARGETS, modules_to_save=[*HEADS])
        )
    for name, parameter in model.named_parameters():
        tower = "image" if name.startswith("vision_model.") else "text" if name.startswith("text_model.") else None
        if lora_rank and tower != "text":
            # The adapter has chosen, but for what belongs to no module.
            parameter.requires_grad_(parameter.requires_grad or name in TEMPERATURE)
        else:
            parameter.requires_grad_(tower is None or train in ("all", tower))
    # BERT's pooler is not in use: it would wait for gradients that never come.
    for name, parameter in model.text_model.named_parameters():
        if name.startswith("pooler."):
            parameter.requires_grad_(False)


def merged(model: OmniVisionForRetrieval, lora_rank: int) -> OmniVisionForRetrieval:
    """Take LoRA into the weights, so that the published model is a plain one."""
    model = model.float()
    if not lora_rank:
        return model
    config: Any = model.config
    adapters: Any = model.peft_config
    tuned = PeftModel(OmniVisionForRetrieval(config), adapters["default"])
    state = {f"base_model.model.{name}": value for name, value in model.state_dict().items()}
    tuned.load_state_dict(state)
    return tuned.merge_and_unload()


class _RetrievalTrainer:
    """What both trainers of sentence-transformers get: Muon, and the loss of one who knows nothing beside the loss."""

    muon_learning_rate: float = 0.0
    image_pair_weight: float = 0.0
    sigmoid: bool = False

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Make the optimizer, with Muon for the layers of the image tower if it has a learning rate."""
        trainer: Any = self
        if trainer.optimizer is None and self.muon_learning_rate:
            core = unwrap_retrieval_model(trainer.model)
            layers = core.config.vision_config.num_hidden_layers
            # That of sentence-transformers would make groups of its own.
            trainer.optimizer = muon_for(core, layers, trainer.args, self.muon_learning_rate)
        return super().create_optimizer(*args, **kwargs)  # type: ignore[misc]

    def get_batch_sampler(self, *args: Any, **kwargs: Any) -> Any:
        """Make the sampler, with the images of a concept in one batch where they are to find each other."""
        if self.image_pair_weight:
            return ConceptBatches(*args, **kwargs)
        return super().get_batch_sampler(*args, **kwargs)  # type: ignore[misc]

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the loss with frozen towers as they are when used."""
        trainer: Any = self
        set_frozen_to_eval(unwrap_retrieval_model(trainer.model))
        return super().compute_loss(*args, **kwargs)  # type: ignore[misc]

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Do one forward and backward pass.

        Raises:
            NonFiniteLossError: if the loss is not finite.
        """
        loss = super().training_step(*args, **kwargs)  # type: ignore[misc]
        if not torch.isfinite(loss):
            step = self.state.global_step  # type: ignore[attr-defined]
            raise NonFiniteLossError(
                f"The loss became {loss.item()} in step {step + 1}. Lower --learning_rate or --muon_learning_rate, or "
                "set --max_grad_norm."
            )
        return loss

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Leave out the card of sentence-transformers: what is published has ours."""

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log, with the loss at chance beside each loss of training."""
        arguments = self.args  # type: ignore[attr-defined]
        if "loss" in logs:
            pairs = arguments.per_device_train_batch_size * arguments.world_size
            logs = {**logs, "chance_loss": chance_loss(pairs, self.sigmoid)}
        super().log(logs, *args, **kwargs)  # type: ignore[misc]


class SingleVectorTrainer(_RetrievalTrainer, SentenceTransformerTrainer):
    """Trains one vector for each image and text."""


class LateInteractionTrainer(_RetrievalTrainer, MultiVectorEncoderTrainer):
    """Trains one vector for each patch and word."""


def chance_loss(pairs: int, sigmoid: bool = False) -> float:
    """Tell the loss of a batch for one who knows only how many pairs are true: for CLIP's loss log(pairs)."""
    if not sigmoid:
        return math.log(pairs)
    share = 1 / pairs
    return -(math.log(share) + (pairs - 1) * math.log1p(-share))


class TemperatureLimit(TrainerCallback):
    """Keeps the factor of the scores at 100 or less, as CLIP does (https://huggingface.co/papers/2103.00020)."""

    def __init__(self, model: OmniVisionForRetrieval) -> None:
        self.model = model

    @torch.no_grad()
    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Cut off what the step has added beyond the limit."""
        self.model.logit_scale.clamp_(max=math.log(LARGEST_FACTOR))


def trainer_of(
    door: Any, recipe: RetrievalArguments, args: RetrievalTrainingArguments, data: DatasetDict
) -> SingleVectorTrainer | LateInteractionTrainer:
    """Make the trainer of a model of sentence-transformers on the pairs of `load_pairs`.

    Raises:
        ValueError: for a `image_pair_weight` where no concept has two images.
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
        model=door,
        args=args,
        train_dataset=training_pairs(data["train"], change, recipe.texts),
        loss=TwoWayContrastiveLoss(door, recipe.mini_batch_size, recipe.weight_of_wholes, recipe.image_pair_weight),
        evaluator=_evaluator(data["validation"], recipe.late_interaction, args.per_device_eval_batch_size),
    )
    trainer.add_callback(TemperatureLimit(unwrap_retrieval_model(door)))
    trainer.add_callback(DataEpochCallback(change))
    trainer.muon_learning_rate, trainer.image_pair_weight = recipe.muon_learning_rate, recipe.image_pair_weight
    trainer.sigmoid = unwrap_retrieval_model(door).config.contrastive_loss == "sigmoid"
    return trainer


def training_pairs(train: Dataset, change: PairAugmentation, texts: str = "any") -> Dataset:
    """
    Give the training pairs as columns text, image and label, decoded and chosen anew each time they are read.

    Args:
        train: Columns `image`, `texts` and `concept`, as `load_pairs` gives them.
        change: Chooses texts and changes images.
        texts: Choose `any` of an image's texts, or the `first`.

    Returns:
        Rows whose label says what fits what, as `TwoWayContrastiveLoss` reads it: numbers of the concept, of the text,
        and of all texts of the image, the `first` ones too.
    """
    most = max(map(len, train["texts"][:]))

    def read(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        images = [open_stored(source) for source in rows["image"]]
        offered = [lines[:1] if texts == "first" else lines for lines in rows["texts"]]
        chosen = [change.text(lines, row) for lines, row in zip(offered, rows["row"], strict=True)]
        return {
            "text": chosen,
            "image": [change.image(image, row) for image, row in zip(images, rows["row"], strict=True)],
            "label": [
                [_number(concept), _number(text), *(_number(line) for line in _repeat(lines, most))]
                for concept, text, lines in zip(rows["concept"], chosen, rows["texts"], strict=True)
            ],
        }

    columns = train.select_columns(["image", "texts", "concept"])
    return columns.add_column("row", range(len(train))).with_transform(read)


def _number(text: str) -> int:
    """Give a text a number of 64 bits that is the same in every process, and for no other text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def _repeat(lines: list[str], count: int) -> list[str]:
    """Make a list so long by its last line: labels of a batch are of one length."""
    return [*lines, *lines[-1:] * (count - len(lines))]


def _evaluator(split: Dataset, late_interaction: bool, batch_size: int) -> SequentialEvaluator:
    found = evaluators(split, late_interaction, batch_size)
    return SequentialEvaluator(list(found.values()), main_score_function=lambda scores: sum(scores) / len(scores))


def _start(
    recipe: RetrievalArguments, data: DatasetDict
) -> tuple[OmniVisionForRetrieval, OmniVisionRetrievalProcessor]:
    if recipe.model is not None:
        model = OmniVisionForRetrieval.from_pretrained(recipe.model)
        model.config.vision_feature_select_strategy = recipe.vision_feature_select_strategy
        processor = OmniVisionRetrievalProcessor.from_pretrained(recipe.model)
        processor.image_seq_length = model.config.image_seq_length
        return model, processor
    return build_retrieval(
        recipe.vision or recipe.vision_config(),
        recipe.text,
        (line for lines in data["train"]["texts"][:] for line in lines),
        recipe.embedding_dim,
        recipe.vision_feature_select_strategy,
        recipe.contrastive_loss,
        recipe.vision_fields() if recipe.vision else None,
    )


def _describe(
    recipe: RetrievalArguments,
    args: RetrievalTrainingArguments,
    trainer: Any,
    data: DatasetDict,
    minutes: float,
    checkpoint: Path | None,
) -> dict[str, Any]:
    parameters = list(unwrap_retrieval_model(trainer.model).parameters())
    return {
        "recipe": {name: value for name, value in vars(recipe).items() if value is not None},
        "arguments": {
            "batch": args.per_device_train_batch_size * args.world_size,
            "learning_rate": args.learning_rate,
            "epochs": args.num_train_epochs,
        },
        "seed": args.seed,
        "date": datetime.now(UTC).date().isoformat(),
        "versions": recorded_versions("sentence-transformers", "peft"),
        "machine": describe_machine(),
        "processes": args.world_size,
        "minutes": round(minutes, 2),
        "resumed_from": None if checkpoint is None else checkpoint.name,
        "steps": trainer.state.global_step,
        "parameters": sum(parameter.numel() for parameter in parameters),
        "trained_parameters": sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        "pairs": {name: len(split) for name, split in data.items()},
        "history": [
            {name: entry[name] for name in ("step", "epoch", "loss", "chance_loss")}
            for entry in trainer.state.log_history
            if "loss" in entry
        ],
        "evaluations": [
            {"step": entry["step"], "epoch": entry["epoch"], "ndcg@10": entry["eval_sequential_score"]}
            for entry in trainer.state.log_history
            if "eval_sequential_score" in entry
        ],
    }


__all__ = [
    "LateInteractionTrainer",
    "SingleVectorTrainer",
    "chance_loss",
    "freeze_parameters",
    "merged",
    "train_retrieval",
    "trainer_of",
    "training_pairs",
]
