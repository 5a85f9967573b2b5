"""Write a checkpoint as a folder for the Hub, prove that it opens without our package, and push it if asked.

    python scripts/publish.py --model runs/digits --output published/digits --repo_id me/omni-vision-digits

Without `--push` nothing leaves this machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from transformers import HfArgumentParser

from ..hub import publish


@dataclass
class PublishArguments:
    """What to publish, and where."""

    model: str = field(metadata={"help": "folder of the trained model, its image processor and metrics.json"})
    output: str = field(metadata={"help": "folder to write: new, empty, or one that this script wrote before"})
    repo_id: str | None = field(default=None, metadata={"help": "repository on the Hub, owner/name"})
    push: bool = field(default=False, metadata={"help": "upload after everything was checked"})
    template: str | None = field(default=None, metadata={"help": "Jinja template of the model card instead of ours"})


def main(argv: Sequence[str] | None = None) -> None:
    """Publish and print one line."""
    (arguments,) = HfArgumentParser(PublishArguments).parse_args_into_dataclasses(argv)  # type: ignore[arg-type]
    done = publish(**vars(arguments))
    went = f"pushed to {done.url}" if done.url else "not pushed (dry run)"
    print(
        f"OK {done.folder}: opened in a clean process, largest difference {done.difference:.1e}, "
        f"release {done.release}, proof {done.digest}, {went}"
    )


if __name__ == "__main__":
    main()
