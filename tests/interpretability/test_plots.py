import warnings

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binomtest

from modeling_omni_vision.evaluation.reliability_plots import plot_calibration, plot_robustness
from modeling_omni_vision.hub.publish import MAX_IMAGE_BYTES
from modeling_omni_vision.interop.page_colours import page_colours
from modeling_omni_vision.interpretability import plots, style
from modeling_omni_vision.interpretability.plots import (
    Scale,
    chosen_evaluation,
    complete,
    plot_attention,
    plot_confusion,
    plot_mistakes,
    plot_training,
    wilson,
)


@pytest.fixture(autouse=True)
def _warnings_are_errors():
    # A glyph that is missing or a layout that collapses is only a warning to matplotlib.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def is_drawn(path):
    with Image.open(path) as image:
        return image.format == "PNG" and np.asarray(image.convert("L")).std() > 5


@pytest.mark.parametrize("classes", [2, 100])
def test_a_confusion_matrix_is_drawn_for_few_and_many_classes_with_awkward_names(tmp_path, classes):
    matrix = np.eye(classes, dtype=int) * 7
    matrix[0] = 0
    names = ["$x_", "a name that is much too long for a tick", *map(str, range(2, classes))]
    assert is_drawn(plot_confusion(matrix.tolist(), names, tmp_path / "new" / "c.png"))


def test_intervals_are_those_of_wilson_and_have_a_width_where_all_or_none_are_right():
    right, count = np.array([0, 3, 1, 50, 0]), np.array([3, 3, 4, 100, 0])
    low, high = wilson(right, count)
    for index in range(4):
        expected = binomtest(int(right[index]), int(count[index])).proportion_ci(0.95, method="wilson")
        assert (low[index], high[index]) == pytest.approx((expected.low, expected.high), abs=1e-6)
    assert np.isnan([low[4], high[4]]).all()
    assert (high - low)[:2].min() > 0.5


def test_the_colours_of_figures_are_those_of_the_pages():
    assert all(colour in page_colours() for colour in (style.OURS, style.INK, style.LINE, style.EDGE))


def test_the_chosen_step_is_that_of_the_record_and_in_older_ones_the_best_epoch():
    entries = [{"step": 10, "epoch": 1.0, "accuracy": 0.9}, {"step": 20, "epoch": 2.0, "accuracy": 0.8}]
    assert chosen_evaluation({"chosen_step": 20}, entries) == entries[1]
    assert chosen_evaluation({"best_epoch": 2.0}, entries) == entries[1]
    assert chosen_evaluation({}, entries) == entries[0]
    assert chosen_evaluation({"chosen_step": 15}, entries) is None


def test_every_metric_of_an_evaluation_is_drawn_fractions_in_one_panel(tmp_path):
    history = [{"epoch": 1.0, "loss": 2.0}]
    widths = []
    for extra in ({}, {"overlap": 0.5, "cosine": 0.4}, {"overlap": 0.5, "psnr": 21.0}):
        evaluations = [{"step": 1, "epoch": 1.0, "loss": 1.5, **extra}]
        drawn = plot_training({"history": history, "evaluations": evaluations, "chosen_step": 1}, tmp_path / "t.png")
        with Image.open(drawn) as image:
            widths.append((image.width, image.height))
    assert widths[0][0] < widths[1][0] == widths[2][0]
    assert widths[0][1] == widths[1][1] < widths[2][1]


