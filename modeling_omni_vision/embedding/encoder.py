"""Images and texts as the vectors of late interaction, by a retrieval checkpoint opened in sentence-transformers.

Encoding, pooling and MaxSim are the library's. Here: lists of files in which a broken one costs only itself, the words
that a text's vectors belong to, and a fingerprint that tells two checkpoints apart.
"""

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.multi_vector_encoder.interpretability import maxsim_similarity_map
from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling

from ..records.weights_digest import weights_digest


logger = logging.getLogger(__name__)

POOL_FACTOR = 3
# Images decoded at the same time: sixteen of 12 megapixels are some 600 MB.
BATCH_SIZE = 16


@dataclass(frozen=True)
class EncodedText:
    """A text as late interaction sees it.

    Args:
        embeds: Vectors (n, embedding_dim) of length 1, without those of special tokens.
        words: The words of the text, in order.
        owners: For each vector, the number of its word.
    """

    embeds: torch.Tensor
    words: tuple[str, ...]
    owners: tuple[int, ...]


class ImageTextEncoder:
    """A retrieval checkpoint that turns images and texts into vectors.

    Args:
        checkpoint: Folder or Hub id of an `OmniVisionForRetrieval` with its processor. Its code runs.
        revision: Commit, branch or tag on the Hub.

    Raises:
        ValueError: if it is no checkpoint that sentence-transformers opens as a `MultiVectorEncoder`.
    """

    def __init__(self, checkpoint: str, revision: str | None = None) -> None:
        self.name = str(checkpoint)
        try:
            self.model = MultiVectorEncoder(self.name, trust_remote_code=True, revision=revision)
            self.embedding_dim = int(self._config.embedding_dim)
            self.grid_size: tuple[int, int] = self._config.vision_config.grid_size
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise ValueError(
                "Expected the folder or Hub id of a retrieval checkpoint (OmniVisionForRetrieval with its processor), "
                f"got {self.name!r}: {str(error)[:300]}. Correct it, or train one."
            ) from error

    @property
    def _config(self) -> Any:
        return self.model[0].auto_model.config  # type: ignore[union-attr]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all weights by name; equal for copies of a checkpoint wherever they lie."""
        return weights_digest(self.model[0].auto_model)  # type: ignore[arg-type]

    def images(self, sources: Sequence[Any], pool_factor: float = 1) -> list[torch.Tensor]:
        """
        Encode images, all or none.

        Args:
            sources: Paths (`str` or `Path`) or PIL images.
            pool_factor: Merge like vectors of one image, to about one of this many; 1 merges none.

        Returns:
            Vectors (n, embedding_dim) for each, of length 1.
        """
        pooling = HierarchicalTokenPooling(pool_factor, num_protected_tokens=0) if pool_factor > 1 else None
        # Decoded by our own policy: the library's way with a path loses transparency and 16-bit levels, and takes a
        # path that does not end like an image's for a text.
        decode = self.model.processor.image_processor.fetch_images
        inputs: list[Any] = [decode(os.fspath(one) if isinstance(one, os.PathLike) else one) for one in sources]
        return self.model.encode_document(
            inputs, batch_size=BATCH_SIZE, token_pooling=pooling, show_progress_bar=False
        )

    def files(
        self, files: Sequence[Path], pool_factor: float = 1
    ) -> tuple[list[tuple[Path, np.ndarray]], list[tuple[Path, str]]]:
        """
        Encode files; one that cannot be read costs only itself.

        Returns:
            The files read with their vectors, and the others with the reason of each.
        """
        read: list[tuple[Path, np.ndarray]] = []
        failed: list[tuple[Path, str]] = []
        for start in range(0, len(files), BATCH_SIZE):
            batch = files[start : start + BATCH_SIZE]
            try:
                read += zip(batch, _arrays(self.images(batch, pool_factor)), strict=True)
            except Exception:  # decoders raise many kinds; what is at fault is found one by one
                for file in batch:
                    try:
                        read.append((file, _arrays(self.images([file], pool_factor))[0]))
                    except Exception as error:
                        failed.append((file, reason(error, file)))
        return read, failed

    def text(self, text: str) -> EncodedText:
        """
        Encode a text, without its special tokens.

        Raises:
            ValueError: if nothing is left.
        """
        embeds = torch.as_tensor(self.model.encode_query([text], show_progress_bar=False)[0]).float()
        seen = embeds.norm(dim=-1) > 0.5
        read = self.model.tokenizer(text, truncation=True)
        skipped = set(self._config.skiplist_token_ids or [])
        owners = [word for word, token in zip(read.word_ids(), read["input_ids"], strict=True) if token not in skipped]
        if not seen.any():
            raise ValueError(f"Expected a text with at least one word that the checkpoint knows, got {text!r}.")
        if len(owners) != int(seen.sum()) or None in owners:
            # A template around the text: the sum over all words is all that can be shown.
            return EncodedText(embeds[seen], (text,), (0,) * int(seen.sum()))
        numbers = {word: number for number, word in enumerate(dict.fromkeys(owners))}
        spans = [read.word_to_chars(word) for word in numbers]
        return EncodedText(
            embeds[seen], tuple(text[span.start : span.end] for span in spans), tuple(numbers[word] for word in owners)
        )

    def word_maps(self, text: EncodedText, image: Any) -> torch.Tensor:
        """Similarity of each word to each patch of an image (path or PIL image): (words, rows, columns)."""
        rows, columns = self.grid_size
        patches = self.images([image])[0][-rows * columns :]
        maps = maxsim_similarity_map(text.embeds, patches, (columns, rows))
        owners = torch.tensor(text.owners)
        return torch.stack([maps[owners == word].mean(0) for word in range(len(text.words))])


def reason(error: Exception, file: Path) -> str:
    """Say in one line why a file cannot be read, without its name, which stands beside it."""
    text = " ".join(str(error).split())
    for name in (repr(str(file)), str(file)):
        text = text.replace(name, "the file")
    return text.removeprefix("image 0: ").removeprefix("the file: ")[:200] or type(error).__name__


def image_files(places: Iterable[str | Path]) -> list[tuple[Path, str]]:
    """
    List the files named and all below the folders named, sorted, each once, with its folder within the place.

    Hidden files and folders within a place are left out.

    Raises:
        ValueError: if a place does not exist.
    """
    found: dict[Path, str] = {}
    for place in map(Path, places):
        if not place.exists():
            raise ValueError(f"Expected files or folders of images, got {str(place)!r}, which does not exist.")
        for file in sorted(place.rglob("*")) if place.is_dir() else [place]:
            inside = file.relative_to(place) if place.is_dir() else Path(file.name)
            if file.is_file() and not any(part.startswith(".") for part in inside.parts):
                found.setdefault(file.resolve(), inside.parent.as_posix())
    return list(found.items())


def _arrays(embeds: Sequence[torch.Tensor]) -> list[np.ndarray]:
    return [one.detach().float().cpu().numpy().astype(np.float16) for one in embeds]


__all__ = ["BATCH_SIZE", "POOL_FACTOR", "EncodedText", "ImageTextEncoder", "image_files", "reason"]
