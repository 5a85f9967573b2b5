"""Image files to what an image processor would make of them, resized in 8 bits and normalised once for a batch.

`exact` gives the processor's pixels bit for bit. That is measured, not believed: drawn images go both ways when a
reader is made, and where they differ each image goes through the processor itself; likewise JPEG goes through the
faster decoder of torchvision where that agrees with Pillow's. `fast` lets libjpeg scale a JPEG while it decodes, to no
less than `FAST_MARGIN` times the target, and resizes the rest of the way.
"""

import functools
import inspect
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageFile

from ..data.stored_images import eight_bits
from ..image_processing_omni_vision import open_undecoded, read_image


DECODE = ("exact", "fast")
# How EXIF orientations 2 to 8 turn an image: axes swapped, then columns reversed, then rows reversed.
TURNS = {2: (0, 1, 0), 3: (0, 1, 1), 4: (0, 0, 1), 5: (1, 0, 0), 6: (1, 1, 0), 7: (1, 1, 1), 8: (1, 0, 1)}
PROBES = ((60, 80), (333, 250), (700, 900))
# Photographs of 1000x750 to 4000x3000 at 224 pixels: mean error 0.41 to 0.51 levels of 255, largest 8. At 2 it is 0.16
# to 0.17 for a fifth to two fifths more time, and 1000x750 is not scaled at all.
FAST_MARGIN = 1.5


class Pixels(NamedTuple):
    """Resized pixels (C, H, W), 0..255 in uint8 unless `normalized`, and width and height of the upright image."""

    values: torch.Tensor
    size: tuple[int, int]
    normalized: bool = False


