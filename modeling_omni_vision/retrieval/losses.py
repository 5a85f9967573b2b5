"""The contrastive loss of single vectors and of late interaction, for batches of any size and several processes.

sentence-transformers scores, gathers and re-computes (GradCache). What it lacks is here: late interaction in both
directions, SigLIP's loss, a learned temperature, a mask of false negatives, and supervised contrast of images.
"""

import logging
from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

import torch
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.losses.gradcache import CachedLossMixin, RandContext
from sentence_transformers.util import all_gather, all_gather_padded, cat_padded_token_embeddings, get_rank, maxsim
from torch import nn
from torch.nn.functional import cross_entropy, logsigmoid, normalize

from ..modeling_omni_vision_retrieval import OmniVisionForRetrieval


logger = logging.getLogger(__name__)

# 384 float32 numbers each for MiniLM: 150 MB.
MAX_CACHED_TEXTS = 100_000
TEXT_FEATURES = ("input_ids", "attention_mask", "token_type_ids", "text_attention_mask")


class TwoWayContrastiveLoss(CachedLossMixin, nn.Module):
    """Contrastive loss of texts (first column) and images (second column) whose rows are pairs.

    `"softmax"` is CLIP's: cross-entropy of each text over all images of the batch and of each image over all texts,
    averaged. `"sigmoid"` is SigLIP's: binary cross-entropy of every text with every image, summed and divided by the
    number of images. A score is the cosine of single vectors, or, for a `MultiVectorEncoder`, MaxSim divided by the
    number of text tokens: otherwise long texts would win every image. Scores are multiplied by the model's learned
    temperature; SigLIP's bias is the model's too.

    With several processes, texts and images of all of them are gathered with their gradients: the mean of the
    processes' gradients is that of one process with the whole batch.

    Args:
        model: A `SentenceTransformer` or `MultiVectorEncoder` around an [`OmniVisionForRetrieval`].
        mini_batch_size: Embed this many rows at a time and compute them twice, for batches that memory cannot hold
            (GradCache, https://huggingface.co/papers/2101.06983); 0 embeds the batch at once.
        single_vector_weight: With a `MultiVectorEncoder`: weight of the loss of single vectors in a mean with that of
            late interaction (weight 1), from one pass through both towers; 0 trains late interaction alone.
        image_pair_weight: Factor of the supervised contrastive loss of images with the same label (Khosla et al.
            2020, https://huggingface.co/papers/2004.11362), averaged over images that have any; 0 disables it.
        cache_texts: Whether a frozen text encoder encodes each text of single vectors once; for no more than 100,000.
    """

    def __init__(
        self,
        model: Any,
        mini_batch_size: int = 0,
        single_vector_weight: float = 0.0,
        image_pair_weight: float = 0.0,
        cache_texts: bool = True,
    ) -> None:
        super().__init__()
        self.model = model
        self.mini_batch_size = mini_batch_size
        self.image_pair_weight = image_pair_weight
        self.late_interaction = isinstance(model, MultiVectorEncoder)
        self.single_vector_weight = single_vector_weight if self.late_interaction else 0.0
        # In a tuple, so that it is no module of this one: its parameters are the model's.
        self._core = (unwrap_retrieval_model(model),)
        self._text_features = TextFeatureCache(self._core[0]) if cache_texts else None
        self._single_vectors: list[torch.Tensor] = []
        self._said_single = False
        for projection in (self._core[0].visual_projection, self._core[0].text_projection):
            if self.single_vector_weight:
                # sentence-transformers passes on one output of the model, here two are needed: hooks see both.
                projection.register_forward_hook(self._keep_single_vector)
            if mini_batch_size:
                projection.register_forward_hook(self._touch_temperature)

    @property
    def uses_gradient_cache(self) -> bool:  # type: ignore[override]
        """Whether gradients are computed by GradCache; sentence-transformers reads this."""
        return bool(self.mini_batch_size)

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: torch.Tensor | None = None) -> torch.Tensor:
        """Compute the loss of a batch.

        Args:
            sentence_features: Features of the texts, then of the images.
            labels: Integers (batch, 2 + texts): each pair's concept, its text, and all texts that fit its image; or
                concepts alone (batch,). A text and an image of the same concept are no negatives of each other, nor
                are an image and a text among its own: "a red square" also fits a scene that has more in it.

        Raises:
            ValueError: for `image_pair_weight` without labels.
        """
        columns = [
            {**features, "task": task} for features, task in zip(sentence_features, ("query", "document"), strict=True)
        ]
        if self.mini_batch_size:
            return self.forward_cached(columns, labels)
        return self.calculate_loss([[self._embed(column)] for column in columns], labels)

    def embed_minibatch(
        self,
        sentence_feature: dict[str, Any],
        begin: int,
        end: int,
        with_grad: bool,
        copy_random_state: bool,
        random_state: RandContext | None = None,
    ) -> tuple[torch.Tensor, RandContext | None]:
        """Embed some rows of a column, with the random state of the first pass if it is given."""
        part = {
            name: value[begin:end] if isinstance(value, torch.Tensor) else value
            for name, value in sentence_feature.items()
        }
        with random_state or nullcontext(), torch.set_grad_enabled(with_grad):
            state = RandContext(*part.values()) if copy_random_state else None
            return self._embed(part), state

    def calculate_loss(
        self, reps: list[list[torch.Tensor]], labels: torch.Tensor | None = None, *, with_backward: bool = False
    ) -> torch.Tensor:
        """Compute the loss from what `embed_minibatch` returned for both columns; GradCache calls it."""
        masks = [[chunk.detach().ne(0).any(-1) for chunk in column] for column in reps]
        (texts, words), (images, patches) = (
            cat_padded_token_embeddings(column, mask) for column, mask in zip(reps, masks, strict=True)
        )
        all_texts, all_words = all_gather_padded(texts, words, with_grad=True)
        all_images, all_patches = all_gather_padded(images, patches, with_grad=True)
        total = len(all_texts)
        if total < 2 and not self._said_single:
            logger.warning("A batch has a single pair, as the last of an epoch may: it has no negatives.")
            self._said_single = True
        if self.image_pair_weight and labels is None:
            raise ValueError("`image_pair_weight` needs labels with the concept of each image, got none. Pass them.")
        gathered = (texts, all_texts, words, all_words), (images, all_images, patches, all_patches)
        if not self.single_vector_weight:
            loss = self._loss(*gathered, labels=labels)
        else:
            # The first vector is the single one, the others are those of tokens or patches.
            single, multi = (
                self._loss(*(tuple(tensor[:, part] for tensor in side) for side in gathered), labels=labels)
                for part in (slice(1), slice(1, None))
            )
            loss = (self.single_vector_weight * single + multi) / (self.single_vector_weight + 1)
        if with_backward:
            loss.backward()
        return loss

    def _loss(
        self, of_texts: tuple[torch.Tensor, ...], of_images: tuple[torch.Tensor, ...], *, labels: torch.Tensor | None
    ) -> torch.Tensor:
        """Compute the loss from vectors of this process, of all processes, and the masks of both."""
        (texts, all_texts, words, all_words), (images, all_images, patches, all_patches) = of_texts, of_images
        count, total = len(texts), len(all_texts)
        rows = torch.arange(count, device=texts.device) + get_rank() * count
        excluded = excluded_back = torch.zeros(count, total, dtype=torch.bool, device=texts.device)
        image_pairs: torch.Tensor | float = 0.0
        if labels is not None:
            labels = labels.reshape(count, -1)
            all_labels = all_gather(labels)
            same, excluded, excluded_back = false_negative_mask(labels, all_labels, rows)
            if self.image_pair_weight:
                # Counted over all processes, so that the mean of theirs is that of one with the whole batch.
                concepts = all_labels[:, 0]
                with_others = int((concepts[:, None] == concepts[None]).sum(1).gt(1).sum())
                supervised = supervised_contrastive_loss(_scores(images, all_images, patches, all_patches), same, rows)
                image_pairs = self.image_pair_weight * supervised * (total / count / max(with_others, 1))
        scores = _scores(texts, all_images, words, all_patches)
        if self._core[0].config.contrastive_loss == "sigmoid":
            sign = -torch.ones_like(scores)
            sign[torch.arange(count), rows] = 1
            return image_pairs - logsigmoid(sign * scores).masked_fill(excluded, 0).sum() / count
        back = scores if total == count else _scores(all_texts, images, all_words, patches)
        forth, back = scores.masked_fill(excluded, float("-inf")), back.T.masked_fill(excluded_back, float("-inf"))
        return image_pairs + (cross_entropy(forth, rows) + cross_entropy(back, rows)) / 2

    def _keep_single_vector(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        if output.ndim == 2:
            self._single_vectors.append(output)

    def _touch_temperature(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        """Use temperature and bias within the model's forward, though `_embed` applies them after it.

        Otherwise DistributedDataParallel with `find_unused_parameters` takes their gradients for an error.
        """
        core = self._core[0]
        numbers = (core.logit_scale, *([core.logit_bias] if core.config.contrastive_loss == "sigmoid" else []))
        return output + 0 * torch.stack(numbers).sum()

    def _embed(self, features: dict[str, Any]) -> torch.Tensor:
        """Embed a column as (rows, vectors, embedding_dim), or one wider for SigLIP.

        Temperature and bias are multiplied into the vectors, since GradCache brings gradients to nothing else: half of
        the temperature on each side, and the bias as one more coordinate of texts against a one of images.
        """
        features, core = dict(features), self._core[0]
        task = features.pop("task")
        if self.late_interaction:
            self._single_vectors.clear()
            vectors = self.model(features, task=task)["token_embeddings"]
            if self.single_vector_weight:
                single = normalize(self._single_vectors.pop(), dim=-1)
                vectors = torch.cat((single.unsqueeze(1), vectors), dim=1)
        elif task == "query" and self._text_features is not None and self._text_features.applicable:
            vectors = normalize(core.text_projection(self._text_features(features)), dim=-1).unsqueeze(1)
        else:
            vectors = normalize(self.model(features)["sentence_embedding"], dim=-1).unsqueeze(1)
        vectors = vectors.float()
        present = vectors.detach().ne(0).any(-1, keepdim=True)
        vectors = vectors * (core.logit_scale / 2).exp()
        if core.config.contrastive_loss == "sigmoid":
            bias = core.logit_bias if task == "query" else torch.ones_like(core.logit_bias)
            vectors = torch.cat((vectors, bias * present), dim=-1)
        return vectors


class TextFeatureCache:
    """Mean text features before their projection, by a frozen text encoder: each text is encoded only once.

    By itself and without padding: in a batch its features would depend, in their last bits, on what was encoded with
    it, and a resumed training, which begins with an empty cache, would end with other weights.

    Args:
        model: The model; whether its text encoder is frozen is checked at each use.
    """

    def __init__(self, model: OmniVisionForRetrieval) -> None:
        self._model = model
        self._cache: dict[bytes, torch.Tensor] = {}

    @property
    def applicable(self) -> bool:
        """Whether features can be cached: neither training nor dropout changes them."""
        encoder = self._model.text_model
        frozen = not encoder.training and not any(parameter.requires_grad for parameter in encoder.parameters())
        # DistributedDataParallel must see the forward of the whole model.
        return frozen and not torch.distributed.is_initialized()

    @torch.no_grad()
    def __call__(self, features: dict[str, Any]) -> torch.Tensor:
        """Return the mean features (texts, hidden) of tokenized texts, encoding only new ones."""
        inputs = {name: features[name] for name in TEXT_FEATURES if name in features}
        mask = inputs.get("text_attention_mask", inputs["attention_mask"])
        rows = torch.stack((inputs["input_ids"], mask.long()), dim=1).cpu()
        lengths = [int(row[1].nonzero().max()) + 1 for row in rows]
        keys = [row[:, :length].numpy().tobytes() for row, length in zip(rows, lengths, strict=True)]
        if len(self._cache) + len({*keys} - {*self._cache}) > MAX_CACHED_TEXTS:
            self._cache.clear()
        for row, (key, length) in enumerate(zip(keys, lengths, strict=True)):
            if key not in self._cache:
                alone = {name: value[row : row + 1, :length] for name, value in inputs.items()}
                self._cache[key] = self._encode(alone)
        return torch.stack([self._cache[key] for key in keys])

    def _encode(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the mean features (hidden) of one text."""
        means: list[torch.Tensor] = []
        hook = self._model.text_projection.register_forward_pre_hook(lambda _, given: means.append(given[0]))
        self._model.get_text_features(**inputs)
        hook.remove()
        return means[0][0].float()


def unwrap_retrieval_model(model: Any) -> OmniVisionForRetrieval:
    """Return the [`OmniVisionForRetrieval`] in a model of sentence-transformers, wrapped for processes or not."""
    return getattr(model, "module", model)[0].auto_model


def false_negative_mask(
    labels: torch.Tensor, all_labels: torch.Tensor, rows: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mark pairs of a text and an image that a contrastive loss must not take for negatives.

    `labels` are integers (pairs, 1 or 2 + texts) of this process: concept, text, and all texts of the image;
    `all_labels` those of all processes, and `rows` where the former stand among them.

    Returns:
        Three masks (pairs, all pairs), false where a pair meets itself: the concepts are the same; this text fits that
        image; this image fits that text.
    """
    same = labels[:, :1] == all_labels[:, 0]
    fits, fits_back = same.clone(), same.clone()
    # One text after the other: all at once would be the largest tensor of a step with large batches.
    for text in range(2, labels.shape[1]):
        fits |= labels[:, 1:2] == all_labels[:, text]
        fits_back |= labels[:, text, None] == all_labels[:, 1]
    for mask in (same, fits, fits_back):
        mask[torch.arange(len(rows)), rows] = False
    return same, fits, fits_back


def supervised_contrastive_loss(scores: torch.Tensor, same: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Compute the supervised contrastive loss of images (Khosla et al. 2020, their L_out), summed over images.

    For each image, the mean over the others of its concept of -log softmax among all images but itself, or 0.

    Args:
        scores: Similarities of images with all images (images, all images), divided by the temperature.
        same: Where another image has the same concept (images, all images); false for the image itself.
        rows: The column in `scores` of each image itself.
    """
    itself = torch.zeros_like(same)
    itself[torch.arange(len(rows)), rows] = True
    negative_log = -scores.masked_fill(itself, float("-inf")).log_softmax(dim=1)
    return (negative_log.masked_fill(~same, 0).sum(1) / same.sum(1).clamp(min=1)).sum()


def _scores(texts: torch.Tensor, images: torch.Tensor, words: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
    """Compute MaxSim of every text with every image (texts, images), averaged over text tokens."""
    return maxsim(texts, images, a_mask=words, b_mask=patches, length_normalize=True)


__all__ = [
    "TextFeatureCache",
    "TwoWayContrastiveLoss",
    "false_negative_mask",
    "supervised_contrastive_loss",
    "unwrap_retrieval_model",
]
