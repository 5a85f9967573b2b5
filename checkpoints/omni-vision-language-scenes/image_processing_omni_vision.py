# Copyright 2026 The OmniVision authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Image reading with one policy for every source, and the two image processors that apply it.

`read_image` reads an image from any source (PIL, NumPy, torch, path, bytes, file, row of `datasets`, URL) as pixel
values 0..255, so that the same image gives the same tensor from each of them, or raises an `ImageReadError`.
`OmniVisionImageProcessorPil` (Pillow and NumPy) is the reference, `OmniVisionImageProcessor` (torchvision) agrees with
it. The table of all rules is in the docstring of `OmniVisionImageProcessor`.
"""

import base64
import functools
import importlib
import itertools
import os
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_processing_backends import PilBackend, TorchvisionBackend
from transformers.image_processing_utils import BaseImageProcessor
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, ChannelDimension, PILImageResampling
from transformers.processing_utils import ImagesKwargs
from transformers.utils import logging, requires_backends


logger = logging.get_logger(__name__)

LUMA = np.array([19595, 38470, 7471], dtype=np.float32) / 65536  # ITU-R 601 in Pillow's integers
GREY_STATISTICS = {"image_mean": (0.459,), "image_std": (0.226,)}  # luma of ImageNet's mean and std
FETCH_BYTES, FETCH_SECONDS = 2**26, 60  # of one URL
# Formats that Pillow lists and that start another program or have no decoder.
NOT_READ = frozenset({"EPS", "WMF", "MPEG", "HDF5", "GRIB", "BUFR"})
# Bytes 4 to 10 (or 0 and 1) of formats that Pillow opens only with a plugin, and the plugin's package.
PLUGINS = {
    **dict.fromkeys((b"ftyphei", b"ftyphev", b"ftypmif", b"ftypmsf"), "pillow-heif"),
    **dict.fromkeys((b"JXL \r\n\x87", b"\xff\x0a"), "pillow-jxl-plugin"),
}
# Pillow warns from half of its limit on. One of the process comes before it.
LARGE_IMAGES = ("ignore", None, Image.DecompressionBombWarning, None, 0)
Layout = str | ChannelDimension | None


class ImageReadError(ValueError):
    """An input is no readable image; the message names it, the problem and what to do."""


# --- from any source to an upright PIL image ---


class _WholeFilesOnly:
    """Context that turns `ImageFile.LOAD_TRUNCATED_IMAGES` off while any thread decodes, then restores it."""

    lock = threading.Lock()
    users = 0
    before = False

    def __enter__(self) -> None:
        with self.lock:
            if self.users == 0:
                self.before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
            self.users += 1

    def __exit__(self, *exception: object) -> None:
        with self.lock:
            self.users -= 1
            if self.users == 0:
                ImageFile.LOAD_TRUNCATED_IMAGES = self.before


_whole_files_only = _WholeFilesOnly()


@functools.cache
def register_plugins() -> None:
    """Let Pillow open HEIC and JPEG XL where the packages of `PLUGINS` are installed."""
    for name in ("pillow_heif", "pillow_jxl"):
        try:
            plugin = importlib.import_module(name)
        except ImportError:
            continue
        getattr(plugin, "register_heif_opener", lambda: None)()  # the other registers when it is imported


def open_undecoded(source: Any, formats: list[str] | None = None) -> Image.Image:
    """Open an image as Pillow does, in the formats of plugins too, and without a warning up to the size it refuses."""
    register_plugins()
    if LARGE_IMAGES not in warnings.filters:
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning, append=True)
    return Image.open(source, formats=formats)


def _missing_plugin(source: Any) -> str | None:
    """Return the package that opens a file, or a stream that seeks, which Pillow alone cannot, or None."""
    if isinstance(source, (str, os.PathLike)):
        with open(source, "rb") as file:
            return _missing_plugin(file)
    if not hasattr(source, "seek"):
        return None
    source.seek(0)
    start = source.read(11)
    return PLUGINS.get(start[4:]) or PLUGINS.get(start[:2])


def _fetch(url: str) -> bytes:
    """Decode a data URI, or read a URL with the HTTP client of transformers, within `FETCH_BYTES`, `FETCH_SECONDS`."""
    if url[:5].lower() == "data:":
        header, _, payload = url.partition(",")
        content = unquote_to_bytes(payload)
        return base64.b64decode(content) if header.lower().endswith(";base64") else content
    from transformers.image_utils import httpx

    read, end = bytearray(), time.monotonic() + FETCH_SECONDS
    with httpx.stream("GET", url, timeout=FETCH_SECONDS, follow_redirects=True) as response:
        response.raise_for_status()
        for part in response.iter_bytes():
            read += part
            if len(read) > FETCH_BYTES or time.monotonic() > end:
                limits = f"at most {FETCH_BYTES} bytes in {FETCH_SECONDS} seconds"
                raise ImageReadError(f"expected {limits} from a URL, got more: download the file and pass its path")
    return bytes(read)


def _decoded_text(text: str) -> str | bytes:
    """Return the content of a URL, a data URI or base64 text; any other text is a path."""
    if text.startswith("file://"):  # the path of a name that is no text
        return os.fsdecode(unquote_to_bytes(text[7:]))
    if text[:8].lower().startswith(("http://", "https://", "data:")):
        return _fetch(text)
    if len(text) < 64 or os.path.exists(text):  # no image is so short
        return text
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except ValueError:
        return text


def _upright(image: Image.Image) -> Image.Image:
    """Decode `image` to its last pixel and apply its EXIF orientation."""
    if image.format in NOT_READ:
        # Before `load`, which would start Ghostscript for EPS.
        raise ImageReadError(f"expected an image, got {image.format}, which no decoder reads: convert it to PNG")
    if 0 in image.size:
        raise ImageReadError(f"expected at least one pixel, got a size of {image.size}: remove it")
    try:
        image.load()
    except Exception:
        image.close()  # a second load would return a partly decoded image
        raise
    try:
        orientation = image.getexif().get(0x0112, 1)
    except Exception:  # the pixels are valid even if the metadata is not
        return image
    return ImageOps.exif_transpose(image) if orientation in range(2, 9) else image


@functools.lru_cache(maxsize=32)
def _profile_to_srgb(profile: bytes, mode: str) -> Any:
    """Return the transform of a mode (L, RGB, CMYK) to RGB in sRGB, or None where none is needed or none can be."""
    try:
        from PIL import ImageCms

        opened = ImageCms.ImageCmsProfile(BytesIO(profile))
        space = opened.profile.xcolor_space.strip()
        if space != ("GRAY" if mode == "L" else mode):
            raise ValueError(f"a profile of {space} in an image of mode {mode}")
        transform = ImageCms.buildTransform(opened, ImageCms.createProfile("sRGB"), mode, "RGB")
    except Exception as error:  # Pillow may have been built without littlecms
        logger.warning_once(f"Colour profile not converted, its images are taken as sRGB (said once): {error}")
        return None
    if mode == "CMYK":
        return transform
    levels = range(0, 256, 1 if mode == "L" else 51)
    probe = np.array(levels if mode == "L" else list(itertools.product(levels, repeat=3)), dtype=np.uint8)[None]
    changed = np.asarray(transform.apply(Image.fromarray(probe))).astype(int)
    return None if np.abs(changed - probe.reshape(1, probe.shape[1], -1)).max() <= 1 else transform  # it is sRGB


def _in_srgb(image: Image.Image) -> Image.Image:
    """Convert an 8-bit image with a colour profile other than sRGB; return any other image as it is."""
    profile, is_deep = image.info.get("icc_profile"), image.mode == "F" or image.mode.startswith("I")
    if not profile or is_deep or image.mode in ("1", "LAB", "HSV"):
        return image
    mode = {"L": "L", "LA": "L", "La": "L", "CMYK": "CMYK"}.get(image.mode, "RGB")
    transform = _profile_to_srgb(profile, mode)
    if transform is None:
        return image
    alpha = None
    if image.has_transparency_data:
        image = image.convert("LA" if mode == "L" else "RGBA")
        alpha = image.getchannel("A")
    converted = transform.apply(image.convert(mode))
    converted = converted.getchannel(0) if mode == "L" else converted
    converted.info.pop("icc_profile", None)
    if alpha:
        converted.putalpha(alpha)
    return converted


def _open(source: Any) -> Image.Image:
    """Decode any source but an array or tensor into an upright PIL image of any mode, 8-bit colours in sRGB."""
    if isinstance(source, Mapping) and {"bytes", "path"} & set(source):
        source = source["path"] if source.get("bytes") is None else source["bytes"]
    if isinstance(source, str):
        source = _decoded_text(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        source = BytesIO(source)
    with _whole_files_only:
        if isinstance(source, Image.Image):
            return _in_srgb(_upright(source))
        if not isinstance(source, (str, os.PathLike)) and not hasattr(source, "read"):
            expected = "a PIL image, array, tensor, path, bytes, file, dict with 'bytes' or 'path', URL, base64 text"
            raise ImageReadError(f"expected {expected}, got {type(source).__name__}: convert it to one of these")
        try:
            with open_undecoded(source) as image:
                return _in_srgb(_upright(image))
        except UnidentifiedImageError:
            if package := _missing_plugin(source):
                raise ImageReadError(f"its format needs a plugin: pip install {package}") from None
            raise


def open_image(source: Any) -> Image.Image:
    """Open one image from any source but an array or tensor: decoded, upright, sRGB, any mode; see `read_image`."""
    with _naming(source):
        return _open(source)


# --- from pixels of any type to values 0..255 and `num_channels` ---


def _channels_last(array: np.ndarray, num_channels: int | None, data_format: Layout) -> np.ndarray:
    """View an array (H, W), (H, W, C) or (C, H, W) as (H, W, C); an ambiguous one raises."""
    counts = (1, 2, 3, 4) if num_channels in (None, 1, 3) else (num_channels,)
    expected = f"expected {' or '.join(map(str, counts))} channels and at least one pixel"
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise ImageReadError(f"{expected}, as (H, W), (H, W, C) or (C, H, W): reshape it")
    if array.ndim == 2:
        array, data_format = array[..., None], ChannelDimension.LAST
    first, last = array.shape[0] in counts, array.shape[-1] in counts
    if data_format is not None:
        first = ChannelDimension(data_format) == ChannelDimension.FIRST
        last = not first
    if first and last:
        raise ImageReadError("either end may be the channels: pass input_data_format='channels_first' or '..._last'")
    array = np.moveaxis(array, 0, -1) if first else array
    if array.shape[-1] not in counts:
        raise ImageReadError(f"{expected}: reshape it (a stack of grey images is passed as list(array))")
    return array


def _to_255(pixels: np.ndarray) -> np.ndarray:
    """Scale pixels to 0..255: uint8, or float32 (not rounded) for uint16 and floats."""
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == np.bool_:
        return pixels.astype(np.uint8) * np.uint8(255)
    if pixels.dtype.kind == "u" and pixels.dtype.itemsize == 2:
        return pixels.astype(np.float32) / np.float32(257)  # 65535 / 257 is exactly 255
    if pixels.dtype.kind != "f":
        raise ImageReadError(
            f"expected bool, uint8, uint16 or float pixels, got {pixels.dtype}, whose range is not "
            "known: use .astype('uint8') for values 0..255, .astype('uint16') for 0..65535"
        )
    values = pixels.astype(np.float32)
    low, high = float(values.min()), float(values.max())
    # "not": a NaN fails every comparison. Just above 1 is a rounding error on [0, 1], not black.
    if not (low >= 0 and high <= 255) or 1 < high < 1.01:
        got = f"got [{low:.7g}, {high:.7g}]"
        raise ImageReadError(f"expected floats in [0, 1] or [0, 255], {got}: rescale them (is it normalised already?)")
    return values * np.float32(255) if high <= 1 else values


def _read_deep(image: Image.Image) -> np.ndarray:
    """Read a PIL image of mode I, I;16* or F as (H, W, 1), or (H, W, 2) with a transparent value."""
    pixels = np.array(image)
    if image.mode == "I" and pixels.min() >= 0 and pixels.max() <= 65535:
        pixels = pixels.astype(np.uint16)
    values, tags = _to_255(pixels)[..., None], getattr(image, "tag_v2", {})
    if tags.get(258) == (12,):
        values *= np.float32(65535 / 4095)  # a TIFF of 12 bits
    if tags.get(262) == 0:
        values = 255 - values  # a TIFF with white as zero: Pillow turns over 8 bits alone
    profile, transparent = image.info.get("icc_profile"), image.info.get("transparency")
    if profile and (transform := _profile_to_srgb(profile, "L")):
        curve = np.asarray(transform.apply(Image.fromarray(np.arange(256, dtype=np.uint8)[None])))[0, :, 0]
        values = np.interp(values, np.arange(256), curve).astype(np.float32)
    if image.mode == "F" or not isinstance(transparent, int):
        return values
    alpha = np.where(pixels == transparent, np.float32(0), np.float32(255))
    return np.concatenate([values, alpha[..., None]], axis=-1)


def _convert_float(values: np.ndarray, num_channels: int, background: tuple[int, ...]) -> np.ndarray:
    """Composite and convert float pixel values (H, W, 1 to 4) to `num_channels`, 1 or 3."""
    if values.shape[-1] in (2, 4):
        alpha = values[..., -1:] / 255
        values = values[..., :-1] * alpha + np.array(background, dtype=np.float32) * (1 - alpha)
    if num_channels == 1:
        return values if values.shape[-1] == 1 else values @ LUMA[:, None]
    return values if values.shape[-1] == 3 else np.repeat(values, 3, axis=-1)


def _convert_pil(image: Image.Image, num_channels: int, background: tuple[int, ...]) -> np.ndarray:
    """Composite and convert an 8-bit PIL image to (H, W, `num_channels`), 1 or 3, with Pillow."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (*background, 255)), image)
    mode = "L" if num_channels == 1 else "RGB"
    for step in ("RGB", mode):  # through RGB: Pillow converts not every mode to L directly
        if image.mode not in (mode, step):
            image = image.convert(step)
    return np.atleast_3d(np.array(image))


