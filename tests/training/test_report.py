"""`report.html` of a run: one file, nothing outside of it, safe with any name, and never in the way of a result."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
from PIL import Image as PilImage
from report_page import LARGEST, page_of

from modeling_omni_vision.evaluation.test_split import SplitRefusedError
from modeling_omni_vision.records.metrics_file import read_metrics
from modeling_omni_vision.training import classification, report
from modeling_omni_vision.training.classification import train


NAMES = ["<script>alert(1)</script>", 'a "b" & $c$', "<img src=http://x.test/y.png>"]


@pytest.fixture
def few_pictures(reports, monkeypatch):
    """Reports without the pictures of the task, which take longest to draw."""
    monkeypatch.setattr(classification.ClassificationRun, "pictures", lambda run, folder: ())


@pytest.fixture
def awkward(tmp_path):
    """A saved dataset whose classes are named to break a page."""
    features = Features({"image": Image(), "label": ClassLabel(names=NAMES)})
    rng = np.random.default_rng(0)

    def split(count):
        labels = np.arange(count) % 3
        pixels = (labels[:, None, None] * 90 + rng.integers(0, 60, (count, 8, 8))).astype(np.uint8)
        return Dataset.from_dict({"image": list(pixels), "label": labels.tolist()}, features=features)

    DatasetDict(train=split(36), validation=split(12), test=split(9)).save_to_disk(tmp_path / "awkward")
    return tmp_path / "awkward"


def test_a_classifier_gets_one_page_that_asks_no_host_and_shows_any_name_as_text(reports, arguments, awkward, capsys):
    folder = train(*arguments(dataset=str(awkward)))
    assert f"Report: {folder / 'report.html'}" in capsys.readouterr().out
    page, text = page_of(folder), (folder / "report.html").read_text()
    said = " ".join(" ".join(page.text).split())
    for name in NAMES:
        assert name in said
    assert "x.test" not in "".join(str(found) for found in page.named("img", "a"))
    titles = [image["alt"] for image in page.named("img")]
    for title in ("Loss", "Confusion matrix", "Accuracy against confidence", "most confident mistakes", "Attention"):
        assert sum(title in one for one in titles) == 1, title
    assert "omni-vision train --dataset awkward" in said
    metrics = read_metrics(folder)
    assert f"{metrics['test']['accuracy']:.2%}" in said
    assert f"{metrics['training']['validation_accuracy']:.2%}" in said
    assert str(folder.parent) not in text


def test_a_run_that_leaves_the_test_split_closed_shows_none_of_it(few_pictures, arguments):
    folder = train(*arguments(do_predict=False))
    page = page_of(folder)
    rows = [text.strip() for text in page.text if text.strip() in ("train", "validation", "test")]
    assert "validation" in rows
    assert "test" not in rows
    assert not (folder / "test_opened.json").exists()


@pytest.mark.parametrize("broken", ["plot_training", "plot_dataset", "environment"])
def test_what_cannot_be_drawn_is_said_and_costs_no_result(few_pictures, arguments, monkeypatch, caplog, broken):
    def fail(*_, **__):
        raise RuntimeError("no <b>ink</b>\nleft")

    monkeypatch.setattr(report, broken, fail)
    folder = train(*arguments(do_predict=False))
    assert read_metrics(folder)["training"]["steps"] == 6
    assert (folder / "model.safetensors").is_file()
    said = [record.getMessage() for record in caplog.records if "ink" in record.getMessage()]
    assert said
    assert all("\n" not in line for line in said)
    if broken.startswith("plot"):
        assert "RuntimeError: no <b>ink</b> left" in " ".join(page_of(folder).text)
    else:
        assert not (folder / "report.html").exists()


def test_a_refused_test_split_still_leaves_the_report(few_pictures, arguments, monkeypatch):
    def refuse(*_, **__):
        raise SplitRefusedError("closed")

    monkeypatch.setattr(classification, "open_test_split", refuse)
    recipe, args = arguments()
    with pytest.raises(SplitRefusedError):
        train(recipe, args)
    page_of(Path(args.output_dir))


def test_a_report_does_not_keep_a_run_from_being_replaced(arguments):
    recipe, args = arguments(do_predict=False)
    folder = train(recipe, args)
    (folder / "report.html").write_text("old")
    train(*arguments(do_predict=False, overwrite_output_dir=True))
    assert not (folder / "report.html").exists()


def test_large_images_are_embedded_smaller_and_too_many_are_named(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (1200, 1600, 3), dtype=np.uint8)
    PilImage.fromarray(pixels).save(tmp_path / "noise.png")
    picture = report.Picture.of(tmp_path / "noise.png")
    figures, left_out = report.embed([("pictures", picture)] * 4)
    assert sum(len(figure["source"]) for figure in figures) < LARGEST
    assert figures
    assert all(figure["source"].startswith("data:image/jpeg;base64,") for figure in figures)
    assert left_out == ["Noise is left out: the page would be too large."] * (4 - len(figures))


def test_sections_of_a_task_that_nobody_foresaw_are_tables_too():
    found = report.result_sections({"training": {}, "reconstruction": {"psnr": 21.5, "by": {"x": 1}}}, {})
    assert found == [("reconstruction", ["measure", "value"], [["psnr", "21.5"], ["by: x", "1"]])]


def test_a_cell_of_a_table_may_hold_the_sign_between_cells():
    assert report.cells_of("| a | b |\n|---|---|\n| x \\| y | 1 |\n") == (["a", "b"], [["x | y", "1"]])


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_asks_for_nothing_and_has_no_complaint(reports, arguments, awkward, scheme):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no Chromium on the path")
    written = train(*arguments(dataset=str(awkward), do_predict=False)) / "report.html"
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for width in (1280, 360):
            page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            said, asked = [], []
            page.on("console", lambda message, said=said: said.append(message.text))
            page.on("dialog", lambda dialog, said=said: said.append(dialog.message))
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            page.goto(written.as_uri())
            assert said == []
            assert [url for url in asked if not url.startswith("data:")] == [written.as_uri()]
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate("[...document.images].every(image => image.naturalWidth)")
        browser.close()
