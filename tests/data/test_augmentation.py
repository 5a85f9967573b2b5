import pytest
import torch

from modeling_omni_vision.data.augmentation import Augmentation, seeded


EVERYTHING = {"min_crop_scale": 0.5, "max_translate": 2, "flip": True, "rand_augment": 9, "random_erasing": 0.5}
COUNT = 64


@pytest.fixture
def images():
    return torch.randint(0, 256, (COUNT, 3, 12, 12), dtype=torch.uint8)


def make(**options):
    return Augmentation(COUNT, (12, 12), **{"seed": 5, **options})


def augment(augmentation, images, rows, epoch=0):
    chosen = augmentation.crop_images(images[rows], rows, epoch)
    chosen = augmentation.images(chosen, rows, epoch)
    return augmentation.pixels(chosen.float(), rows, epoch)


def test_without_options_nothing_changes(images):
    rows = list(range(COUNT))
    assert torch.equal(augment(make(), images, rows), images.float())
    assert torch.equal(make().mix(images.float(), torch.arange(COUNT), rows, 0)[1], torch.arange(COUNT))


def test_an_image_is_changed_the_same_way_whichever_batch_it_is_in(images):
    augmentation = make(**EVERYTHING)
    whole = augment(augmentation, images, list(range(COUNT)))
    shuffled = torch.randperm(COUNT).tolist()
    parts = [augment(make(**EVERYTHING), images, part) for part in (shuffled[:7], shuffled[7:8], shuffled[8:])]
    assert torch.equal(torch.cat(parts), whole[shuffled])


@pytest.mark.parametrize("option", ["min_crop_scale", "max_translate", "flip", "rand_augment", "random_erasing"])
def test_each_option_changes_images_and_changes_them_anew_in_each_epoch_and_for_each_seed(images, option):
    rows, augmentation = list(range(COUNT)), make(**{option: EVERYTHING[option]})
    first, again, later = (augment(augmentation, images, rows, epoch) for epoch in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, images.float())
    assert not torch.equal(first, later)
    assert not torch.equal(first, augment(make(**{option: EVERYTHING[option]}, seed=6), images, rows))


def test_each_epoch_has_changes_that_no_epoch_had_before(images):
    same, rows, augmentation = images[:1].expand(COUNT, -1, -1, -1), list(range(COUNT)), make(random_erasing=1.0)
    first, second = ({one.numpy().tobytes() for one in augment(augmentation, same, rows, epoch)} for epoch in (0, 1))
    # Dealing the same 16 rectangles out anew would not do.
    assert len(first - second) > len(first) / 2


def test_the_global_generator_is_neither_read_nor_moved(images):
    rows, augmentation = list(range(COUNT)), make(**EVERYTHING, mixup=0.2, cutmix=1.0)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = augmentation.mix(augment(augmentation, images, rows), torch.zeros(COUNT, dtype=torch.int64), rows, 0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again = augmentation.mix(augment(augmentation, images, rows), torch.zeros(COUNT, dtype=torch.int64), rows, 0)
    assert torch.equal(first[0], again[0])


def test_seeding_leaves_the_generators_of_a_gpu_alone(monkeypatch):
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("the GPU was reseeded"))
    with seeded(1, 2, 3):
        torch.rand(1)


def test_a_shift_moves_by_no_more_than_its_pixels_and_uncovers_black():
    images = torch.full((COUNT, 1, 12, 12), 200, dtype=torch.uint8)
    shifted = make(max_translate=2).images(images, list(range(COUNT)), 0)
    assert (shifted[:, :, 2:-2, 2:-2] == 200).all()
    assert (shifted == 0).any()


def test_flip_mirrors_about_half_of_the_images(images):
    changed = [
        not torch.equal(after, before)
        for epoch in range(10)
        for before, after in zip(images, make(flip=True).images(images, list(range(COUNT)), epoch), strict=True)
    ]
    # 160 independent draws in ten epochs: 0.5 +- 0.04 (one sigma).
    assert 0.35 < sum(changed) / len(changed) < 0.65


def test_grey_images_are_augmented_too(images):
    assert augment(make(**EVERYTHING), images[:, :1], list(range(COUNT))).shape == (COUNT, 1, 12, 12)


@pytest.mark.parametrize("option", ["mixup", "cutmix"])
def test_mixed_labels_are_shares_of_the_two_classes_mixed(images, option):
    labels = torch.arange(COUNT) % 4
    augmentation = make(**{option: 1.0}, num_classes=4)
    mixed, shares = augmentation.mix(images.float(), labels, list(range(COUNT)), 0)
    assert shares.shape == (COUNT, 4)
    assert torch.allclose(shares.sum(dim=1), torch.ones(COUNT))
    assert not torch.equal(mixed, images.float())
    again, _ = augmentation.mix(images.float(), labels, list(range(COUNT)), 1)
    assert not torch.equal(mixed, again)


def test_with_both_kinds_of_mixing_batches_get_one_or_the_other():
    images = torch.stack([torch.zeros(1, 8, 8), torch.ones(1, 8, 8)])
    augmentation = Augmentation(99, (8, 8), mixup=1.0, cutmix=1.0)
    kinds = set()
    for epoch in range(20):
        mixed, _ = augmentation.mix(images, torch.tensor([0, 1]), [0, 1], epoch)
        kinds.add("cutmix" if set(mixed.unique().tolist()) <= {0.0, 1.0} else "mixup")
    assert kinds == {"mixup", "cutmix"}


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("min_crop_scale", 1.5),
        ("max_translate", -1),
        ("max_translate", 13),
        ("rand_augment", 31),
        ("random_erasing", 2),
        ("mixup", -0.1),
    ],
)
def test_impossible_values_are_refused(option, value):
    with pytest.raises(ValueError, match=rf"`{option}` must be from .* got {value}"):
        make(**{option: value})