def _read(source: Any, num_channels: int | None, background: tuple[int, ...], data_format: Layout) -> np.ndarray:
    """Read an image as `read_image` does, with the decoders' own exceptions."""
    if isinstance(source, torch.Tensor):
        source = source.detach().cpu()
        source = (source.float() if source.is_floating_point() else source).numpy()
    if isinstance(source, np.ndarray):
        source = _channels_last(source, num_channels, data_format)
        if source.dtype.kind == "u" and source.itemsize == 2 and source.shape[-1] > 1 and num_channels in (None, 1, 3):
            source = (source >> 8).astype(np.uint8)  # as Pillow reads files of 16 bits in colour or with alpha
        pixels = _to_255(source)
        if num_channels in (None, pixels.shape[-1]):
            return pixels
        if pixels.dtype != np.uint8:
            return _convert_float(pixels, num_channels or 3, background)
        image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        return _convert_pil(image, num_channels or 3, background)
    if num_channels not in (None, 1, 3):
        raise ImageReadError(f"expected an array for num_channels={num_channels}, got an image: pass an array")
    image = _open(source)
    if image.mode == "F" or image.mode.startswith("I"):
        return _convert_float(_read_deep(image), num_channels or 1, background)
    if num_channels is None and image.mode in ("L", "LA", "RGB", "RGBA"):
        return np.atleast_3d(np.array(image))
    return _convert_pil(image, num_channels or 3, background)


