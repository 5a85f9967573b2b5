"""What a command does as a program: a mistake of the user ends in one line and status 2, a fault in a traceback."""

import dis
import errno
import functools
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, Protocol


PACKAGE = __name__.partition(".")[0]
# Ours too: the code of a checkpoint, which transformers imports under this name.
OURS = (PACKAGE, "transformers_modules")
# What opens checkpoints and data that the user named; whatever it raises by itself is about these.
LIBRARIES = ("datasets", "huggingface_hub", "peft", "sentence_transformers", "tokenizers", "transformers")
OPENERS = ("from_pretrained", "get_config_dict", "load_dataset", "load_from_disk")
# Errors of the operating system about a place, whichever path they name.
PLACES = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
# How torch's `save` says that it could not write.
TORCH_WRITES = re.compile(r"PytorchStreamWriter failed|inline_container\.cc.*unexpected pos")
# Seconds in which the launcher ends all other processes once the first one has ended.
PATIENCE = 10
# Exit status of a command that did its work but for files that cannot be read.
SOME_UNREADABLE = 3
# What brings the packages that not every command needs.
EXTRAS = {
    "imagehash": "embed",
    **dict.fromkeys(("lancedb", "sentence_transformers"), "retrieval"),
    **dict.fromkeys(("onnx", "onnxruntime", "onnxscript"), "onnx"),
    **dict.fromkeys(("nncf", "openvino"), "openvino"),
    "gradio": "demo",
    "open_clip": "convert",
    "peft": "language",
    "ray": "ray",
    "timm": "benchmark",
}
# transformers imports peft wherever it is installed, for half of the CPU time of `train --help`.
UNUSED_BY_HELP = ("peft", "sentence_transformers")


class Main(Protocol):
    """A `main`: with a list of words a function that raises, without one the program of this process."""

    def __call__(self, argv: Sequence[str] | None = None) -> None: ...  # noqa: D102


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does: what it holds is given back, and a line says so."""


def program(main: Callable[[Sequence[str]], None], go_on: str = "") -> Main:
    """Return `main` such that, called without words, it reads those of the process and reports mistakes in a line.

    Args:
        main: What to run.
        go_on: How to go on after Ctrl-C and SIGTERM, for commands that can.
    """

    @functools.wraps(main)
    def run(argv: Sequence[str] | None = None) -> None:
        if argv is not None:
            return main(argv)
        words = sys.argv[1:]
        if {"-h", "--help", "--help_all"} & set(words):
            # `None` makes a package look as if it were not installed. This process prints its help and ends.
            sys.modules.update(dict.fromkeys(set(UNUSED_BY_HELP) - set(sys.modules)))  # type: ignore[arg-type]
        try:
            with termination_raised():
                main(words)
        except KeyboardInterrupt as stopped:
            if not int(os.environ.get("RANK", 0)):  # of a launcher's processes one says it
                print(f"Interrupted. {go_on}".rstrip(), file=sys.stderr)
            signum = signal.SIGTERM if isinstance(stopped, Terminated) else signal.SIGINT
            raise SystemExit(128 + signum) from None
        except Exception as error:
            sentence = explain(error, words)
            if sentence is None:
                raise
            fail(sentence)

    return run


@contextmanager
def termination_raised() -> Iterator[None]:
    """Raise `Terminated` in this process on SIGTERM; processes that it forks end by the signal as they would."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    process = os.getpid()

    def handle(signum: int, frame: FrameType | None) -> None:
        if os.getpid() == process:
            raise Terminated
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)

    former = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


