"""One training run of a language model that sees, from questions to a folder for the Hub, with its controls."""

import contextlib
import hashlib
import logging
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, DatasetDict
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, set_seed
from transformers.loss.loss_utils import ForCausalLMLoss

from experiments.symbol_maps import PATCH

from ..data.questions import load_questions
from ..data.synthetic.scene_questions import scene_texts
from ..data.synthetic.scenes import SCENE_SIDE
from ..data.word_tokenizer import new_chat_tokenizer
from ..evaluation.answers import AnswerResult, answer_metrics, blind_prior
from ..image_processing_omni_vision import OmniVisionImageProcessor
from ..interop.compose import compose_language_model
from ..modeling_omni_vision import OmniVisionModel
from ..modeling_omni_vision_language import OmniVisionForConditionalGeneration
from ..processing_omni_vision_language import OmniVisionProcessor
from ..records.metrics_file import has_bf16_instructions, merge_metrics
from .alignment import align_projector
from .callbacks import DataEpochCallback, set_frozen_to_eval, train_until_done
from .classification import find_checkpoint
from .language_arguments import NEW, LanguageArguments, LanguageTrainingArguments
from .language_data import IGNORED, SEEN, AnswerCollator, Conversations, LengthGroups, show
from .muon import Muon
from .optimizer import parameter_groups
from .run_record import describe_machine, recorded_versions
from .trainer import PlainFolderTrainer


logger = logging.getLogger(__name__)

LORA_TARGETS = r"language_model\..*\.(q_proj|v_proj)"
PARTS = {"vision": "vision_tower.", "text": "language_model."}
# Sizes of images and of patches that a map of symbols is drawn for.
MAPPED = ((SCENE_SIDE, SCENE_SIDE), (PATCH, PATCH))
# Attention that takes a mask of ours; others see through it or refuse it.
PACKABLE = ("sdpa", "eager")


def train_language(recipe: LanguageArguments, args: LanguageTrainingArguments) -> Path:
    """Train a composite to answer questions about images; measure it and its controls once at the end.

    Args:
        recipe: Questions, model, and what is trained.
        args: Everything that transformers' Trainer knows.

    Returns:
        `args.output_dir`: model, processor and code as the Hub wants them (with any LoRA merged), and `metrics.json`.

    Raises:
        TrainingInterruptedError: after SIGTERM, once a checkpoint is saved.
        ValueError: for arguments, data or checkpoints that cannot be used.
    """
    folder = Path(str(args.output_dir))
    checkpoint = find_checkpoint(folder, args.resume_from_checkpoint)
    set_seed(args.seed)
    with args.main_process_first(desc="loading questions"):
        data = load_questions(recipe.dataset, recipe.validation_fraction)
    model, processor = start(recipe, args, data["train"])
    seeing = recipe.image_input in SEEN
    vision: Any = model.config.vision_config
    if recipe.image_input == "symbol_map" and (vision.image_size_hw, vision.patch_size_hw) != MAPPED:
        raise ValueError(
            f"A map of symbols is for towers of {SCENE_SIDE} pixels whose patches have {PATCH}, got "
            f"{vision.image_size_hw} and {vision.patch_size_hw}. Give it a --config with these."
        )
    rates = learning_rates(recipe, args.learning_rate)
    freeze_parameters(model, recipe.stage, rates, recipe.lora_rank, seeing)
    before = fingerprints(model)
    trainer = LanguageTrainer(
        model,
        rates,
        recipe,
        args=args,
        data_collator=AnswerCollator(processor),
        train_dataset=Conversations(data["train"], processor, recipe.image_input, recipe.max_questions_per_sequence),
        eval_dataset=Conversations(
            data["validation"], processor, recipe.image_input, recipe.max_questions_per_sequence
        ),
        processing_class=processor,
    )
    warn_of_imitated_bf16(args)
    minutes = train_until_done(trainer, checkpoint) / 60
    if trainer.is_world_process_zero():
        after = fingerprints(model)
        described = _describe(recipe, args, trainer, data, minutes, checkpoint)
        described["parts"] = {name: {"unchanged": before[name] == after[name]} for name in before}
        merge_lora(model)
        model.float().save_pretrained(folder)
        processor.save_pretrained(folder)
        merge_metrics(folder, {"training": described})
        if args.do_predict:
            # From the files, in float32, as others will open them.
            saved = OmniVisionForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
            measured = measure(
                saved,
                processor,
                data,
                recipe.image_input,
                recipe.max_questions_per_sequence,
                args.per_device_eval_batch_size,
            )
            merge_metrics(folder, {"answers": measured})
    return folder


