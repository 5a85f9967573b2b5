"""Every kind of file gives one tensor: in training, evaluation, retrieval, answers, commands and the processor."""

import base64
import struct
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features
from datasets import Image as ImageColumn
from PIL import Image

from modeling_omni_vision import OmniVisionForImageClassification, OmniVisionImageProcessor
from modeling_omni_vision.cli.predict import main as predict
from modeling_omni_vision.data.augmentation import Augmentation
from modeling_omni_vision.data.image_dataset import ImageCollator, ImageDataset
from modeling_omni_vision.data.stored_images import open_stored
from modeling_omni_vision.data.summary import export_images
from modeling_omni_vision.evaluation.predictions import pixel_values
from modeling_omni_vision.image_processing_omni_vision import read_image
from modeling_omni_vision.modeling_omni_vision import OmniVisionPatchEmbeddings


SIZE = {"height": 32, "width": 32}


def save_all_kinds(folder):
    """One file of each kind that libraries read in different ways."""
    draw = np.random.default_rng(0)
    colour = Image.fromarray(draw.integers(0, 256, (40, 30, 3), dtype=np.uint8))
    grey, alpha = colour.convert("L"), Image.linear_gradient("L").resize(colour.size)
    deep = draw.integers(0, 65536, (40, 30), dtype=np.uint16)
    turned = Image.Exif()
    turned[0x0112] = 6
    palette = colour.quantize(16)
    palette.info["transparency"] = 3
    files = {
        "bilevel.png": (colour.convert("1"), {}),
        "l.png": (grey, {}),
        "la.png": (Image.merge("LA", (grey, alpha)), {}),
        "palette.png": (palette, {"transparency": 3}),
        "rgba.png": (Image.merge("RGBA", (*colour.split(), alpha)), {}),
        "i16.png": (Image.fromarray(deep), {}),
        "i16_transparent.png": (Image.fromarray(deep), {"transparency": int(deep[0, 0])}),
        "i.tiff": (Image.fromarray(deep.astype(np.int32)), {}),
        "f.tiff": (Image.fromarray(deep.astype(np.float32) / 65535), {}),
        "white_is_zero.tiff": (Image.fromarray(deep), {"tiffinfo": {262: 0}}),
        "cmyk.jpg": (colour.convert("CMYK"), {}),
        "turned.jpg": (colour, {"exif": turned}),
        "animated.gif": (colour, {"save_all": True, "append_images": [grey.convert("RGB")]}),
        "animated.png": (colour, {"save_all": True, "append_images": [grey.convert("RGB")]}),
        "plain.webp": (colour, {"lossless": True}),
    }
    folder.mkdir(parents=True)
    for name, (image, options) in files.items():
        image.save(folder / name, **options)
    (folder / "rgb16.png").write_bytes(png_of_16_bits(draw.integers(0, 65536, (40, 30, 3), dtype=np.uint16)))
    return sorted(folder.iterdir())


