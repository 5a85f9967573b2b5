"""Write a checkpoint as a folder for the Hub, prove that it loads without this package, and push it if asked.

    omni-vision publish --model runs/digits --output published/digits --repo_id me/omni-vision-digits

Without `--push` nothing leaves this machine. A native twin gets preprocess.mjs for transformers.js, and with
`--export` its ONNX graphs, which must be of the same weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from .arguments import option, parse
from .program import program


@dataclass
class PublishArguments:
    """What to publish, and where."""

    model: str = option("Folder of the trained model, its image processor and metrics.json.")
    output: str = option("Folder to write: new, empty, or one that this command wrote before.", folder=True)
    repo_id: str | None = option("Repository on the Hub, owner/name.", None)
    push: bool = option("Upload after everything was checked.", False)
    export: str | None = option("Folder of omni-vision export --format onnx, whose graphs go along.", None)
    private: bool = option("Make the repository private, if --push makes it.", False)
    template: str | None = option("Jinja template of the model card instead of the package's own.", None)


@program
def main(argv: Sequence[str]) -> None:
    arguments = parse(PublishArguments, argv)
    from ..hub import publish

    done = publish(**vars(arguments))
    went = f"pushed to {done.url}" if done.url else "not pushed (dry run)"
    print(
        f"OK {done.folder}: opened in a clean process, largest difference {done.difference:.1e}, "
        f"release {done.release}, proof {done.digest}, {went}"
    )