def run_training(train: Callable[[Any, Any], Path], recipe: Any, args: Any) -> dict[str, Any]:
    """Train and return what stands in metrics.json; nothing in all processes but the first.

    Interrupted training ends the process: one line, no traceback, status 128 + signal.
    """
    import torch
    from datasets import disable_progress_bars

    from ..records.metrics_file import read_metrics
    from ..training.interruption import TrainingInterruptedError

    disable_progress_bars()
    try:
        folder = train(recipe, args)
    except TrainingInterruptedError as stopped:
        print(stopped, file=sys.stderr)
        raise SystemExit(128 + stopped.signum) from None
    except KeyboardInterrupt:
        print("Ended at once. Earlier checkpoints stay: --resume_from_checkpoint true.", file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    return read_metrics(folder) if args.process_index == 0 else {}


def fail(message: str, name: str | None = None) -> NoReturn:
    """Print one line on standard error, under a launcher in its first process only, and exit with status 2."""
    if int(os.environ.get("RANK", 0)):
        time.sleep(PATIENCE)  # the first process fails alike and the launcher ends this one, or it alone has failed
    print(f"{name or Path(sys.argv[0]).name}: {' '.join(message.split())}", file=sys.stderr, flush=True)
    raise SystemExit(2)


def explain(error: Exception, words: Sequence[str]) -> str | None:
    """Return a sentence for an error that is about what the user wrote, None for a fault of ours."""
    extra = EXTRAS.get((error.name or "").partition(".")[0]) if isinstance(error, ImportError) else None
    if extra is not None:
        return f"This command needs the package {error.name}. `{installs(extra)}` installs it."  # type: ignore[attr-defined]
    if (isinstance(error, ValueError) and raised_by_us(error)) or (isinstance(error, OSError) and names(error, words)):
        return str(error)
    if place := no_place(error):
        return place
    opened = opened_by_library(error)
    if opened is None:
        return None
    reason = str(error).strip().partition("\n")[0]
    from ..interop.weights_file import pickle_refusal

    if said := pickle_refusal(error):
        reason = f"its weights are {said}"
    if "ignore_mismatched_sizes" in reason:
        reason = "its weights have other shapes than its config.json says; the report above names them."
    nowhere = "" if os.path.exists(opened) else ", which is no folder here"
    return f"Cannot open {opened!r}{nowhere}: {reason or type(error).__name__}"


def installs(extra: str) -> str:
    """Return what installs an extra: from this checkout, if the package lies in one."""
    checkout = Path(__file__).parents[2] / "setup.cfg"
    return f'pip install -e ".[{extra}]"' if checkout.is_file() else f'pip install "omni-vision[{extra}]"'


def names(error: OSError, words: Sequence[str]) -> bool:
    """Return whether an error of the operating system is about a path among `words`, above or below one."""
    paths = [word.partition("=")[2] if word.startswith("-") else word for word in words]
    paths, file = [path for path in paths if len(path) > 1], str(error.filename or "")
    near = len(file) > 1 and any(path.startswith(file) or file.startswith(path) for path in paths)
    return near or error.errno in PLACES or any(path in str(error) for path in paths)


def no_place(error: Exception) -> str | None:
    """Return a sentence for a full or closed disk, if an error of a library names one, None for all others."""
    said = re.search(r"\(os error (\d+)\)", str(error))
    if said and int(said[1]) in PLACES:
        return f"Cannot write: {os.strerror(int(said[1]))}. Make room, or name another place, and run it again."
    if isinstance(error, RuntimeError) and TORCH_WRITES.search(str(error)):
        return "Cannot write a file of torch: the disk is full, or was taken away. Make room and run it again."
    return None


def opened_by_library(error: Exception) -> str | None:
    """Return what a library was opening for us when it failed, None if it was not, or if it had called us back."""
    opened = None
    for frame in frames(error):
        module = str(frame.f_globals.get("__name__")).partition(".")[0]
        if module in OURS:
            opened = None
        elif module in LIBRARIES and frame.f_code.co_name in OPENERS and opened is None:
            local = frame.f_locals
            what = local.get("pretrained_model_name_or_path") or local.get("path") or local.get("dataset_path")
            opened = str(what)
    return opened


def frames(error: BaseException) -> Iterator[FrameType]:
    """Yield the frames that an error passed through, the outermost first."""
    place = error.__traceback__
    while place is not None:
        yield place.tb_frame
        place = place.tb_next


def raised_by_us(error: BaseException) -> bool:
    """Return whether a `raise` statement of this package made an error or its cause; `int("x")` is none."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    if place is not None and str(place.tb_frame.f_globals.get("__name__")).partition(".")[0] == PACKAGE:
        instruction = place.tb_frame.f_code.co_code[place.tb_lasti]
        if dis.opname[instruction] == "RAISE_VARARGS":
            return True
    return error.__cause__ is not None and raised_by_us(error.__cause__)


__all__ = ["Main", "explain", "fail", "program", "raised_by_us", "run_training"]
