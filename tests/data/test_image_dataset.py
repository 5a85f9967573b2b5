import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PilImage
from torch.utils.data import DataLoader

from modeling_omni_vision.data.augmentation import Augmentation
from modeling_omni_vision.data.image_dataset import ImageCollator, ImageDataset, moved_to_device, normalised
from modeling_omni_vision.data.integrity import BROKEN, KEPT, READABLE, UNSEEN
from modeling_omni_vision.data.stored_images import netpbm_header, raw_pixels
from modeling_omni_vision.image_processing_omni_vision import OmniVisionImageProcessor, read_image


FEATURES = Features({"image": Image(decode=False), "label": ClassLabel(names=["a", "b", "c"])})


def dataset_of(images, tmp_path, suffix="png"):
    paths = []
    for index, image in enumerate(images):
        paths.append(str(tmp_path / f"{index}.{suffix}"))
        image.save(paths[-1])
    labels = [index % 3 for index in range(len(paths))]
    return Dataset.from_dict({"image": paths, "label": labels}, features=FEATURES)


@pytest.fixture
def mixed_sources():
    rng = np.random.default_rng(0)
    images = [PilImage.fromarray(rng.integers(0, 256, (9 + i, 14 - i, 3), dtype=np.uint8)) for i in range(4)]
    images += [PilImage.fromarray(rng.integers(0, 256, (10, 10, 4), dtype=np.uint8)) for _ in range(2)]
    images += [PilImage.fromarray(rng.integers(0, 256, (10, 10), dtype=np.uint8)) for _ in range(2)]
    turned = PilImage.fromarray(rng.integers(0, 256, (6, 10, 3), dtype=np.uint8))
    turned.getexif()[0x0112] = 6
    return [*images, turned]


def batch_of(images, rows):
    return ImageCollator(images.processor)(images.__getitems__(rows))


@pytest.mark.parametrize("num_channels", [1, 3])
@pytest.mark.parametrize("memory_limit", [0, 2**20])
def test_without_augmentation_the_pixels_are_those_of_the_image_processor(
    tmp_path, mixed_sources, num_channels, memory_limit
):
    dataset = dataset_of(mixed_sources, tmp_path)
    processor = OmniVisionImageProcessor(size={"height": 8, "width": 12}, num_channels=num_channels)
    batch = batch_of(ImageDataset(dataset, processor, memory_limit=memory_limit), list(range(len(dataset))))
    expected = processor([row["path"] for row in dataset["image"]], return_tensors="pt")["pixel_values"]
    assert torch.equal(batch["pixel_values"], expected)
    assert batch["labels"].tolist() == dataset["label"][:]
    assert set(batch) == {"pixel_values", "labels"}


def test_deep_images_keep_their_depth_in_evaluation_and_are_rounded_in_training(tmp_path):
    rng = np.random.default_rng(0)
    deep = [PilImage.fromarray(rng.integers(0, 65536, (10, 10), dtype=np.uint16)) for _ in range(4)]
    flat = [PilImage.fromarray(rng.integers(0, 256, (10, 10), dtype=np.uint8)) for _ in range(2)]
    dataset = dataset_of([*deep, *flat], tmp_path)
    processor = OmniVisionImageProcessor(size={"height": 8, "width": 8}, num_channels=1)
    expected = processor([row["path"] for row in dataset["image"]], return_tensors=None)["pixel_values"]
    batch = batch_of(ImageDataset(dataset, processor), list(range(6)))
    assert torch.equal(batch["pixel_values"], torch.stack(list(expected)))
    trained = batch_of(ImageDataset(dataset, processor, Augmentation(6, (8, 8), flip=False)), list(range(6)))
    # Half a level of 255, in units of the standard deviation.
    assert (trained["pixel_values"] - batch["pixel_values"]).abs().max() <= 0.5001 / 255 / 0.226


def test_one_row_is_what_it_is_in_a_batch(tmp_path, mixed_sources):
    dataset = dataset_of(mixed_sources, tmp_path)
    processor = OmniVisionImageProcessor(size={"height": 8, "width": 8})
    for augmentation in (None, Augmentation(9, (8, 8), min_crop_scale=0.3, flip=True, rand_augment=5)):
        images = ImageDataset(dataset, processor, augmentation)
        batch = images.__getitems__([3, 0, 7])
        assert torch.equal(images[7]["image"], batch["images"][2])
        assert images[7]["label"] == int(batch["labels"][2]) == 1


