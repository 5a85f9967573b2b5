"""Conversations as batches: the loss is on answers alone, and one image serves many questions.

Packing: the questions about an image share what stands before them, the image above all. Each goes on from there as
if it were the only one: its tokens do not attend to those of other questions, and their positions start anew. The
losses are those of the questions one by one.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, ClassVar

import torch
from datasets import Dataset
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

from ..data.conversations import IMAGE
from ..data.stored_images import open_stored


IGNORED = -100
SHARED = 0  # the segment that all questions of a sequence attend to


@dataclass
class AnsweredSequence:
    """
    Questions about the same images, as tokens.

    Args:
        tokens: What all of them share, then question and answer of each.
        labels: The tokens of the answers, -100 elsewhere.
        positions: Place of each token, as if its question were the only one.
        segments: 0 for what is shared, then the number of the question, from 1.
        kinds: Kind of each question.
        images: Undecoded images, in the order of their tokens.
    """

    tokens: list[int]
    labels: list[int]
    positions: list[int]
    segments: list[int]
    kinds: list[str]
    images: list[Any]


def encode_question(processor: Any, messages: Sequence[dict[str, str]], answer: str) -> tuple[list[int], list[int]]:
    """Return the tokens of a prompt, as `generate` would get it, and those of the answer, with the one that ends it.

    Args:
        processor: An [`OmniVisionProcessor`].
        messages: What was said; `<image>` stands for an image.
        answer: What is to be said next.

    Raises:
        ValueError: if the chat template formats an answered prompt in another way than one to be answered.
    """
    tokenizer = processor.tokenizer
    chat = [{**turn, "content": turn["content"].replace(IMAGE, processor.image_token)} for turn in messages]
    prompt = processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    whole = processor.apply_chat_template([*chat, {"role": "assistant", "content": answer}], tokenize=False)
    if not whole.startswith(prompt):
        raise ValueError(
            f"Expected a chat template whose answered prompt begins with the prompt {prompt!r}, got {whole!r}. Change "
            "the template of the processor."
        )
    begins = tokenizer.bos_token is not None and prompt.startswith(tokenizer.bos_token)
    count = prompt.count(processor.image_token)
    images = [processor.replace_image_token({}, number) for number in range(count)]
    (expanded,), _ = processor.get_text_with_replacements([prompt], images)
    asked = tokenizer(expanded, add_special_tokens=not begins)["input_ids"]
    # Apart from the prompt, as they come one by one when generated.
    said = tokenizer(whole[len(prompt) :].rstrip("\n"), add_special_tokens=False)["input_ids"]
    end = tokenizer.eos_token_id
    return asked, [*(said[: said.index(end)] if end in said else said), end]


def replace_images(messages: Sequence[dict[str, str]], text: str = "") -> list[dict[str, str]]:
    """Return messages with a text in place of each `<image>`, by default with nothing."""
    changed = []
    for turn in messages:
        content = turn["content"]
        for mark in (f"{IMAGE}\n", IMAGE):
            content = content.replace(mark, text and f"{text}\n")
        changed.append({**turn, "content": content})
    return changed


def pack_questions(
    prompts: Sequence[list[int]], answers: Sequence[list[int]], kinds: Sequence[str], images: list[Any]
) -> AnsweredSequence:
    """Return several questions about the same images as one sequence; the common start of their prompts is shared."""
    # The last token of a prompt predicts the first of the answer: it belongs to its question.
    shared = min(_common(prompts), *(len(prompt) - 1 for prompt in prompts))
    tokens = prompts[0][:shared]
    found = AnsweredSequence([*tokens], [IGNORED] * shared, [*range(shared)], [SHARED] * shared, [*kinds], images)
    for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True), 1):
        own = prompt[shared:]
        length = len(own) + len(answer)
        found.tokens += [*own, *answer]
        found.labels += [*[IGNORED] * len(own), *answer]
        found.positions += range(shared, shared + length)
        found.segments += [number] * length
    return found


class Conversations(torch.utils.data.Dataset):
    """
    Rows of `load_questions` as sequences of one or several questions.

    A subclass can offer other values of `image_input`: it lists those that have images in `with_images`, and says
    what `messages_of` a question and `images_of` a row are.

    Args:
        rows: A split of `load_questions`.
        processor: An [`OmniVisionProcessor`].
        image_input: What the model gets as images: `images`, `shuffled` ones of other rows, or `nothing`.
        max_questions_per_sequence: Most questions of a sequence.
    """

    with_images: ClassVar[tuple[str, ...]] = ("images", "shuffled")

    def __init__(
        self, rows: Dataset, processor: Any, image_input: str = "images", max_questions_per_sequence: int = 1
    ) -> None:
        self.epoch, self.rows, self.image_input = 0, rows, image_input
        self.sequences: list[AnsweredSequence] = []
        self.rows_of: list[int] = []
        self.counts = [len(images) for images in rows["images"][:]]
        self.starts = [0, *accumulate(self.counts)]
        self.images = [(row, place) for row, count in enumerate(self.counts) for place in range(count)]
        if image_input == "shuffled" and len(self.images) < 2:
            raise ValueError(f"Shuffling needs at least two images, got {len(self.images)}. Add some.")
        known: dict[Any, tuple[list[int], list[int]]] = {}
        token = processor.tokenizer.convert_tokens_to_ids(processor.image_token)
        for row, questions in enumerate(rows["questions"][:]):
            encoded = []
            for question in questions:
                messages = self.messages_of(question, row)
                key = (*((turn["role"], turn["content"]) for turn in messages), question["answer"])
                if key not in known:
                    known[key] = encode_question(processor, messages, question["answer"])
                encoded.append((*known[key], question["kind"]))
            for start in range(0, len(encoded), max_questions_per_sequence):
                self._add(row, encoded[start : start + max_questions_per_sequence], token)

    def messages_of(self, question: dict[str, Any], row: int) -> list[dict[str, str]]:
        """Return the messages of a question, with `<image>` where the model gets one."""
        return replace_images(question["messages"]) if self.image_input == "nothing" else [*question["messages"]]

    def images_of(self, row: int) -> list[Any]:
        """Return the undecoded images of a row."""
        if self.image_input != "shuffled":
            return self.rows[row]["images"]
        # All images, rotated by half their number: never one's own.
        first, count = self.starts[row] + len(self.images) // 2, len(self.images)
        others = [self.images[(first + place) % count] for place in range(self.counts[row])]
        return [self.rows[other]["images"][place] for other, place in others]

    def _add(self, row: int, encoded: list[tuple[list[int], list[int], str]], token: int) -> None:
        prompts, answers, kinds = ([*column] for column in zip(*encoded, strict=True))
        sequence = pack_questions(prompts, answers, kinds, [])
        marks = [place == token for place in sequence.tokens]
        if any(mark and segment for mark, segment in zip(marks, sequence.segments, strict=True)) and len(encoded) > 1:
            # An image between questions: they do not share all images.
            for question in encoded:
                self._add(row, [question], token)
            return
        self.sequences.append(sequence)
        self.rows_of.append(row)

    @property
    def lengths(self) -> list[int]:
        """Number of tokens of each sequence."""
        return [len(sequence.tokens) for sequence in self.sequences]

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, from 0: the order is another one in each."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, index: int) -> AnsweredSequence:
        return AnsweredSequence(**{**vars(self.sequences[index]), "images": self.images_of(self.rows_of[index])})


class AnswerCollator:
    """
    Makes batches of sequences, padded on the right.

    Args:
        processor: An [`OmniVisionProcessor`].
    """

    def __init__(self, processor: Any) -> None:
        self.prepare: Callable[..., Any] = processor.image_processor
        self.padding: int = processor.tokenizer.pad_token_id
        self.token = processor.tokenizer.convert_tokens_to_ids(processor.image_token)
        self.image_seq_length: int = processor.image_seq_length

    def __call__(self, items: Sequence[AnsweredSequence]) -> dict[str, Any]:
        """Return the arguments of the model; the attention mask has four dimensions where questions are packed."""
        length = max(len(item.tokens) for item in items)

        def padded(name: str, filler: int) -> torch.Tensor:
            rows = [getattr(item, name) for item in items]
            return torch.tensor([[*row, *[filler] * (length - len(row))] for row in rows])

        segments = padded("segments", -1)
        batch: dict[str, Any] = {
            "input_ids": padded("tokens", self.padding),
            "labels": padded("labels", IGNORED),
            "position_ids": padded("positions", 0),
            "attention_mask": (segments >= 0).long(),
        }
        if any(len(item.kinds) > 1 for item in items):
            batch["attention_mask"] = packed_mask(segments)
        images = [
            image for item in items for image in item.images[: item.tokens.count(self.token) // self.image_seq_length]
        ]
        if images:
            batch["pixel_values"] = self.prepare([open_stored(image) for image in images], return_tensors="pt")[
                "pixel_values"
            ]
        return batch


def packed_mask(segments: torch.Tensor) -> torch.Tensor:
    """Return the attention mask of packed questions: each token attends to earlier ones of its own question or shared.

    Args:
        segments: Questions of the tokens (batch, length), 0 for what is shared, -1 for padding.

    Returns:
        (batch, 1, length, length), to add to scores: 0 where a token attends, elsewhere the smallest number.
    """
    query, key = segments.unsqueeze(2), segments.unsqueeze(1)
    earlier = torch.ones(segments.shape[1], segments.shape[1], dtype=torch.bool).tril()
    seen = earlier & ((key == SHARED) | (key == query))
    return torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min).unsqueeze(1)


class LengthGroups(Sampler[int]):
    """Orders sequences so that those of a batch are about equally long, in another way in each epoch."""

    def __init__(self, data: Conversations, batch_size: int, seed: int) -> None:
        self.data, self.batch_size, self.seed = data, batch_size, seed

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator[int]:
        """Yield the order of the epoch that the data are in."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.data.epoch)
        return iter(get_length_grouped_indices(self.data.lengths, self.batch_size, generator=generator))


def _common(prompts: Sequence[list[int]]) -> int:
    """Return the number of tokens that all prompts begin with."""
    columns = enumerate(zip(*prompts, strict=False))
    return next((place for place, column in columns if len(set(column)) > 1), min(map(len, prompts)))


__all__ = [
    "IGNORED",
    "AnswerCollator",
    "AnsweredSequence",
    "Conversations",
    "LengthGroups",
    "encode_question",
    "pack_questions",
    "packed_mask",
    "replace_images",
]
