"""Parts of the demo without a server: matches, occlusion, drawings, the Space, what the command refuses."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import SpaceCard
from PIL import Image

from modeling_omni_vision.cli.demo import main
from modeling_omni_vision.demo.components import bars, map_over
from modeling_omni_vision.demo.opened import OpenedCheckpoint
from modeling_omni_vision.demo.space import PACKAGE, export_space, requirements
from modeling_omni_vision.interpretability.occlusion import explain_class, windows
from modeling_omni_vision.interpretability.patch_matches import match_patches
from modeling_omni_vision.interpretability.plots import Scale


CHECKPOINTS = PACKAGE.parent / "checkpoints"
CLASSIFIER, SEARCH = (str(CHECKPOINTS / f"omni-vision-{name}") for name in ("fashion-mnist", "search-scenes"))


def test_only_patches_that_are_each_others_most_similar_match():
    first = torch.tensor([[[1.0, 0.0], [0.9, 0.1]], [[0.0, 2.0], [-1.0, 0.0]]])
    second = torch.tensor([[[0.0, 1.0], [3.0, 0.0], [0.8, -0.6]]])
    found = match_patches(first, second)
    assert [one[:2] for one in found] == [((1, 0), (0, 0)), ((0, 0), (0, 1))]
    assert [one.cosine for one in found] == pytest.approx([1.0, 1.0])
    assert match_patches(first, second, limit=1) == found[:1]


def test_a_window_has_the_places_around_one_and_ends_at_the_edge():
    found = windows(3, 4)
    assert found.shape == (12, 3, 4)
    assert found.flatten(1).sum(1).tolist() == [4, 6, 6, 4, 6, 9, 9, 6, 4, 6, 6, 4]
    assert found[5].nonzero().amin(0).tolist() == [0, 0]
    assert found[5].nonzero().amax(0).tolist() == [2, 2]


@pytest.mark.parametrize("problem_type", [None, "multi_label_classification"])
def test_an_occlusion_map_of_a_class_is_that_of_single_forwards(problem_type, tiny_classifier):
    tiny_classifier.config.problem_type = problem_type
    pixels = torch.randn(1, 3, 32, 32)
    number, relevance = explain_class(tiny_classifier, pixels, batch_size=5)
    hidden = pixels.clone()
    hidden[..., :16, 8:32] = pixels.mean((-2, -1), keepdim=True)
    with torch.no_grad():
        scores = [tiny_classifier(one).logits[0] for one in (pixels, hidden)]
    scores = [torch.nn.functional.logsigmoid(one) if problem_type else one.log_softmax(-1) for one in scores]
    assert number == int(scores[0].argmax())
    assert relevance.shape == (4, 4)
    assert relevance[0, 2] == pytest.approx(float(scores[0][number] - scores[1][number]), abs=1e-5)


def test_a_map_over_an_image_is_as_large_as_a_page_needs_and_bright_where_it_is_high():
    values = np.array([[0.0, 1.0]])
    drawn = np.asarray(map_over(np.zeros((28, 28, 1), np.uint8), values, Scale.of([values], "", least=0.1)))
    assert drawn.shape == (336, 336, 3)
    assert drawn[:, 168:].mean() > drawn[:, :168].mean() + 40


def test_names_are_text_in_the_page():
    drawn = bars([("<img src=x onerror=alert(1)>", 2.0, "200%"), ("b", -1.0, "-1")])
    assert "&lt;img" in drawn
    assert "<img" not in drawn
    assert "width:100.0%" in drawn
    assert "width:0.0%" in drawn


def test_what_a_checkpoint_cannot_show_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Expected a retrieval model with --index, got a classifier"):
        main(["--model", CLASSIFIER, "--index", "runs/index"])
    (tmp_path / "other").write_text("mine")
    with pytest.raises(ValueError, match="new or an empty folder"):
        main(["--model", CLASSIFIER, "--export_space", str(tmp_path)])
    assert [one.name for one in tmp_path.iterdir()] == ["other"]


@pytest.fixture
def images(tmp_path):
    for number, colour in enumerate(("red", "blue")):
        (tmp_path / "images" / colour).mkdir(parents=True)
        Image.new("RGB", (40, 40), colour).save(tmp_path / "images" / colour / f"{number}.png")
    return tmp_path / "images"


def test_a_space_holds_all_that_it_runs_and_says_so_in_its_header(tmp_path, images):
    pytest.importorskip("lancedb")
    from modeling_omni_vision.retrieval.index import ImageIndex

    index = ImageIndex(tmp_path / "index", OpenedCheckpoint(SEARCH).encoder)
    index.add_images([str(images)])
    export_space(SEARCH, str(tmp_path / "space"), ("demo", "retrieval"), str(tmp_path / "index"))
    card = SpaceCard.load(tmp_path / "space" / "README.md").data
    assert (card.sdk, card.app_file) == ("gradio", "app.py")
    needed = (tmp_path / "space" / "requirements.txt").read_text().splitlines()
    assert f"gradio=={card.sdk_version}" in needed
    assert {line.split("=")[0].split("<")[0].split(">")[0] for line in needed} >= {"torch", "lancedb", "pillow"}
    copied = {one.relative_to(tmp_path / "space").as_posix() for one in (tmp_path / "space" / "images").rglob("*.png")}
    assert copied == {"images/red/0.png", "images/blue/1.png"}
    assert not list((tmp_path / "space").rglob("__pycache__"))
    texts = [one.read_text() for one in (tmp_path / "space").glob("*.*")]
    assert not any(str(tmp_path) in text or str(PACKAGE.parent) in text for text in texts)
    assert "index.main" in (tmp_path / "space" / "app.py").read_text()
    for file in (images / "red" / "0.png", images / "blue" / "1.png"):
        file.unlink()
    with pytest.raises(ValueError, match="got none of its 2"):
        export_space(SEARCH, str(tmp_path / "space2"), ("demo",), str(tmp_path / "index"))
    assert not (tmp_path / "space2").exists()


def test_a_space_needs_what_the_package_needs_with_its_extras():
    plain, both = requirements(("demo",)), requirements(("demo", "retrieval"))
    assert set(plain) < set(both)
    assert any(line.startswith("lancedb") for line in set(both) - set(plain))
    assert not any(line.startswith(("pytest", "ruff", "timm")) for line in both)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_space_starts_in_a_fresh_environment(tmp_path):
    """Packages are linked from this environment, without ours: installing torch again would take minutes."""
    export_space(CLASSIFIER, str(tmp_path / "space"), ("demo",))
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    # Not our package: only the folders of others, which a link each keeps apart from its editable install.
    packages = next((tmp_path / "venv" / "lib").glob("python*/site-packages"))
    for place in {Path(find_spec(name).origin).parents[1] for name in ("torch", "gradio")}:
        for one in place.iterdir():
            if "omni" not in one.name and not one.name.endswith(".pth") and not (packages / one.name).exists():
                (packages / one.name).symlink_to(one)
    environment = {
        "PATH": "/usr/bin:/bin",
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "home"),
        "HOME": str(tmp_path),
    }
    environment |= {"OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(
        [python, "-u", "app.py"],
        cwd=tmp_path / "space",
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        lines = []
        for line in running.stdout:
            lines.append(line)
            if " shows omni-vision-fashion-mnist; " in line:
                break
        else:
            raise AssertionError("".join(lines)[-3000:])
        from gradio_client import Client, handle_file

        client = Client(lines[-1].split()[0], verbose=False)
        bag = handle_file(str(PACKAGE / "demo" / "examples" / "bag.png"))
        assert client.predict(bag, api_name="/classify")["top"][0]["label"] == "Bag"
    finally:
        running.terminate()
        running.wait()
