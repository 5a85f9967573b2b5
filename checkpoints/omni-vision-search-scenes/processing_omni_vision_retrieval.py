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
"""Processor of [`OmniVisionForRetrieval`], an image processor and a tokenizer in one call; zero-shot pipeline."""

import logging
import os
from collections.abc import Iterable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from PIL import Image
from transformers import ProcessorMixin, ZeroShotImageClassificationPipeline
from transformers.feature_extraction_utils import BatchFeature


logger = logging.getLogger(__name__)
TRUNCATED, FILE_NAME = "\0truncated", "\0file name"  # no words of a text
# What each processor has warned of. Not an attribute: those are saved.
_SAID: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()


class OmniVisionRetrievalProcessor(ProcessorMixin):
    """
    Prepares images, texts or both for [`OmniVisionForRetrieval`].

    The text encoder attends to special tokens (`text_attention_mask`), but they have no vector of their own
    (`attention_mask`). Words that the tokenizer does not know are in neither mask, and named in a warning. The first
    text that truncation shortens is reported with both lengths, and the first one that is the name of an image file.

    Args:
        image_processor: An [`OmniVisionImageProcessor`].
        tokenizer: The tokenizer of the text encoder.
        image_seq_length (`int`, *optional*, defaults to 196):
            Number of vectors in the multi-vector embedding of an image, `config.image_seq_length`. A plain attribute:
            sentence-transformers reads it to draw similarity maps.
        fixed_text_length (`int`, *optional*):
            Number of tokens that every text is padded or cut to, `config.fixed_text_length`.
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        image_seq_length: int = 196,
        fixed_text_length: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_processor, tokenizer, **kwargs)
        self.image_seq_length = image_seq_length
        self.fixed_text_length = fixed_text_length

    @property
    def model_input_names(self) -> list[str]:
        """Names of what `__call__` returns."""
        return [*super().model_input_names, "text_attention_mask"]

    def __call__(self, images: Any = None, text: Any = None, **kwargs: Any) -> BatchFeature:
        """Prepare a batch; images alone get an `attention_mask` of ones, which `MultiVectorEncoder` needs."""
        if self.fixed_text_length and text is not None:
            fixed = {"padding": "max_length", "max_length": self.fixed_text_length, "truncation": True}
            # sentence-transformers passes the options of texts apart.
            nested = kwargs.get("text_kwargs")
            kwargs |= fixed if nested is None else {"text_kwargs": {**nested, **fixed}}
        batch = super().__call__(images=images, text=text, **kwargs)
        if text is None and images is not None:
            batch["attention_mask"] = torch.ones(len(batch["pixel_values"]), self.image_seq_length, dtype=torch.long)
        elif "attention_mask" in batch:
            lines = [text] if isinstance(text, str) else text
            self._say_file_names(lines)
            self._say_truncated(batch, lines)
            self._mask_tokens(batch, lines)
        return batch

    @property
    def skiplist_token_ids(self) -> list[int]:
        """Ids of the special tokens that late interaction ignores: all but the unknown token."""
        return sorted(set(self.tokenizer.all_special_ids) - {self.tokenizer.unk_token_id})

    def unknown_words(self, text: str) -> list[str]:
        """Return the words of a text that the tokenizer has no token for.

        Tokenizers of words do not know those that their training texts lacked; tokenizers of parts of words compose
        any word, and do not know foreign characters at most.
        """
        unknown = self._unknown_token_id
        if unknown is None:
            return []
        if not self.tokenizer.is_fast:
            return [word for word in text.split() if unknown in self.tokenizer(word)["input_ids"]]
        found = self.tokenizer(text, return_offsets_mapping=True, truncation=False, verbose=False)
        pairs = zip(found["input_ids"], found["offset_mapping"], strict=True)
        return [text[slice(*place)] for token, place in pairs if token == unknown]

    @property
    def _unknown_token_id(self) -> int | None:
        """Id of unknown words; None where it has another role too, as the end of texts in CLIP's and GPT-2's."""
        names = ("cls", "sep", "pad", "bos", "eos", "mask")
        unknown = self.tokenizer.unk_token_id
        return None if unknown in {getattr(self.tokenizer, f"{name}_token_id", None) for name in names} else unknown

    def _mask_tokens(self, batch: BatchFeature, texts: Iterable[Any]) -> None:
        """Divide the mask of texts into what is attended to and what has a vector; warn of words in neither."""
        ids, mask = batch["input_ids"], batch["attention_mask"]
        rows = list(zip(_nested_list(ids), _nested_list(mask), strict=True))
        unknown, skipped = self._unknown_token_id, set(self.skiplist_token_ids)
        known = [[int(on and token != unknown) for token, on in zip(*row, strict=True)] for row in rows]
        if known != [row for _, row in rows]:
            words = [word for line in texts if isinstance(line, str) for word in self.unknown_words(line)]
            new = [word for word in dict.fromkeys(words) if self._is_new(word)]
            if new:
                logger.warning("Words that the tokenizer does not know weigh nothing: %s.", ", ".join(map(repr, new)))
        # Attention needs a token: a text that has nothing else attends to what is unknown.
        attended = [one if any(one) else row for one, (_, row) in zip(known, rows, strict=True)]
        vectors = [
            [int(on and token not in skipped) for token, on in zip(row, one, strict=True)]
            for (row, _), one in zip(rows, known, strict=True)
        ]
        batch["text_attention_mask"], batch["attention_mask"] = _like(attended, mask), _like(vectors, mask)

    def _say_file_names(self, texts: Iterable[Any]) -> None:
        """Warn of the first text that is called as an image file is: what was meant is not read.

        sentence-transformers 6.2 takes a string for a path by seven suffixes only, and if the file is there.
        """
        if FILE_NAME in _SAID.get(self, ()):
            return
        suffixes = Image.registered_extensions()
        for line in texts:
            if isinstance(line, str) and os.path.splitext(line)[1].lower() in suffixes and self._is_new(FILE_NAME):
                logger.warning(
                    "The text %r is embedded as text, as are other names of image files from now on: none is opened. "
                    "Give images, or to sentence-transformers {'image': path}.",
                    line[-80:],
                )
                return

    def _say_truncated(self, batch: BatchFeature, texts: Sequence[Any]) -> None:
        """Warn of the first text that truncation has shortened."""
        truncation = getattr(getattr(self.tokenizer, "backend_tokenizer", None), "truncation", None)
        if not truncation or TRUNCATED in _SAID.get(self, ()):
            return
        for line, mask in zip(texts, _nested_list(batch["attention_mask"]), strict=False):
            if sum(mask) == truncation["max_length"] and isinstance(line, str):
                length = len(self.tokenizer(line, truncation=False, verbose=False)["input_ids"])
                if length > sum(mask) and self._is_new(TRUNCATED):
                    logger.warning(
                        "A text of %d tokens is cut to %d, as are others of more from now on; what comes after them "
                        "is not read: %r.",
                        length,
                        sum(mask),
                        line[:80],
                    )
                    return

    def _is_new(self, what: str) -> bool:
        said = _SAID.setdefault(self, set())
        new = what not in said
        said.add(what)
        return new


class OmniVisionZeroShotPipeline(ZeroShotImageClassificationPipeline):
    """The zero-shot pipeline of transformers, except that the processor reads images and texts.

    The stock one drops transparency and clips 16-bit images before any image processor sees them, and compares labels
    by words that the tokenizer does not know. The configuration names this class: `trust_remote_code=True` opens it.
    """

    _load_processor = True

    def preprocess(  # type: ignore[override]
        self,
        image: Any,
        candidate_labels: Any = None,
        hypothesis_template: str = "This is a photo of {}.",
        timeout: float | None = None,
        tokenizer_kwargs: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Return the model's inputs for one image; the image processor's own `timeout` replaces that of the caller."""
        processor: Any = self.processor
        inputs = processor.image_processor(images=[image], return_tensors="pt").to(self.dtype)
        texts = [hypothesis_template.replace("{}", label) for label in candidate_labels]
        options = {"padding": True, "return_tensors": "pt"} | (tokenizer_kwargs or {})
        return {**inputs, "candidate_labels": candidate_labels, "text_inputs": [processor(text=texts, **options)]}


def _nested_list(rows: Any) -> list[list[int]]:
    listed = rows.tolist() if hasattr(rows, "tolist") else rows
    return [listed] if listed and isinstance(listed[0], int) else listed


def _like(rows: list[list[int]], example: Any) -> Any:
    """Return rows in the type and shape of an example: a tensor, an array, a list of lists or one list."""
    if isinstance(example, torch.Tensor):
        return torch.tensor(rows, dtype=example.dtype).reshape(example.shape)
    if isinstance(example, np.ndarray):
        return np.array(rows, dtype=example.dtype).reshape(example.shape)
    return rows[0] if isinstance(example[0], int) else rows


__all__ = ["OmniVisionRetrievalProcessor", "OmniVisionZeroShotPipeline"]
