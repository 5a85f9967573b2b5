"""Training of a vision-language model, from questions to a folder for the Hub, with its text-only baselines."""

import contextlib
import logging
import re
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, DatasetDict
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.loss.loss_utils import ForCausalLMLoss
from transformers.pytorch_utils import Conv1D

from ..data.question_kinds import learn_questions
from ..data.questions import load_questions
from ..data.summary import evenly_spread
from ..data.synthetic.scene_questions import scene_texts
from ..data.word_tokenizer import new_chat_tokenizer
from ..evaluation.answers import AnswerResult, answer_metrics, text_only_prior
from ..evaluation.evaluate import MAPS_SHOWN, draw_attention_on
from ..interop.compose import compose_language_model
from ..modeling_omni_vision import OmniVisionModel
from ..modeling_omni_vision_language import OmniVisionForConditionalGeneration
from ..processing_omni_vision_language import OmniVisionProcessor
from ..records.weights_digest import weights_digest
from .arguments import check_checkpoint
from .initialization import new_image_processor
from .language_arguments import NEW, LanguageArguments, LanguageTrainingArguments
from .language_data import (
    AnswerCollator,
    Conversations,
    LengthGroups,
    image_keys,
    other_images,
    replace_images,
)
from .language_mistakes import draw_wrong_answers
from .lora import add_lora, merge_lora
from .optimizer import parameter_groups
from .packing import IGNORED, check_packing, to_device
from .report import Picture
from .run_record import given_recipe
from .skeleton import SkeletonTrainer, TrainingRun


logger = logging.getLogger(__name__)

# Layers that get LoRA where a language model has them: projections of queries and values, apart or in one.
LORA_TARGETS = (("q_proj", "v_proj"), ("qkv_proj",), ("query_key_value",), ("c_attn",), ("Wqkv",))
PARTS = {"vision": "vision_tower.", "text": "language_model."}
DRAWN_FROM = 100  # conversations of validation whose wrong answers the report shows
OF_CHECKPOINTS = (
    "fusion",
    "vision_feature_select_strategy",
    "projector",
    "scale_factor",
    "cross_attention_interval",
)


def train_language(recipe: LanguageArguments, args: LanguageTrainingArguments) -> Path:
    """Train a composite to answer questions about images; measure it and its controls once at the end.

    Returns `args.output_dir`, with any LoRA merged, and raises as [`TrainingRun.run`] does.
    """
    return LanguageRun(recipe, args).run()


