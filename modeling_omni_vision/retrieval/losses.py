"""The contrastive loss of whole vectors and of late interaction, over batches of any size and any number of processes.

sentence-transformers scores, gathers and re-computes (GradCache); what it lacks is here: late interaction in both
directions, SigLIP's loss, a temperature that is learned, texts that fit several images of a batch, and images of
one concept that find each other.
"""

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


# 384 numbers each for MiniLM: 150 MB.
REMEMBERED_TEXTS = 100_000
TEXT_FEATURES = ("input_ids", "attention_mask", "token_type_ids")


class TwoWayContrastiveLoss(CachedLossMixin, nn.Module):
    """
    Mean loss of texts (first column) and images (second column) whose rows belong together.

    `"softmax"` is CLIP's: each text must find its image and each image its text among all of the batch.
    `"sigmoid"` is SigLIP's: every pair is a yes-or-no question, summed over all, divided by the images. A score is
    the cosine of whole vectors, or, for a `MultiVectorEncoder`, MaxSim divided by the words of the text: otherwise
    long texts would win every image. The score's factor and SigLIP's bias are the model's own, and learned with it.

    With several processes, texts and images of all of them are gathered with their gradients: the mean of the
    processes' gradients is that of one process with the whole batch.

    Args:
        model: A `SentenceTransformer` or `MultiVectorEncoder` around an [`OmniVisionForRetrieval`].
        mini_batch_size: Embed so many rows at a time and compute them twice, for batches that memory cannot hold
            (GradCache, https://huggingface.co/papers/2101.06983); 0 embeds the batch at once.
        single_vector_weight: With a `MultiVectorEncoder`, the mean of its loss and this times that of single vectors,
            from one pass through the towers: the result serves every class. 0 is late interaction alone.
        image_pair_weight: Add so many times the loss of images that look for the others with their label among all
            images (supervised contrast, https://huggingface.co/papers/2004.11362), a mean over those that have any.
    """

    def __init__(
        self, model: Any, mini_batch_size: int = 0, single_vector_weight: float = 0.0, image_pair_weight: float = 0.0
    ) -> None:
        super().__init__()
        self.model = model
        self.mini_batch_size = mini_batch_size
        self.image_pair_weight = image_pair_weight
        self.late_interaction = isinstance(model, MultiVectorEncoder)
        self.single_vector_weight = single_vector_weight if self.late_interaction else 0.0
        # In a tuple, so that it is no module of this one: its parameters are the model's.
        self._core = (unwrap_retrieval_model(model),)
        self._texts = TextFeatureCache(self._core[0])
        self._wholes: list[torch.Tensor] = []
        for projection in (self._core[0].visual_projection, self._core[0].text_projection):
            if self.single_vector_weight:
                # sentence-transformers passes on one output of the model, here two are needed: these see both.
                projection.register_forward_hook(self._keep_wholes)
            if mini_batch_size:
                projection.register_forward_hook(self._touch_temperature)

    @property
    def uses_gradient_cache(self) -> bool:  # type: ignore[override]
        """Whether gradients arrive through a hook; sentence-transformers asks."""
        return bool(self.mini_batch_size)

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: torch.Tensor | None = None) -> torch.Tensor:
        """Compute the loss of a batch.

        Args:
            sentence_features: Features of the texts, then of the images.
            labels: What fits what, numbers (batch, 2 + texts) of each pair's concept, of its text, and of all texts
                that fit its image; or of concepts alone (batch,). Images are no negatives of a text of the same
                concept, nor of one that is among their own: "a red square" is right for a scene that has more in it.

        Raises:
            ValueError: for fewer than two pairs over all processes, or `image_pair_weight` without labels.
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
        """Embed some rows of a column, perhaps with the random state of the time before."""
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
        """Compute the loss from what `embed_minibatch` gave for both columns; GradCache asks for it."""
        masks = [[chunk.detach().ne(0).any(-1) for chunk in column] for column in reps]
        (texts, words), (images, patches) = (
            cat_padded_token_embeddings(column, mask) for column, mask in zip(reps, masks, strict=True)
        )
        all_texts, all_words = all_gather_padded(texts, words, with_grad=True)
        all_images, all_patches = all_gather_padded(images, patches, with_grad=True)
        total = len(all_texts)
        if total < 2:
            raise ValueError(
                f"A contrastive loss needs at least two pairs, got {total}. Raise --per_device_train_batch_size, and "
                "leave out an incomplete last batch with --dataloader_drop_last true."
            )
        if self.image_pair_weight and labels is None:
            raise ValueError("`image_pair_weight` needs labels that say what images are about, got none. Give them.")
        gathered = (texts, all_texts, words, all_words), (images, all_images, patches, all_patches)
        if not self.single_vector_weight:
            loss = self._loss(*gathered, labels=labels)
        else:
            # The first vector is the whole, the others its words or patches.
            wholes, parts = (
                self._loss(*(tuple(tensor[:, part] for tensor in side) for side in gathered), labels=labels)
                for part in (slice(1), slice(1, None))
            )
            loss = (self.single_vector_weight * wholes + parts) / (self.single_vector_weight + 1)
        if with_backward:
            loss.backward()
        return loss

    def _loss(
        self, of_texts: tuple[torch.Tensor, ...], of_images: tuple[torch.Tensor, ...], *, labels: torch.Tensor | None
    ) -> torch.Tensor:
        """Compute the loss of one kind of vectors: own ones, all ones, and which of both are present."""
        (texts, all_texts, words, all_words), (images, all_images, patches, all_patches) = of_texts, of_images
        count, total = len(texts), len(all_texts)
        rows = torch.arange(count, device=texts.device) + get_rank() * count
        fitting = fitting_back = torch.zeros(count, total, dtype=torch.bool, device=texts.device)
        of_pairs: torch.Tensor | float = 0.0
        if labels is not None:
            labels = labels.reshape(count, -1)
            every_label = all_gather(labels)
            alike, fitting, fitting_back = false_negative_mask(labels, every_label, rows)
            if self.image_pair_weight:
                # Of all processes, so that the mean of theirs is that of one with the whole batch.
                concepts = every_label[:, 0]
                with_others = int((concepts[:, None] == concepts[None]).sum(1).gt(1).sum())
                likeness = supervised_contrastive_loss(_scores(images, all_images, patches, all_patches), alike, rows)
                of_pairs = self.image_pair_weight * likeness * (total / count / max(with_others, 1))
        scores = _scores(texts, all_images, words, all_patches)
        if self._core[0].config.contrastive_loss == "sigmoid":
            sign = -torch.ones_like(scores)
            sign[torch.arange(count), rows] = 1
            return of_pairs - logsigmoid(sign * scores).masked_fill(fitting, 0).sum() / count
        back = scores if total == count else _scores(all_texts, images, all_words, patches)
        forth, back = scores.masked_fill(fitting, float("-inf")), back.T.masked_fill(fitting_back, float("-inf"))
        return of_pairs + (cross_entropy(forth, rows) + cross_entropy(back, rows)) / 2

    def _keep_wholes(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        if output.ndim == 2:
            self._wholes.append(output)

    def _touch_temperature(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        """Let several processes see that temperature and bias are in use, though `_embed` uses them after the model.

        Where some weights are in use only now and then (`find_unused_parameters`), those that are not seen in the
        model's own pass are taken for unused, and their gradients for an error.
        """
        core = self._core[0]
        numbers = (core.logit_scale, *([core.logit_bias] if core.config.contrastive_loss == "sigmoid" else []))
        return output + 0 * torch.stack(numbers).sum()

    def _embed(self, features: dict[str, Any]) -> torch.Tensor:
        """
        Embed a column as (rows, vectors, embedding_dim), or one wider for SigLIP.

        The learned numbers ride in the vectors, since GradCache brings gradients to nothing else: half of the
        temperature on each side, and the bias as one more coordinate that meets a one.
        """
        features, core = dict(features), self._core[0]
        task = features.pop("task")
        if self.late_interaction:
            self._wholes.clear()
            vectors = self.model(features, task=task)["token_embeddings"]
            if self.single_vector_weight:
                whole = normalize(self._wholes.pop(), dim=-1)
                vectors = torch.cat((whole.unsqueeze(1), vectors), dim=1)
        elif task == "query" and self._texts.applicable:
            vectors = normalize(core.text_projection(self._texts(features)), dim=-1).unsqueeze(1)
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
    """
    Means of texts before their projection, by a text encoder that is not trained: each text is read only once.

    Args:
        core: The model; whether its text encoder is frozen is looked at each time.
    """

    def __init__(self, core: OmniVisionForRetrieval) -> None:
        self._core = core
        self._known: dict[bytes, torch.Tensor] = {}

    @property
    def applicable(self) -> bool:
        """Whether texts can be remembered: no weight changes what they give, nor does dropout."""
        reader = self._core.text_model
        frozen = not reader.training and not any(parameter.requires_grad for parameter in reader.parameters())
        # Wrapped for several processes, a model must be asked as a whole.
        return frozen and not torch.distributed.is_initialized()

    @torch.no_grad()
    def __call__(self, features: dict[str, Any]) -> torch.Tensor:
        """Give the means (texts, hidden) of texts, reading only new ones."""
        given = {name: features[name] for name in TEXT_FEATURES if name in features}
        rows = zip(given["input_ids"].cpu(), given["attention_mask"].cpu().bool(), strict=True)
        names = [row[present].numpy().tobytes() for row, present in rows]
        new = {name: row for row, name in enumerate(names) if name not in self._known}
        if len(self._known) + len(new) > REMEMBERED_TEXTS:
            self._known.clear()
            new = {name: row for row, name in enumerate(names)}
        if new:
            means: list[torch.Tensor] = []
            hook = self._core.text_projection.register_forward_pre_hook(lambda _, inputs: means.append(inputs[0]))
            self._core.get_text_features(**{name: value[list(new.values())] for name, value in given.items()})
            hook.remove()
            self._known |= dict(zip(new, means[0].float(), strict=True))
        return torch.stack([self._known[name] for name in names])


def unwrap_retrieval_model(model: Any) -> OmniVisionForRetrieval:
    """Find the [`OmniVisionForRetrieval`] in a model of sentence-transformers, wrapped or not."""
    return getattr(model, "module", model)[0].auto_model


def false_negative_mask(
    labels: torch.Tensor, every_label: torch.Tensor, rows: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    Tell which pairs are no negatives of each other, without those that belong together.

    Args:
        labels: Numbers (pairs, 1 or 2 + texts) of own pairs: concept, text, and all texts of the image.
        every_label: The same of all pairs.
        rows: Which of all pairs each own one is.

    Returns:
        Three of (pairs, all pairs): the same concept; this text fits that image; this image fits that text.
    """
    alike = labels[:, :1] == every_label[:, 0]
    fits, fits_back = alike.clone(), alike.clone()
    # One place after the other: all at once would be the largest tensor of a step with large batches.
    for place in range(2, labels.shape[1]):
        fits |= labels[:, 1:2] == every_label[:, place]
        fits_back |= labels[:, place, None] == every_label[:, 1]
    for found in (alike, fits, fits_back):
        found[torch.arange(len(rows)), rows] = False
    return alike, fits, fits_back


def supervised_contrastive_loss(scores: torch.Tensor, same: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Sum over images of what it costs to find the others of their kind, each against all images but itself.

    Args:
        scores: Of images with all images (images, all images).
        same: Where another image is about the same; without the image itself.
        rows: Which of all images each one is.
    """
    itself = torch.zeros_like(same)
    itself[torch.arange(len(rows)), rows] = True
    surprise = -scores.masked_fill(itself, float("-inf")).log_softmax(dim=1)
    return (surprise.masked_fill(~same, 0).sum(1) / same.sum(1).clamp(min=1)).sum()


def _scores(texts: torch.Tensor, images: torch.Tensor, words: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
    """MaxSim of every text with every image (texts, images), a mean over words."""
    return maxsim(texts, images, a_mask=words, b_mask=patches, length_normalize=True)


__all__ = ["TwoWayContrastiveLoss", "false_negative_mask", "supervised_contrastive_loss", "unwrap_retrieval_model"]
