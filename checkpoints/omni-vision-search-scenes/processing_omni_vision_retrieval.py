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
"""Processor of [`OmniVisionForRetrieval`]: an image processor and a tokenizer in one call."""

from typing import Any

import torch
from transformers import ProcessorMixin
from transformers.feature_extraction_utils import BatchFeature


class OmniVisionRetrievalProcessor(ProcessorMixin):
    """
    Prepares images, texts or both for [`OmniVisionForRetrieval`].

    Args:
        image_processor: An [`OmniVisionImageProcessor`].
        tokenizer: The tokenizer of the text encoder.
        image_seq_length (`int`, *optional*, defaults to 196):
            Number of vectors in the multi-vector embedding of an image, `config.image_seq_length`. A plain attribute:
            sentence-transformers reads it to draw similarity maps.
    """

    def __init__(
        self, image_processor: Any = None, tokenizer: Any = None, image_seq_length: int = 196, **kwargs: Any
    ) -> None:
        super().__init__(image_processor, tokenizer, **kwargs)
        self.image_seq_length = image_seq_length

    def __call__(self, images: Any = None, text: Any = None, **kwargs: Any) -> BatchFeature:
        """Prepare a batch; images alone get an `attention_mask` of ones, which `MultiVectorEncoder` needs."""
        batch = super().__call__(images=images, text=text, **kwargs)
        if text is None and images is not None:
            batch["attention_mask"] = torch.ones(len(batch["pixel_values"]), self.image_seq_length, dtype=torch.long)
        return batch

    @property
    def skiplist_token_ids(self) -> list[int]:
        """Ids of the special tokens that late interaction ignores: all but the unknown token."""
        return sorted(set(self.tokenizer.all_special_ids) - {self.tokenizer.unk_token_id})


__all__ = ["OmniVisionRetrievalProcessor"]
