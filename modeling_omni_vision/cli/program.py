"""What a command does as a program: a mistake of the user ends in one line and status 2, a fault in a traceback."""

import dis
import functools
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol


PACKAGE = __name__.partition(".")[0]
# What brings the packages that not every command needs.
EXTRAS = {
    "imagehash": "embed",
    "lancedb": "retrieval",
    "openvino": "embed",
    "peft": "language",
    "sentence_transformers": "retrieval",
    "timm": "benchmark",
}
# transformers imports peft wherever it is installed, for half of the CPU time of `train --help`.
UNUSED_BY_HELP = ("peft", "sentence_transformers")


class Main(Protocol):
    """A `main`: with a list of words a function that raises, without one the program of this process."""

    def __call__(self, argv: Sequence[str] | None = None) -> None: ...  # noqa: D102


def program(main: Callable[[Sequence[str]], None]) -> Main:
    """Return `main` such that, called without words, it reads those of the process and reports mistakes in a line."""

    @functools.wraps(main)
    def run(argv: Sequence[str] | None = None) -> None:
        if argv is not None:
            return main(argv)
        words = sys.argv[1:]
        if {"-h", "--help"} & set(words):
            # `None` makes a package look as if it were not installed. This process prints its help and ends.
            sys.modules.update(dict.fromkeys(set(UNUSED_BY_HELP) - set(sys.modules)))  # type: ignore[arg-type]
        try:
            main(words)
        except ImportError as error:
            extra = EXTRAS.get((error.name or "").partition(".")[0])
            if extra is None:
                raise
            fail(f'this command needs the package {error.name}. `pip install "omni-vision[{extra}]"` installs it.')
        except (ValueError, OSError) as error:
            if not is_mistake(error, words):
                raise
            fail(str(error))

    return run


def run_training(train: Callable[[Any, Any], Path], recipe: Any, args: Any) -> dict[str, Any]:
    """Train and return what stands in metrics.json; nothing in all processes but the first.

    Interrupted training ends the process: one line, no traceback, status 128 + signal.
    """
    import torch

    from ..records.metrics_file import read_metrics
    from ..training.interruption import TrainingInterruptedError

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


def fail(message: str) -> NoReturn:
    """Print one line on standard error and exit with status 2."""
    print(f"{Path(sys.argv[0]).name}: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(2)


def is_mistake(error: BaseException, words: Sequence[str]) -> bool:
    """Return whether an error is about what the user wrote: raised by our code, or about a path among `words`."""
    if isinstance(error, OSError):
        return any(word in str(error) for word in words if len(word) > 1 and not word.startswith("-"))
    return raised_by_us(error)


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


__all__ = ["Main", "fail", "is_mistake", "program", "raised_by_us", "run_training"]
