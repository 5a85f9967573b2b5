"""Bundled checkpoints: complete, proven, and equal to their native twin."""

from io import BytesIO
from pathlib import Path

import pytest
import torch
from packaging.version import Version
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification
from transformers import __version__ as transformers_version

from modeling_omni_vision.data.sources import load_images
from modeling_omni_vision.hub import verify


CHECKPOINTS = Path(__file__).parent.parent / "checkpoints"
OURS, TWIN = CHECKPOINTS / "omni-vision-fashion-mnist", CHECKPOINTS / "omni-vision-fashion-mnist-dinov2"


@pytest.mark.parametrize("folder", sorted(CHECKPOINTS.iterdir()), ids=lambda folder: folder.name)
def test_a_bundled_checkpoint_verifies_and_is_small(folder):
    if (folder / "processor_config.json").is_file() and Version(transformers_version) < Version("5.23"):
        pytest.skip("models of several parts need transformers 5.23")
    assert not verify(folder).failures
    # A language model is a second model beside the tower, as is a text encoder that binds colours to shapes.
    limits = {"language": 16_000_000, "search": 8_000_000}
    limit = next((size for name, size in limits.items() if name in folder.name), 4_000_000)
    assert sum(file.stat().st_size for file in folder.glob("*.safetensors")) < limit


def test_the_model_card_at_the_root_is_that_of_the_bundled_classifier():
    assert (CHECKPOINTS.parent / "model_card.md").read_bytes() == (OURS / "README.md").read_bytes()


@torch.inference_mode()
def test_the_native_twin_equals_ours_on_every_image_of_a_test_set_through_its_own_processor():
    rows = load_images("digits")["test"]["image"]
    images = [Image.open(BytesIO(row["bytes"])) for row in rows]
    logits = []
    for folder in (OURS, TWIN):
        processor = AutoImageProcessor.from_pretrained(folder)
        model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=False).eval()
        logits.append(model(processor(images, return_tensors="pt")["pixel_values"]).logits)
    ours, theirs = logits
    assert len(ours) == 360
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=0)
    assert torch.equal(theirs.argmax(-1), ours.argmax(-1))