def _describe(source: Any) -> str:
    """Describe a source for an error message, in one short line."""
    if isinstance(source, Mapping):
        return _describe(source.get("path") or source.get("bytes") or f"keys {sorted(source)}")
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"{len(source)} bytes"
    if isinstance(source, (np.ndarray, torch.Tensor)):
        return f"{type(source).__name__} of shape {tuple(source.shape)} and dtype {source.dtype}"
    if isinstance(source, Image.Image):
        size = f"PIL image {source.mode} {source.width}x{source.height}"
        return f"{size} {getattr(source, 'filename', '')}".strip()
    text = repr(os.fspath(source) if isinstance(source, os.PathLike) else source)
    return text if len(text) <= 200 else f"{text[:100]}...{text[-1]}"


@contextmanager
def _naming(source: Any) -> Iterator[None]:
    """Convert every exception of reading to an `ImageReadError` that names the source."""
    try:
        yield
    except ImageReadError as error:
        raise ImageReadError(f"{_describe(source)}: {error}") from error
    except Image.DecompressionBombError as error:
        limit = f"expected at most {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels, twice `PIL.Image.MAX_IMAGE_PIXELS`"
        raise ImageReadError(
            f"{_describe(source)}: {limit}, got more: make it smaller, or raise that limit"
        ) from error
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error and more
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        raise ImageReadError(f"{_describe(source)}: cannot be read ({reason}): replace or remove it") from error


