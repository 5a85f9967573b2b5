"""Show in a browser what a checkpoint computes, on this machine; or write a Space of the Hub that does.

    omni-vision demo --model checkpoints/omni-vision-fashion-mnist
    omni-vision demo --model runs/search --index runs/index --export_space runs/space

Tabs follow from the kind of the checkpoint: classes, attention and occlusion maps of a classifier; search, similarity
maps and zero-shot names of a retrieval model; a chat with a vision-language model; two images compared, by all of
them. Each tab is also an HTTP endpoint (docs/demo.md). Nothing is asked of any other host. Without `--index` the
example images are searched. `--export_space` writes a folder for the Hub, with the package, the checkpoint and, given
an index, copies of its images, and starts no server.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from .arguments import REVISION, option, parse
from .model_kind import CLASSIFIER, ENCODER, LANGUAGE, RETRIEVAL, VAE, check_kind, one_of
from .program import program


TABS = {
    CLASSIFIER: ("classify", "compare"),
    ENCODER: ("attention", "compare"),
    VAE: ("attention", "compare"),
    RETRIEVAL: ("search", "zero_shot", "compare", "attention"),
    LANGUAGE: ("ask", "compare", "attention"),
}


@dataclass
class DemoArguments:
    """What to show, and where."""

    model: str = option("Folder or Hub id of an encoder, classifier, retrieval or vision-language model.")
    index: str | None = option("Folder of the index to search; of the checkpoint that made it.", None)
    export_space: str | None = option(
        "New or empty folder for a Space of the Hub; no server is started.", None, folder=True
    )
    host: str | None = option("Address to serve at; 0.0.0.0 for other machines. By default only this one.", None)
    port: int | None = option("Port to serve at; by default the first free one from 7860.", None)
    revision: str | None = option(REVISION, None)


@program
def main(argv: Sequence[str]) -> None:
    arguments = parse(DemoArguments, argv)
    kind = check_kind(arguments.model, *TABS, revision=arguments.revision)
    if kind not in TABS:
        raise ValueError(f"Expected a {', '.join(TABS)} in {arguments.model!r}, got a model of type {kind}.")
    if arguments.index and kind != RETRIEVAL:
        raise ValueError(
            f"Expected a {RETRIEVAL} with --index, got {one_of(kind)} in {arguments.model!r}. Leave it out."
        )
    if arguments.export_space:
        from ..demo.space import export_space

        extras = ("demo", "retrieval") if kind == RETRIEVAL else ("demo",)
        print(export_space(arguments.model, arguments.export_space, extras, arguments.index, arguments.revision))
        return
    from ..demo.opened import OpenedCheckpoint
    from ..demo.page import build_page, serve

    opened = OpenedCheckpoint(arguments.model, arguments.revision, kind == CLASSIFIER)
    page = build_page(opened, TABS[kind], arguments.index)
    _, address, _ = serve(page, arguments.host, arguments.port, prevent_thread_lock=True)
    print(f"{address} shows {opened.name}; Ctrl-C ends it", flush=True)
    page.block_thread()
