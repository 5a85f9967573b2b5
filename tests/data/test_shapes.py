import numpy as np
import pytest

from modeling_omni_vision.data.synthetic.shapes import COLOURS, SHAPES, draw_scene, draw_shapes, label_of, parse_task


def test_the_same_seed_draws_the_same_scene_and_another_seed_another():
    first, again, other = (draw_scene(np.random.default_rng(seed), objects=2) for seed in (1, 1, 2))
    assert first.caption == again.caption
    assert np.array_equal(np.asarray(first.image), np.asarray(again.image))
    assert not np.array_equal(np.asarray(first.image), np.asarray(other.image))


def test_a_scene_says_what_it_shows_in_the_words_of_the_specification():
    scene = draw_scene(np.random.default_rng(0), [("red", "square")])
    assert scene.caption == "This is a red square"
    assert draw_scene(np.random.default_rng(0), [("orange", "star"), ("red", "cross")]).caption == (
        "This is an orange star and a red cross"
    )


def test_every_colour_and_shape_is_drawn_in_its_colour_within_its_mask():
    for colour in COLOURS:
        for shape in SHAPES:
            scene = draw_scene(np.random.default_rng(3), [(colour, shape)], size=64)
            (item,) = scene.objects
            inside = np.asarray(scene.image, dtype=float)[item.mask].mean(axis=0)
            # Paint varies by 12 of 255 a channel; edge pixels are up to half background (up to 255).
            nearest = min(COLOURS, key=lambda name: np.abs(inside - np.array(COLOURS[name])).sum())
            assert nearest == colour, (colour, shape)


def test_the_bounding_box_is_the_smallest_around_the_mask():
    for seed in range(20):
        for item in draw_scene(np.random.default_rng(seed), objects=3, size=96).objects:
            left, top, right, bottom = item.bbox
            assert item.mask[top:bottom, left:right].sum() == item.mask.sum() > 0
            assert item.mask[top].any()
            assert item.mask[bottom - 1].any()
            assert item.mask[:, left].any()
            assert item.mask[:, right - 1].any()


def test_objects_of_one_scene_never_overlap_and_are_all_different():
    for seed in range(10):
        scene = draw_scene(np.random.default_rng(seed), objects=6, size=128)
        assert np.sum([item.mask for item in scene.objects], axis=0).max() == 1
        assert len({item.name for item in scene.objects}) == 6


def test_place_and_size_vary():
    boxes = [draw_scene(np.random.default_rng(seed)).objects[0].bbox for seed in range(30)]
    areas = [(right - left) * (bottom - top) for left, top, right, bottom in boxes]
    assert len({box[:2] for box in boxes}) > 20
    assert max(areas) > 2 * min(areas)


@pytest.mark.parametrize(
    ("objects", "size"), [(0, 64), (1000, 64), (40, 16), ([("red", "blob")], 64), (1, 8), ([], 64)]
)
def test_a_scene_that_cannot_be_drawn_is_refused(objects, size):
    with pytest.raises(ValueError, match=r"must be|fit into"):
        draw_scene(np.random.default_rng(0), objects, size)


@pytest.mark.parametrize(
    ("caption", "label"),
    [
        ("This is a red square", 0),
        ("This is a blue square", 1),
        ("A tired, coloured, reddish thing", 1),
        ("RED.", 0),
        ("a red-and-white flag", 0),
    ],
)
def test_a_keyword_is_found_as_a_whole_word_only(caption, label):
    assert label_of(caption, ["red"]) == label


def test_a_caption_with_two_keywords_has_no_class():
    with pytest.raises(ValueError, match="at most one"):
        label_of("a red square", ["red", "square"])


@pytest.mark.parametrize(
    ("task", "keywords"),
    [
        ("shapes", ("red",)),
        ("shapes:colour", tuple(COLOURS)),
        ("shapes:shape", SHAPES),
        ("shapes:red, blue", ("red", "blue")),
    ],
)
def test_a_task_names_its_keywords(task, keywords):
    assert parse_task(task) == keywords


@pytest.mark.parametrize("task", ["shapes:mauve", "shapes:red,red", "shapes:red,,blue"])
def test_a_task_that_no_caption_would_fit_is_refused(task):
    with pytest.raises(ValueError, match="Expected 'shapes'"):
        parse_task(task)


@pytest.mark.parametrize(
    ("task", "names"),
    [
        ("shapes", ["red", "not red"]),
        ("shapes:shape", list(SHAPES)),
        ("shapes:red,blue", ["red", "blue", "other"]),
    ],
)
def test_labels_follow_from_captions_and_classes_are_balanced(task, names):
    data = draw_shapes(task, size=16, sizes={"train": 60, "test": 12})
    assert data["train"].features["label"].names == names
    for row in data["train"]:
        assert row["label"] == label_of(row["caption"], parse_task(task))
    assert set(np.bincount(data["train"]["label"])) == {60 // len(names)}


def test_train_and_test_show_different_images():
    data = draw_shapes(size=16, sizes={"train": 20, "test": 20})
    images = [[np.asarray(image).tobytes() for image in data[split]["image"]] for split in ("train", "test")]
    assert not set(images[0]) & set(images[1])