def read_image(
    source: Any,
    num_channels: int | None = 3,
    background_color: Sequence[int] = (255, 255, 255),
    input_data_format: Layout = None,
) -> np.ndarray:
    """Read one image from any source by the rules in the table of `OmniVisionImageProcessor`.

    Args:
        source: PIL image, NumPy array, torch tensor, path (`str` or `Path`), bytes, file object, `{"bytes", "path"}`,
            URL or data URI. Arrays and tensors are (H, W), (H, W, C) or (C, H, W).
        num_channels: 3 for RGB, 1 for grey, another number for arrays of exactly that many channels, `None` to keep
            the channels as they are.
        background_color: Red, green and blue (0..255) behind transparent pixels.
        input_data_format: `"channels_first"` or `"channels_last"`, for arrays of ambiguous shape.

    Returns:
        Pixel values 0..255 of shape (H, W, C): uint8 for 8-bit sources, float32 (not rounded) for 16-bit and float.

    Raises:
        ImageReadError: if the source is no readable image; the message names it.
    """
    with _naming(source):
        return _read(source, num_channels, tuple(background_color), input_data_format)


# --- the two processors ---


class OmniVisionImageProcessorKwargs(ImagesKwargs, total=False):
    """Options beyond those of every image processor: `num_channels` (3), `background_color` (white), and
    `round_center_crop` (False): an odd margin of a crop is halved as torchvision does, not rounded down.
    """

    num_channels: int | None
    background_color: list[int] | tuple[int, ...] | None
    round_center_crop: bool | None