def start(
    recipe: LanguageArguments, args: LanguageTrainingArguments, train: Dataset
) -> tuple[OmniVisionForConditionalGeneration, OmniVisionProcessor]:
    """Load the composite to train, or compose a new one."""
    if recipe.model is not None:
        return _open(recipe.model, recipe.attn_implementation)
    # Beside the run, where all processes find it; only the first of them writes.
    folder = Path(str(args.output_dir)).absolute()
    parts = folder.with_name(f".{folder.name}.parts")
    with args.main_process_first(desc="composing"):
        if args.process_index == 0:
            shutil.rmtree(parts, ignore_errors=True)
            compose_language_model(
                recipe.vision or _new_tower(recipe, parts / "vision"),
                recipe.text if recipe.text != NEW else _new_decoder(recipe, train, parts / "text"),
                parts / "composite",
                recipe.fusion,
                vision_feature_select_strategy=recipe.vision_feature_select_strategy,
                projector=recipe.projector,
                scale_factor=recipe.scale_factor,
                cross_attention_interval=recipe.cross_attention_interval,
            )
    opened = _open(str(parts / "composite"), recipe.attn_implementation)
    if recipe.align_steps:
        align_projector(*opened, recipe.align_steps, args.seed)
    if args.world_size > 1:
        torch.distributed.barrier()
    if args.process_index == 0:
        shutil.rmtree(parts)
    return opened


def learning_rates(recipe: LanguageArguments, learning_rate: float) -> dict[str, float]:
    """Give each part its learning rate; 0 for what stays as it is."""
    vision = recipe.vision_learning_rate
    if vision is None:
        vision = 0.0 if recipe.stage == "lora" else learning_rate
    text = learning_rate if recipe.text_learning_rate is None else recipe.text_learning_rate
    only_new = recipe.stage == "projector"
    return {"vision": 0.0 if only_new else vision, "text": 0.0 if only_new else text, "projector": learning_rate}


def freeze_parameters(
    model: nn.Module, stage: str, rates: dict[str, float], lora_rank: int = 8, seeing: bool = True
) -> None:
    """Freeze in place what has no learning rate; in stage `lora` put LoRA into the language model and freeze the rest.

    Without images the tower and the projector are frozen too: they would wait for gradients that never come.
    """
    if stage == "lora":
        # Only this stage needs the package.
        from peft import LoraConfig, inject_adapter_in_model

        lora = LoraConfig(r=lora_rank, lora_alpha=2 * lora_rank, target_modules=LORA_TARGETS)
        inject_adapter_in_model(lora, model)
    for name, parameter in model.named_parameters():
        part = part_of(name)
        trained = rates[part] > 0 and (seeing or part == "text")
        if stage == "lora" and part == "text":
            trained = trained and "lora_" in name
        parameter.requires_grad_(trained)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"Expected a part that is trained, got the learning rates {rates}. Raise one above 0.")


def part_of(name: str) -> str:
    """Tell the part of a parameter: vision, text, or projector for all that connects them."""
    return next((part for part, prefix in PARTS.items() if name.startswith(prefix)), "projector")


def merge_lora(model: nn.Module) -> None:
    """Take LoRA into the weights, in place, so that the published model is a plain one."""
    inner = [name for name, _ in model.named_modules() if name.endswith(".lora_A")]
    for name in (name.removesuffix(".lora_A") for name in inner):
        adapted: Any = model.get_submodule(name)
        adapted.merge()
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, adapted.get_base_layer())


def fingerprints(model: nn.Module) -> dict[str, str]:
    """Give the SHA-256 of each part's weights, LoRA left out: equal only where no bit has changed."""
    digests = {part: hashlib.sha256() for part in (*PARTS, "projector")}
    for name, value in model.state_dict().items():
        if "lora_" not in name:
            digests[part_of(name)].update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return {part: digest.hexdigest() for part, digest in digests.items()}


