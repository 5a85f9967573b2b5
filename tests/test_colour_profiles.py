"""Colour profiles: images with profiles built here from published primaries, against a formula of our own.

The formula: values to light by the profile's curve, to XYZ and on to sRGB's light by 3 x 3 matrices (all have the
white of D65, so no adaptation is needed), clipped, by sRGB's curve back to values. Measured: within 1 level.
"""

import io
import struct

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from transformers.utils import logging

from modeling_omni_vision import image_processing_omni_vision as image_processing
from modeling_omni_vision.image_processing_omni_vision import (
    OmniVisionImageProcessor,
    OmniVisionImageProcessorPil,
    open_image,
    read_image,
)


D65, D50 = np.array([0.3127, 0.3290]), np.array([0.9642, 1.0, 0.8249])
PRIMARIES = {
    "sRGB": [(0.64, 0.33), (0.30, 0.60), (0.15, 0.06)],
    "Display P3": [(0.680, 0.320), (0.265, 0.690), (0.150, 0.060)],
    "Adobe RGB": [(0.64, 0.33), (0.21, 0.71), (0.15, 0.06)],
}
GAMMA = 563 / 256  # of Adobe RGB


def to_light(values):
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def to_values(light):
    light = np.clip(light, 0, 1)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


CURVES = {"sRGB": to_light, "Display P3": to_light, "Adobe RGB": lambda values: values**GAMMA}


def xyz(x, y):
    return np.array([x / y, 1.0, (1 - x - y) / y])


def to_xyz(name):
    """The matrix from light in the space to XYZ under D65."""
    columns = np.stack([xyz(*place) for place in PRIMARIES[name]], axis=1)
    return columns * np.linalg.solve(columns, xyz(*D65))


def expected_srgb(pixels, name):
    light = CURVES[name](pixels / 255)
    return to_values(light @ (np.linalg.inv(to_xyz("sRGB")) @ to_xyz(name)).T) * 255


# --- profiles of version 2, byte by byte ---


def number(value):
    return struct.pack(">i", round(value * 65536))


def xyz_tag(values):
    return b"XYZ \0\0\0\0" + b"".join(map(number, values))


def curve_tag(light):
    table = np.rint(light(np.linspace(0, 1, 1024)) * 65535).astype(">u2")
    return b"curv\0\0\0\0" + struct.pack(">I", 1024) + table.tobytes()


