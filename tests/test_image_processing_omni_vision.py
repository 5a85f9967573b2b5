import base64
import http.server
import inspect
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import threading
import time
import types
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageFile, features
from torchvision.transforms import functional
from transformers import ViTImageProcessor, ViTImageProcessorPil
from without_package import run_without_package

from modeling_omni_vision import image_processing_omni_vision as image_processing
from modeling_omni_vision.data.image_files import LeftOut, is_image
from modeling_omni_vision.data.stored_images import open_stored
from modeling_omni_vision.embedding.pixels import PixelReader
from modeling_omni_vision.image_processing_omni_vision import (
    ImageReadError,
    OmniVisionImageProcessor,
    OmniVisionImageProcessorPil,
    open_image,
    read_image,
    register_plugins,
)


BACKENDS = [OmniVisionImageProcessor, OmniVisionImageProcessorPil]
both_backends = pytest.mark.parametrize("backend", BACKENDS, ids=["torchvision", "pil"])
AS_READ = {"do_resize": False, "do_rescale": False, "do_normalize": False}  # the output of read_image, unchanged


def noise(height=20, width=30, channels=3, seed=0, dtype=np.uint8):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels)).astype(dtype)
    return pixels[..., 0] if channels == 1 else pixels


def smooth(height, width):
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([127 + 127 * np.sin(x / 7 + c) * np.cos(y / 9) for c in range(3)], axis=-1).astype(np.uint8)


def encode(image, form="PNG", **options):
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(buffer := io.BytesIO(), form, **options)
    return buffer.getvalue()


def read_by(backend, source, **options):
    """Pixel values 0..255 (C, H, W) of one image before the processor resizes it."""
    return backend(**AS_READ)(source, return_tensors="pt", **options)["pixel_values"][0].float().numpy()


# --- every source, the same image ---


def stored_for(upright, orientation):
    """The pixels that a camera stores for `upright` under an EXIF orientation, written out from the EXIF standard."""
    return {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }[orientation]


def sources_of(data, folder, can_load=True):
    """Every kind of source of the same encoded image, or only those that Pillow has not loaded."""
    path = folder / "image.bin"
    path.write_bytes(data)
    rows = datasets.Dataset.from_dict({"image": [str(path)]})
    decoded = {}
    if can_load:
        loaded = Image.open(path)
        loaded.load()
        decoded = {
            "PIL loaded": loaded,
            "datasets decoded": rows.cast_column("image", datasets.Image())[0]["image"],
            "datasets column": rows.cast_column("image", datasets.Image())["image"],
        }
    return {
        **decoded,
        "str": str(path),
        "Path": path,
        "bytes": data,
        "bytearray": bytearray(data),
        "memoryview": memoryview(data),
        "BytesIO": io.BytesIO(data),
        "file": path.open("rb"),
        "PIL lazy": Image.open(path),
        "PIL from a file object": Image.open(io.BytesIO(data)),
        "dict bytes": {"bytes": data, "path": None},
        "dict both": {"bytes": data, "path": "elsewhere/missing.png"},
        "dict path": {"bytes": None, "path": str(path)},
        "data URI": "data:image/png;base64," + base64.b64encode(data).decode(),
        "datasets row": rows.cast_column("image", datasets.Image(decode=False))[0]["image"],
    }


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_upright_from_every_source(orientation, tmp_path):
    upright = noise(5, 7)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(np.ascontiguousarray(stored_for(upright, orientation)), exif=exif)
    for name, source in sources_of(data, tmp_path).items():
        if name != "datasets column":
            np.testing.assert_array_equal(read_image(source), upright, err_msg=name)
    for backend in BACKENDS:
        for name, source in sources_of(data, tmp_path).items():
            np.testing.assert_array_equal(read_by(backend, source), upright.transpose(2, 0, 1), err_msg=name)


