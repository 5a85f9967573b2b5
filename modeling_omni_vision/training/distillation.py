"""Distillation: a small encoder learns what any vision model says about images without labels."""

import copy
import hashlib
import json
import logging
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import EvalPrediction, set_seed
from transformers.utils import SAFE_WEIGHTS_NAME, ModelOutput

from ..configuration_omni_vision import OmniVisionConfig
from ..data.image_dataset import moved_to_device
from ..data.row_digest import digest
from ..data.summary import evenly_spread
from ..embedding.sheets import draw_rows
from ..evaluation.agreement import agreement, unit
from ..evaluation.evaluate import MAPS_SHOWN, draw_attention_on
from ..image_processing_omni_vision import OmniVisionImageProcessor
from ..interop import load_image_processor, load_vision_tower
from ..modeling_omni_vision import OmniVisionModel, OmniVisionPreTrainedModel
from ..records.command import without_folder
from ..records.metrics_file import write_json
from ..records.weights_digest import weights_digest
from .arguments import read_fields
from .distill_arguments import DistillArguments, DistillTrainingArguments
from .distillation_data import (
    Basis,
    DistillationCollator,
    DistillationDataset,
    Images,
    TeacherOutputs,
    read_images,
    sample_outputs,
    vectors_of,
)
from .distillation_measures import (
    as_image,
    compare_speed,
    draw_neighbours,
    encode_pixels,
    label_accuracies,
    near_duplicates,
    read_labels,
)
from .initialization import mimetic_, new_image_processor
from .report import Picture
from .resumption import describe_config
from .run_record import given_recipe, training_command, without_folders
from .skeleton import TrainingRun
from .teacher import Teacher, TeacherOutput, check_finite, load_teacher
from .trainer import OmniVisionTrainer, replays_steps
from .views import VIEWS_VERSION, Views


logger = logging.getLogger(__name__)

MAX_VALIDATION, VALIDATION_SHARE = 512, 0.05
FEW_IMAGES, LEAST_IMAGES, LEAST_HELD_OUT = 500, 20, 5
CERTAIN = 30.0  # a logit that makes a probability of 1
SHEET = "neighbours.png"
# Arguments that a student for comparison does without.
OF_CHECKPOINTS: tuple[str, ...] = (
    "output_dir",
    "overwrite_output_dir",
    "resume_from_checkpoint",
    "eval_strategy",
    "save_strategy",
)
OF_CHECKPOINTS += ("metric_for_best_model", "greater_is_better", "load_best_model_at_end", "save_steps", "eval_steps")
BASIS_SAMPLE, TOKEN_SAMPLE, LARGEST_BANK = 2048, 128, 2**16
SAMPLES, COLUMNS = 30, 10  # images that the report shows


def distill(recipe: DistillArguments, args: DistillTrainingArguments, teacher: Any = None) -> Path:
    """Train a student to agree with a teacher, save it, and measure it once on images held out.

    Args:
        recipe: The images, the student, and what is taught.
        args: Everything that the Trainer knows.
        teacher: A `Teacher`, or a function from normalised images to vectors, in place of `recipe.teacher`.

    Returns `args.output_dir`, and raises as [`TrainingRun.run`] does.
    """
    return DistillationRun(recipe, args, teacher).run()


Made = tuple[dict[str, Basis], int, list[str]]