def test_what_fits_is_decoded_once_and_the_rest_each_time(tmp_path, mixed_sources):
    dataset = dataset_of(mixed_sources, tmp_path)
    processor = OmniVisionImageProcessor(size={"height": 8, "width": 8})
    exact = len(dataset) * 3 * 8 * 8
    kept = ImageDataset(dataset, processor, memory_limit=exact)
    all_but_one = ImageDataset(dataset, processor, memory_limit=exact - 1)
    before = kept.__getitems__(range(9))["images"]
    assert torch.equal(all_but_one.__getitems__(range(9))["images"], before)
    for row in (0, 8):
        (tmp_path / f"{row}.png").write_bytes(b"gone")
    assert torch.equal(kept[8]["image"], before[8])
    assert torch.equal(all_but_one[0]["image"], before[0])
    with pytest.raises(ValueError, match=r"row 8 .*8\.png"):
        all_but_one[8]


@pytest.mark.parametrize("num_images", [40, 600])
@pytest.mark.parametrize("min_crop_scale", [0.0, 0.3])
def test_an_odd_or_broken_image_costs_only_itself_wherever_it_is(tmp_path, min_crop_scale, num_images):
    rng = np.random.default_rng(0)
    sources = [PilImage.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for _ in range(num_images)]
    deep, large, broken = {0, num_images - 2}, {1, num_images - 1}, {2, num_images // 2}
    for row in deep:
        sources[row] = PilImage.fromarray(rng.integers(0, 65536, (8, 8), dtype=np.uint16))
    for row in large:
        sources[row] = PilImage.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    dataset = dataset_of(sources, tmp_path)
    for row in broken:
        (tmp_path / f"{row}.png").write_bytes(b"no image")
    processor = OmniVisionImageProcessor(size={"height": 8, "width": 8})
    augmentation = Augmentation(num_images, (8, 8), min_crop_scale=min_crop_scale)
    images = ImageDataset(dataset, processor, augmentation, of_run=True)
    expected = np.full(num_images, KEPT)
    expected[[*broken]], expected[[*deep]] = BROKEN, READABLE
    expected[[*large]] = READABLE if min_crop_scale else KEPT  # crops are cut out of the original
    assert images.states.tolist() == expected.tolist()
    assert images.bytes_on_device is None
    with pytest.raises(ValueError, match=r"row 2 .*2\.png"):
        images[2]
    with pytest.raises(ValueError, match=r"row 2 .*2\.png"):
        ImageDataset(dataset, processor, augmentation)
    # Past the limit, what fits stays.
    few = ImageDataset(dataset, processor, augmentation, memory_limit=30 * 3 * 8 * 8 + 1, of_run=True)
    assert few.states.tolist() == [*expected[:30], *[UNSEEN] * (num_images - 30)]


def test_crops_are_cut_out_of_the_original_not_out_of_a_small_copy(tmp_path):
    checks = np.indices((64, 64)).sum(axis=0) % 2 * 255  # shrunk to 8 px it would be plain grey
    dataset = dataset_of([PilImage.fromarray(checks.astype(np.uint8))] * 4, tmp_path)
    processor = OmniVisionImageProcessor(size={"height": 8, "width": 8}, num_channels=1)
    images = ImageDataset(dataset, processor, Augmentation(4, (8, 8), min_crop_scale=0.015))
    spreads = []
    for epoch in range(8):
        images.set_epoch(epoch)
        spreads += [float(image.float().std()) for image in images.__getitems__(range(4))["images"]]
    # Out of an 8 px copy, which is grey within one level, no crop would have a spread above 1.
    assert max(spreads) > 10


@pytest.mark.parametrize("num_workers", [0, 2])
def test_workers_make_the_same_batches_and_hear_of_the_epoch(tmp_path, mixed_sources, num_workers):
    dataset = dataset_of(mixed_sources, tmp_path)
    processor = OmniVisionImageProcessor(size={"height": 8, "width": 8})
    images = ImageDataset(
        dataset, processor, Augmentation(9, (8, 8), max_translate=2, rand_augment=9, mixup=0.5, num_classes=3)
    )
    loader = DataLoader(
        images,
        batch_size=4,
        collate_fn=ImageCollator(processor),
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
    )
    for epoch in (0, 1):
        images.set_epoch(epoch)
        for batch in loader:
            expected = batch_of(images, batch["rows"].tolist())
            assert torch.equal(batch["pixel_values"], expected["pixel_values"])
            assert torch.equal(batch["labels"], expected["labels"])


def test_a_processor_without_a_fixed_size_is_refused(tmp_path, mixed_sources):
    processor = OmniVisionImageProcessor(size={"shortest_edge": 8})
    with pytest.raises(ValueError, match="fixed height and width"):
        ImageDataset(dataset_of(mixed_sources, tmp_path), processor)


@pytest.mark.parametrize("memory_limit", [0, 2**20])
@pytest.mark.parametrize("shape", [(10, 12), (10, 12, 4)])
def test_a_processor_that_converts_no_channels_trains_on_the_same_channels_as_inference(tmp_path, shape, memory_limit):
    rng = np.random.default_rng(0)
    images = [PilImage.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)) for _ in range(3)]
    dataset = dataset_of(images, tmp_path)
    channels = shape[2] if len(shape) == 3 else 1
    statistics = {name: [0.5] * channels for name in ("image_mean", "image_std")}
    made = OmniVisionImageProcessor(size={"height": 8, "width": 8}, do_convert_rgb=False, **statistics)
    made.save_pretrained(tmp_path / "saved")
    processor = OmniVisionImageProcessor.from_pretrained(tmp_path / "saved")
    batch = batch_of(ImageDataset(dataset, processor, memory_limit=memory_limit), [0, 1, 2])
    expected = processor([row["path"] for row in dataset["image"]], return_tensors="pt")["pixel_values"]
    assert expected.shape == (3, channels, 8, 8)
    assert torch.equal(batch["pixel_values"], expected)