@pytest.mark.skipif(not features.check("avif"), reason="needs a Pillow with the codec of AVIF")
@pytest.mark.parametrize(("orientation", "turned"), [(1, 0), (3, 2), (6, -1)])
def test_avif_is_turned_once_with_transparent_pixels_on_white_and_its_first_frame(orientation, turned):
    pixels, exif = smooth(40, 60), Image.Exif()
    exif[0x0112] = orientation
    clear = np.dstack([pixels, np.full((40, 60), 255, np.uint8)])
    clear[:20, :, 3] = 0
    lossless = {"quality": 100, "subsampling": "4:4:4", "exif": exif.tobytes()}
    frames = {"save_all": True, "append_images": [Image.fromarray(255 - pixels)]} if orientation == 1 else {}
    # Best quality is not lossless: YCbCr rounds.
    whole = read_image(encode(pixels, "AVIF", **lossless, **frames))
    np.testing.assert_allclose(whole, np.rot90(pixels, turned), atol=4)
    pixels[:20] = 255
    np.testing.assert_allclose(read_image(encode(clear, "AVIF", **lossless)), np.rot90(pixels, turned), atol=4)


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "TIFF"])
def test_exif_is_applied_in_other_formats(form, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = smooth(16, 24)
    data = encode(stored, form, exif=exif)
    plain = read_image(encode(stored, form))
    for name, source in sources_of(data, tmp_path).items():
        if name != "datasets column":
            np.testing.assert_array_equal(read_image(source), np.rot90(plain, -1), err_msg=name)


def test_an_image_with_broken_exif_is_read():
    pixels = noise()
    image = Image.fromarray(pixels)
    image.info["exif"] = b"Exif\x00\x00garbage that is no TIFF"
    with pytest.raises(SyntaxError):
        image.getexif()
    image = Image.fromarray(pixels)
    image.info["exif"] = b"Exif\x00\x00garbage that is no TIFF"
    np.testing.assert_array_equal(read_image(image), pixels)


@both_backends
def test_arrays_and_tensors_give_what_the_pil_image_gives(backend):
    pixels = noise()
    processor = backend()
    expected = processor(Image.fromarray(pixels), return_tensors="pt")["pixel_values"]
    tensor = torch.from_numpy(pixels)
    same = {
        "HWC array": pixels,
        "CHW array": pixels.transpose(2, 0, 1),
        "Fortran order": np.asfortranarray(pixels),
        "negative strides": np.ascontiguousarray(pixels[::-1, :, ::-1])[::-1, :, ::-1],
        "HWC tensor": tensor,
        "CHW tensor": tensor.permute(2, 0, 1),
        "float 0..255": pixels.astype(np.float64),
        "float 0..255 with gradient": tensor.float().requires_grad_(),
        "float 0..1": pixels.astype(np.float32) / 255,
        "float 0..1 tensor": tensor.permute(2, 0, 1) / 255,
        "uint16": pixels.astype(np.uint16) * 257,
        "big-endian uint16": (pixels.astype(np.uint16) * 257).astype(">u2"),
        "bf16 0..255": tensor.bfloat16(),
        "half 0..255": tensor.half(),
        "opaque RGBA": np.dstack([pixels, np.full_like(pixels[..., 0], 255)]),
    }
    read_only = pixels.copy()
    read_only.flags.writeable = False
    same["read-only array"] = read_only
    for name, source in same.items():
        got = processor(source, return_tensors="pt")["pixel_values"]
        assert torch.equal(got, expected), (name, (got - expected).abs().max())


def test_read_only_arrays_are_taken_without_a_warning():
    pixels = noise().transpose(2, 0, 1).copy()
    pixels.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for backend in BACKENDS:
            backend()(pixels, return_tensors="pt")


def test_the_callers_pixels_are_never_modified():
    image, array, tensor = Image.fromarray(noise()), noise(dtype=np.float32), torch.rand(3, 20, 30)
    before = np.array(image), array.copy(), tensor.clone()
    for backend in BACKENDS:
        backend()([image, array, tensor], return_tensors="pt")
    assert np.array_equal(np.array(image), before[0])
    assert np.array_equal(array, before[1])
    assert torch.equal(tensor, before[2])


def test_a_file_object_is_read_from_its_start_and_left_open():
    buffer = io.BytesIO(encode(noise()))
    buffer.seek(0, io.SEEK_END)
    for _ in range(2):
        np.testing.assert_array_equal(read_image(buffer), noise())
    assert not buffer.closed


def test_a_stream_that_cannot_seek_is_read():
    class Stream:
        def __init__(self, data):
            self.read = io.BytesIO(data).read

    np.testing.assert_array_equal(read_image(Stream(encode(noise()))), noise())


@pytest.fixture
def server():
    """A loopback web server: `/image.png`, `/moved` to it, and 404 with a web page for all else."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            found = {"/image.png": 200, "/moved": 302, "/slow": 200}.get(self.path, 404)
            self.send_response(found)
            if self.path == "/slow":
                time.sleep(1)
            if found == 302:
                self.send_header("Location", "/image.png")
            self.end_headers()
            self.wfile.write(encode(noise()) if found == 200 else b"<html>no such image</html>")

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{web.server_address[1]}"
        web.shutdown()


def test_a_url_is_read_and_a_missing_one_is_refused_by_name(server):
    np.testing.assert_array_equal(read_image(f"{server}/image.png"), noise())
    np.testing.assert_array_equal(read_image(f"{server}/moved"), noise())
    with pytest.raises(ImageReadError, match=r"/none\.png.*404"):
        read_image(f"{server}/none.png")


@pytest.mark.parametrize("limit", ["FETCH_BYTES", "FETCH_SECONDS"])
def test_a_url_of_too_many_bytes_or_seconds_is_refused(server, monkeypatch, limit):
    monkeypatch.setattr(image_processing, limit, {"FETCH_BYTES": 100, "FETCH_SECONDS": 0.5}[limit])
    name = "image.png" if limit == "FETCH_BYTES" else "slow"
    with pytest.raises(ImageReadError, match=f"{name}.*(at most 100 bytes|Timeout|0.5 seconds)"):
        read_image(f"{server}/{name}")


@both_backends
def test_base64_text_is_an_image_and_a_file_of_that_name_comes_first(backend, tmp_path, monkeypatch):
    text = base64.b64encode(encode(noise(4, 5))).decode()
    lines = base64.encodebytes(encode(noise(4, 5))).decode()
    for source in (text, lines, f"data:image/png;base64,{text}", {"bytes": None, "path": text}):
        np.testing.assert_array_equal(read_by(backend, source), noise(4, 5).transpose(2, 0, 1))
        np.testing.assert_array_equal(read_image(backend().fetch_images([source])[0]), noise(4, 5))
    monkeypatch.chdir(tmp_path)
    name = "a" * 100
    Path(name).write_bytes(encode(noise(seed=3)))
    np.testing.assert_array_equal(read_image(name), noise(seed=3))
    with pytest.raises(ImageReadError, match="FileNotFoundError"):
        read_image("folder/" * 10 + "image")


def test_a_data_uri_may_be_percent_encoded():
    data = encode(noise())
    quoted = "data:image/png," + "".join(f"%{byte:02x}" for byte in data)
    np.testing.assert_array_equal(read_image(quoted), noise())
    np.testing.assert_array_equal(read_image("DATA:;base64," + base64.b64encode(data).decode()), noise())


@both_backends
def test_fetching_first_changes_nothing(backend, tmp_path):
    # ProcessorMixin calls fetch_images itself and then passes on what it returned.
    exif = Image.Exif()
    exif[0x0112] = 6
    sources = [
        encode(noise(3, 5), exif=exif),
        encode(noise(4, 4, 4), exif=exif),
        encode(Image.fromarray(np.full((4, 4), 1, np.uint16))),
        noise(),
        torch.rand(3, 20, 30),
    ]
    processor = backend()
    once = processor(sources, return_tensors="pt")["pixel_values"]
    fetched = processor.fetch_images(processor.fetch_images(sources))
    assert torch.equal(processor(fetched, return_tensors="pt")["pixel_values"], once)
    with pytest.raises(ImageReadError, match=r"missing\.png"):
        processor.fetch_images(["missing.png"])


# --- modes and ranges ---


def palette_image(**info):
    image = Image.new("P", (6, 5), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    image.info.update(info)
    return image


def rgba_palette_image():
    image = Image.new("P", (6, 5), 1)
    image.putpalette([0, 0, 0, 255, 200, 100, 50, 0], "RGBA")
    return image


def lab_brown():
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    return ImageCms.profileToProfile(Image.new("RGB", (6, 5), (200, 100, 50)), *profiles, outputMode="LAB")


def with_info(image, **info):
    image.info.update(info)
    return image


def sixteen_bit(mode, value):
    return Image.frombytes(mode, (6, 5), struct.pack(">H" if mode == "I;16B" else "<H", value) * 30)


WHITE, RED, BROWN = (255, 255, 255), (255, 0, 0), (200, 100, 50)
HALF_BROWN = tuple((c * 128 + 255 * 127) / 255 for c in BROWN)
MODES = {
    "1": (Image.new("1", (6, 5), 1), WHITE),
    "1 transparent": (with_info(Image.new("1", (6, 5), 0), transparency=0), WHITE),
    "L": (Image.new("L", (6, 5), 100), (100,) * 3),
    "L transparent": (with_info(Image.new("L", (6, 5), 100), transparency=100), WHITE),
    "LA hidden": (Image.new("LA", (6, 5), (100, 0)), WHITE),
    "LA half": (Image.new("LA", (6, 5), (100, 128)), ((100 * 128 + 255 * 127) / 255,) * 3),
    "P": (palette_image(), BROWN),
    "P transparent entry": (palette_image(transparency=1), WHITE),
    "P other entry transparent": (palette_image(transparency=0), BROWN),
    "P half transparent entry": (palette_image(transparency=bytes([255, 128])), HALF_BROWN),
    "P with RGBA palette": (rgba_palette_image(), WHITE),
    "PA": (Image.merge("PA", [Image.new("L", (6, 5), v) for v in (1, 0)]), WHITE),
    "RGB": (Image.new("RGB", (6, 5), BROWN), BROWN),
    "RGB transparent": (with_info(Image.new("RGB", (6, 5), BROWN), transparency=BROWN), WHITE),
    "RGBX": (Image.new("RGB", (6, 5), BROWN).convert("RGBX"), BROWN),
    "RGBA hidden": (Image.new("RGBA", (6, 5), (*BROWN, 0)), WHITE),
    "RGBA half": (Image.new("RGBA", (6, 5), (*BROWN, 128)), HALF_BROWN),
    "RGBa half": (Image.new("RGBA", (6, 5), (*BROWN, 128)).convert("RGBa"), HALF_BROWN),
    "CMYK": (Image.new("CMYK", (6, 5), (0, 255, 255, 0)), RED),
    "YCbCr": (Image.new("RGB", (6, 5), RED).convert("YCbCr"), RED),
    "HSV": (Image.new("HSV", (6, 5), (0, 255, 255)), RED),
    "LAB": (lab_brown(), BROWN),
    "I;16": (sixteen_bit("I;16", 257 * 128), (128,) * 3),
    "I;16B": (sixteen_bit("I;16B", 257 * 128), (128,) * 3),
    "I;16 transparent": (with_info(sixteen_bit("I;16", 40000), transparency=40000), WHITE),
    "I": (Image.new("I", (6, 5), 257 * 128), (128,) * 3),
    "F up to 1": (Image.new("F", (6, 5), 0.5), (127.5,) * 3),
    "F up to 255": (Image.new("F", (6, 5), 127.5), (127.5,) * 3),
}


@both_backends
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_has_the_right_pixel_values(mode, backend):
    image, expected = MODES[mode]
    got = read_by(backend, image)
    assert got.shape == (3, 5, 6)
    # One pixel value for Pillow's 8-bit arithmetic, two for its conversions from YCbCr, LAB and premultiplied alpha.
    tolerance = 2 if mode in ("YCbCr", "LAB", "RGBa half") else 1
    np.testing.assert_allclose(got[:, 2, 3], expected, atol=tolerance)
    grey = read_by(backend, image, num_channels=1)
    assert grey.shape == (1, 5, 6)
    np.testing.assert_allclose(grey[0, 2, 3], np.dot(expected, (0.299, 0.587, 0.114)), atol=tolerance)


def test_sixteen_bits_are_rescaled_by_their_range_and_not_rounded():
    values = np.array([[0, 1, 257, 694, 30000, 65535]] * 5, dtype=np.uint16)
    expected = values * (255 / 65535)
    int32 = Image.fromarray(values.astype(np.int32), "I")
    for source in (values, Image.fromarray(values), int32, encode(Image.fromarray(values)), torch.from_numpy(values)):
        got = read_image(source)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got[..., 0], expected, rtol=1e-6)


@both_backends
@pytest.mark.parametrize("as_float", [False, True], ids=["int16", "float"])
def test_sixteen_bits_that_torchvisions_to_tensor_made_negative_are_refused(backend, as_float):
    # It makes white -1, without a word: findings/torchvision_16_bit.sh.
    grey = Image.fromarray(np.array([[0, 1000, 9000, 32768, 65535]] * 6, dtype=np.uint16))
    tensor = functional.to_tensor(grey)
    with pytest.raises(image_processing.ImageReadError, match=r"image 0: Tensor of shape .* expected (bool|floats)"):
        backend()(images=tensor.float() if as_float else tensor)


def test_read_image_keeps_eight_bits_as_uint8():
    for source in (Image.fromarray(noise()), noise(), torch.from_numpy(noise()), encode(noise()), noise(channels=4)):
        assert read_image(source).dtype == np.uint8
    assert read_image(noise() > 127).dtype == np.uint8
    assert set(np.unique(read_image(noise(20, 30, 1) > 127))) == {0, 255}


def test_floats_are_never_rescaled_twice_nor_rounded():
    unit = np.random.default_rng(0).random((20, 30, 3))
    np.testing.assert_allclose(read_image(unit), unit * 255, rtol=1e-6)
    np.testing.assert_allclose(read_image(unit * 255), unit * 255, rtol=1e-6)
    np.testing.assert_allclose(read_image(torch.tensor(unit).bfloat16()), unit * 255, rtol=2**-8)
    np.testing.assert_array_equal(read_image(np.ones((20, 30, 3))), np.full((20, 30, 3), 255.0))
    np.testing.assert_array_equal(read_image(np.zeros((20, 30, 3))), np.zeros((20, 30, 3)))


@both_backends
def test_the_units_of_the_result_follow_from_the_options_and_never_from_the_source(backend):
    pixels = noise()
    mean, std = torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1), torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1)
    raw = torch.from_numpy(pixels).permute(2, 0, 1).float()
    expected = {
        (True, False): raw / 255,
        (True, True): (raw / 255 - mean) / std,
        (False, False): raw,
        # A mean of at most 1 belongs to values in [0, 1].
        (False, True): (raw / 255 - mean) / std,
    }
    sources = (pixels, Image.fromarray(pixels), encode(pixels), pixels / 255.0, pixels.astype(np.float32))
    tensors = (torch.from_numpy(pixels), torch.from_numpy(pixels) / 255, pixels.astype(np.uint16) * 257)
    for (do_rescale, do_normalize), wanted in expected.items():
        statistics = {"image_mean": mean.flatten().tolist(), "image_std": std.flatten().tolist()}
        processor = backend(do_resize=False, do_rescale=do_rescale, do_normalize=do_normalize, **statistics)
        for source in (*sources, *tensors):
            got = processor(source, return_tensors="pt")["pixel_values"][0].float()
            torch.testing.assert_close(got, wanted, atol=1e-5 * (1 if do_rescale or do_normalize else 255), rtol=0)
    old = backend(do_resize=False, do_rescale=False, image_mean=[127.5] * 3, image_std=[127.5] * 3)
    for source in (*sources, *tensors):
        got = old(source, return_tensors="pt")["pixel_values"][0].float()
        torch.testing.assert_close(got, raw / 127.5 - 1, atol=1e-5, rtol=0)


@both_backends
def test_sixteen_bits_in_colour_are_the_same_from_a_file_and_an_array(backend):
    deep = np.random.default_rng(0).integers(0, 65536, (20, 30, 4), dtype=np.uint16)
    for channels, kind in ((2, 4), (3, 2), (4, 6)):
        pixels = np.ascontiguousarray(deep[..., :channels])
        expected = read_by(backend, png_of_sixteen_bits(pixels, kind))
        for source in (pixels, pixels.transpose(2, 0, 1), torch.from_numpy(pixels), pixels.astype(">u2")):
            np.testing.assert_array_equal(read_by(backend, source), expected)
    alone = backend(**AS_READ, num_channels=4)(deep, return_tensors="pt")["pixel_values"][0]
    np.testing.assert_allclose(alone, deep.transpose(2, 0, 1) / 257, rtol=1e-6)


def tiff(values, white_is_zero, compression=None):
    info = {262: 0} if white_is_zero else {}
    return encode(Image.fromarray(values), "TIFF", tiffinfo=info, compression=compression)


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("kind", ["uint8", "uint16", "float 0..1", "float 0..255", "bool"])
def test_a_tiff_with_white_as_zero_is_turned_over_at_any_depth(kind, compression):
    levels = np.linspace(0, 1, 30).reshape(5, 6)
    values = {
        "uint8": np.rint(levels * 255).astype(np.uint8),
        "uint16": np.rint(levels * 65535).astype(np.uint16),
        "float 0..1": levels.astype(np.float32),
        "float 0..255": levels.astype(np.float32) * 255,
        "bool": levels > 0.5,
    }[kind]
    black, white = tiff(values, False, compression), tiff(values, True, compression)
    # Pillow turns 8 and 1 bits over when it writes, too: what is read is what was given.
    expected = read_image(black) if kind in ("uint8", "bool") else 255.0 - read_image(black)
    np.testing.assert_allclose(read_image(white), expected, atol=1e-4)
    np.testing.assert_allclose(read_image(Image.open(io.BytesIO(white)), 1), read_image(white)[..., :1], atol=1e-4)


def test_a_tiff_of_twelve_bits_keeps_its_range():
    entries = {256: 4, 257: 1, 258: 12, 259: 1, 262: 1, 273: 200, 277: 1, 278: 1, 279: 6}
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries.items())
    header = b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4)
    data = header.ljust(200, b"\0") + bytes.fromhex("000 fff 800 001".replace(" ", ""))
    np.testing.assert_allclose(read_image(data)[0, :, 0], np.array([0, 4095, 2048, 1]) * 255 / 4095, rtol=1e-5)


@both_backends
def test_do_rescale_false_leaves_0_to_255(backend):
    out = backend(do_normalize=False, do_rescale=False)(np.full((20, 30, 3), 1.0), return_tensors="pt")
    assert (out["pixel_values"] == 255).all()
    out = backend(do_normalize=False)(np.full((20, 30, 3), 0.5), return_tensors="pt")
    torch.testing.assert_close(out["pixel_values"], torch.full((1, 3, 224, 224), 0.5))


@both_backends
def test_transparent_pixels_get_the_background_colour_of_the_config(backend, tmp_path):
    processor = backend(**AS_READ, background_color=(10, 20, 30))
    processor.save_pretrained(tmp_path)
    processor = backend.from_pretrained(tmp_path)
    hidden = np.dstack([noise(), np.zeros((20, 30), np.uint8)])
    for source in (hidden, Image.fromarray(hidden), encode(hidden), hidden / 255.0, hidden.astype(np.uint16) * 257):
        got = processor(source, return_tensors="pt")["pixel_values"][0].float()
        np.testing.assert_allclose(got.mean(dim=(1, 2)), (10, 20, 30), rtol=1e-6)
    grey = processor(hidden, return_tensors="pt", background_color=[200, 100, 50], num_channels=1)["pixel_values"]
    assert grey.unique().tolist() == [124]  # the luma of (200, 100, 50) is 124.2


@both_backends
def test_alpha_gives_the_same_from_every_source(backend):
    pixels = noise(channels=4)
    expected = read_by(backend, Image.fromarray(pixels))
    np.testing.assert_array_equal(read_by(backend, pixels), expected)
    np.testing.assert_array_equal(read_by(backend, encode(pixels)), expected)
    np.testing.assert_array_equal(read_by(backend, torch.from_numpy(pixels).permute(2, 0, 1)), expected)
    # Floats are composited without rounding; 8 bits by Pillow, with a difference of at most 1.
    np.testing.assert_allclose(read_by(backend, pixels / 255.0), expected, atol=1)
    np.testing.assert_allclose(read_by(backend, pixels.astype(np.uint16) * 257), expected, atol=1)


@both_backends
def test_grey_images_and_two_channels(backend):
    grey = noise(channels=1)
    expected = np.broadcast_to(grey, (3, 20, 30))
    for source in (grey, grey[..., None], grey[None], Image.fromarray(grey), torch.from_numpy(grey), grey / 255.0):
        np.testing.assert_array_equal(read_by(backend, source), expected)
        np.testing.assert_array_equal(read_by(backend, source, num_channels=1)[0], grey)
    opaque = np.dstack([grey, np.full_like(grey, 255)])
    np.testing.assert_array_equal(read_by(backend, opaque), expected)


@both_backends
def test_colour_to_grey_is_pillows_luma(backend):
    pixels = noise()
    expected = np.array(Image.fromarray(pixels).convert("L"))
    np.testing.assert_array_equal(read_by(backend, pixels, num_channels=1)[0], expected)
    # Floats are not rounded: a difference of at most 0.5.
    got = read_image(pixels / 255.0, num_channels=1)[..., 0]
    np.testing.assert_allclose(got, expected, atol=0.5001)


@both_backends
def test_one_channel_has_statistics_of_its_own(backend):
    processor = backend(num_channels=1)
    assert tuple(processor.image_mean) == (0.459,)
    assert tuple(processor.image_std) == (0.226,)
    assert processor(noise(), return_tensors="pt")["pixel_values"].shape == (1, 1, 224, 224)
    assert backend()(noise(), num_channels=1, return_tensors="pt")["pixel_values"].shape == (1, 1, 224, 224)
    named = backend(num_channels=1, image_mean=[0.25], image_std=[0.5])
    out = named(np.full((20, 30), 0.5), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(out, torch.full((1, 1, 224, 224), 0.5))


@both_backends
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("channels", [2, 4, 5])
def test_other_channel_counts_are_kept(backend, channels, dtype):
    processor = backend(num_channels=channels, image_mean=[0.0] * channels, image_std=[1.0] * channels, size=24)
    pixels = noise(channels=channels, dtype=dtype)
    out = processor([pixels, pixels.transpose(2, 0, 1)], return_tensors="pt")["pixel_values"]
    assert out.shape == (2, channels, 24, 24)
    assert torch.equal(out[0], out[1])
    # Plane by plane: alpha means nothing here, so no channel may leak into another.
    alone = backend(num_channels=1, do_normalize=False, size=24)
    for channel in range(channels):
        plane = alone(pixels[..., channel], return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(out[:1, channel], plane[0], atol=1 / 255 + 1e-6, rtol=0)
    for wrong in (Image.fromarray(noise()), noise(channels=3), noise(channels=1)):
        with pytest.raises(ImageReadError, match=f"{channels}"):
            processor(wrong)


@both_backends
def test_without_conversion_the_channels_stay(backend):
    options = {**AS_READ, "do_convert_rgb": False}
    for image, channels in [("L", 1), ("LA", 2), ("RGB", 3), ("RGBA", 4), ("P", 3), ("CMYK", 3), ("I;16", 1)]:
        source = Image.new(image, (6, 5))
        assert backend(**options)(source, return_tensors="pt")["pixel_values"].shape == (1, channels, 5, 6)
    pixels = noise(channels=4)
    np.testing.assert_array_equal(read_by(backend, pixels, do_convert_rgb=False), pixels.transpose(2, 0, 1))
    with pytest.raises(ValueError, match="image_mean: expected 1 numbers"):
        backend(do_convert_rgb=False)(noise(channels=1))


# --- layout of arrays and batches ---


@pytest.mark.parametrize("shape", [(3, 50, 3), (4, 50, 3), (1, 50, 3), (2, 50, 3), (3, 50, 1), (4, 4, 4), (3, 3, 3)])
def test_an_ambiguous_channel_axis_is_refused_unless_named(shape):
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    with pytest.raises(ImageReadError, match="input_data_format"):
        read_image(array)
    assert read_image(array, input_data_format="channels_last").shape == (*shape[:2], 3)
    assert read_image(array, input_data_format="channels_first").shape == (*shape[1:], 3)


@both_backends
def test_the_processor_takes_the_layout_from_the_caller(backend):
    array = noise(3, 50)
    for source in (array, torch.from_numpy(array), [array, Image.fromarray(array)]):
        out = backend(**AS_READ)(source, input_data_format="channels_last", return_tensors="pt")["pixel_values"]
        np.testing.assert_array_equal(out[-1], array.transpose(2, 0, 1))


def test_a_2d_array_is_grey_whatever_its_height_and_the_named_layout():
    for layout in (None, "channels_first", "channels_last"):
        for height in (1, 3, 4, 20):
            assert read_image(np.zeros((height, 30), np.uint8), input_data_format=layout).shape == (height, 30, 3)


def test_a_named_layout_must_fit_the_channels():
    with pytest.raises(ImageReadError, match="channels"):
        read_image(noise(20, 30), input_data_format="channels_first")


@both_backends
def test_batches_of_every_kind_are_flattened_in_order(backend):
    first, second = noise(seed=1), noise(seed=2)
    processor = backend()
    expected = torch.cat([processor(x, return_tensors="pt")["pixel_values"] for x in (first, second)])
    stack = np.stack([first, second])
    batches = {
        "list": [first, second],
        "tuple": (Image.fromarray(first), second),
        "nested": [[first], [second]],
        "4-D array": stack,
        "4-D tensor": torch.from_numpy(stack).permute(0, 3, 1, 2),
        "4-D float tensor": torch.from_numpy(stack).permute(0, 3, 1, 2) / 255,
        "list of 4-D": [stack[:1], stack[1:]],
        "paths and arrays": [encode(first), torch.from_numpy(second)],
    }
    for name, batch in batches.items():
        assert torch.equal(processor(batch, return_tensors="pt")["pixel_values"], expected), name


@both_backends
@pytest.mark.parametrize("disable_grouping", [None, True, False])
def test_an_image_does_not_depend_on_its_neighbours(backend, disable_grouping):
    # Same shape, different depth: stacked, the 8-bit image would be resized as floats and no longer rounded.
    images = [noise(30, 40), noise(30, 40, dtype=np.float32, seed=1) / 255.5, noise(30, 40, seed=2), noise(50, 20)]
    processor = backend(size={"height": 32, "width": 48})
    together = processor(images, return_tensors="pt", disable_grouping=disable_grouping)["pixel_values"]
    for image, row in zip(images, together, strict=True):
        assert torch.equal(processor(image, return_tensors="pt")["pixel_values"][0], row)


# --- resizing: stock, backends, filters ---


@pytest.mark.parametrize(
    ("ours", "stock"),
    [(OmniVisionImageProcessor, ViTImageProcessor), (OmniVisionImageProcessorPil, ViTImageProcessorPil)],
    ids=["torchvision", "pil"],
)
@pytest.mark.parametrize("shape", [(20, 30), (64, 48), (224, 224), (300, 400), (481, 333)])
def test_plain_colour_images_are_pixel_identical_to_stock_vit(ours, stock, shape):
    # The native twin ships stock processors: their pixel values must equal ours.
    processor = ours()
    statistics = {"image_mean": processor.image_mean, "image_std": processor.image_std}
    twin = stock(**statistics, do_convert_rgb=True)
    for pixels in (noise(*shape), smooth(*shape)):
        image = Image.fromarray(pixels)
        expected = twin(image, return_tensors="pt")["pixel_values"]
        assert torch.equal(processor(image, return_tensors="pt")["pixel_values"], expected)
        assert torch.equal(processor([image, image], return_tensors="pt")["pixel_values"][1:], expected)


def backend_difference(pixels, **options):
    """Absolute differences of the two backends in pixel values 0..255."""
    first, second = (
        backend(do_normalize=False, do_rescale=False, **options)(pixels, return_tensors="pt")["pixel_values"].float()
        for backend in BACKENDS
    )
    return (first - second).abs()


@pytest.mark.parametrize("make", [noise, smooth])
@pytest.mark.parametrize("target", [28, 32, 96, 224])
@pytest.mark.parametrize("shape", [(8, 8), (28, 28), (97, 61), (250, 180), (480, 640)])
def test_backends_agree_within_one_pixel_value(shape, target, make):
    assert backend_difference(make(*shape), size=target).max() <= 1
    deep = make(*shape).astype(np.float32) / 255.5
    assert (
        backend_difference(deep, size=target).max() <= 0.02
    )  # not rounded; measured 0.0042, torch has float32 weights


def test_backends_differ_by_two_pixel_values_where_both_directions_round():
    # Enlarging 64, 128 or 192 pixels to 224 puts many values on a tie, which torchvision's 15-bit weights break in
    # another way than Pillow's 22-bit ones, once per direction. Measured: 3 values of 150,528 for noise, 65 for a
    # smooth image. To round otherwise would part from the stock processors, and the native twin ships those.
    for make in (noise, smooth):
        difference = backend_difference(make(128, 128))
        assert difference.max() <= 2
        assert (difference > 1).float().mean() < 1e-3


@both_backends
@pytest.mark.parametrize("resample", [0, 2, 3])
def test_filters_give_deep_images_the_values_of_eight_bit_ones(backend, resample):
    # Stripes make bicubic overshoot: 8 bits are clipped by the resizer, floats must be, too. (Not a checkerboard:
    # 8 bits are clipped after each direction and floats at the end, which differs by 18 in its corners.)
    board = np.broadcast_to((np.arange(40) // 8 % 2 * 255).astype(np.uint8), (40, 40))
    options = {**AS_READ, "do_resize": True, "size": 64, "resample": resample}
    eight = backend(**options)(board, return_tensors="pt")["pixel_values"].float()
    # White is darker by 1/257, so that it stays a float image.
    deep = backend(**options)(board.astype(np.uint16) * 257 - (board > 0), return_tensors="pt")["pixel_values"]
    assert deep.min() >= 0
    assert deep.max() <= 255
    torch.testing.assert_close(deep, eight, atol=1.1, rtol=0)  # rounding by 0.5 in each direction


@both_backends
def test_shortest_edge_keeps_the_aspect_ratio(backend):
    processor = backend(size={"shortest_edge": 32})
    for pixels in (noise(40, 80), noise(40, 80, dtype=np.float32) / 255.5, noise(40, 80, 4)):
        assert processor(pixels, return_tensors="pt")["pixel_values"].shape == (1, 3, 32, 64)


def test_defaults_are_imagenets():
    for backend in BACKENDS:
        processor = backend()
        assert dict(processor.size) == {"height": 224, "width": 224}
        assert processor.resample == Image.Resampling.BILINEAR
        assert processor.rescale_factor == 1 / 255
        assert tuple(processor.image_mean) == (0.485, 0.456, 0.406)
        assert tuple(processor.image_std) == (0.229, 0.224, 0.225)
        assert processor.do_convert_rgb is True
        out = processor(np.full((20, 30, 3), 255, np.uint8), return_tensors="pt")["pixel_values"]
        expected = (1 - torch.tensor(processor.image_mean)) / torch.tensor(processor.image_std)
        torch.testing.assert_close(out.mean(dim=(0, 2, 3)), expected)


@both_backends
def test_the_first_frame_is_read(backend):
    frames = [Image.fromarray(noise(seed=seed)) for seed in range(3)]
    for form in ("TIFF", "PNG"):
        data = encode(frames[0], form, save_all=True, append_images=frames[1:])
        np.testing.assert_array_equal(read_by(backend, data), noise(seed=0).transpose(2, 0, 1))


def test_an_opened_image_is_read_at_the_frame_that_it_stands_at():
    frames = [Image.fromarray(noise(seed=seed)) for seed in range(3)]
    for form in ("TIFF", "PNG", "GIF", "WEBP"):
        image = Image.open(io.BytesIO(encode(frames[0], form, save_all=True, append_images=frames[1:])))
        first = read_image(image)
        image.seek(2)
        expected = np.asarray(image.convert("RGB"))
        np.testing.assert_array_equal(read_image(image), expected)
        np.testing.assert_array_equal(read_image(open_image(image)), expected)
        assert not np.array_equal(first, expected)
        image.seek(0)
        np.testing.assert_array_equal(read_image(image), first)


# --- unreadable inputs ---


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_of_sixteen_bits(pixels, kind):
    height, width, _ = pixels.shape
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def png_of_size(width, height):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


def not_an_image(kind):
    floats = np.full((20, 30, 3), 0.5)
    return {
        "None": None,
        "number": 3,
        "number list": [[1, 2], [3, 4]],
        "empty bytes": b"",
        "text": b"this is not an image",
        "html": b"<!doctype html><html></html>",
        "empty file": io.BytesIO(),
        "text file": io.StringIO("text"),
        "truncated PNG": encode(noise(80, 80))[:-5000],
        "truncated JPEG": encode(noise(80, 80), "JPEG")[:-500],
        "truncated WEBP": encode(noise(80, 80), "WEBP")[:-500],
        "truncated TIFF": encode(noise(80, 80), "TIFF")[:-500],
        "truncated BMP": encode(noise(80, 80), "BMP")[:-500],
        "truncated GIF": encode(Image.fromarray(noise(80, 80)).quantize(), "GIF")[:-500],
        "only a header": encode(noise(80, 80))[:30],
        "bomb": png_of_size(60000, 60000),
        "zero PNG": png_of_size(0, 10),
        "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 30\n%%EndComments\n",
        "missing path": "no/such/image.png",
        "missing Path": Path("no/such/image.png"),
        "folder": str(Path(__file__).parent),
        "empty path": "",
        "path with a null": "a\0b.png",
        "long path": "x" * 100_000,
        "empty dict": {},
        "dict of nothing": {"bytes": None, "path": None},
        "other dict": {"image": b""},
        "bad data URI": "data:image/png;base64,AAAA",
        "zero-size PIL": Image.new("RGB", (0, 5)),
        "zero-size array": np.zeros((0, 5, 3), np.uint8),
        "zero-width array": np.zeros((3, 5, 0), np.uint8),
        "zero-size tensor": torch.zeros(3, 0, 5),
        "NaN": np.where(np.arange(30)[:, None] == 3, np.nan, floats),
        "infinity": floats * np.inf,
        "negative": floats - 0.6,
        "normalised": (floats - 0.485) / 0.229 - 1,
        "above 255": floats * 511,
        "just above 1": floats * 2.00001,
        "NaN tensor": torch.full((3, 20, 30), float("nan")),
        "F out of range": Image.new("F", (6, 5), 300.0),
        "I above 65535": Image.new("I", (6, 5), 65536),
        "negative I": Image.new("I", (6, 5), -1),
        "int64": np.full((20, 30, 3), 200),
        "int32 tensor": torch.full((3, 20, 30), 200, dtype=torch.int32),
        "int8": np.full((20, 30, 3), 100, np.int8),
        "uint32": np.full((20, 30, 3), 200, np.uint32),
        "complex": floats * 1j,
        "strings": np.array([["a"] * 30] * 20),
        "objects": np.array([[None] * 30] * 20),
        "5 channels": np.zeros((20, 30, 5), np.uint8),
        "a stack of grey": np.zeros((7, 20, 30), np.uint8),
        "1-D": np.zeros(30, np.uint8),
        "5-D": np.zeros((1, 1, 3, 20, 30), np.uint8),
        "0-D": np.array(3, np.uint8),
        "sparse tensor": torch.zeros(20, 30).to_sparse(),
        "meta tensor": torch.zeros(3, 20, 30, device="meta"),
    }[kind]


REFUSED = [
    line.strip().split('"')[1] for line in inspect.getsource(not_an_image).splitlines() if line.startswith("        ")
]


@both_backends
@pytest.mark.parametrize("kind", REFUSED)
def test_an_unreadable_input_is_refused_by_name(kind, backend):
    with pytest.raises(ImageReadError, match=r"^image 1: ") as caught:
        backend()([noise(), not_an_image(kind)])
    assert isinstance(caught.value, ValueError)
    assert len(str(caught.value)) < 600
    if kind != "number list":
        with pytest.raises(ImageReadError):
            read_image(not_an_image(kind))


@pytest.mark.parametrize("empty", [[], (), [[]], np.zeros((0, 20, 30, 3), np.uint8), torch.zeros(0, 3, 20, 30)])
def test_an_empty_batch_is_refused(empty):
    for backend in BACKENDS:
        with pytest.raises(ImageReadError, match="at least one image"):
            backend()(empty)


def test_the_message_names_index_path_problem_and_remedy(tmp_path):
    broken = tmp_path / "holiday.jpg"
    broken.write_bytes(encode(noise(80, 80), "JPEG")[:-500])
    for source in (broken, str(broken), {"bytes": None, "path": str(broken)}, Image.open(broken)):
        with pytest.raises(ImageReadError, match=r"image 2: .*holiday\.jpg.*truncated.*: replace or remove"):
            OmniVisionImageProcessor()([noise(), noise(), source])
    with pytest.raises(ImageReadError, match=r"image 0: ndarray of shape \(20, 30, 5\) and dtype uint8: expected"):
        OmniVisionImageProcessor()(np.zeros((20, 30, 5), np.uint8))


def test_large_images_are_read_without_pillows_warning_and_too_large_ones_are_refused_with_the_limit(
    tmp_path, monkeypatch
):
    large, content = tmp_path / "large.jpg", encode(noise(40, 40), "JPEG")
    large.write_bytes(content)
    without_suffix = tmp_path / "large"
    without_suffix.write_bytes(content)
    sources = sources_of(content, tmp_path, can_load=False)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    pixels = PixelReader(OmniVisionImageProcessor(), 3, "fast")
    with warnings.catch_warnings(record=True) as said:
        warnings.resetwarnings()
        for source in sources.values():
            read_image(source)
        open_stored({"bytes": content, "path": None}).load()
        assert pixels.read(content).size == (40, 40)
        assert is_image(without_suffix, LeftOut())
        assert [one for one in said if one.category is Image.DecompressionBombWarning] == []
        # A process that is strict with them stays so.
        warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
        with pytest.raises(ImageReadError, match="DecompressionBombWarning"):
            read_image(large)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)
    with pytest.raises(
        ImageReadError, match=r"large\.jpg.*at most 1,400 pixels, twice `PIL.*got more: make it smaller"
    ):
        read_image(large)


WMF = b"\xd7\xcd\xc6\x9a\0\0" + struct.pack("<hhhhH", 0, 0, 600, 800, 600).ljust(16, b"\0") + b"\x01\0\t\0"
DRAWN_BY_OTHERS = {
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 30\n%%EndComments\n",
    "WMF": WMF.ljust(80, b"\0"),
    "HDF5": b"\x89HDF\r\n\x1a\n".ljust(80, b"\0"),
    "GRIB": b"GRIB\0\0\0\x01".ljust(80, b"\0"),
}


@pytest.mark.parametrize("form", DRAWN_BY_OTHERS)
def test_what_only_another_program_could_draw_is_refused_from_every_source_and_starts_none(
    form, tmp_path, monkeypatch
):
    monkeypatch.setattr(subprocess, "Popen", lambda *command, **options: pytest.fail(f"{command} was started"))
    for source in sources_of(DRAWN_BY_OTHERS[form], tmp_path, can_load=False).values():
        with pytest.raises(ImageReadError, match=f"{form}, which no decoder reads"):
            read_image(source)
        if not hasattr(source, "read"):
            with pytest.raises(ImageReadError, match=f"{form}, which no decoder reads"):
                OmniVisionImageProcessorPil().fetch_images([source])


def test_plugins_of_pillow_are_registered_where_they_are_installed(monkeypatch):
    called = []
    plugin = types.SimpleNamespace(register_heif_opener=lambda: called.append("heif"))
    monkeypatch.setitem(sys.modules, "pillow_heif", plugin)
    monkeypatch.setitem(sys.modules, "pillow_jxl", None)  # as if it were not installed
    register_plugins.cache_clear()
    for _ in range(2):
        read_image(encode(noise()))
    register_plugins.cache_clear()
    assert called == ["heif"]


@pytest.mark.parametrize(
    ("start", "package"),
    [
        (b"\0\0\0\x1cftypheic\0\0\0\0", "pillow-heif"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0", "pillow-heif"),
        (b"\xff\x0a\xfa\x1f\x00", "pillow-jxl-plugin"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "pillow-jxl-plugin"),
    ],
)
def test_without_its_plugin_a_file_is_refused_by_the_package_to_install(start, package, tmp_path, monkeypatch):
    monkeypatch.setattr(image_processing, "register_plugins", lambda: None)
    Image.init()
    monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name not in ("HEIF", "JXL")])
    (tmp_path / "photo").write_bytes(start + bytes(100))
    for source in (start + bytes(100), tmp_path / "photo", io.BytesIO(start + bytes(100))):
        with pytest.raises(ImageReadError, match=f"pip install {package}"):
            read_image(source)


@pytest.mark.parametrize(("module", "form"), [("pillow_heif", "HEIF"), ("pillow_jxl", "JXL")])
def test_heic_and_jpeg_xl_are_read_as_other_files(module, form, tmp_path):
    pytest.importorskip(module)
    register_plugins()
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(smooth(32, 48), form, exif=exif.tobytes(), quality=95)
    expected = np.rot90(smooth(32, 48), -1).astype(float)
    for name, source in sources_of(data, tmp_path, can_load=False).items():
        got = read_image(source).astype(float)
        assert got.shape == expected.shape, name
        assert np.abs(got - expected).mean() < 4, name


def test_the_error_survives_pickling():
    # Data loader workers send their exceptions to the main process in this way.
    with pytest.raises(ImageReadError) as caught:
        read_image(b"")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_truncated_images_are_refused_even_if_pillow_is_set_to_allow_them(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    broken = encode(noise(80, 80), "JPEG")[:-500]
    assert Image.open(io.BytesIO(broken)).convert("RGB").size == (80, 80)  # what Pillow would return

    def refused(_):
        with pytest.raises(ImageReadError, match="truncated"):
            read_image(broken)
        return True

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(refused, range(40)))
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True  # the user's own choice is back


def test_an_image_that_failed_once_fails_again():
    # After a failed decode Pillow's second load() returns the partly decoded image.
    data = bytearray(encode(noise(80, 80)))
    data[-5000:-4000] = bytes(1000)
    image = Image.open(io.BytesIO(data))
    for _ in range(3):
        with pytest.raises(ImageReadError):
            read_image(image)


def test_a_missing_module_of_pillow_is_an_image_error_too(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL.ImageCms", None)
    monkeypatch.delattr("PIL.ImageCms")
    with pytest.raises(ImageReadError, match="PIL image LAB"):
        read_image(Image.new("LAB", (6, 5)))


# --- options, saving, loading ---


@both_backends
@pytest.mark.parametrize(
    "options",
    [
        {"num_channels": 0},
        {"num_channels": True},
        {"num_channels": 2.0},
        {"num_channels": 5},
        {"background_color": (255, 255)},
        {"background_color": (0, 0, 256)},
        {"background_color": (0.5, 0.5, 0.5)},
        {"image_mean": [0.5]},
    ],
    ids=str,
)
def test_invalid_options_are_refused_at_initialisation(backend, options):
    with pytest.raises(ValueError, match=next(iter(options)) if "num_channels" not in options else "num"):
        backend(**options)


@both_backends
def test_an_unknown_or_ill_typed_call_option_is_refused(backend):
    with pytest.raises(Exception, match="background_colour"):
        backend()(noise(), background_colour=(0, 0, 0))
    with pytest.raises(Exception, match="num_channels"):
        backend()(noise(), num_channels="three")


@both_backends
def test_options_survive_saving(backend, tmp_path):
    processor = backend(size={"height": 32, "width": 48}, num_channels=1, background_color=(1, 2, 3), resample=3)
    processor.save_pretrained(tmp_path)
    for other in BACKENDS:
        again = other.from_pretrained(tmp_path)
        assert {**again.to_dict(), "auto_map": None} == {**processor.to_dict(), "auto_map": None}
    assert backend.from_pretrained(tmp_path, background_color=[9, 9, 9]).background_color == (9, 9, 9)
    assert json.loads((tmp_path / "preprocessor_config.json").read_text())["background_color"] == [1, 2, 3]


@both_backends
def test_processors_can_be_pickled_for_data_loader_workers(backend):
    processor = pickle.loads(pickle.dumps(backend(size=32)))
    assert processor(noise())["pixel_values"][0].shape == (3, 32, 32)


def test_auto_map_names_both_backends_only_where_the_code_is_saved(monkeypatch):
    pair = [
        f"image_processing_omni_vision.{name}" for name in ("OmniVisionImageProcessorPil", "OmniVisionImageProcessor")
    ]
    for backend in BACKENDS:
        monkeypatch.setattr(backend, "_auto_class", "AutoImageProcessor")
        assert backend().to_dict()["auto_map"] == {"AutoImageProcessor": pair}
        monkeypatch.setattr(backend, "_auto_class", None)
        assert "auto_map" not in backend().to_dict()


LOAD_WITHOUT_PACKAGE = """
import json, os, sys

folder, copy, images, blocked = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4] == "blocked"
if blocked:
    import importlib.util

    class Blocker:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] == "torchvision":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    find_spec = importlib.util.find_spec
    importlib.util.find_spec = lambda name, package=None: None if name == "torchvision" else find_spec(name, package)
    sys.meta_path.insert(0, Blocker())