def icc(space, tags, kind=b"mntr", connection=b"XYZ "):
    places, data = b"", b""
    start = 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        places += struct.pack(">4sII", name, start + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    size = struct.pack(">I", start + len(data))
    header = size + bytes(4) + b"\x02\x40\0\0" + kind + space + connection + bytes(12) + b"acsp" + bytes(28)
    header += b"".join(map(number, D50))
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + places + data


def rgb_profile(name):
    # Profiles hold colours under D50, adapted by Bradford's matrix.
    cone = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    scale = np.diag((cone @ D50) / (cone @ xyz(*D65)))
    columns = (np.linalg.inv(cone) @ scale @ cone @ to_xyz(name)).T
    tags = {b"wtpt": xyz_tag(D50)}
    for letter, column in zip((b"r", b"g", b"b"), columns, strict=True):
        tags |= {letter + b"XYZ": xyz_tag(column), letter + b"TRC": curve_tag(CURVES[name])}
    return icc(b"RGB ", tags)


def grey_profile(light):
    return icc(b"GRAY", {b"wtpt": xyz_tag(D50), b"kTRC": curve_tag(light)})


def cmyk_profile(corners):
    """Four inks, none or all of each: Lab colours (2, 2, 2, 2, 3), in bytes, between them by interpolation."""
    identity = b"".join(number(value) for value in np.eye(3).flatten())
    table = bytes(range(256))
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + table * 4 + corners.tobytes() + table * 3
    return icc(b"CMYK", {b"wtpt": xyz_tag(D50), b"A2B0": lut}, b"prtr", b"Lab ")


def lab_to_srgb(lab):
    """Lab bytes under D50 to sRGB, by the CIE's formula."""
    lightness, a, b = lab[..., 0] * 100 / 255, lab[..., 1] - 128.0, lab[..., 2] - 128.0
    f = np.stack([(lightness + 16) / 116 + a / 500, (lightness + 16) / 116, (lightness + 16) / 116 - b / 200], -1)
    under_d50 = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * D50
    cone = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    scale = np.diag((cone @ xyz(*D65)) / (cone @ D50))
    under_d65 = under_d50 @ (np.linalg.inv(cone) @ scale @ cone).T
    return to_values(under_d65 @ np.linalg.inv(to_xyz("sRGB")).T) * 255


def saved(image, form="PNG", **options):
    image.save(buffer := io.BytesIO(), form, **options)
    return buffer.getvalue()


def colours(seed=0, shape=(20, 30, 3)):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture(autouse=True)
def forget():
    """Each test says again what is said once."""
    image_processing._profile_to_srgb.cache_clear()
    type(logging.get_logger("transformers")).warning_once.cache_clear()


# --- the right colours ---


@pytest.mark.parametrize("name", ["Display P3", "Adobe RGB"])
def test_wide_colours_become_those_of_srgb_from_every_source(name, tmp_path):
    pixels = colours()
    expected = expected_srgb(pixels, name)
    assert np.abs(expected - pixels).mean() > 5, "a test of colours that differ"
    data = saved(Image.fromarray(pixels), icc_profile=rgb_profile(name))
    (tmp_path / "a.png").write_bytes(data)
    sources = [data, str(tmp_path / "a.png"), {"bytes": data, "path": None}, Image.open(io.BytesIO(data))]
    sources += [
        saved(Image.fromarray(pixels), form, icc_profile=rgb_profile(name), **options)
        for form, options in (("TIFF", {}), ("WEBP", {"lossless": True}))
    ]
    for source in sources:
        assert np.abs(read_image(source) - expected).max() <= 1
        opened = open_image(source)
        assert np.array_equal(read_image(opened), read_image(source)), "once, not twice"
        assert np.array_equal(read_image(open_image(opened)), read_image(source))
    for backend in (OmniVisionImageProcessor, OmniVisionImageProcessorPil):
        plain = backend()(np.rint(expected).astype(np.uint8), return_tensors="pt")["pixel_values"]
        got = backend()(data, return_tensors="pt")["pixel_values"]
        assert (got - plain).abs().max() <= 1.1 / 255 / 0.224


def test_published_values_are_met():
    """A pure red of sRGB in Display P3 and in Adobe RGB, as every converter prints it, and back."""
    for name, pixel in (("Display P3", (234, 51, 35)), ("Adobe RGB", (219, 0, 0))):
        data = saved(Image.new("RGB", (4, 4), pixel), icc_profile=rgb_profile(name))
        assert np.abs(read_image(data)[0, 0].astype(int) - (255, 0, 0)).max() <= 2


@pytest.mark.parametrize("name", ["Display P3", "Adobe RGB"])
@pytest.mark.parametrize("mode", ["RGBA", "P", "P transparent", "RGB transparent"])
def test_alpha_and_palettes_are_kept(name, mode):
    pixels, profile = colours(), rgb_profile(name)
    expected = expected_srgb(pixels, name)
    image, options = Image.fromarray(pixels), {"icc_profile": profile}
    if mode == "RGBA":
        image.putalpha(Image.fromarray(np.full((20, 30), 128, np.uint8)))
        expected = (expected * 128 + 255 * 127) / 255
    elif mode.startswith("P"):
        image = image.quantize(16)
        expected = expected_srgb(np.asarray(image.convert("RGB")), name)
    if mode.endswith("transparent"):
        see = (5, 7)
        options["transparency"] = int(np.asarray(image)[see]) if mode[0] == "P" else tuple(map(int, pixels[see]))
        key = np.asarray(image) == np.asarray(image)[see]
        expected[key if key.ndim == 2 else key.all(-1)] = 255
    assert np.abs(read_image(saved(image, **options)) - expected).max() <= 2


@pytest.mark.parametrize("num_channels", [1, 3])
@pytest.mark.parametrize("kind", ["8 bits", "alpha", "16 bits"])
def test_grey_follows_its_curve(kind, num_channels):
    light = lambda values: values**1.8  # noqa: E731
    levels = colours(shape=(20, 30))
    expected = to_values(light(levels / 255))[..., None] * 255
    assert np.abs(expected[..., 0] - levels).mean() > 5
    image = Image.fromarray(levels.astype(np.uint16) * 257 if kind == "16 bits" else levels)
    if kind == "alpha":
        image = Image.merge("LA", (image, Image.new("L", image.size, 255)))
    data = saved(image, icc_profile=grey_profile(light))
    for source in (data, open_image(data), open_image(open_image(data))):
        got = read_image(source, num_channels)
        assert got.shape == (20, 30, num_channels)
        assert got.dtype == (np.float32 if kind == "16 bits" else np.uint8)
        # Measured: 0.53, and 1.47 below level 8, where sRGB's curve is steep.
        assert (np.abs(got - expected) <= np.where(levels < 8, 1.5, 0.55)[..., None]).all()


def test_sixteen_bits_keep_steps_smaller_than_a_level():
    levels = np.arange(30000, 30600, dtype=np.uint16).reshape(20, 30)
    got = read_image(saved(Image.fromarray(levels), icc_profile=grey_profile(lambda values: values**1.8)), 1).flatten()
    assert (np.diff(got) > 0).all()
    assert np.abs(got - to_values((levels.flatten() / 65535) ** 1.8) * 255).max() <= 1


def test_colours_of_sixteen_bits_are_converted_as_those_of_eight():
    pixels, profile = colours(), rgb_profile("Display P3")
    data = saved(Image.fromarray(pixels), icc_profile=profile)
    # The same chunks, with the header and the rows of 16 bits.
    from test_same_tensor import png_of_16_bits

    deep = png_of_16_bits(pixels.astype(np.uint16) * 257)
    begin, end = data.index(b"iCCP") - 4, data.index(b"IDAT") - 4
    deep = deep[: deep.index(b"IDAT") - 4] + data[begin:end] + deep[deep.index(b"IDAT") - 4 :]
    assert Image.open(io.BytesIO(deep)).info["icc_profile"] == profile
    assert np.array_equal(read_image(deep), read_image(data))


@pytest.mark.parametrize("form", ["TIFF", "JPEG"])
def test_inks_have_the_colours_that_their_profile_says(form):
    draw = np.random.default_rng(0)
    corners = np.zeros((2, 2, 2, 2, 3), dtype=np.uint8)
    corners[..., 0, 0] = draw.integers(90, 200, (2, 2, 2))
    corners[..., 0, 1:] = draw.integers(115, 141, (2, 2, 2, 2))
    corners[..., 1, :] = (0, 128, 128)  # black ink
    corners[0, 0, 0, 0] = (255, 128, 128)  # paper
    profile = cmyk_profile(corners)
    # Blocks of 16 pixels, so that JPEG does not mix them.
    inks = np.stack(np.meshgrid(*[[0, 255]] * 4, indexing="ij"), -1).reshape(16, 4).astype(np.uint8)
    image = Image.fromarray(np.repeat(np.repeat(inks[None], 16, 0), 16, 1), "CMYK")
    options = {"quality": 100, "subsampling": 0} if form == "JPEG" else {}
    got = read_image(saved(image, form, icc_profile=profile, **options))[8, 8::16]
    assert np.abs(got - lab_to_srgb(corners.reshape(16, 3).astype(float))).max() <= 2
    assert not np.array_equal(got, np.asarray(image.convert("RGB"))[8, 8::16])


# --- what stays ---


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_images_without_a_profile_or_with_that_of_srgb_keep_every_bit(form, monkeypatch):
    image = Image.fromarray(colours())
    expected = np.asarray(Image.open(io.BytesIO(saved(image, form))).convert("RGB"))
    said = []
    monkeypatch.setattr(image_processing.logger, "warning_once", said.append)
    for profile in (None, ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), rgb_profile("sRGB")):
        data = saved(image, form, **({"icc_profile": profile} if profile else {}))
        assert np.array_equal(read_image(data), expected)
        for backend in (OmniVisionImageProcessor, OmniVisionImageProcessorPil):
            plain = backend()(expected, return_tensors="pt")["pixel_values"]
            assert torch.equal(backend()(data, return_tensors="pt")["pixel_values"], plain)
    assert not said