def _is_sequence(images: Any) -> bool:
    return isinstance(images, Sequence) and not isinstance(images, (str, bytes, bytearray, memoryview))


def _flatten(images: Any) -> Iterator[Any]:
    """Yield single images from an image, sequences of any nesting, and 4-D arrays."""
    if _is_sequence(images):
        for image in images:
            yield from _flatten(image)
    elif isinstance(images, (np.ndarray, torch.Tensor)) and images.ndim == 4:
        yield from images
    else:
        yield images


def _check_statistics(num_channels: int, **statistics: Any) -> None:
    for name, value in statistics.items():
        if isinstance(value, (list, tuple)) and len(value) != num_channels:
            raise ValueError(f"{name}: expected {num_channels} numbers, got {value!r}: pass {name}")


def _scaling(do_rescale: bool, rescale_factor: float, do_normalize: bool, image_mean: Any) -> tuple[bool, float]:
    """Return whether and by what to rescale 0..255: a mean of at most 1 is one of values in [0, 1]."""
    if do_normalize and not do_rescale and np.max(image_mean) <= 1:
        return True, 1 / 255
    return do_rescale, rescale_factor


class _ImagePolicy(BaseImageProcessor):
    """Defaults, image loading and `auto_map` of both backends."""

    valid_kwargs = OmniVisionImageProcessorKwargs
    resample = PILImageResampling.BILINEAR
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    size = {"height": 224, "width": 224}
    do_resize = do_rescale = do_normalize = do_convert_rgb = True
    num_channels = 3
    background_color = (255, 255, 255)
    round_center_crop = False

    def fetch_images(self, image_url_or_urls: Any) -> Any:
        """Decode all sources but arrays and tensors, keeping the nesting; idempotent."""
        source = image_url_or_urls
        if _is_sequence(source):
            return [self.fetch_images(image) for image in source]
        if isinstance(source, (np.ndarray, torch.Tensor)):
            return source
        return open_image(source)

    def to_dict(self) -> dict[str, Any]:
        """Return the saved configuration; if the code is saved too, `auto_map` names both backends."""
        saved = super().to_dict()
        pair = ("OmniVisionImageProcessorPil", "OmniVisionImageProcessor")  # the order that transformers expects
        if self._auto_class is not None and type(self).__name__ in pair:
            module = type(self).__module__.rsplit(".", 1)[-1]
            saved["auto_map"] = {"AutoImageProcessor": [f"{module}.{name}" for name in pair]}
        return saved

    def center_crop(self, image: Any, size: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Cut out the middle of images (..., height, width), of smaller ones with black around them.

        The smaller half of an odd margin is above and to the left, as torchvision has it. transformers' own backends
        (5.23.0) differ by a pixel there.
        """
        missing = [
            max(wanted - side, 0) for wanted, side in zip((size.height, size.width), image.shape[-2:], strict=True)
        ]
        if any(missing):
            (top, bottom), (left, right) = ((margin // 2, margin - margin // 2) for margin in missing)
            if isinstance(image, np.ndarray):
                image = np.pad(image, [*[(0, 0)] * (image.ndim - 2), (top, bottom), (left, right)])
            else:
                image = torch.nn.functional.pad(image, [left, right, top, bottom])
        if not self.round_center_crop:
            return super().center_crop(image, size, **kwargs)
        rows, columns = image.shape[-2] - size.height, image.shape[-1] - size.width
        top, left = round(rows / 2), round(columns / 2)  # half to even
        return image[..., top : top + size.height, left : left + size.width]

    def _standardize_kwargs(self, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Check the options at initialisation and at every call."""
        kwargs = super()._standardize_kwargs(**kwargs)
        for name in ("num_channels", "background_color"):
            kwargs[name] = getattr(self, name) if kwargs.get(name) is None else kwargs[name]
        channels, color = kwargs["num_channels"], tuple(kwargs["background_color"])
        if isinstance(channels, bool) or not isinstance(channels, int) or channels < 1:
            raise ValueError(f"num_channels: expected a positive integer, got {channels!r}")
        if len(color) != 3 or not all(isinstance(x, int) and 0 <= x <= 255 for x in color):
            raise ValueError(f"background_color: expected three integers 0..255, got {color!r}")
        kwargs["background_color"] = color
        for name, grey in GREY_STATISTICS.items():
            if channels == 1 and kwargs[name] == tuple(getattr(_ImagePolicy, name)):
                kwargs[name] = grey
            if kwargs["do_normalize"] and kwargs["do_convert_rgb"]:
                _check_statistics(channels, **{name: kwargs[name]})
        return kwargs

    def _prepare_image_like_inputs(self, images: Any, *args: Any, **kwargs: Any) -> list[Any]:
        """Load every image; errors name the index of the image."""
        kwargs.pop("expected_ndims", None)
        loaded = []
        for index, image in enumerate(_flatten(images)):
            try:
                loaded.append(self.process_image(image, *args, **kwargs))
            except ImageReadError as error:
                raise ImageReadError(f"image {index}: {error}") from error
        if not loaded:
            raise ImageReadError(f"expected at least one image, got {_describe(images)}: pass one")
        return loaded

    def process_image(self, image: Any, *args: Any, **kwargs: Any) -> Any:
        """Load one image as an array (C, H, W) of pixel values 0..255."""
        num_channels = kwargs.get("num_channels", self.num_channels) if kwargs.get("do_convert_rgb", True) else None
        background_color = kwargs.get("background_color", self.background_color)
        values = read_image(image, num_channels, background_color, kwargs.get("input_data_format"))
        if kwargs.get("do_normalize"):
            _check_statistics(values.shape[-1], **{name: kwargs.get(name) for name in GREY_STATISTICS})
        if values.dtype != np.uint8:
            rounded = np.rint(values)  # floats that hold an 8-bit image are treated as 8-bit
            if np.abs(values - rounded).max() < 1e-4:
                values = rounded.astype(np.uint8)
        return values.transpose(2, 0, 1)


class OmniVisionImageProcessor(_ImagePolicy, TorchvisionBackend):
    """Convert images to `pixel_values` (batch, channels, height, width) with torchvision.

    By default: resize to 224 x 224 (bilinear, antialiased), multiply by 1/255, subtract ImageNet's mean, divide by its
    standard deviation. `size={"shortest_edge": n}` keeps the aspect ratio. Every image is first read as pixel values
    0..255 by these rules, whatever it comes as and wherever it is used (training, evaluation, commands):

    | input | rule |
    |---|---|
    | PIL, array, tensor, path, bytes, file, `{"bytes", "path"}`, URL, data URI, base64 text | equal tensors |
    | URL | at most 64 MiB, within 60 seconds |
    | text | a path, if there is such a file or it is no base64 |
    | file object | read from its start, left open |
    | tensor on any device, of any float type, with gradient | read on the CPU, detached |
    | sequences of any nesting, 4-D arrays | one flat batch, in order |
    | EXIF orientation, all eight | applied, to PIL images too; unreadable EXIF counts as none |
    | RGBA, LA, PA, transparent colours, arrays of 4 or 2 channels | over `background_color` |
    | L, P, 1, YCbCr, HSV, LAB | converted to RGB by Pillow |
    | CMYK without a profile | likewise, 0 as no ink; CMYK in JPEG is taken as Adobe stores it, inverted |
    | colour profile other than sRGB (RGB, grey, CMYK) | converted to sRGB; grey of 16 bits by 256 points |
    | colour profile that is broken or of other channels; no profile | taken as sRGB, the former said once |
    | `num_channels=1` | grey by ITU-R 601 (Pillow's L); default mean 0.459 and std 0.226 |
    | another `num_channels` | arrays of that many channels, unchanged; pass mean and std |
    | `do_convert_rgb=False` | channels unchanged; modes other than L, LA, RGB, RGBA become RGB |
    | bool; uint8 | 0 and 255; unchanged |
    | 16 bits in grey: uint16, PIL I;16, I | times 255/65535, not rounded; I outside 0..65535 is refused |
    | 16 bits in colour or with alpha, files and uint16 arrays | the high byte, as Pillow reads these files |
    | 12 bits | TIFF and JPEG 2000 say so and keep their range; an array cannot: times 16 first |
    | TIFF with white as zero | turned over, at any depth |
    | other integers | refused, their range is not known |
    | floats and PIL F up to 1 | times 255 (decided for each image separately) |
    | floats and PIL F up to 255 | unchanged |
    | floats below 0, above 255, NaN, or with a maximum between 1 and 1.01 | refused |
    | 2-D array | grey |
    | 3-D array | the first or last axis is channels, whichever has a length of 1 to 4 |
    | 3-D array where both or neither has | refused without `input_data_format` |
    | several frames | the first; of an opened PIL image the one that it stands at |
    | HEIC, JPEG XL | read where pillow-heif, pillow-jxl-plugin is installed, otherwise refused by its name |
    | EPS, WMF (programs to run); MPEG, HDF5, GRIB, BUFR (no decoder) | refused |
    | more pixels than twice `PIL.Image.MAX_IMAGE_PIXELS`, by default 178,956,970 | refused; fewer need no warning |
    | empty, truncated, not an image, no pixel, no such file | refused |

    | `do_rescale` | `do_normalize` | `pixel_values` |
    |---|---|---|
    | True | False | 0..255 times `rescale_factor`: by default [0, 1] |
    | True | True | that, minus mean, divided by std |
    | False | False | 0..255, also where floats in [0, 1] came in |
    | False | True | 0..255 minus mean, divided by std, if the mean is above 1; as for [0, 1] if at most 1 |

    Refused: an `ImageReadError`, which is a `ValueError`, with the image's index, its path or type, and what to do.
    """

    def __init__(self, **kwargs: Any) -> None:
        requires_backends(self, ["torchvision"])
        super().__init__(**kwargs)

    def process_image(self, image: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Load one image as a tensor (C, H, W) on `device`, by default the CPU."""
        # A copy, which is contiguous and writable.
        return torch.from_numpy(np.array(super().process_image(image, **kwargs), order="C")).to(kwargs.get("device"))

    def resize(self, image: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Resize, clipping float images to 0..255 as torchvision does 8-bit ones."""
        resized = super().resize(image, *args, **kwargs)
        return resized.clamp(0, 255) if resized.is_floating_point() else resized

    def rescale_and_normalize(
        self,
        images: torch.Tensor,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: Any,
        image_std: Any,
    ) -> torch.Tensor:
        """Rescale and normalise, with mean and std in the units of the pixel values; see the table."""
        do_rescale, rescale_factor = _scaling(do_rescale, rescale_factor, do_normalize, image_mean)
        return super().rescale_and_normalize(images, do_rescale, rescale_factor, do_normalize, image_mean, image_std)

    def _preprocess(self, images: list[torch.Tensor], **kwargs: Any) -> BatchFeature:  # type: ignore[override]
        """Disable grouping of unlike images: it goes by height and width, and stacks 8 bits as floats."""
        if len({(image.dtype, len(image)) for image in images}) > 1:
            kwargs["disable_grouping"] = True
        return super()._preprocess(images, **kwargs)


class OmniVisionImageProcessorPil(_ImagePolicy, PilBackend):
    """Convert images as `OmniVisionImageProcessor` does (see its table), with Pillow and NumPy alone."""

    def _preprocess(self, images: list[np.ndarray], **kwargs: Any) -> BatchFeature:  # type: ignore[override]
        options = ("do_rescale", "rescale_factor", "do_normalize", "image_mean")
        kwargs["do_rescale"], kwargs["rescale_factor"] = _scaling(*(kwargs[name] for name in options))
        return super()._preprocess(images, **kwargs)

    def resize(self, image: Any, size: Any, resample: Any = None, **kwargs: Any) -> Any:  # type: ignore[override]
        """Resize; floats, and channel counts that Pillow has no mode for, channel by channel."""
        resize = super().resize
        if image.dtype == np.uint8 and image.shape[0] in (1, 3):
            return resize(image, size, resample, **kwargs)
        if image.dtype == np.uint8:
            return np.concatenate([resize(plane[None], size, resample) for plane in image])
        blank = np.zeros((1, *image.shape[1:]), dtype=np.uint8)  # computes the output size
        height, width = resize(blank, size, resample).shape[1:]
        planes = [Image.fromarray(plane).resize((width, height), resample) for plane in image]
        return np.clip(np.stack([np.asarray(plane) for plane in planes]), 0, 255)


__all__ = [
    "ImageReadError",
    "OmniVisionImageProcessor",
    "OmniVisionImageProcessorPil",
    "open_image",
    "open_undecoded",
    "read_image",
    "register_plugins",
]
