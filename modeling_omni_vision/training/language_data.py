"""Conversations as batches: answers are learnt, everything else is only read, and one image serves many questions.

Packing: the questions about an image share what stands before them, the image above all. Each goes on from there as
if it were the only one: its words do not see those of other questions, and their positions start anew. The losses are
those of the questions one by one.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

from experiments.symbol_maps import draw_symbol_map

from ..data.conversations import IMAGE
from ..data.stored_images import open_stored, store


IGNORED = -100
SEEN = ("images", "shuffled", "symbol_map")  # what is shown as images
SHARED = 0  # the segment of what all questions of a sequence see


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
    """Give the tokens of a prompt, as `generate` would get it, and those of the answer, with the one that ends it.

    Args:
        processor: An [`OmniVisionProcessor`].
        messages: What was said; `<image>` stands for an image.
        answer: What is to be said next.

    Raises:
        ValueError: if the chat template writes an answered prompt in another way than one to be answered.
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
    images = processor.image_token * processor.image_seq_length
    asked = tokenizer(prompt.replace(processor.image_token, images), add_special_tokens=not begins)["input_ids"]
    # Apart from the prompt, as they come one by one when generated.
    said = tokenizer(whole[len(prompt) :].rstrip("\n"), add_special_tokens=False)["input_ids"]
    end = tokenizer.eos_token_id
    return asked, [*(said[: said.index(end)] if end in said else said), end]


def show(messages: Sequence[dict[str, str]], image_input: str, symbols: str) -> list[dict[str, str]]:
    """Put in place of images what is shown: `images`, `shuffled` ones or a `symbol_map`, `nothing`, or `symbols`.

    Raises:
        ValueError: for symbols where the data have none.
    """
    if image_input in SEEN:
        return [*messages]
    if image_input == "symbols" and not symbols:
        raise ValueError("Expected `symbols` in every row, got none. Choose data that have them, such as scenes.")
    instead = "" if image_input == "nothing" else symbols
    marks = (f"{IMAGE}\n", IMAGE)
    changed = []
    for turn in messages:
        content = turn["content"]
        for mark in marks:
            content = content.replace(mark, instead and f"{instead}\n")
        changed.append({**turn, "content": content})
    return changed


def pack_questions(
    prompts: Sequence[list[int]], answers: Sequence[list[int]], kinds: Sequence[str], images: list[Any]
) -> AnsweredSequence:
    """Write several questions about the same images into one sequence; what their prompts begin with is shared."""
    # The last token of a prompt says the first of the answer: it belongs to its question.
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
    Rows of `data.questions` as sequences, in packs.

    Args:
        rows: A split of `load_questions`.
        processor: An [`OmniVisionProcessor`].
        shown: What stands in for images; see `show`. Shuffled images are those of other rows; a map of symbols is
            drawn (`draw_symbol_map`) in place of the one image of a row.
        pack: Most questions of a sequence.
    """

    def __init__(
        self, rows: Dataset, processor: Any, image_input: str = "images", max_questions_per_sequence: int = 1
    ) -> None:
        self.epoch = 0
        self.rows, self.shuffled, self.mapped = rows, image_input == "shuffled", image_input == "symbol_map"
        self.sequences: list[AnsweredSequence] = []
        self.rows_of: list[int] = []
        counts = [len(images) for images in rows["images"][:]]
        self.starts = [sum(counts[:row]) for row in range(len(counts))] if self.shuffled else []
        self.images = [(row, place) for row, count in enumerate(counts) for place in range(count)]
        if self.shuffled and len(self.images) < 2:
            raise ValueError(f"Shuffling needs at least two images, got {len(self.images)}. Add some.")
        if self.mapped and max(counts, default=1) > 1:
            raise ValueError(f"Symbols are of one image, got {max(counts)} images in a row. Choose other data.")
        known: dict[Any, tuple[list[int], list[int]]] = {}
        token = processor.tokenizer.convert_tokens_to_ids(processor.image_token)
        for row, (questions, symbols) in enumerate(zip(rows["questions"][:], rows["symbols"][:], strict=True)):
            encoded = []
            for question in questions:
                messages = show(question["messages"], image_input, symbols)
                key = (*((turn["role"], turn["content"]) for turn in messages), question["answer"])
                if key not in known:
                    known[key] = encode_question(processor, messages, question["answer"])
                encoded.append((*known[key], question["kind"]))
            for start in range(0, len(encoded), max_questions_per_sequence):
                self._add(row, encoded[start : start + max_questions_per_sequence], token)

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
        """Tell which epoch it is, from 0: the order is another one in each."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, index: int) -> AnsweredSequence:
        sequence, row = self.sequences[index], self.rows_of[index]
        images = self.rows[row]["images"]
        if self.mapped:
            images = [store(draw_symbol_map(self.rows[row]["symbols"])) for _ in images]
        if self.shuffled:
            # All images, turned by half: never one's own.
            first, count = self.starts[row] + len(self.images) // 2, len(self.images)
            others = [self.images[(first + place) % count] for place in range(len(images))]
            images = [self.rows[other]["images"][place] for other, place in others]
        return AnsweredSequence(**{**vars(sequence), "images": images})


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
        """Give the arguments of the model: the attention mask has four dimensions where questions are packed."""
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
    """Say what each token sees, itself and earlier ones of its own question or shared by all: 0, elsewhere the least.

    Args:
        segments: Questions of the tokens (batch, length), 0 for what is shared, -1 for padding.

    Returns:
        An attention mask to add, (batch, 1, length, length).
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
        """Give the order of the epoch that the data are in."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.data.epoch)
        return iter(get_length_grouped_indices(self.data.lengths, self.batch_size, generator=generator))


def _common(prompts: Sequence[list[int]]) -> int:
    """Count the tokens that all prompts begin with."""
    columns = enumerate(zip(*prompts, strict=False))
    return next((place for place, column in columns if len(set(column)) > 1), min(map(len, prompts)))


__all__ = [
    "IGNORED",
    "SEEN",
    "AnswerCollator",
    "AnsweredSequence",
    "Conversations",
    "LengthGroups",
    "encode_question",
    "pack_questions",
    "packed_mask",
    "show",
]
