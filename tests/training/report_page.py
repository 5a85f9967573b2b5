"""Reads `report.html` and checks what holds for that of every run."""

import html.parser
import itertools

from modeling_omni_vision.records.metrics_file import METRICS_FILE


LARGEST = 3_000_000


class Page(html.parser.HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, text):
        self.text.append(text)

    def named(self, *tags):
        return [attributes for tag, attributes in self.tags if tag in tags]


def page_of(folder):
    """Read the page of a run and check what holds for every one."""
    written = folder / "report.html"
    assert written.stat().st_size < LARGEST
    page = Page(written.read_text(encoding="utf-8"))
    assert not page.named("script", "iframe", "object", "embed", "form", "base")
    assert all(image["src"].startswith("data:image/") and image["alt"].strip() for image in page.named("img"))
    links = [found[name] for found in page.named("a", "link", "img") for name in ("href", "src") if name in found]
    for link in links:
        assert link.startswith(("data:", "#")) or (folder / link).is_file(), link
    anchors = {found["id"] for _, found in page.tags if "id" in found}
    assert {link[1:] for link in links if link.startswith("#")} <= anchors
    assert METRICS_FILE in links
    levels = [int(tag[1]) for tag, _ in page.tags if tag in ("h1", "h2", "h3")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert [found["lang"] for found in page.named("html")] == ["en"]
    return page


def titles_of(folder):
    """Check the page of a run, and return the titles of its pictures."""
    return [image["alt"].partition(".")[0] for image in page_of(folder).named("img")]