def png_of_16_bits(pixels):
    """A PNG in colour with 16 bits, which Pillow reads and cannot write."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return save_all_kinds(tmp_path_factory.mktemp("kinds") / "cat")


@pytest.fixture(scope="module", params=[3, 1], ids=["colour", "grey"])
def processor(request):
    return OmniVisionImageProcessor(size=SIZE, num_channels=request.param)


@pytest.fixture
def rows(files):
    features = Features({"image": ImageColumn(decode=False), "label": ClassLabel(names=["cat"])})
    return Dataset.from_dict({"image": [*map(str, files)], "label": [0] * len(files)}, features=features)


@pytest.fixture
def expected(processor, files):
    return torch.cat([processor(str(file), return_tensors="pt")["pixel_values"] for file in files])


@pytest.mark.parametrize("memory_limit", [0, 2**20])
def test_training_without_augmentation_and_evaluation_get_the_tensors_of_the_processor(
    processor, rows, expected, memory_limit
):
    images = ImageDataset(rows, processor, memory_limit=memory_limit)
    batch = ImageCollator(processor)(images.__getitems__(range(len(rows))))["pixel_values"]
    assert torch.equal(batch, expected)
    config = SimpleNamespace(num_channels=processor.num_channels)
    model = SimpleNamespace(config=config, dtype=torch.float32, device=torch.device("cpu"))
    assert torch.equal(pixel_values(model, processor, rows["image"][:], 0), expected)


def test_retrieval_and_answers_get_them_in_training(processor, rows, expected):
    pytest.importorskip("sentence_transformers")
    from modeling_omni_vision.retrieval.augmentation import PairAugmentation
    from modeling_omni_vision.training.language_data import AnswerCollator, AnsweredSequence
    from modeling_omni_vision.training.retrieval_data import training_pairs

    described = rows.add_column("texts", [["a cat"]] * len(rows)).add_column("concept", ["c"] * len(rows))
    pairs = training_pairs(described, PairAugmentation(False))
    assert torch.equal(processor(pairs[:]["image"], return_tensors="pt")["pixel_values"], expected)
    special = {f"{name}_token_id": None for name in ("bos", "eos", "unk", "sep", "cls", "mask")}
    tokenizer = SimpleNamespace(pad_token_id=0, all_special_ids=[], **special, convert_tokens_to_ids=lambda token: 7)
    parts = SimpleNamespace(image_processor=processor, tokenizer=tokenizer, image_token="<image>", image_seq_length=1)
    asked = [AnsweredSequence([7, 1], [1, 1], [0, 1], [0, 0], ["a"], [image]) for image in rows["image"][:]]
    assert torch.equal(AnswerCollator(parts)(asked)["pixel_values"], expected)


def test_the_command_predict_gets_them(processor, files, expected, tiny_config, tmp_path, capsys):
    tiny_config.num_channels = processor.num_channels
    OmniVisionForImageClassification(tiny_config).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    seen = []

    def keep(module, arguments):
        if isinstance(module, OmniVisionPatchEmbeddings):
            seen.append(arguments[0])

    hook = torch.nn.modules.module.register_module_forward_pre_hook(keep)
    try:
        predict(["--model", str(tmp_path), "--images", str(files[0].parent)])
    finally:
        hook.remove()
    assert torch.equal(torch.cat(seen), expected)


def test_images_in_a_chat_get_them_as_path_and_as_base64_text(processor, files, expected, word_tokenizer):
    pytest.importorskip("transformers", minversion="5.23")
    from modeling_omni_vision.interop.compose import prepare_tokenizer
    from modeling_omni_vision.processing_omni_vision_language import OmniVisionProcessor

    both = OmniVisionProcessor(processor, prepare_tokenizer(word_tokenizer, "<image>"))
    for file, wanted in zip(files, expected, strict=True):
        text = base64.b64encode(file.read_bytes()).decode()
        for part in ({"path": str(file)}, {"base64": text}, {"url": f"data:image/png;base64,{text}"}, {"image": text}):
            content = [{"type": "image", **part}, {"type": "text", "text": "what is it"}]
            chat = [{"role": "user", "content": content}]
            inputs = both.apply_chat_template(chat, tokenize=True, return_dict=True, return_tensors="pt")
            assert torch.equal(inputs["pixel_values"][0], wanted), file


def test_every_kind_is_exported_as_png(rows, tmp_path):
    exported = export_images(DatasetDict(train=rows), "train", len(rows), tmp_path)
    assert len(exported) == len(rows)
    for stored, file in zip(rows["image"][:], exported, strict=True):
        assert np.abs(read_image(stored) - read_image(file)).max() <= 1, stored


def test_augmentation_starts_from_the_same_images(processor, rows, expected):
    """An augmentation that does nothing differs by the rounding of deep images alone."""
    images = ImageDataset(rows, processor, Augmentation(len(rows), (32, 32)))
    batch = ImageCollator(processor)(images.__getitems__(range(len(rows))))["pixel_values"]
    levels = (batch - expected).abs() * torch.tensor(processor.image_std).view(-1, 1, 1) * 255
    assert levels.max() <= 0.5001


def test_augmented_pairs_keep_what_deep_and_turned_images_show(rows, processor, monkeypatch):
    pytest.importorskip("sentence_transformers")
    from modeling_omni_vision.retrieval import augmentation

    change = augmentation.PairAugmentation(True)
    monkeypatch.setattr(change, "_affine", lambda image: image)
    monkeypatch.setattr(change, "_jitter", lambda image: image)
    for stored in rows["image"][:]:
        image = open_stored(stored)
        if image.has_transparency_data:
            # On a background of random colour: what is left is no white image.
            assert np.asarray(change.image(image, 0)).std() > 20
            continue
        # Rounded once before and once in each direction of the resize.
        got = processor(change.image(image, 0), return_tensors="pt")["pixel_values"]
        levels = (got - processor(stored, return_tensors="pt")["pixel_values"]).abs().max() * 0.23 * 255
        assert levels <= 1.6, stored["path"]