# Not from the top level: there, transformers 5.5 asks for torchvision even where the PIL backend is wanted.
from transformers.models.auto.image_processing_auto import AutoImageProcessor

image = os.path.join(images, "image.png")
report = []
for source in (folder, copy):
    for backend in ({}, {"backend": "pil"}, {"backend": "torchvision"}):
        try:
            processor = AutoImageProcessor.from_pretrained(source, trust_remote_code=True, **backend)
        except ImportError as error:
            report.append(f"ImportError: {error}")
            continue
        values = processor(image, return_tensors="np")["pixel_values"]
        report.append([type(processor).__name__, str(values.shape), float(abs(values).sum())])
        if source == folder:
            processor.save_pretrained(copy)
            saved = json.load(open(os.path.join(copy, "preprocessor_config.json")))
            report[-1].append(saved["auto_map"]["AutoImageProcessor"])
print(json.dumps(report))
"""


@pytest.mark.parametrize("torchvision", ["present", "blocked"])
def test_a_published_folder_loads_both_backends_without_this_package(torchvision, tmp_path, monkeypatch):
    published, images = tmp_path / "x.y" / "a-b", tmp_path / "elsewhere"
    images.mkdir()
    (images / "image.png").write_bytes(encode(noise(60, 50)))
    processors = [backend(size={"height": 32, "width": 48}) for backend in BACKENDS]
    monkeypatch.setattr(OmniVisionImageProcessorPil, "_auto_class", "AutoImageProcessor")
    processors[1].save_pretrained(published)
    assert sorted(os.listdir(published)) == ["image_processing_omni_vision.py", "preprocessor_config.json"]

    report = run_without_package(LOAD_WITHOUT_PACKAGE, published, tmp_path / "copy", images, torchvision, cwd=images)
    pair = [
        f"image_processing_omni_vision.{name}" for name in ("OmniVisionImageProcessorPil", "OmniVisionImageProcessor")
    ]
    for opened, copied in zip(report[:3], report[3:], strict=True):
        assert opened[:3] == copied[:3]
    sums = [float(abs(p(noise(60, 50), return_tensors="np")["pixel_values"]).sum()) for p in processors]
    names = [backend.__name__ for backend in BACKENDS]
    expected = [names[1], names[1]] if torchvision == "blocked" else [names[0], names[1], names[0]]
    for entry, name in zip(report, expected, strict=False):
        assert entry[0] == name
        assert entry[1] == "(1, 3, 32, 48)"
        assert entry[2] == pytest.approx(sums[names.index(name)], rel=1e-6)
        assert entry[3] == pair
    if torchvision == "blocked":
        assert "requires the Torchvision library" in report[2]


def test_every_rule_is_in_one_table():
    table = OmniVisionImageProcessor.__doc__
    for word in ("EXIF", "background_color", "num_channels", "uint16", "floats", "input_data_format", "truncated"):
        assert word in table
    assert OmniVisionImageProcessorPil.__doc__.count("OmniVisionImageProcessor")


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("crop", [(40, 25), (41, 26), (40, 15), (20, 25), (20, 11), (31, 20)])
def test_both_backends_crop_in_the_middle_also_beyond_the_image_as_torchvision_does(crop, rounded):
    array = np.random.default_rng(0).integers(1, 256, (31, 20, 3), dtype=np.uint8)
    options = {"do_resize": False, "do_rescale": False, "do_normalize": False, "do_center_crop": True}
    options |= {"crop_size": dict(zip(("height", "width"), crop, strict=True)), "round_center_crop": rounded}
    found = [one(**options)(array, return_tensors="pt")["pixel_values"][0] for one in BACKENDS]
    assert torch.equal(*found)
    assert found[0].shape == (3, *crop)
    if rounded or crop in ((40, 25), (41, 26), (31, 20)):  # other margins are rounded otherwise
        expected = functional.center_crop(torch.from_numpy(array).permute(2, 0, 1), list(crop))
        assert torch.equal(found[0], expected.to(found[0].dtype))
