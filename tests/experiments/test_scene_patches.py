import io

import numpy as np
import pytest
from datasets import disable_progress_bars
from PIL import Image

from experiments.scene_patches import PATCH_COLOURS, PATCH_SHAPES, draw_scene_patches, patch_labels
from modeling_omni_vision.data.synthetic.scenes import HELD_OUT_COMBINATIONS
from modeling_omni_vision.data.synthetic.shapes import draw_scene


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    disable_progress_bars()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
        return draw_scene_patches(sizes={"train": 30, "held_out": 30})


def test_a_patch_is_labelled_with_the_object_that_covers_most_of_it_and_with_the_centre_of_that():
    scene = draw_scene(np.random.default_rng(3), [("red", "square"), ("blue", "circle")], 64)
    labels = patch_labels(scene, 8)
    colours, shapes, places = labels["colours"], labels["shapes"], labels["places"]
    for item in scene.objects:
        rows, columns = np.nonzero(item.mask)
        inside = int(rows.mean() // 8) * 8 + int(columns.mean() // 8)
        assert PATCH_COLOURS[colours[inside]] == item.colour
        assert PATCH_SHAPES[shapes[inside]] == item.shape
        assert places[inside] * 64 == pytest.approx((columns.mean(), rows.mean()), abs=1e-3)
    covered = sum(item.mask for item in scene.objects).reshape(8, 8, 8, 8).mean((1, 3)).reshape(-1)
    assert np.array_equal(colours > 0, np.maximum.reduce([_share(item) for item in scene.objects]) >= 1 / 8)
    assert not places[covered == 0].any()
    assert not shapes[covered == 0].any()


def test_a_patch_is_labelled_with_how_many_objects_there_are_of_its_colour_and_of_its_shape():
    names = [("red", "square"), ("red", "circle"), ("blue", "square"), ("red", "star")]
    scene = draw_scene(np.random.default_rng(5), names, 64)
    labels = patch_labels(scene, 8)
    expected = {("red", "square"): [4, 3, 2], ("red", "circle"): [4, 3, 1], ("blue", "square"): [4, 1, 2]}
    expected["red", "star"] = [4, 3, 1]
    found = set()
    for colour, shape, numbers in zip(labels["colours"], labels["shapes"], labels["numbers"].tolist(), strict=True):
        name = PATCH_COLOURS[colour], PATCH_SHAPES[shape]
        assert numbers == expected.get(name, [0, 0, 0])
        found.add(name)
    assert found == {*names, ("none", "none")}


def _share(item):
    return item.mask.reshape(8, 8, 8, 8).mean((1, 3)).reshape(-1)


def test_splits_have_labels_for_every_patch_and_keep_combinations_apart(drawn):
    held_out = {(PATCH_COLOURS.index(colour), PATCH_SHAPES.index(shape)) for colour, shape in HELD_OUT_COMBINATIONS}
    for name, split in drawn.items():
        for row in split:
            assert Image.open(io.BytesIO(row["image"]["bytes"])).size == (64, 64)
            assert len(row["colours"]) == len(row["shapes"]) == len(row["places"]) == len(row["numbers"]) == 64
            found = set(zip(row["colours"], row["shapes"], strict=True))
            assert bool(found & held_out) == (name == "held_out")


def test_patches_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="must divide the side of an image, 64, got 7"):
        draw_scene_patches(patch=7)