class Student(OmniVisionPreTrainedModel):
    """The encoder that is trained, with heads that only training has.

    Args:
        config: Of the encoder.
        recipe: Weights of the losses and their temperatures.
        classes: Width of the teacher's logits, 0 without.
        bank: The teacher's vectors (N, width) that an image is compared with, in place of those of its batch.
    """

    bank: torch.Tensor | None

    accepts_loss_kwargs = False

    def __init__(
        self, config: OmniVisionConfig, recipe: DistillArguments, classes: int = 0, bank: torch.Tensor | None = None
    ) -> None:
        super().__init__(config)
        self.recipe, width = recipe, config.hidden_size
        self.omni_vision = OmniVisionModel(config)
        self.token_head = nn.Linear(width, width) if recipe.token_weight else None
        self.logit_head = nn.Linear(width, classes) if recipe.logit_weight and classes else None
        self.classifier = None  # heads as of a classifier it has none
        self.post_init()
        self.register_buffer("bank", bank, persistent=False)

    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        teacher_tokens: torch.Tensor | None = None,
        teacher_logits: torch.Tensor | None = None,
    ) -> ModelOutput:
        """Encode images; with the teacher's outputs also return the loss."""
        needs_grid = teacher_tokens is not None and self.token_head is not None
        cls_only = self.training and not needs_grid and self.omni_vision.pools_cls
        output = self.omni_vision(pixel_values, cls_only=cls_only)
        vectors = output.pooler_output.float()
        if labels is None:
            return ModelOutput(vectors=vectors)
        # In float32: at such temperatures bfloat16 cannot tell near neighbours apart.
        with torch.autocast(vectors.device.type, enabled=False):
            losses = self.vector_losses(vectors, labels.float())
            if needs_grid and teacher_tokens is not None:
                found = self.token_loss(output.grid.float(), teacher_tokens.float(), pixel_values)
                losses.append(self.recipe.token_weight * found)
            if self.logit_head is not None and teacher_logits is not None:
                losses.append(self.recipe.logit_weight * self.logit_loss(self.logit_head(vectors), teacher_logits))
        return ModelOutput(loss=torch.stack(losses).sum(), vectors=vectors)

    def vector_losses(self, vectors: torch.Tensor, expected: torch.Tensor) -> list[torch.Tensor]:
        """Return 1 - cosine, and the divergences of similarities to the teacher's vectors and among the student's."""
        recipe = self.recipe
        ours, theirs = (nn.functional.normalize(one, dim=-1) for one in (vectors, expected))
        losses = [recipe.vector_weight * (1 - (ours * theirs).sum(-1)).mean()]
        if len(ours) <= 2:
            return losses
        own = torch.eye(len(ours), dtype=torch.bool, device=ours.device)
        if recipe.neighbour_weight and self.bank is not None:
            distance = divergence(ours @ self.bank.T, theirs @ self.bank.T, recipe.temperature)
            losses.append(recipe.neighbour_weight * distance)
        elif recipe.neighbour_weight:
            distance = divergence(ours @ theirs.T, theirs @ theirs.T, recipe.temperature, own)
            losses.append(recipe.neighbour_weight * distance)
        if recipe.relation_weight:
            distance = divergence(ours @ ours.T, theirs @ theirs.T, recipe.temperature, own)
            losses.append(recipe.relation_weight * distance)
        return losses

    def token_loss(self, grid: torch.Tensor, expected: torch.Tensor, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return 1 - cosine of patch tokens, both brought to the coarser of the two grids."""
        assert self.token_head is not None
        rows = pixel_values.shape[2] // self.config.patch_size_hw[0]
        ours = self.token_head(grid).unflatten(1, (rows, -1)).permute(0, 3, 1, 2)
        theirs = expected.permute(0, 3, 1, 2)
        size = (min(ours.shape[2], theirs.shape[2]), min(ours.shape[3], theirs.shape[3]))
        ours, theirs = (nn.functional.adaptive_avg_pool2d(one, size) for one in (ours, theirs))
        return (1 - nn.functional.cosine_similarity(ours, theirs, dim=1)).mean()

    def logit_loss(self, logits: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
        """Return the divergence of class probabilities at a temperature, scaled by its square (Hinton et al. 2015)."""
        heat = self.recipe.logit_temperature
        found, wanted = ((one.float() / heat).log_softmax(-1) for one in (logits, expected))
        return heat**2 * nn.functional.kl_div(found, wanted, log_target=True, reduction="batchmean")


def divergence(
    found: torch.Tensor, wanted: torch.Tensor, temperature: float, left_out: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the divergence of similarities (images, others) from those wanted, as probabilities of the others."""
    logits = [one / temperature for one in (found, wanted)]
    if left_out is not None:
        logits = [one.masked_fill(left_out, -1e4) for one in logits]
    ours, theirs = (one.log_softmax(-1) for one in logits)
    return nn.functional.kl_div(ours, theirs, log_target=True, reduction="batchmean")


class DistillationTrainer(OmniVisionTrainer):
    """Trains a `Student`; evaluates its agreement with the teacher on validation images."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.compute_metrics, self.preprocess_logits_for_metrics = validation_agreement, None

    def restore(self, folder: str) -> None:
        """Put the weights of a checkpoint into the student."""
        # By way of the CPU: safetensors does not know cpu:0, the device of a process of torchrun.
        self.core.load_state_dict(load_file(Path(folder, SAFE_WEIGHTS_NAME)))


def validation_agreement(prediction: EvalPrediction) -> dict[str, float]:
    """Return overlap and cosine on the validation images."""
    found: Any = prediction.predictions
    vectors = found[0] if isinstance(found, tuple) else found
    labels: Any = prediction.label_ids
    measured = agreement(vectors, labels)
    return {name: measured[name] for name in ("overlap", "cosine")}


class DistillationRun(TrainingRun):
    """The run of a student; see `distill`."""

    evaluated = {"eval_overlap": "overlap", "eval_cosine": "cosine", "eval_loss": "loss"}
    recipe: DistillArguments

    def __init__(self, recipe: Any, args: Any, teacher: Any = None) -> None:
        super().__init__(recipe, args)
        self.given_teacher, self.found, self.skipped = teacher, [], []

    @property
    def cache(self) -> Path:
        """Folder of the decoded images and of what the teacher says about them."""
        return Path(self.recipe.cache) if self.recipe.cache else self.folder.with_name(f"{self.folder.name}-cache")

    def own_folders(self) -> dict[str, Path]:
        """Return also the cache: a run with other images or another student would begin its files anew."""
        return {**super().own_folders(), "--cache": self.cache}

    def build(self) -> DistillationTrainer:
        """Open the teacher, decode the images, ask the teacher about them, and return the Trainer of a student."""
        recipe, args = self.recipe, self.args
        with args.main_process_first(desc="asking the teacher"):
            self.prepare()
        return self.trainer_of(recipe, args, self.classes, self.train_rows, self.outputs)

    def trainer_of(
        self, recipe: DistillArguments, args: Any, classes: int, rows: list[int], outputs: TeacherOutputs
    ) -> DistillationTrainer:
        """Return the Trainer of a new student on some of the images."""
        student = Student(self.config, recipe, classes, self.bank_of(rows, outputs) if recipe.neighbour_bank else None)
        if recipe.model is not None:
            student.omni_vision = given_tower(recipe)
        elif recipe.mimetic_init:
            mimetic_(student)  # type: ignore[arg-type]
        sizes = epoch_sizes(recipe, args, self.size, len(rows))
        if outputs.on_device is not None:
            args.dataloader_pin_memory = False
        return DistillationTrainer(
            ema_decay=recipe.ema_decay,
            muon_learning_rate=recipe.muon_learning_rate,
            cuda_graphs=replays_steps(recipe.cuda_graphs, args, student.num_parameters()),
            model=student,
            args=args,
            data_collator=DistillationCollator(self.processor),
            train_dataset=DistillationDataset(outputs, rows, recipe.views, sizes),
            eval_dataset=DistillationDataset(self.outputs, self.validation_rows, None, [self.size]),
            processing_class=self.processor,
        )

    def bank_of(self, rows: list[int], outputs: TeacherOutputs) -> torch.Tensor | None:
        """Return what the teacher says about the whole images of rows, of length 1; of a part if there are many."""
        if outputs.says_always:
            return None
        chosen = [rows[index] for index in evenly_spread(len(rows), LARGEST_BANK)]
        return nn.functional.normalize(torch.from_numpy(outputs.view(0)["vectors"][chosen]).float(), dim=-1)

    def prepare(self) -> None:
        """Bring teacher, images, their split and the teacher's outputs into place."""
        recipe, args = self.recipe, self.args
        if recipe.low_resolution and args.max_minutes:
            raise ValueError(
                f"`low_resolution` must be 0 with `max_minutes`, got {recipe.low_resolution}: a part of epochs "
                "of which the number is unknown. Set --max_steps or --num_train_epochs in place of --max_minutes."
            )
        self.config, self.processor = start_of(recipe)
        self.size = self.config.image_size_hw[0]
        given = self.given_teacher if self.given_teacher is not None else recipe.teacher
        self.teacher = load_teacher(given, recipe.teacher_kind, recipe.trust_remote_code, self.size).to(args.device)
        check_workers(self.teacher, recipe.views, args.dataloader_num_workers)
        # Kept at the larger of both sizes, so that neither sees an image enlarged from the other's.
        self.side = max(self.size, self.teacher.size)
        side = {"height": self.side, "width": self.side}
        reader = OmniVisionImageProcessor(**{**self.processor.to_dict(), "size": side})
        self.images = read_images(recipe.images, reader, self.side, self.cache)
        self.skipped = self.images.failed
        self.train_rows, self.validation_rows, self.held_out_rows = split_rows(self.images, recipe, args.seed)
        parts = [self.teacher.digest, self.images.key, self.train_rows, self.config.hidden_size]
        parts += [recipe.token_weight > 0, recipe.logit_weight > 0]
        known = given_tower(recipe).eval() if recipe.model is not None else None
        parts += [weights_digest(known)] if known is not None else []
        key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        self.bases, self.classes, wanted = kept_bases(
            self.cache,
            key,
            lambda: bases_of(
                self.teacher.fastest(),
                self.images.pixels,
                self.train_rows,
                self.config,
                recipe,
                None if known is None else partial(self.encode, known.to(args.device)),
            ),
        )
        views = Views(args.seed, recipe.min_crop_scale, recipe.flip)
        key = f"{key} {args.seed} {recipe.min_crop_scale} {recipe.flip} {VIEWS_VERSION}"
        self.outputs = TeacherOutputs(
            *(self.teacher.fastest(), self.images.pixels, self.train_rows, views, self.bases, self.cache, key, wanted)
        )
        moved_to_device(recipe.images_on_device, [self.outputs], args.device, args.dataloader_num_workers)
        for number in range(max(recipe.views, 1)):
            self.outputs.view(number)
        if args.process_index == 0:
            print(
                f"{len(self.train_rows):,} images to train on, {len(self.validation_rows):,} to validate, "
                f"{len(self.held_out_rows):,} held out; teacher {self.teacher.name}: vectors of "
                f"{len(self.bases['vectors'].matrix)}, {self.bases['vectors'].energy:.1%} of them in "
                f"{self.config.hidden_size} numbers",
                flush=True,
            )

    def describe(self) -> dict[str, Any]:
        """Return the recipe and the sizes of the data."""
        given = without_folders({**self.recipe.given, "images": [without_folder(one) for one in self.recipe.images]})
        return {
            "command": training_command("omni-vision distill", {**given, **without_folders(self.args.given)}),
            "recipe": given_recipe(self.recipe),
            "arguments": without_folders(self.args.given),
            "images": {
                "train": len(self.train_rows),
                "validation": len(self.validation_rows),
                "held_out": len(self.held_out_rows),
            },
        }

    def rows_seen(self) -> dict[str, dict[str, Any]]:
        """Return number and digest of the images of each part."""
        parts = {"train": self.train_rows, "validation": self.validation_rows, "held_out": self.held_out_rows}
        return {name: digest(self.images.ids[row] for row in rows) for name, rows in parts.items()}

    @property
    def compares_images_of_a_batch(self) -> bool:
        """Whether losses compare images with others of their batch, and not with all alone."""
        recipe = self.recipe
        return bool(recipe.relation_weight or (recipe.neighbour_weight and not recipe.neighbour_bank))

    def seen(self) -> dict[str, Any]:
        """Return also the teacher."""
        images, teacher = describe_config(self.processor), Path(self.teacher.digest).name
        return {**super().seen(), "images": images, "teacher": teacher}

    def save(self) -> None:
        """Write the encoder and its image processor, which need no teacher; or both towers of a CLIP-like one."""
        if not self.trainer.is_world_process_zero():
            return
        tower = self.trainer.core.omni_vision
        if self.teacher.folder is None:
            tower.save_pretrained(self.folder)
            self.processor.save_pretrained(self.folder)
        else:
            save_retrieval(self.teacher.folder, tower, self.bases["vectors"].matrix, self.processor, self.folder)

    def measure(self) -> dict[str, Any]:
        """Measure what was saved on held-out images, in float32."""
        pixels, teacher = self.images.pixels, self.teacher.fastest()
        asked = [*self.held_out_rows, *self.train_rows]
        of_teacher = dict(zip(asked, vectors_of(teacher, pixels, asked), strict=True))
        held, train = (np.stack([of_teacher[row] for row in rows]) for rows in (self.held_out_rows, self.train_rows))
        repeated = near_duplicates(held, train, pixels[self.held_out_rows], pixels[self.train_rows])
        rows = [row for row, again in zip(self.held_out_rows, repeated, strict=True) if not again]
        if len(rows) < LEAST_HELD_OUT:
            logger.warning("%d held-out images are no near-duplicates of others: too few to measure.", len(rows))
            return {}
        encoder = load_vision_tower(self.folder, dtype=torch.float32).to(self.args.device)
        expected = np.stack([of_teacher[row] for row in rows])
        found = self.encode(encoder, rows)
        basis = self.bases["vectors"]
        section: dict[str, Any] = {
            "teacher": Path(self.teacher.name).name,
            "images": len(rows),
            "near_duplicates_removed": int(repeated.sum()),
            "cosine": float((unit(found @ basis.matrix.numpy().T) * unit(expected)).sum(axis=1).mean()),
            **agreement(found, expected, shared_space=False),
            **across(found, basis(torch.from_numpy(expected)).numpy()),
            "overlap_of_teacher_in_the_width": agreement(
                basis(torch.from_numpy(expected)).numpy(), expected, shared_space=False
            )["overlap"],
            "overlap_of_random_weights": agreement(
                self.encode(self.random_weights(), rows), expected, shared_space=False
            )["overlap"],
        }
        draw_neighbours(expected, found, pixels[rows], [self.images.ids[row] for row in rows], self.folder / SHEET)
        section |= self.measure_labels(encoder, of_teacher, rows)
        if self.recipe.learning_curve:
            section["learning_curve"] = {
                str(len(part)): self.overlap_of(part, rows, expected) for part in halves(self.train_rows)
            } | {str(len(self.train_rows)): section["overlap"]}
        parameters = sum(one.numel() for one in encoder.parameters())
        section["parameters"] = {"student": parameters}
        if self.teacher.parameters:
            section["parameters"] |= {
                "teacher": self.teacher.parameters,
                "ratio": round(self.teacher.parameters / parameters, 2),
            }
        section |= {"speed": speeds} if (speeds := compare_speed(encoder, self.teacher)) else {}
        return {"agreement": section}

    def pictures(self, folder: Path) -> Iterator[Picture | Mapping[str, Any]]:
        """Draw some of the images, and the attention of the student on others that it did not see."""
        rows = [self.train_rows[index] for index in evenly_spread(len(self.train_rows), SAMPLES)]
        cells = [(as_image(self.images.pixels[row]), "", self.images.ids[row]) for row in rows]
        lines = [cells[start : start + COLUMNS] for start in range(0, len(cells), COLUMNS)]
        yield Picture(draw_rows(lines, "Images to train on", str(folder / "samples.png")), "Samples")
        seen = self.held_out_rows[:MAPS_SHOWN]
        images = [np.array(as_image(self.images.pixels[row])) for row in seen]
        names = [Path(self.images.ids[row]).name for row in seen]
        encoder = load_vision_tower(self.folder, dtype=torch.float32).eval()
        path = draw_attention_on(encoder, self.processor, images, names, folder / "attention.png")
        yield Picture.of(path, "held-out")

    def encode(self, encoder: Any, rows: Sequence[int]) -> np.ndarray:
        """Return the vectors of an encoder for rows."""
        return encode_pixels(encoder, self.processor, self.images.pixels, rows, self.size)

    def random_weights(self) -> OmniVisionModel:
        """Return an encoder that nothing was taught."""
        return OmniVisionModel(self.config).eval().to(self.args.device)

    def measure_labels(self, encoder: Any, of_teacher: dict[int, np.ndarray], held_out: list[int]) -> dict[str, Any]:
        """Return accuracies of teacher, student, the same student from scratch, and random weights."""
        if self.recipe.label_file is None:
            return {}
        labels = read_labels(self.recipe.label_file, self.images.ids)
        random = self.random_weights()
        models: dict[str, Any] = {
            "teacher": lambda rows: np.stack([of_teacher[row] for row in rows]),
            "student": lambda rows: self.encode(encoder, rows),
            "random_weights": lambda rows: self.encode(random, rows),
        }
        if self.recipe.scratch and self.args.world_size == 1:
            scratch = self.from_scratch(labels)
            models["from_scratch"] = lambda rows: self.encode(scratch, rows)
        found = label_accuracies(models, labels, self.train_rows, held_out)
        return {"labels": found} if found else {}

    def from_scratch(self, labels: dict[int, str]) -> OmniVisionModel:
        """Train the same student on the labels alone: one-hot logits take the teacher's place."""
        names = sorted(set(labels.values()))
        rows = [row for row in self.train_rows if row in labels]
        # At once: a recipe of which all weights are 0 is refused.
        nothing_else = {"vector_weight": 0, "neighbour_weight": 0, "relation_weight": 0, "token_weight": 0}
        changed: dict[str, Any] = {"model": None, "logit_weight": 1, **nothing_else}
        recipe = replace(self.recipe, **changed)
        logits = np.zeros((len(self.images.ids), len(names)), dtype=np.float16)
        for row in rows:
            logits[row, names.index(labels[row])] = CERTAIN * recipe.logit_temperature
        said = {"vectors": np.zeros((len(logits), 1), dtype=np.float16), "logits": logits}
        return self.trained(recipe, len(names), rows, copy.copy(self.outputs).always(said))

    def overlap_of(self, part: list[int], held_out: list[int], expected: np.ndarray) -> float:
        """Return the overlap that a student reaches with a part of the images."""
        encoder = self.trained(self.recipe, self.classes, part, self.outputs)
        return agreement(self.encode(encoder, held_out), expected, shared_space=False)["overlap"]

    def trained(
        self, recipe: DistillArguments, classes: int, rows: list[int], outputs: TeacherOutputs
    ) -> OmniVisionModel:
        """Train another student for as many epochs, and return its encoder; nothing is saved."""
        given = {name: value for name, value in self.args.given.items() if name not in OF_CHECKPOINTS}
        with tempfile.TemporaryDirectory() as folder:
            args = DistillTrainingArguments(
                **{**given, "output_dir": folder, "eval_strategy": "no", "save_strategy": "no"}
            )
            set_seed(args.seed)
            trainer = self.trainer_of(recipe, args, classes, rows, outputs)
            trainer.train()
        return trainer.core.omni_vision.eval()


def start_of(recipe: DistillArguments) -> tuple[OmniVisionConfig, OmniVisionImageProcessor]:
    """Return configuration and image processor of the student; a new one has no dropout."""
    fields = read_fields("config", recipe.config)
    if recipe.model is not None:
        config = load_vision_tower(recipe.model, **fields).config
    else:
        config = OmniVisionConfig(**{"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, **fields})
    height, width = config.image_size_hw
    if height != width or config.num_channels != 3:
        raise ValueError(
            f"A student takes square colour images, got {height} x {width} of {config.num_channels} channels."
        )
    return config, load_image_processor(recipe.model) if recipe.model is not None else new_image_processor(config)


def epoch_sizes(recipe: DistillArguments, args: DistillTrainingArguments, size: int, images: int) -> list[int]:
    """Return the size of the images in each epoch of training on some of them.

    Raises:
        ValueError: where each epoch would have the low resolution.
    """
    epochs: float = max(1, round(args.num_train_epochs))
    if args.max_steps > 0:  # which the Trainer puts above a number of epochs
        batch = args.train_batch_size * args.world_size
        batches = images // batch if args.dataloader_drop_last else math.ceil(images / batch)
        epochs = args.max_steps / max(math.ceil(batches / args.gradient_accumulation_steps), 1)
    low, part = recipe.low_resolution, recipe.low_resolution_fraction * epochs
    sizes = [low if low and epoch < part else size for epoch in range(math.ceil(epochs))]
    if low and sizes[-1] != size:
        raise ValueError(
            f"Expected the last of {epochs:.3g} epochs at the full size of {size}, got {low} in each. Train for "
            "longer, or lower --low_resolution_fraction."
        )
    return sizes


def given_tower(recipe: DistillArguments) -> Any:
    """Return the encoder of the checkpoint that the student starts from, in float32."""
    return load_vision_tower(str(recipe.model), dtype=torch.float32, **read_fields("config", recipe.config))


def save_retrieval(
    source: str, tower: OmniVisionModel, matrix: torch.Tensor, processor: OmniVisionImageProcessor, folder: Path
) -> None:
    """Write an `OmniVisionForRetrieval` of a student's tower and its teacher's text tower, which have one space.

    Args:
        source: Folder of the CLIP-like teacher.
        tower: The student.
        matrix: From the student's coordinates to the teacher's vectors, (D, width).
        processor: Of the student's images.
        folder: To write.
    """
    from ..interop.source import read_source
    from ..interop.source_processor import source_tokenizer
    from ..processing_omni_vision_retrieval import OmniVisionRetrievalProcessor

    converted = read_source(source)
    model: Any = converted.model("float32")
    config = copy.deepcopy(model.config)
    config.vision_config = tower.config
    made = type(model)(config)
    state = {name: value for name, value in model.state_dict().items() if not name.startswith("vision_model.")}
    state |= {f"vision_model.{name}": value for name, value in tower.state_dict().items()}
    made.load_state_dict(state | {"visual_projection.weight": matrix.contiguous()})
    made.save_pretrained(folder)
    tokenizer = source_tokenizer(converted)
    if tokenizer is None:
        raise ValueError(f"Expected a tokenizer in {source!r}, got none: texts could not be read. Add its files.")
    OmniVisionRetrievalProcessor(image_processor=processor, tokenizer=tokenizer).save_pretrained(folder)


def across(student: np.ndarray, teacher: np.ndarray) -> dict[str, float]:
    """Return the overlaps of neighbours found with vectors of one among those of the other."""
    return {name: value for name, value in agreement(student, teacher).items() if "_to_" in name}


def halves(rows: list[int]) -> list[list[int]]:
    """Return a quarter and a half of rows, the quarter part of the half."""
    shuffled = np.random.default_rng(0).permutation(np.asarray(rows)).tolist()
    return [shuffled[: len(rows) // 4], shuffled[: len(rows) // 2]]


def split_rows(images: Images, recipe: DistillArguments, seed: int) -> tuple[list[int], list[int], list[int]]:
    """Return rows to train on, to validate, and held out: those of a list, or drawn.

    Raises:
        ValueError: for too few images, or a list that names others or leaves none.
    """
    total = len(images.ids)
    if total < LEAST_IMAGES:
        raise ValueError(f"Expected at least {LEAST_IMAGES} images to teach and to measure, got {total}. Add more.")
    if total < FEW_IMAGES:
        logger.warning(
            "%d images are too few to trust what is measured: use %d or more, and see --learning_curve.",
            *(total, FEW_IMAGES),
        )
    draws = np.random.default_rng([seed, 1])
    if recipe.held_out is not None:
        held = listed_rows(images, recipe.held_out)
    else:
        wanted = recipe.held_out_fraction
        count = int(wanted if wanted >= 1 else round(wanted * total))
        held = sorted(draws.choice(total, min(max(count, 10), total // 2), replace=False).tolist())
    rest = np.setdiff1d(np.arange(total), held)
    count = min(MAX_VALIDATION, max(round(VALIDATION_SHARE * len(rest)), 5))
    validation = np.sort(draws.choice(rest, count, replace=False))
    return np.setdiff1d(rest, validation).tolist(), validation.tolist(), held


def listed_rows(images: Images, file: str) -> list[int]:
    """Return the rows of the images that a list names, by ids or paths.

    Raises:
        ValueError: where it names what is no image, or leaves too few to train on.
    """
    lines = Path(file).read_text(encoding="utf-8").splitlines()
    named = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    by_name = {name: row for names in (images.paths, images.ids) for row, name in enumerate(names)}
    found = {name: by_name.get(name, by_name.get(os.path.abspath(name))) for name in named}
    unknown = [
        name for name, row in found.items() if row is None and not {name, os.path.abspath(name)} & images.unread
    ]
    held = sorted({row for row in found.values() if row is not None})
    if unknown or not held:
        given = f"{len(unknown)} other names, such as {unknown[0]!r}" if unknown else "none that can be read"
        raise ValueError(
            f"Expected ids of images or their paths in {file!r}, such as {images.ids[0]!r}, got {given}. Correct the "
            "list."
        )
    if len(images.ids) - len(held) < LEAST_IMAGES // 2:
        raise ValueError(
            f"Expected at least {LEAST_IMAGES // 2} images to train on beside those of {file!r}, got "
            f"{len(images.ids) - len(held)} of {len(images.ids)}. Shorten the list, or add images."
        )
    return held


def check_workers(teacher: Teacher, views: int, workers: int) -> None:
    """Raise a `ValueError` where processes that load data would have to ask a teacher on a GPU, which they cannot."""
    if views == 0 and workers and teacher.device.type != "cpu":
        raise ValueError(
            f"`dataloader_num_workers` must be 0 with `views` 0 and a teacher on {teacher.device}, got {workers}: "
            "each batch asks it anew. Leave it out: views are cut on the GPU."
        )


def kept_bases(folder: Path, key: str, make: Callable[[], Made]) -> Made:
    """Return coordinates, classes and what is taught out of a folder, or make and keep them there."""
    about, file = folder / "bases.json", folder / "bases.safetensors"
    known = json.loads(about.read_text(encoding="utf-8")) if about.is_file() else {}
    if known.get("key") != key:
        bases, classes, wanted = make()
        about.unlink(missing_ok=True)  # or a stopped run would leave these bases under the old key
        save_file({name: basis.matrix.contiguous() for name, basis in bases.items()}, file)
        energies = {name: basis.energy for name, basis in bases.items()}
        write_json(about, {"key": key, "energies": energies, "classes": classes, "wanted": wanted})
        return bases, classes, wanted
    matrices = load_file(file)
    kept = {name: Basis.of(matrices[name], energy) for name, energy in known["energies"].items()}
    return kept, known["classes"], known["wanted"]


def bases_of(
    teacher: Teacher,
    pixels: np.ndarray,
    rows: Sequence[int],
    config: OmniVisionConfig,
    recipe: DistillArguments,
    student: Callable[[Sequence[int]], np.ndarray] | None = None,
) -> Made:
    """Ask a teacher about a sample of images: coordinates of vectors and tokens, its classes, what it can teach.

    `student` returns vectors of rows, of a student that goes on from weights.
    """
    chosen = np.random.default_rng(0).permutation(np.asarray(rows))[:BASIS_SAMPLE].tolist()
    tokens, classes = [], 0
    for said in sample_outputs(teacher, pixels, chosen[:TOKEN_SAMPLE]):
        check_finite(teacher.name, said)
        classes = 0 if said.logits is None else said.logits.shape[-1]
        if said.tokens is not None:
            tokens.append(said.tokens.float().flatten(0, 2).cpu())
    vectors = torch.from_numpy(vectors_of(teacher, pixels, chosen))
    check_finite(teacher.name, TeacherOutput(vectors))
    width, wanted = config.hidden_size, []
    said_before = None if student is None else torch.from_numpy(student(chosen))
    bases = {"vectors": Basis(vectors, width, said_before)}
    if tokens and recipe.token_weight:
        bases["tokens"], wanted = Basis(torch.cat(tokens), width), ["tokens"]
    elif recipe.token_weight:
        logger.warning("The teacher %s has no grid of tokens: `token_weight` teaches nothing.", teacher.name)
    if recipe.logit_weight and classes:
        wanted = [*wanted, "logits"]
    elif recipe.logit_weight:
        logger.warning("The teacher %s does not classify: `logit_weight` teaches nothing.", teacher.name)
    return bases, classes, wanted


__all__ = ["DistillationRun", "Student", "distill"]
