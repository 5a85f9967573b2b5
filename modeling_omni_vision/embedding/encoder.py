"""Images and texts as the vectors of late interaction, by a retrieval checkpoint opened in sentence-transformers.

Encoding, pooling and MaxSim are the library's. Here: batches of files in which an unreadable one costs only itself,
the words that the vectors of a text belong to, and per-token similarity maps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.multi_vector_encoder.interpretability import maxsim_similarity_map
from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling

from ..data.integrity import read_each
from ..records.weights_digest import weights_digest


# Images decoded at the same time: sixteen of 12 megapixels are some 600 MB.
BATCH_SIZE = 16


@dataclass(frozen=True)
class EncodedText:
    """The vectors (tokens, embedding_dim) of a text without its special tokens, of length 1, and its words in order.

    `word_ids` has the index of its word for each vector. Words `unknown` to the tokenizer are not among `words`; where
    there are no others, there is no vector.
    """

    embeds: torch.Tensor
    words: tuple[str, ...]
    word_ids: tuple[int, ...]
    unknown: tuple[str, ...] = ()


class ImageTextEncoder:
    """A retrieval checkpoint that turns images and texts into vectors.

    Args:
        checkpoint: Folder or Hub id of an `OmniVisionForRetrieval` with its processor. Its code runs.
        revision: Commit, branch or tag on the Hub.

    Raises:
        ValueError: if sentence-transformers cannot load it as a `MultiVectorEncoder`.
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
    def weights_digest(self) -> str:
        """SHA-256 of all weights by name; equal for copies of a checkpoint wherever they lie."""
        return weights_digest(self.model[0].auto_model)  # type: ignore[arg-type]

    def images(self, sources: Sequence[Any], pool_factor: float = 1) -> list[torch.Tensor]:
        """Encode images; if one cannot be read, none is encoded.

        Args:
            sources: Paths (`str` or `Path`) or PIL images.
            pool_factor: Merge similar vectors of an image until about one in this many is left; 1 merges none.

        Returns:
            Vectors (n, embedding_dim) of length 1 for each image.
        """
        pooling = HierarchicalTokenPooling(pool_factor, num_protected_tokens=0) if pool_factor > 1 else None
        # Decoded by our image processor: the library would lose transparency and 16-bit pixel values, and takes a
        # path without the suffix of an image for a text.
        inputs = self.model.processor.image_processor.fetch_images(list(sources))
        return self.model.encode_document(
            inputs, batch_size=BATCH_SIZE, token_pooling=pooling, show_progress_bar=False
        )

    def files(
        self, files: Sequence[Path], pool_factor: float = 1
    ) -> tuple[list[tuple[Path, np.ndarray]], list[tuple[Path, str]]]:
        """Encode files; one that cannot be read costs only itself.

        Returns:
            The files that were read, each with its float16 vectors (n, embedding_dim), and the others with the reason.
        """
        read: list[tuple[Path, np.ndarray]] = []
        failed: list[tuple[Path, str]] = []
        for start in range(0, len(files), BATCH_SIZE):
            batch = files[start : start + BATCH_SIZE]
            found, broken = read_each(batch, lambda batch: _arrays(self.images(batch, pool_factor)))
            read, failed = read + found, failed + broken
        return read, failed

    @torch.inference_mode()
    def text(self, text: str, force: bool = False) -> EncodedText:
        """Encode a text, without its special tokens and without words that the tokenizer does not know.

        Args:
            text: The text.
            force: Give unknown words the vector of the unknown token, as if they were a word.

        Raises:
            ValueError: if the text has no word at all.
        """
        if force:
            core: Any = self.model[0].auto_model
            inputs = self.model.tokenizer([text], truncation=True, return_tensors="pt").to(core.device)
            embeds = core(**inputs).embeddings[0].cpu().float()
        else:
            embeds = torch.as_tensor(self.model.encode_query([text], show_progress_bar=False)[0]).float()
        # Special tokens have zero vectors, which `encode_query` leaves out if an up-to-date processor was saved.
        embeds = embeds[embeds.norm(dim=-1) > 0.5]
        processor: Any = self.model.processor
        tokens = self.model.tokenizer(text, truncation=True)
        unknown = tuple(dict.fromkeys(processor.unknown_words(text))) if hasattr(processor, "unknown_words") else ()
        left_out = set(self._config.skiplist_token_ids or [])
        if unknown and not force:
            left_out.add(self.model.tokenizer.unk_token_id)
        pairs = zip(tokens.word_ids(), tokens["input_ids"], strict=True)
        owners = [word for word, token in pairs if token not in left_out]
        if not len(embeds) and not unknown:
            raise ValueError(f"Expected a text with at least one word, got {text!r}.")
        if len(owners) != len(embeds) or None in owners:
            # The model wraps the text in a template: its tokens cannot be assigned, the whole text counts as one word.
            return EncodedText(embeds, (text,), (0,) * len(embeds), unknown)
        numbers = {word: number for number, word in enumerate(dict.fromkeys(owners))}
        spans = [tokens.word_to_chars(word) for word in numbers]
        words = tuple(text[span.start : span.end] for span in spans)
        return EncodedText(embeds, words, tuple(numbers[word] for word in owners), unknown)

    def similarity_maps(self, text: EncodedText, image: Any) -> torch.Tensor:
        """Compute the per-token similarity maps of an image (path or PIL image), averaged over each word's tokens.

        Returns:
            Cosines with the patches of the image (words, rows, columns).
        """
        rows, columns = self.grid_size
        patches = self.images([image])[0][-rows * columns :]
        maps = maxsim_similarity_map(text.embeds, patches, (columns, rows))
        word_ids = torch.tensor(text.word_ids)
        return torch.stack([maps[word_ids == word].mean(0) for word in range(len(text.words))])


def _arrays(embeds: Sequence[torch.Tensor]) -> list[np.ndarray]:
    return [one.detach().float().cpu().numpy().astype(np.float16) for one in embeds]


__all__ = ["BATCH_SIZE", "EncodedText", "ImageTextEncoder"]