class LanguageRun(TrainingRun):
    """The run of a composite; see `train_language`.

    Experiments extend it: another class of `conversations` changes what the model gets as images, `start` what is
    done to it before training, `words` the vocabulary of a new language model.
    """

    program = "train-language"
    conversations: type[Conversations] = Conversations

    def build(self) -> "LanguageTrainer":
        """Load the questions, load or compose the model, freeze what is not trained, and return its Trainer."""
        recipe, args = self.recipe, self.args
        self.packages = ("peft",) if recipe.stage == "lora" else ()
        with args.main_process_first(desc="loading questions"):
            self.data = self.check_data(load_questions(recipe.dataset, recipe.validation_fraction))
        self.model, self.processor = self.start(self.data["train"])
        with_images = recipe.image_input in self.conversations.with_images
        rates = learning_rates(recipe, args.learning_rate)
        freeze_parameters(self.model, recipe.stage, rates, recipe.lora_rank, with_images, recipe.lora_targets)
        self.before = part_digests(self.model)
        self.processor.learned_questions = self.learned_questions()
        # All splits: what cannot be measured at the end is refused before the first step.
        splits = {name: self.conversations(rows, *self.shape()) for name, rows in self.data.items()}
        check_words(splits, str(recipe.model or recipe.text))
        return LanguageTrainer(
            self.model,
            rates,
            recipe,
            args=args,
            data_collator=AnswerCollator(self.processor, self.model.config.text_config),
            train_dataset=splits["train"],
            eval_dataset=splits["validation"],
            processing_class=self.processor,
        )

    def shape(self) -> tuple[Any, ...]:
        """Return the arguments of `conversations` that follow the rows."""
        recipe = self.recipe
        options = (recipe.image_input, recipe.max_questions_per_sequence)
        return (self.processor, *options, max_positions(self.model), recipe.long_conversations)

    def learned_questions(self) -> dict[str, Any] | None:
        """Return what a language model of these words alone can be asked; others know more than they are taught."""
        if type(self.processor.tokenizer.backend_tokenizer.model).__name__ != "WordLevel":
            return None
        train, validation = (
            [
                replace_images(question["messages"])[-1]["content"]
                for asked in rows["questions"][:]
                for question in asked
            ]
            for rows in (self.data["train"], self.data["validation"])
        )
        return learn_questions(train, validation)

    def start(self, train: Dataset) -> tuple[OmniVisionForConditionalGeneration, OmniVisionProcessor]:
        """Load the composite to train, or compose a new one."""
        recipe, args = self.recipe, self.args
        if recipe.model is not None:
            opened = _open(recipe.model, recipe.attn_implementation)
            own = opened[0].config.to_dict()
            check_checkpoint(recipe.model, own, {name: getattr(recipe, name) for name in OF_CHECKPOINTS})
            return opened
        # Beside the run, where all processes find it; only the first of them writes.
        folder = self.folder.absolute()
        parts = folder.with_name(f".{folder.name}.parts")
        with args.main_process_first(desc="composing"):
            if args.process_index == 0:
                shutil.rmtree(parts, ignore_errors=True)
                compose_language_model(
                    recipe.vision or _new_tower(recipe, parts / "vision"),
                    recipe.text if recipe.text != NEW else self._new_decoder(train, parts / "text"),
                    parts / "composite",
                    recipe.fusion,
                    vision_feature_select_strategy=recipe.vision_feature_select_strategy,
                    projector=recipe.projector,
                    scale_factor=recipe.scale_factor,
                    cross_attention_interval=recipe.cross_attention_interval,
                )
        opened = _open(str(parts / "composite"), recipe.attn_implementation)
        if args.world_size > 1:
            torch.distributed.barrier()
        if args.process_index == 0:
            shutil.rmtree(parts)
        return opened

    def words(self, train: Dataset) -> Iterator[str]:
        """Yield the texts whose words a new language model knows."""
        if self.recipe.dataset.partition(":")[0] == "scenes":
            yield from scene_texts()
            return
        for questions in train["questions"][:]:
            for question in questions:
                # `<image>` is no word.
                yield from (turn["content"] for turn in replace_images(question["messages"]))
                yield question["answer"]

    def _new_decoder(self, train: Dataset, folder: Path) -> str:
        tokenizer = new_chat_tokenizer(self.words(train))
        fields = {**self.recipe.decoder_fields(), "vocab_size": len(tokenizer), "bos_token_id": None}
        fields |= {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
        LlamaForCausalLM(LlamaConfig(**fields)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return str(folder)

    @property
    def evaluated(self) -> dict[str, str]:  # type: ignore[override]
        """Names of an evaluation, as logged and as recorded: the accuracy of all questions and of each kind."""
        log: list[dict[str, Any]] = self.trainer.state.log_history
        logged = next((entry for entry in log if "eval_accuracy" in entry), {})
        names = {name: name.removeprefix("eval_") for name in logged if name.startswith("eval_")}
        return names or {"eval_accuracy": "accuracy"}

    @property
    def metrics(self) -> set[str]:
        """Names of the metrics that an evaluation gives: the accuracy of all questions and of each kind."""
        asked = (question for row in self.data["validation"]["questions"][:] for question in row)
        return {"eval_accuracy", *(f"eval_{question['kind']}" for question in asked)}

    def describe(self) -> dict[str, Any]:
        """Return the recipe, the sizes of the data, and which parts of the model did not change."""
        # As they are saved.
        merge_lora(self.model)
        args, after = self.args, part_digests(self.model.float())
        return {
            "recipe": given_recipe(self.recipe),
            "arguments": {
                "batch": args.per_device_train_batch_size * args.world_size * args.gradient_accumulation_steps,
                "learning_rates": self.trainer.rates,
                "epochs": args.num_train_epochs,
                "bf16": bool(args.bf16),
            },
            "conversations": {name: len(split) for name, split in self.data.items()},
            "questions": {name: sum(map(len, split["questions"][:])) for name, split in self.data.items()},
            "parts": {name: {"unchanged": self.before[name] == after[name]} for name in after},
        }

    def save(self) -> None:
        """Write model and processor, with the LoRA that `describe` merged."""
        if self.trainer.is_world_process_zero():
            self.model.save_pretrained(self.folder)
            self.processor.save_pretrained(self.folder)

    def measure(self) -> dict[str, Any]:
        """Measure what was saved, in float32, as others will load it."""
        saved: Any = OmniVisionForConditionalGeneration.from_pretrained(self.folder, dtype=torch.float32)
        saved = saved.to(self.args.device)
        recipe, size = self.recipe, self.args.per_device_eval_batch_size
        shape = (recipe.image_input, recipe.max_questions_per_sequence, size, self.conversations)
        long = recipe.long_conversations
        return {"answers": measure(saved, self.processor, self.data, *shape, long_conversations=long)}

    def pictures(self, folder: Path) -> Iterator[Picture | Mapping[str, Any]]:
        """Draw wrong answers on validation, and the attention of the vision tower."""
        opened, processor = _open(str(self.folder), self.recipe.attn_implementation)
        model: Any = opened
        rows = self.data["validation"]
        rows = rows.select(evenly_spread(len(rows), DRAWN_FROM))
        options = (self.recipe.image_input, 1, max_positions(model), self.recipe.long_conversations)
        collator = AnswerCollator(processor, model.config.text_config)
        data = self.conversations(rows, processor, *options)
        answers = exact_answers(model.to(self.args.device), collator, data, self.args.per_device_eval_batch_size)
        drawn = draw_wrong_answers(rows, answers, processor.tokenizer, folder / "answers.png")
        yield Picture(drawn, "Wrong answers", "On validation. Of a wrong answer only its beginning is known.")
        images = [row["images"][0] for row in rows.select(evenly_spread(len(rows), MAPS_SHOWN)) if row["images"]]
        tower = model.cpu().vision_tower
        path = draw_attention_on(
            tower, processor.image_processor, images, [""] * len(images), folder / "attention.png"
        )
        yield Picture.of(path, "validation")


def learning_rates(recipe: LanguageArguments, learning_rate: float) -> dict[str, float]:
    """Return the learning rate of each part; 0 for what stays as it is."""
    vision = recipe.vision_learning_rate
    if vision is None:
        vision = 0.0 if recipe.stage == "lora" else learning_rate
    text = learning_rate if recipe.text_learning_rate is None else recipe.text_learning_rate
    only_new = recipe.stage == "projector"
    return {"vision": 0.0 if only_new else vision, "text": 0.0 if only_new else text, "projector": learning_rate}


def freeze_parameters(
    model: nn.Module,
    stage: str,
    rates: dict[str, float],
    lora_rank: int = 8,
    with_images: bool = True,
    lora_targets: str | None = None,
) -> None:
    """Freeze in place what has no learning rate; in stage `lora` put LoRA into the language model and freeze the rest.

    Without images the tower and the projector are frozen too: DDP would wait for gradients that never come.
    """
    if stage == "lora":
        add_lora(model, lora_rank, lora_pattern(model, lora_targets))
    for name, parameter in model.named_parameters():
        part = part_of(name)
        trained = rates[part] > 0 and (with_images or part == "text")
        if stage == "lora" and part == "text":
            trained = trained and "lora_" in name
        parameter.requires_grad_(trained)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"Expected a part that is trained, got the learning rates {rates}. Raise one above 0.")


def lora_pattern(model: Any, targets: str | None = None) -> str:
    """Return a pattern of the names of the layers that get LoRA: those named, or those that PEFT has for this kind.

    Args:
        model: The composite.
        targets: Last parts of names, joined by commas, such as `q_proj,v_proj`.

    Raises:
        ValueError: if the language model has no such linear layers, naming those that it has.
    """
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as KNOWN_TARGETS

    decoder = model.language_model
    linear = (nn.Linear, Conv1D)
    found = {name.rpartition(".")[2] for name, layer in decoder.named_modules() if isinstance(layer, linear)}
    known = KNOWN_TARGETS.get(decoder.config.model_type, [])
    usual: Any = next((names for names in (*LORA_TARGETS, known) if {*names} and {*names} <= found), [])
    wanted = [name.strip() for name in targets.split(",")] if targets else [*usual]
    if not wanted or not set(wanted) <= found:
        raise ValueError(
            f"LoRA needs the names of linear layers of {type(decoder).__name__}, got {wanted}. Choose some of "
            f"{', '.join(sorted(found))}: --lora_targets."
        )
    return rf"language_model\..*\.({'|'.join(map(re.escape, wanted))})"


def part_of(name: str) -> str:
    """Return the part of a parameter: vision, text, or projector for all that connects them."""
    return next((part for part, prefix in PARTS.items() if name.startswith(prefix)), "projector")


def part_digests(model: nn.Module) -> dict[str, str]:
    """Return the SHA-256 of each part's weights, LoRA left out: equal only where no bit has changed."""
    parts: dict[str, dict[str, torch.Tensor]] = {part: {} for part in (*PARTS, "projector")}
    for name, value in model.state_dict().items():
        if "lora_" not in name:
            parts[part_of(name)][name.replace(".base_layer.", ".")] = value
    return {part: weights_digest(tensors) for part, tensors in parts.items()}


class LanguageTrainer(SkeletonTrainer):
    """Trains a composite on batches of `AnswerCollator`, with a learning rate for each part.

    Beside what `SkeletonTrainer` does: sequences of about equal length go together, in an order that a resumed run
    repeats; evaluation is the fraction of exact answers. `rates` are the learning rates of the parts.
    """

    def __init__(
        self,
        model: OmniVisionForConditionalGeneration,
        rates: dict[str, float],
        recipe: LanguageArguments,
        **kwargs: Any,
    ) -> None:
        super().__init__(model, **kwargs)
        if recipe.max_questions_per_sequence > 1:
            check_packing(model, self.data_collator, self.train_dataset)
        self.rates, self.recipe = rates, recipe
        if self.args.label_smoothing_factor:
            # Its own smoother does not shift labels for our composite.
            self.label_smoother, self.compute_loss_func = None, self._smoothed_loss

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return groups with a learning rate per part, for Muon where the layers of a part have one of it."""
        muon = {"vision": self.recipe.muon_learning_rate, "text": self.recipe.text_muon_learning_rate}
        if self.recipe.stage == "lora":
            muon["text"] = 0.0
        return language_groups(self.core, self.rates, muon, self.args.weight_decay)

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Compute the loss, with logits only at the tokens before those of answers."""
        labels = inputs["labels"][:, 1:]
        places = answer_places(labels)
        if self.compute_loss_func is not None:
            inputs = {**inputs, "logits_to_keep": places, "labels": labels[:, places]}
        elif self.core.language_model.loss_function is ForCausalLMLoss:
            inputs = {**inputs, "logits_to_keep": places, "shift_labels": labels[:, places]}
        return super().compute_loss(model, inputs, *args, **kwargs)

    def _smoothed_loss(self, outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        smoothing, logits = self.args.label_smoothing_factor, outputs.logits.float().flatten(0, 1)
        kinds: Any = {"ignore_index": IGNORED, "label_smoothing": smoothing, "reduction": "sum"}
        total = nn.functional.cross_entropy(logits, labels.flatten(), **kinds)
        return total / ((labels != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        data: Any = self.train_dataset if train_dataset is None else train_dataset
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        batch = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return LengthGroups(data, batch, int(self.args.data_seed or 0))

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Return the fraction of exact answers, of all and of each kind; every process measures them all."""
        data: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        answers = exact_answers(self.core, self.data_collator, data, self.args.per_device_eval_batch_size)
        found = answer_metrics(answers)
        metrics = {f"{metric_key_prefix}_accuracy": found["accuracy"]}
        metrics |= {f"{metric_key_prefix}_{kind}": value["accuracy"] for kind, value in found["kinds"].items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def language_groups(
    model: Any, rates: dict[str, float], muon: dict[str, float], weight_decay: float
) -> list[dict[str, Any]]:
    """Group the trained parameters of a composite by part, and within by weight decay and by what steps them."""
    groups = []
    for part, prefix in PARTS.items():
        tower = model.get_submodule(prefix[:-1])
        layers = tower.config.get_text_config().num_hidden_layers
        groups += parameter_groups(tower, layers, rates[part], weight_decay, 1.0, muon[part])
    for name, module in model.named_children():
        if f"{name}." not in PARTS.values():
            groups += parameter_groups(module, 0, rates["projector"], weight_decay, 1.0)
    return groups


def answer_places(labels: torch.Tensor) -> torch.Tensor:
    """Return where some row of a batch has a label: logits of a large vocabulary cost as much as several layers.

    Args:
        labels: Next tokens (batch, length), -100 where there is no loss.

    Returns:
        Positions in ascending order; all of them where that saves less than half.
    """
    places = (labels != IGNORED).any(0).nonzero().flatten()
    every = torch.arange(labels.shape[1], device=labels.device)
    return places if 2 * len(places) <= len(every) else every


@torch.no_grad()
def exact_answers(model: Any, collator: Any, data: Conversations, batch_size: int) -> list[AnswerResult]:
    """Return which answers `generate` without sampling would give exactly.

    It does so if and only if each token of an answer is the most probable one after the right ones before it: one
    forward pass is enough, and it takes packed questions.
    """
    was_training = model.training
    model.eval()
    answers: list[AnswerResult] = []
    for first in range(0, len(data), batch_size):
        numbers = range(first, min(first + batch_size, len(data)))
        items = [data[number] for number in numbers]
        batch = to_device(collator(items), model.device)
        labels = batch.pop("labels")[:, 1:]
        places = answer_places(labels)
        logits = model(**batch, logits_to_keep=places, use_cache=False).logits
        # `generate` never answers with an image.
        logits[..., model.config.image_token_id] = -torch.inf
        said = logits.argmax(-1)
        # An unknown word is no answer, whatever the right one is.
        unknown = torch.zeros_like(said, dtype=torch.bool) if collator.unknown is None else said == collator.unknown
        is_answer = labels[:, places] != IGNORED
        wrong = is_answer & ((said != labels[:, places]) | unknown)
        for number, item, *row in zip(numbers, items, is_answer.tolist(), wrong.tolist(), said.tolist(), strict=True):
            heard, failed = defaultdict[int, list[int]](list), set[int]()
            for place, counts, is_wrong, token in zip(places.tolist(), *row, strict=True):
                if counts and (segment := item.segments[place + 1]) not in failed:
                    heard[segment].append(token)
                    failed |= {segment} if is_wrong else set()
            answers += [
                AnswerResult(segment not in failed, kind, data.rows_of[number], _said(heard, failed, segment))
                for segment, kind in enumerate(item.kinds, 1)
            ]
    model.train(was_training)
    return answers


def _said(heard: dict[int, list[int]], failed: set[int], segment: int) -> tuple[int, ...]:
    return tuple(heard[segment]) if segment in failed else ()


def measure(
    model: Any,
    processor: Any,
    data: DatasetDict,
    image_input: str = "images",
    max_questions_per_sequence: int = 1,
    batch_size: int = 16,
    conversations: type[Conversations] = Conversations,
    long_conversations: str = "stop",
) -> dict[str, Any]:
    """Measure exact answers on every split but train, beside the most frequent answers of training (`prior`).

    A model that was trained on images is also measured with `shuffled` images and with `nothing` in their place.

    Returns:
        For each split, for each of these, the result of `answer_metrics`.
    """
    collator = AnswerCollator(processor, model.config.text_config)
    limit = (max_positions(model), long_conversations)
    found: dict[str, Any] = {}
    for name, split in data.items():
        if name == "train":
            continue
        found[name] = {"prior": answer_metrics(text_only_prior(data["train"], split))}
        for control in ("images", "shuffled", "nothing") if image_input == "images" else (image_input,):
            if control == "shuffled" and not can_shuffle(split):
                continue
            rows = conversations(split, processor, control, max_questions_per_sequence, *limit)
            found[name][control] = answer_metrics(exact_answers(model, collator, rows, batch_size))
    return found


def can_shuffle(split: Dataset) -> bool:
    """Return whether each row of a split can be shown images that are not its own; warn if not."""
    try:
        other_images(image_keys(split["images"][:]))
    except ValueError as error:
        logger.warning("%s", error)
        return False
    return True


def max_positions(model: Any) -> int | None:
    """Return how many positions the language model of a composite has, None for any number."""
    text = model.config.text_config.get_text_config()
    found: int | None = getattr(text, "max_position_embeddings", None)
    return found


def check_words(splits: dict[str, Conversations], model: str) -> None:
    """Refuse answers to learn that have words without a token, and warn of others and of such questions."""
    for name, data in splits.items():
        answers, questions = data.unknown_answers, data.unknown_questions
        said = f"answers of the split {name} have words that {model!r} has no token for"
        if answers and name == "train":
            raise ValueError(
                f"{answers.total()} {said}, such as {answers.most_common(1)[0][0]!r}. Leave them out, or train a new "
                "language model, whose words are those of the data: leave out --model."
            )
        if answers:
            logger.warning("%d %s, such as %r: they count as wrong.", answers.total(), said, next(iter(answers)))
        if questions:
            logger.warning(
                "%d questions of the split %s have words that %r has no token for, such as %r.",
                questions.total(),
                name,
                model,
                next(iter(questions)),
            )


def _open(name: str, attention: str | None) -> tuple[OmniVisionForConditionalGeneration, OmniVisionProcessor]:
    chosen: dict[str, Any] = {} if attention is None else {"attn_implementation": attention}
    with contextlib.suppress(OSError):
        return (
            OmniVisionForConditionalGeneration.from_pretrained(name, dtype=torch.float32, **chosen),
            OmniVisionProcessor.from_pretrained(name),
        )
    raise ValueError(f"Expected the folder or Hub name of a composite with its processor, got {name!r}.")


def _new_tower(recipe: LanguageArguments, folder: Path) -> str:
    config = recipe.vision_config()
    OmniVisionModel(config).save_pretrained(folder)
    new_image_processor(config).save_pretrained(folder)
    return str(folder)


__all__ = [
    "LanguageRun",
    "LanguageTrainer",
    "answer_places",
    "exact_answers",
    "freeze_parameters",
    "language_groups",
    "learning_rates",
    "measure",
    "part_digests",
    "part_of",
    "train_language",
]