def test_equal_input_gives_equal_bytes(tmp_path):
    for name in ("a.png", "b.png"):
        plot_confusion([[3, 1], [0, 2]], ["a", "b"], tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_calibration_is_drawn_with_empty_bins(tmp_path):
    assert is_drawn(plot_calibration(np.array([[0.9, 0.1]] * 3), np.array([0, 0, 1]), tmp_path / "c.png"))


def test_calibration_after_scaling_is_drawn_beside_that_before(tmp_path):
    before, after, labels = np.array([[0.9, 0.1]] * 3), np.array([[0.7, 0.3]] * 3), np.array([0, 0, 1])
    alone, both = plot_calibration(before, labels, tmp_path / "1.png"), tmp_path / "2.png"
    assert is_drawn(plot_calibration(before, labels, both, after))
    with Image.open(alone) as one, Image.open(both) as two:
        assert two.width > 1.5 * one.width


@pytest.mark.parametrize("count", [1, 2, 3])
def test_any_number_of_robustness_curves_is_drawn(tmp_path, count):
    points = [
        {"severity": severity, "accuracy": 0.9 - severity, "accuracy_interval": [0.85 - severity, 0.95 - severity]}
        for severity in (0, 0.25, 0.5)
    ]
    names = ["gaussian_blur", "noise", "erasing"][:count]
    path = plot_robustness(dict.fromkeys(names, points), dict.fromkeys(names, "pixels"), tmp_path / "r.png")
    assert is_drawn(path)


def test_entries_without_a_value_are_left_out_of_curves():
    history = [{"step": 5, "epoch": 1.0, "loss": 2.0}, {"step": 9, "epoch": 2.0, "loss": None}, {"epoch": 3.0}]
    assert complete(history, "epoch", "loss") == history[:1]
    assert complete(None, "epoch", "loss") == []


@pytest.mark.parametrize("evaluations", [[], [{"epoch": 1.0, "loss": 1.5, "accuracy": 0.5}]], ids=["none", "one"])
def test_training_is_drawn_from_a_single_point(tmp_path, evaluations):
    training = {"history": [{"epoch": 1.0, "loss": 2.0}], "evaluations": evaluations}
    assert is_drawn(plot_training(training, tmp_path / "t.png"))


def test_nothing_is_drawn_of_a_training_that_left_no_losses(tmp_path):
    assert plot_training({}, tmp_path / "t.png") is None
    assert plot_training({"history": [{"epoch": 1.0, "loss": None}]}, tmp_path / "t.png") is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("count", [0, 1, 9])
def test_mistakes_are_drawn_in_any_number_and_shape(tmp_path, count):
    shapes = [(8, 8, 1), (300, 200, 3), (10, 40, 3)]
    images = [np.full(shapes[index % 3], 200.0) for index in range(count)]
    names = ["a class with a long name"] * count
    assert is_drawn(plot_mistakes(images, names, names, [0.5] * count, tmp_path / "m.png"))


def test_a_sheet_of_forty_small_images_is_small_enough_for_a_card(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 28, 28, 1))
    path = plot_mistakes(list(noise), ["a class"] * 40, ["another class"] * 40, [0.5] * 40, tmp_path / "m.png")
    assert path.stat().st_size < MAX_IMAGE_BYTES


def test_an_image_of_many_colours_keeps_them(tmp_path):
    photo = np.random.default_rng(0).integers(0, 256, (99, 99, 3))
    with Image.open(plot_mistakes([photo], ["a"], ["b"], [0.5], tmp_path / "m.png")) as image:
        assert len(image.convert("RGB").getcolors(1 << 24)) > 4096


def test_attention_is_drawn_for_images_that_are_not_square_and_maps_of_zero(tmp_path):
    images = [np.zeros((16, 32, 1), dtype=np.uint8), np.full((16, 32, 3), 255.0)]
    maps = np.zeros((2, 6, 2, 4))
    maps[1, :, 1, 2] = 0.7
    assert is_drawn(plot_attention(images, maps, ["a", "b\nsaid c"], tmp_path / "a.png"))


@pytest.mark.parametrize("value", [0.0, 0.3, -2.0])
def test_flat_maps_look_flat_and_the_figure_says_so(value):
    scale = Scale.of([np.full((3, 3), value), np.full((3, 3), value + 0.01)], "cosine", least=0.1)
    colours = scale.norm(np.array([value, value + 0.01]))
    assert colours[1] - colours[0] < 0.11
    assert "flat" in scale.note
    assert f"{value:.2f}" in scale.note


def test_a_scale_reaches_from_the_smallest_to_the_largest_value():
    scale = Scale.of([np.array([[0.1, 0.9]]), np.array([[-0.4]])], "cosine", least=0.1)
    assert (scale.norm.vmin, scale.norm.vmax, scale.note) == (-0.4, 0.9, "")
    assert Scale.of([np.array([[1.0, 5.0]])], "share", least=2.0, low=0.0).norm.vmin == 0


def test_signs_are_drawn_in_a_font_that_has_them_and_written_where_none_has(tmp_path, monkeypatch):
    only = [font for font in plots.fontManager.ttflist if font.name in (plots.FONT, "STIXGeneral")]
    monkeypatch.setattr(plots.fontManager, "ttflist", only)
    plots.font_with.cache_clear()
    names = {
        "caf\u00e9 \u0643\u0644\u0628": "caf\u00e9 \u0643\u0644\u0628",
        "\u732b": r"\u732b",
        "\ud55c\uae00": r"\ud55c\uae00",
        "\U0001f408 1": r"\N{CAT} 1",
        "\uff43\uff41\uff54": r"\uff43\uff41\uff54",
        "$\u732b": r"\$\u732b",
    }
    assert [plots.shortened(name) for name in names] == [*names.values()]
    # No escape is cut in two.
    assert plots.shortened("\u732b" * 9, 20) == r"\u732b\u732b..."
    assert plots.shortened("a\u732b" * 9, 26, 11) == r"a\u732ba...a\u732b"
    plot_confusion([[3, 1], [0, 4]], ["\u732b", "\U0001f408"], tmp_path / "a.png")
    stix = next(chr(code) for code in range(0x20D0, 0x2BFF) if plots.font_with(chr(code)) == "STIXGeneral")
    plot_confusion([[3, 1], [0, 4]], [stix, "dog"], tmp_path / "b.png")
    plots.font_with.cache_clear()
