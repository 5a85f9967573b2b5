"""Checkpoints of a run: which one it starts from, how it is opened, and how an old run gives way to a new one."""

import hashlib
import json
import logging
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model, save_model
from torch import nn
from transformers import PreTrainedModel

from ..interop.vision_tower import load_complete
from ..records.metrics_file import METRICS_FILE, read_metrics


logger = logging.getLogger(__name__)

STATE, OPTIMIZER, WEIGHTS = "trainer_state.json", "optimizer.pt", "model.safetensors"
# What a run leaves in its folder, beside checkpoints; anything else is somebody's own.
LEFT_BY_RUNS = (".json", ".jsonl", ".safetensors", ".py", ".jinja", ".txt", ".md", ".png", ".html", ".model")
FOLDERS_OF_RUNS = ("plots", "eval", "runs", "__pycache__")


def find_checkpoint(output_dir: Path, resume: str | bool | None, overwrite: bool = False) -> Path | None:
    """Return the checkpoint that a run starts from, None for the beginning.

    Args:
        output_dir: Folder of the run.
        resume: None or `false` to start a new run, `true` for the newest complete checkpoint (the beginning, with a
            warning, where there is none yet), or the path of a checkpoint.
        overwrite: Start a new run although there is an old one, which `set_aside` then moves.

    Raises:
        ValueError: if a new run would overwrite something, a run is finished, or a checkpoint is not complete.
    """
    wanted = str(resume or "false").strip()
    is_new = wanted.lower() in ("false", "no", "0")
    if overwrite and not is_new:
        raise ValueError(
            "`overwrite_output_dir` starts anew, got `resume_from_checkpoint` too. Leave out one of them."
        )
    if overwrite:
        check_replaceable(output_dir)
        return None
    if (output_dir / METRICS_FILE).is_file():
        tested = "test_opened" in read_metrics(output_dir)
        raise ValueError(
            f"{output_dir} holds a finished run{', whose test split is opened once' if tested else ''}. Choose "
            "another --output_dir, or replace it with --overwrite_output_dir true; to train further, start from it by "
            f"--model {output_dir}.{'' if tested else ' omni-vision evaluate opens its test split, if it has one.'}"
        )
    if is_new:
        if output_dir.is_dir() and any(output_dir.iterdir()):
            raise ValueError(
                f"Expected an empty --output_dir, got {output_dir} with files in it. Choose another, continue its run "
                "with --resume_from_checkpoint true, or replace it with --overwrite_output_dir true."
            )
        return None
    if wanted.lower() in ("true", "yes", "1"):
        complete = complete_checkpoints(output_dir)
        if not complete:
            logger.warning("No complete checkpoint in %s yet: training starts at the beginning.", output_dir)
        return _with_optimizer(complete[-1]) if complete else None
    if not (Path(wanted) / STATE).is_file():
        raise ValueError(f"Expected 'true' or the folder of a complete checkpoint to resume, got {wanted!r}.")
    if not _is_whole(Path(wanted)):
        raise ValueError(
            f"Expected a complete checkpoint to resume, got {wanted!r}, of which a file is cut off. Name another, or "
            "'true' for the newest complete one."
        )
    return _with_optimizer(Path(wanted))


def _with_optimizer(checkpoint: Path) -> Path:
    # FSDP and DeepSpeed keep it in folders.
    if not any(file.name.startswith(("optimizer", "global_step")) for file in checkpoint.iterdir()):
        raise ValueError(
            f"Expected a checkpoint with the state of its optimizer, got {checkpoint} with the model alone, as "
            f"--save_only_model true keeps it. Start a new run; a model without LoRA by --model {checkpoint}."
        )
    return checkpoint


@contextmanager
def held(folder: Path, first: bool, option: str = "--output_dir") -> Iterator[None]:
    """Hold a folder of a run, which an option names, for the first of its processes.

    Raises:
        ValueError: while another training on this machine holds it, of which the files would be mixed with ours.
    """
    place = hashlib.sha256(os.fsencode(os.path.realpath(folder))).hexdigest()[:16]
    user = getattr(os, "getuid", int)()  # Windows has a temporary folder for each user
    lock = FileLock(Path(tempfile.gettempdir(), f"omni-vision-{user}-{place}.lock"), timeout=0)
    try:
        holding = lock.acquire() if first else nullcontext()
    except Timeout as error:
        raise ValueError(
            f"Expected one training in {folder}, got another at work. Wait for it, or name another {option}."
        ) from error
    with holding:
        try:
            yield
        finally:
            if first:
                # Whoever has opened it meanwhile sees that it has no name any more. Windows removes it at its release.
                with suppress(OSError):
                    os.unlink(lock.lock_file)