def test_the_callers_image_keeps_its_profile_and_its_pixels():
    image = Image.fromarray(colours())
    image.info["icc_profile"] = rgb_profile("Adobe RGB")
    read_image(image)
    assert np.array_equal(np.asarray(image), colours())
    assert image.info["icc_profile"] == rgb_profile("Adobe RGB")


@pytest.mark.parametrize("kind", ["garbage", "cut off", "of other channels"])
def test_a_profile_that_cannot_be_used_is_srgb_and_said_once(kind, monkeypatch):
    profile = {
        "garbage": b"no profile at all",
        "cut off": rgb_profile("Display P3")[:200],
        "of other channels": grey_profile(lambda values: values**1.8),
    }[kind]
    said = []
    monkeypatch.setattr(image_processing.logger, "warning", lambda message, *rest: said.append(message))
    image = Image.fromarray(colours())
    image.info["icc_profile"] = profile
    for _ in range(3):
        assert np.array_equal(read_image(image), colours())
    assert len(said) == 1
    assert "taken as sRGB" in said[0]


def test_without_littlecms_every_profile_is_srgb_and_it_is_said_once(monkeypatch):
    def missing(*arguments):
        raise ImportError("The _imagingcms C module is not installed")

    monkeypatch.setattr(ImageCms, "ImageCmsProfile", missing)
    said = []
    monkeypatch.setattr(image_processing.logger, "warning", lambda message, *rest: said.append(message))
    for name in ("Display P3", "Adobe RGB"):
        image = Image.fromarray(colours())
        image.info["icc_profile"] = rgb_profile(name)
        assert np.array_equal(read_image(image), colours())
    assert len(said) == 1
    assert "not installed" in said[0]