class PixelReader:
    """Reads images as a processor does, for many threads.

    Args:
        processor: An image processor of transformers, ours or another.
        num_channels: Channels that the model takes.
        decode: `exact` or `fast`.

    Raises:
        ValueError: for another `decode`, or `fast` with a processor that does more than resize and crop.
    """

    def __init__(self, processor: Any, num_channels: int = 3, decode: str = "exact") -> None:
        self.processor, self.num_channels = processor, num_channels
        self.reads_sources = "num_channels" in getattr(getattr(processor, "valid_kwargs", None), "__annotations__", ())
        self.is_stepwise = self._agrees()
        if decode not in DECODE:
            raise ValueError(f"`decode` must be one of {', '.join(DECODE)}, got {decode!r}.")
        if decode == "fast" and not self.is_stepwise:
            raise ValueError(
                f"`decode` must be exact with {type(processor).__name__}, which does more than resize, crop and "
                "normalise by torchvision, got 'fast'."
            )
        self.fast = decode == "fast"
        self.decode_jpeg = _jpeg_decoder() if num_channels == 3 else None

    def read(self, source: Any) -> Pixels:
        """Read one image: a path, a URL, bytes.

        Raises:
            ImageReadError: if it is no readable image.
        """
        if self.is_stepwise and (jpeg := _opened_jpeg(source)):
            with jpeg:
                found = self._scaled_while_decoded(jpeg) if self.fast else None
                found = found or self._decoded_by_torchvision(jpeg, source)
            if found:
                return found
        values = read_image(source, self.num_channels)
        height, width = values.shape[:2]
        if not self.is_stepwise or (values.dtype != np.uint8 and self.reads_sources):
            return Pixels(self._whole(source if self.reads_sources else values), (width, height), normalized=True)
        values = eight_bits(values)  # stock processors take 8 bits alone
        return Pixels(self._resized(torch.from_numpy(values).permute(2, 0, 1)), (width, height))

    def batch(self, images: Sequence[Pixels]) -> torch.Tensor:
        """Return `pixel_values` (batch, C, H, W) in float32 of images of one size, all normalised or none."""
        values = torch.stack([image.values for image in images])
        return values if images[0].normalized else self._normalized(values)

    def _whole(self, image: Any) -> torch.Tensor:
        if isinstance(image, np.ndarray):
            return processed(self.processor, eight_bits(image))
        return self.processor(images=[image], return_tensors="pt")["pixel_values"][0].float()

    def _resized(self, image: torch.Tensor) -> torch.Tensor:
        """Resize and crop uint8 pixels, which may be a view with channels last: torchvision is faster on these."""
        own = self.processor
        if own.do_resize:
            image = own.resize(image, size=own.size, resample=own.resample)
        return self._cropped(image)

    def _cropped(self, image: torch.Tensor) -> torch.Tensor:
        own = self.processor
        return (own.center_crop(image, own.crop_size) if getattr(own, "do_center_crop", None) else image).contiguous()

    def _normalized(self, values: torch.Tensor) -> torch.Tensor:
        own = self.processor
        mean, std = (tuple(value) if isinstance(value, list) else value for value in (own.image_mean, own.image_std))
        made = own.rescale_and_normalize(values, own.do_rescale, own.rescale_factor, own.do_normalize, mean, std)
        return made.float()

    def _agrees(self) -> bool:
        """Return whether the steps here give the processor's own pixels, bit for bit."""
        draws = np.random.default_rng(0)
        try:
            for height, width in PROBES:
                image = draws.integers(0, 256, (height, width, self.num_channels), dtype=np.uint8)
                ours = self._normalized(self._resized(torch.from_numpy(image).permute(2, 0, 1))[None])[0]
                if not torch.equal(ours, self._whole(image)):
                    return False
        except (AttributeError, TypeError, ValueError, RuntimeError):
            return False
        return True

    @functools.lru_cache(maxsize=256)  # noqa: B019 - lives as long as the process
    def _target(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width that the processor resizes an image to, before it crops."""
        if not self.processor.do_resize:
            return height, width
        blank = torch.empty((), dtype=torch.uint8).expand(self.num_channels, height, width)
        height, width = self.processor.resize(blank, size=self.processor.size, resample=self.processor.resample).shape[
            1:
        ]
        return height, width

    def _scaled_while_decoded(self, image: Image.Image) -> Pixels | None:
        """Decode a large JPEG at a fraction of its size; None for what libjpeg does not scale."""
        swap = _turn(image)[0]
        width, height = image.size[::-1] if swap else image.size
        target = self._target(height, width)
        as_stored = target if swap else target[::-1]
        full, drafted = (
            image.size,
            image.draft(None, (int(FAST_MARGIN * as_stored[0]), int(FAST_MARGIN * as_stored[1]))),
        )
        if drafted is None or image.size == full or ImageFile.LOAD_TRUNCATED_IMAGES:
            return None
        if drafted[1] == (0, 0, *image.size):  # torchvision's resize takes a third of the time of Pillow's
            values = read_image(image, self.num_channels)  # turns it, and converts its colours
            return Pixels(self._resized(torch.from_numpy(values).permute(2, 0, 1)), (width, height))
        # The last column and row of the scaled image lie partly outside of the original: the box leaves that out.
        small = image.resize(as_stored, self.processor.resample, box=drafted[1])
        values = read_image(small, self.num_channels)
        return Pixels(self._cropped(torch.from_numpy(values).permute(2, 0, 1)), (width, height))

    def _decoded_by_torchvision(self, image: Image.Image, source: Any) -> Pixels | None:
        """Decode a plain JPEG; None for any other, and for one that is broken: Pillow says why."""
        if self.decode_jpeg is None or image.mode != "RGB" or image.info.get("icc_profile"):
            return None
        try:
            content = source if isinstance(source, (bytes, bytearray)) else Path(source).read_bytes()
            values = self.decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8))
            swap, *reverse = _turn(image)
        except Exception:  # libjpeg's errors, and those of the file
            return None
        values = values.transpose(1, 2) if swap else values
        values = values.flip([axis for axis, is_reversed in zip((2, 1), reverse, strict=True) if is_reversed])
        return Pixels(self._resized(values), (values.shape[2], values.shape[1]))


def processed(processor: Any, values: np.ndarray) -> torch.Tensor:
    """Return what an image processor makes (C, H, W) of values of 8 bits (H, W, C)."""
    taken = inspect.signature(processor.preprocess).parameters
    if "input_data_format" in taken or any(one.kind is one.VAR_KEYWORD for one in taken.values()):
        found = processor(images=[values], return_tensors="pt", input_data_format="channels_last")
    else:  # that of timm's models takes images alone
        found = processor(images=[Image.fromarray(values)], return_tensors="pt")
    return found["pixel_values"][0].float()


def _turn(image: Image.Image) -> tuple[int, int, int]:
    try:
        return TURNS.get(image.getexif().get(0x0112, 1), (0, 0, 0))
    except Exception:  # the pixels are valid even if the metadata is not
        return 0, 0, 0


@functools.cache
def _jpeg_decoder() -> Any:
    """Return torchvision's decoder of JPEG if it gives Pillow's pixels, whatever libjpeg either was built with."""
    try:
        from torchvision.io import decode_jpeg

        # Said at every call from 0.29 on; where it is gone, Pillow decodes.
        warnings.filterwarnings("ignore", "The image decoding", DeprecationWarning)
        noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (75, 101, 3), dtype=np.uint8))
        for options in ({"subsampling": 0}, {"subsampling": 1}, {"subsampling": 2}, {"progressive": True}):
            content = io.BytesIO()
            noise.save(content, "JPEG", **options)
            found = decode_jpeg(torch.frombuffer(bytearray(content.getvalue()), dtype=torch.uint8))
            if not np.array_equal(found.permute(1, 2, 0).numpy(), np.array(Image.open(content))):
                return None
    except Exception:  # torchvision was built without libjpeg, or is not there
        return None
    return decode_jpeg


def _opened_jpeg(source: Any) -> Image.Image | None:
    try:
        return open_undecoded(
            io.BytesIO(source) if isinstance(source, (bytes, bytearray)) else source, formats=["JPEG"]
        )
    except Exception:  # no JPEG, or none that opens: the usual way says why
        return None


__all__ = ["DECODE", "PixelReader", "Pixels", "processed"]
