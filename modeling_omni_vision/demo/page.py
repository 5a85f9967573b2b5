"""The page: a tab for each thing that a checkpoint can do, and a server that asks nothing of any other host."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio import processing_utils
from PIL import Image

from .components import refuse_address
from .opened import OpenedCheckpoint


MAX_FILE_SIZE = "32mb"
# Pillow refuses images of twice as many: one of 50 megapixels takes 150 MB.
MAX_PIXELS = 25_000_000
CACHE_SECONDS = 3600
# What axe-core finds in Gradio's own parts: examples without a name, and a name unlike the text of the upload button.
NAMES = """<script>
new MutationObserver(() => {
  for (const button of document.querySelectorAll(".gallery-item:not([aria-label])")) {
    const source = button.querySelector("img")?.src;
    if (source) button.ariaLabel = decodeURIComponent(source.split("/").pop()).replace(/\\.\\w+$/, "");
  }
  for (const button of document.querySelectorAll(".upload-container[aria-label]"))
    button.removeAttribute("aria-label");
}).observe(document, {childList: true, subtree: true});
</script>"""
STYLE = Path(__file__).parent / "style.css"
TITLES = {"classify": "Classify", "attention": "Attention", "search": "Search", "zero_shot": "Zero-shot", "ask": "Ask"}
TITLES |= {"compare": "Compare"}


def build_page(opened: OpenedCheckpoint, tabs: Sequence[str], index: str | None = None) -> gr.Blocks:
    """Return the page of a checkpoint.

    Args:
        opened: The checkpoint.
        tabs: Names of `TITLES`.
        index: Folder of the index to search; without one an index of the example images is made.
    """
    config = opened.tower.config
    height, width = config.image_size_hw
    summary = f"{opened.tower.num_parameters():,} parameters in its vision tower, images of {width} x {height} pixels"
    with gr.Blocks(
        title=f"{opened.name} - OmniVision", analytics_enabled=False, delete_cache=(600, CACHE_SECONDS)
    ) as page:
        gr.Markdown(f"# {opened.name}\n{summary}", elem_classes="head")
        with gr.Tabs():
            for name in tabs:
                with gr.Tab(TITLES[name], id=name):
                    add_tab(name, opened, index)
    return page.queue(max_size=1000)


def add_tab(name: str, opened: OpenedCheckpoint, index: str | None) -> None:
    """Build one tab; what others need is not imported."""
    if name in ("classify", "attention"):
        from .classify import attention_tab, classify_tab

        (classify_tab if name == "classify" else attention_tab)(opened)
    elif name == "compare":
        from .compare import compare_tab

        compare_tab(opened)
    elif name == "search":
        from ..retrieval.index import ImageIndex
        from .search import example_index, search_tab

        search_tab(opened, ImageIndex(index, opened.encoder, make=False) if index else example_index(opened))
    elif name == "zero_shot":
        from .zero_shot import zero_shot_tab

        zero_shot_tab(opened)
    else:
        from .ask import ask_tab

        ask_tab(opened)


def serve(page: gr.Blocks, host: str | None = None, port: int | None = None, **options: Any) -> Any:
    """Start the server of a page and return what `launch` of Gradio returns."""
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS
    vars(processing_utils).update(async_ssrf_protected_download=refuse_address)
    plain = gr.themes.Default(
        font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"], primary_hue="blue"
    ).set(button_primary_background_fill="*primary_700", button_primary_background_fill_hover="*primary_800")
    return page.launch(
        server_name=host,
        server_port=port,
        theme=plain,
        css_paths=STYLE,
        head=NAMES,
        max_file_size=MAX_FILE_SIZE,
        share=False,
        ssr_mode=False,
        pwa=False,
        run_history=False,
        enable_monitoring=False,
        mcp_server=False,
        quiet=True,  # or it would advertise a public link
        footer_links=["api", "settings"],
        **options,
    )


__all__ = ["MAX_FILE_SIZE", "MAX_PIXELS", "TITLES", "build_page", "serve"]