@pytest.mark.parametrize("memory_limit", [0, 2**20])
def test_images_of_other_channels_are_refused_by_row_in_training_as_in_inference(tmp_path, memory_limit):
    images = [PilImage.new("RGB", (9, 9)), PilImage.new("L", (9, 9)), PilImage.new("RGBA", (9, 9))]
    dataset = dataset_of(images, tmp_path)
    processor = OmniVisionImageProcessor(size={"height": 8, "width": 8}, do_convert_rgb=False)
    with pytest.raises(ValueError, match=r"image_mean: expected 1 numbers"):
        processor(images[1])
    with pytest.raises(ValueError, match=r"images of 3 channels.*got 1 in row 1"):
        batch_of(ImageDataset(dataset, processor, memory_limit=memory_limit), [0, 1])


def test_rand_augment_refuses_channels_that_are_no_colours():
    augmentation = Augmentation(4, (8, 8), rand_augment=5)
    with pytest.raises(ValueError, match="1 or 3 channels, got 4"):
        augmentation.images(torch.zeros(4, 4, 8, 8, dtype=torch.uint8), range(4), 0)


@pytest.mark.parametrize("min_crop_scale", [0.0, 0.3])
def test_images_changed_an_epoch_at_a_time_are_those_changed_in_batches(tmp_path, min_crop_scale):
    rng = np.random.default_rng(0)
    sources = [PilImage.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for _ in range(40)]
    processor = OmniVisionImageProcessor(size={"height": 8, "width": 8})
    levers = {
        "min_crop_scale": min_crop_scale,
        "max_translate": 2,
        "flip": True,
        "rand_augment": 5,
        "random_erasing": 0.5,
    }
    images = ImageDataset(dataset_of(sources, tmp_path), processor, Augmentation(40, (8, 8), **levers))
    assert images.bytes_on_device == 4 * 40 * 3 * 8 * 8
    for epoch in (0, 1):
        images.set_epoch(epoch)
        for rows in (np.array([3, 0, 7, 39]), np.arange(20)):
            batch = images.__getitems__(rows)
            assert torch.equal(images._of_epoch(epoch)[rows], batch["images"])
            collate = ImageCollator(processor)
            assert torch.equal(collate._looked_up(batch["images"]), normalised(processor, batch["images"]))


def test_images_on_the_device_are_refused_where_there_is_none_or_they_do_not_fit(tmp_path, mixed_sources):
    images = ImageDataset(
        dataset_of(mixed_sources, tmp_path), OmniVisionImageProcessor(size={"height": 8, "width": 8})
    )
    assert not moved_to_device("auto", [images], torch.device("cpu"), workers=0)
    with pytest.raises(
        ValueError, match=r"`images_on_device` must be auto or false, got true while the device is cpu"
    ):
        moved_to_device("true", [images], torch.device("cpu"), workers=0)
    with pytest.raises(ValueError, match="while 2 workers load them"):
        moved_to_device("true", [images], torch.device("cuda"), workers=2)


def test_raw_pixels_of_idx_are_taken_as_they_are_and_equal_those_that_pillow_reads(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 4, 3), dtype=np.uint8)
    for channels in (1, 3):
        wanted = pixels[..., :channels]
        stored = [{"bytes": netpbm_header(6, 4, channels) + image.tobytes(), "path": None} for image in wanted]
        assert torch.equal(raw_pixels(stored, (6, 4), channels), torch.from_numpy(wanted.transpose(0, 3, 1, 2).copy()))
        read = np.stack([read_image(source, channels) for source in stored])
        assert np.array_equal(read, wanted)
        for other in ([{"bytes": b"P5 4 6 255\nshort", "path": None}], [*stored, {"bytes": None, "path": "x"}]):
            assert raw_pixels(other, (6, 4), channels) is None
    assert raw_pixels(stored, (4, 6), 3) is None
