import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from modeling_omni_vision.retrieval.views import VIEW_SIZES, view_vectors, views_of


def test_a_picture_is_seen_in_three_sizes_and_mirrored_in_its_own_frame_on_white():
    picture = Image.new("RGBA", (100, 60), (0, 0, 0, 0))
    picture.paste((255, 0, 0, 255), (40, 20, 50, 40))
    views = views_of(picture)
    assert len(views) == 6
    assert {(view.mode, view.size) for view in views} == {("RGB", (100, 60))}
    for size, view, mirror in zip(VIEW_SIZES, views[::2], views[1::2], strict=True):
        assert view.getpixel((0, 0)) == (255, 255, 255)
        pixels = np.asarray(view).astype(int)
        red = pixels[..., 0] - pixels[..., 1] > 127
        # Edges are soft, and fall between pixels.
        assert red.any(0).sum() == pytest.approx(10 * size, abs=1)
        assert red.any(1).sum() == pytest.approx(20 * size, abs=1)
        assert np.flatnonzero(red.any(0)).mean() == pytest.approx(50 + (44.5 - 50) * size, abs=1)
        assert ImageOps.mirror(view).tobytes() == mirror.tobytes()


def test_a_picture_without_transparency_gets_a_white_frame_where_it_is_smaller():
    small, *_, large, _ = views_of(Image.new("RGB", (40, 40), "blue"))
    assert (small.getpixel((0, 0)), small.getpixel((20, 20))) == ((255, 255, 255), (0, 0, 255))
    assert large.getpixel((0, 0)) == (0, 0, 255)
    assert [view.size for view in views_of(Image.new("L", (1, 1)))] == [(1, 1)] * 6


class Halves:
    """A model that sees how bright the left and the right half of a picture are, in vectors of any length."""

    def encode_document(self, pictures, **options):
        assert options == {"convert_to_tensor": True}
        levels = torch.stack([torch.from_numpy(np.asarray(picture.convert("L")).copy()) for picture in pictures])
        left, right = levels.float().chunk(2, dim=2)
        return torch.stack((left.mean((1, 2)), right.mean((1, 2))), dim=1)


def test_the_vector_of_a_picture_is_the_mean_direction_of_its_views():
    sided = Image.new("RGB", (40, 40), "white")
    sided.paste("black", (0, 0, 20, 40))
    vectors = view_vectors(Halves(), [sided, Image.new("RGB", (40, 40), "white")], convert_to_tensor=True)
    # Mirrored, left is right: the mean knows no side.
    assert torch.allclose(vectors, torch.full((2, 2), 0.5**0.5), atol=1e-6)
