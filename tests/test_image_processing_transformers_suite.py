"""The image processors in the common test suite of transformers, as one of its own models.

Needs `python tests/fetch_transformers_suite.py` once (`make test` does it).
"""

import sys
import types
import unittest

import pytest
from fetch_transformers_suite import PACKAGE, suite_folder
from PIL import Image
from transformers import AutoImageProcessor

from modeling_omni_vision import OmniVisionConfig
from modeling_omni_vision.image_processing_omni_vision import OmniVisionImageProcessor, OmniVisionImageProcessorPil


if not (suite_folder() / PACKAGE / "complete").exists():
    pytest.skip("no suite: run `python tests/fetch_transformers_suite.py`", allow_module_level=True)

# The suite imports this neighbour, which its archive leaves out, to find images on the Hub; we draw ours.
stand_in = types.ModuleType("fetch_hub_objects_for_ci")
stand_in.url_to_local_path = lambda url: url
sys.modules.setdefault("fetch_hub_objects_for_ci", stand_in)
sys.path.insert(0, str(suite_folder()))
common = pytest.importorskip("transformers_suite.test_image_processing_common")

if not hasattr(common, "ImageProcessingTester"):
    pytest.skip("the suite of this transformers release has an older form", allow_module_level=True)

BACKENDS = {"torchvision": OmniVisionImageProcessor, "pil": OmniVisionImageProcessorPil}


def drawn_image(url):
    return Image.radial_gradient("L").resize((640, 480)).convert("RGB")


class OmniVisionImageProcessingTester(common.ImageProcessingTester):
    def __init__(self, parent, **kwargs):
        kwargs.setdefault("size", {"height": 20, "width": 18})
        kwargs.setdefault("image_mean", [0.5, 0.5, 0.5])
        kwargs.setdefault("image_std", [0.5, 0.5, 0.5])
        kwargs.setdefault("background_color", (0, 128, 255))
        super().__init__(parent, **kwargs)

    def _get_image_processing_classes(self):
        return BACKENDS

    def prepare_image_processor_dict(self):
        # `num_channels` is an attribute of every tester, and an option only of ours.
        options = super().prepare_image_processor_dict()
        options.pop("num_channels", None)
        return options


class TestImageProcessorsInTransformersSuite(common.ImageProcessingTestMixin, unittest.TestCase):
    image_processor_tester_class = OmniVisionImageProcessingTester
    test_cast_dtype = True

    def setUp(self):
        super().setUp()
        AutoImageProcessor.register(OmniVisionConfig, image_processor_classes=BACKENDS, exist_ok=True)
        common.load_test_image = drawn_image

    def test_image_processor_to_json_string(self):
        # The suite compares JSON with the options it gave: a colour goes in as a tuple and comes out as a list.
        for processor_class in BACKENDS.values():
            saved = processor_class(background_color=(0, 128, 255)).to_json_string()
            assert processor_class(**common.json.loads(saved)).to_json_string() == saved