class LanguageTrainer(PlainFolderTrainer):
    """Trains a composite on batches of `AnswerCollator`, with a learning rate for each part.

    Beside what `Trainer` does: frozen parts are in evaluation mode; Muon for the layers; sequences of equal length
    go together, in an order that a resumed run repeats; evaluation is the share of exact answers.

    Args:
        model: The composite.
        rates: Learning rates of its parts.
        recipe: What the Trainer is not told otherwise.
        **kwargs: As for `Trainer`.
    """

    def __init__(
        self,
        model: OmniVisionForConditionalGeneration,
        rates: dict[str, float],
        recipe: LanguageArguments,
        **kwargs: Any,
    ) -> None:
        super().__init__(model, **kwargs)
        attention = {part.config._attn_implementation for part in (model.language_model, model.vision_tower)}
        if recipe.max_questions_per_sequence > 1 and not attention <= set(PACKABLE):
            raise ValueError(
                f"Packed questions need an attention of {', '.join(PACKABLE)}, got {sorted(attention)}. "
                "Set --max_questions_per_sequence 1."
            )
        self.composite, self.rates, self.recipe = model, rates, recipe  # `self.model`, with its type
        self.add_callback(DataEpochCallback())

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Make the optimizer: AdamW, and Muon for the layers that have a learning rate of it."""
        if self.optimizer is None:
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, self.composite)
            muon = {"vision": self.recipe.muon_learning_rate, "text": self.recipe.text_muon_learning_rate}
            if self.recipe.stage == "lora":
                muon["text"] = 0.0
            if any(muon.values()):
                if kind is not torch.optim.AdamW:
                    raise ValueError(
                        f"Muon leaves other weights to AdamW, expected `optim` adamw_torch or adamw_torch_fused, got "
                        f"{self.args.optim}. Leave out `optim` or the learning rates of Muon."
                    )
                kind = Muon
            self.optimizer = kind(language_groups(self.composite, self.rates, muon, self.args.weight_decay), **options)
        return super().create_optimizer(*args, **kwargs)

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Compute the loss with frozen parts as they are when used, and logits where something is to be said."""
        set_frozen_to_eval(self.composite)
        if self.composite.language_model.loss_function is ForCausalLMLoss and self.label_smoother is None:
            labels = inputs["labels"][:, 1:]
            places = answer_places(labels)
            inputs = {**inputs, "logits_to_keep": places, "shift_labels": labels[:, places]}
        return super().compute_loss(model, inputs, *args, **kwargs)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        data: Any = self.train_dataset if train_dataset is None else train_dataset
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        batch = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return LengthGroups(data, batch, int(self.args.data_seed or 0))

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Measure the share of exact answers, of all and of each kind; every process measures them all."""
        data: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        answers = exact_answers(self.composite, self.data_collator, data, self.args.per_device_eval_batch_size)
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
    """Tell where some row of a batch has a token to be said: logits of many words cost as much as several layers.

    Args:
        labels: Tokens to be said next (batch, length), -100 where none is.

    Returns:
        Places in ascending order; all of them where that spares less than half.
    """
    places = (labels != IGNORED).any(0).nonzero().flatten()
    every = torch.arange(labels.shape[1], device=labels.device)
    return places if 2 * len(places) <= len(every) else every


@torch.no_grad()
def exact_answers(model: Any, collator: Any, data: Conversations, batch_size: int) -> list[AnswerResult]:
    """Tell which answers the model would give exactly, most probable word first.

    An answer is the one of `generate` without sampling if and only if each of its tokens is the most probable one
    after the right ones before it: one pass tells, and it takes packed questions.
    """
    was_training = model.training
    model.eval()
    answers: list[AnswerResult] = []
    for first in range(0, len(data), batch_size):
        numbers = range(first, min(first + batch_size, len(data)))
        items = [data[number] for number in numbers]
        batch = {name: value.to(model.device) for name, value in collator(items).items()}
        labels = batch.pop("labels")[:, 1:]
        places = answer_places(labels)
        logits = model(**batch, logits_to_keep=places, use_cache=False).logits
        # An image is shown, never said.
        logits[..., model.config.image_token_id] = -torch.inf
        wrong = (labels[:, places] != IGNORED) & (logits.argmax(-1) != labels[:, places])
        for number, item, row in zip(numbers, items, wrong.tolist(), strict=True):
            missed = zip(places.tolist(), row, strict=True)
            failed = {item.segments[place + 1] for place, is_wrong in missed if is_wrong}
            answers += [
                AnswerResult(segment not in failed, kind, data.rows_of[number])
                for segment, kind in enumerate(item.kinds, 1)
            ]
    model.train(was_training)
    return answers


def measure(
    model: Any,
    processor: Any,
    data: DatasetDict,
    image_input: str = "images",
    max_questions_per_sequence: int = 1,
    batch_size: int = 16,
) -> dict[str, Any]:
    """Measure every split but train: exact answers, beside those by the questions alone (`prior`).

    A model that was trained on images is also measured with `shuffled` images and with `nothing` to see.

    Returns:
        For each split, for each of these, what `answer_metrics` says.
    """
    collator = AnswerCollator(processor)
    found: dict[str, Any] = {}
    for name, split in data.items():
        if name == "train":
            continue
        found[name] = {"prior": answer_metrics(blind_prior(data["train"], split))}
        for control in ("images", "shuffled", "nothing") if image_input == "images" else (image_input,):
            if control == "shuffled" and sum(len(images) for images in split["images"][:]) < 2:
                continue
            rows = Conversations(split, processor, control, max_questions_per_sequence)
            found[name][control] = answer_metrics(exact_answers(model, collator, rows, batch_size))
    return found


def warn_of_imitated_bf16(args: Any) -> None:
    """Warn of bf16 on a processor that only imitates it; weights stay in float32 either way."""
    if args.bf16 and torch.device(args.device).type == "cpu" and not has_bf16_instructions():
        logger.warning(
            "This processor has no bfloat16 instructions: they are imitated, many times slower than float32. "
            "Leave out --bf16."
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
    height, width = config.image_size_hw
    OmniVisionModel(config).save_pretrained(folder)
    images = OmniVisionImageProcessor(size={"height": height, "width": width}, num_channels=config.num_channels)
    images.save_pretrained(folder)
    return str(folder)


def _new_decoder(recipe: LanguageArguments, train: Dataset, folder: Path) -> str:
    drawn = recipe.dataset.partition(":")[0] == "scenes"
    tokenizer = new_chat_tokenizer(scene_texts() if drawn else _texts(train, recipe.image_input))
    fields = {**recipe.decoder_fields(), "vocab_size": len(tokenizer), "bos_token_id": None}
    fields |= {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    LlamaForCausalLM(LlamaConfig(**fields)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def _texts(train: Dataset, image_input: str) -> Iterator[str]:
    for questions, symbols in zip(train["questions"][:], train["symbols"][:], strict=True):
        for question in questions:
            # The mark of an image is no word.
            yield from (turn["content"] for turn in show(question["messages"], "nothing", ""))
            yield question["answer"]
        if image_input == "symbols":
            yield symbols


def _describe(
    recipe: LanguageArguments,
    args: LanguageTrainingArguments,
    trainer: LanguageTrainer,
    data: DatasetDict,
    minutes: float,
    checkpoint: Path | None,
) -> dict[str, Any]:
    parameters = [*trainer.composite.parameters()]
    evaluations = [entry for entry in trainer.state.log_history if "eval_accuracy" in entry]
    return {
        "recipe": {name: value for name, value in vars(recipe).items() if value is not None},
        "arguments": {
            "batch": args.per_device_train_batch_size * args.world_size * args.gradient_accumulation_steps,
            "learning_rates": trainer.rates,
            "epochs": args.num_train_epochs,
            "bf16": bool(args.bf16),
        },
        "seed": args.seed,
        "date": datetime.now(UTC).date().isoformat(),
        "versions": recorded_versions(*(["peft"] if recipe.stage == "lora" else [])),
        "machine": describe_machine(),
        "processes": args.world_size,
        "minutes": round(minutes, 2),
        "cpu_minutes": round(time.process_time() / 60, 2),
        "resumed_from": None if checkpoint is None else checkpoint.name,
        "steps": trainer.state.global_step,
        "parameters": sum(parameter.numel() for parameter in parameters),
        "trained_parameters": sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        "conversations": {name: len(split) for name, split in data.items()},
        "questions": {name: sum(map(len, split["questions"][:])) for name, split in data.items()},
        "history": [
            {name: entry[name] for name in ("step", "epoch", "loss")}
            for entry in trainer.state.log_history
            if "loss" in entry
        ],
        "evaluations": [{name.removeprefix("eval_"): value for name, value in entry.items()} for entry in evaluations],
    }


__all__ = [
    "LanguageTrainer",
    "answer_places",
    "exact_answers",
    "fingerprints",
    "freeze_parameters",
    "language_groups",
    "learning_rates",
    "measure",
    "merge_lora",
    "part_of",
    "start",
    "train_language",
    "warn_of_imitated_bf16",
]