def complete_checkpoints(output_dir: Path) -> list[Path]:
    """Return the complete checkpoints of a run, oldest first; those that are cut off are named in a warning."""
    found = (path.parent for path in output_dir.glob(f"checkpoint-*/{STATE}"))
    # Not a copy under another name.
    complete = [folder for folder in found if folder.name.removeprefix("checkpoint-").isdecimal()]
    cut_off = [folder for folder in complete if not _is_whole(folder)]
    if cut_off:
        logger.warning("Cut off while it was written, and passed over: %s.", ", ".join(sorted(map(str, cut_off))))
    whole = (folder for folder in complete if folder not in cut_off)
    return sorted(whole, key=lambda path: int(path.name.rpartition("-")[2]))


def _is_whole(folder: Path) -> bool:
    """Return whether no file of a checkpoint is cut off, by what stands at both ends of each."""
    try:
        json.loads((folder / STATE).read_text(encoding="utf-8"))
        for file in folder.glob("*.safetensors"):
            with safe_open(file, "pt"):
                pass
    except (OSError, ValueError, SafetensorError):
        return False
    return all(zipfile.is_zipfile(file) for file in (*folder.glob("*.pt"), *folder.glob("*.pth")))


def are_intact(output_dir: Path) -> bool:
    """Return whether a run has checkpoints, and all of them finite weights."""
    files = [file for folder in complete_checkpoints(output_dir) for file in folder.glob("*.safetensors")]
    return bool(files) and all(_is_finite(file) for file in files)


def _is_finite(file: Path) -> bool:
    with safe_open(file, "pt") as tensors:
        return all(bool(tensors.get_tensor(name).isfinite().all()) for name in tensors.keys())  # noqa: SIM118


def has_adapters(model: nn.Module) -> bool:
    """Return whether a model has LoRA that is not merged."""
    return any("lora_" in name for name, _ in model.named_parameters())


def save_weights(model: nn.Module, folder: Path) -> None:
    """Write all weights of a model with LoRA, by their names in memory: libraries save the adapters alone."""
    save_model(model, str(folder / WEIGHTS))


def restore_weights(model: nn.Module, folder: str | Path) -> None:
    """Give a model in training the weights of a checkpoint, opened as `from_pretrained` opens it.

    The Trainer reads them by their names on disk, which for many text models are others than in memory, and goes on
    without those that it does not find.

    Raises:
        ValueError: naming weights that the checkpoint lacks.
    """
    if isinstance(model, PreTrainedModel) and not has_adapters(model):
        opened: Any = load_complete(type(model), folder, exact=True, dtype="auto")
        model.load_state_dict(opened.state_dict())
        return
    missing, unexpected = load_model(model, Path(folder, WEIGHTS), strict=False)
    if missing or unexpected:
        raise ValueError(
            f"Expected the weights of {type(model).__name__} in {str(folder)!r}, got {sorted(missing)[:3]} missing "
            f"and {list(unexpected)[:3]} unknown. Resume with the arguments of its run."
        )


def check_replaceable(output_dir: Path) -> None:
    """Raise a `ValueError` unless a folder is a run and nothing else, or there is none."""
    if not output_dir.is_dir() or not any(output_dir.iterdir()):
        return
    is_run = "training" in read_metrics(output_dir) or any(output_dir.glob("checkpoint-*"))
    other = sorted(path.name for path in output_dir.iterdir() if not _is_of_run(path))
    if output_dir.is_symlink() or not is_run or other:
        what = "a link" if output_dir.is_symlink() else f"other files, such as {other[:5]}" if other else "no run"
        raise ValueError(f"`overwrite_output_dir` replaces runs, got {output_dir} with {what}. Choose another folder.")


def _is_of_run(path: Path) -> bool:
    if path.is_dir() and not path.is_symlink():
        return path.name.startswith("checkpoint-") or path.name in FOLDERS_OF_RUNS
    return path.suffix in LEFT_BY_RUNS


def aside(output_dir: Path) -> Path:
    """Return where an old run waits until the one that replaces it is saved."""
    folder = output_dir.absolute()
    return folder.with_name(f".{folder.name}.replaced")


def set_aside(output_dir: Path) -> None:
    """Move an old run out of the way."""
    if output_dir.is_dir() and any(output_dir.iterdir()):
        shutil.rmtree(aside(output_dir), ignore_errors=True)
        output_dir.rename(aside(output_dir))


def bring_back(output_dir: Path) -> None:
    """Put an old run back where the one that was to replace it has left no checkpoint."""
    if aside(output_dir).is_dir() and not complete_checkpoints(output_dir):
        shutil.rmtree(output_dir, ignore_errors=True)
        aside(output_dir).rename(output_dir)


def forget_replaced(output_dir: Path) -> None:
    """Remove an old run, now that the one that replaces it is saved."""
    shutil.rmtree(aside(output_dir), ignore_errors=True)


__all__ = [
    "are_intact",
    "bring_back",
    "check_replaceable",
    "complete_checkpoints",
    "find_checkpoint",
    "forget_replaced",
    "has_adapters",
    "held",
    "restore_weights",
    "save_weights",
    "set_aside",
]
