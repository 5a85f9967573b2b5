"""Conversations as batches: the loss is on answers alone, and one image serves many questions.

Packing: the questions about an image share what stands before them, the image above all. Each goes on from there as
if it were the only one: its tokens do not attend to those of other questions, and their positions start anew. The
losses are those of the questions one by one.
"""

import logging
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset
from jinja2 import TemplateError
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

from ..data.conversations import IMAGE
from ..data.image_groups import image_keys
from ..data.stored_images import open_stored
from ..processing_omni_vision_language import unknown_token
from .packing import IGNORED, SHARED, decoder_masks


logger = logging.getLogger(__name__)

Encoded = tuple[list[int], list[int]]


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

    # Arrays: lists of numbers take five times their memory.
    tokens: "array[int]"
    labels: "array[int]"
    positions: "array[int]"
    segments: "array[int]"
    kinds: list[str]
    images: list[Any]

    def only(self, number: int) -> "AnsweredSequence":
        """Return question `number`, from 1, as a sequence of its own."""
        kept = [place for place, segment in enumerate(self.segments) if segment in (SHARED, number)]
        tokens, labels, positions = (
            array("i", [values[place] for place in kept]) for values in (self.tokens, self.labels, self.positions)
        )
        segments = array("i", [min(self.segments[place], 1) for place in kept])
        return AnsweredSequence(tokens, labels, positions, segments, [self.kinds[number - 1]], self.images)


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
    prompt = processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True, force=True)
    whole = processor.apply_chat_template([*chat, {"role": "assistant", "content": answer}], tokenize=False)
    if not whole.startswith(prompt):
        raise ValueError(
            f"Expected a chat template whose answered prompt begins with the prompt {prompt!r}, got {whole!r}. Change "
            "the template of the processor."
        )
    if tokenizer.eos_token_id is None:
        raise ValueError(
            "Expected a tokenizer with a token that ends an answer, got none as `eos_token`. Name one in its "
            "tokenizer_config.json."
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
    found = AnsweredSequence(
        tokens=array("i", tokens),
        labels=array("i", [IGNORED] * shared),
        positions=array("i", range(shared)),
        segments=array("i", [SHARED] * shared),
        kinds=[*kinds],
        images=images,
    )
    for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True), 1):
        own = prompt[shared:]
        length = len(own) + len(answer)
        found.tokens.extend([*own, *answer])
        found.labels.extend([*[IGNORED] * len(own), *answer])
        found.positions.extend(range(shared, shared + length))
        found.segments.extend([number] * length)
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
        max_positions: Positions that the decoder has, None for any number.
        long_conversations: What is done with those that need more: `stop`, `skip` them, or `cut` their first turns.
    """

    with_images: ClassVar[tuple[str, ...]] = ("images", "shuffled")

    def __init__(
        self,
        rows: Dataset,
        processor: Any,
        image_input: str = "images",
        max_questions_per_sequence: int = 1,
        max_positions: int | None = None,
        long_conversations: str = "stop",
    ) -> None:
        self.epoch, self.rows, self.image_input = 0, rows, image_input
        self.sequences: list[AnsweredSequence] = []
        self.rows_of: list[int] = []
        self.counts = [len(images) for images in rows["images"][:]]
        self.max_positions, self.long_conversations, self.too_long = max_positions, long_conversations, Counter[str]()
        if image_input == "shuffled":
            self.others = other_images(self.keys)
        # Answers, and questions, with words that the tokenizer has no token for, and how often they come up.
        self.unknown_answers, self.unknown_questions = Counter[str](), Counter[str]()
        unknown = unknown_token(processor.tokenizer)
        known: dict[Any, Encoded] = {}
        token = processor.tokenizer.convert_tokens_to_ids(processor.image_token)
        for row, questions in enumerate(rows["questions"][:]):
            encoded = []
            for question in questions:
                messages = self.messages_of(question, row)
                key = (*((turn["role"], turn["content"]) for turn in messages), question["answer"])
                if key not in known:
                    try:
                        known[key] = encode_question(processor, messages, question["answer"])
                    except (ValueError, TemplateError) as error:
                        raise ValueError(f"{self.place_of(row)} cannot be learnt: {error}") from error
                self.unknown_questions[messages[-1]["content"]] += unknown in known[key][0]
                self.unknown_answers[question["answer"]] += unknown in known[key][1]
                fitting = self._fitting(processor, messages, question["answer"], known[key], row)
                if fitting is not None:
                    encoded.append((*fitting, question["kind"]))
            for start in range(0, len(encoded), max_questions_per_sequence):
                self._add(row, encoded[start : start + max_questions_per_sequence], token)
        self.unknown_answers, self.unknown_questions = +self.unknown_answers, +self.unknown_questions
        if self.too_long:
            logger.warning(
                "%d questions in %d conversations have more than the %s positions of the language model: %s.",
                self.too_long.total(),
                len(self.too_long),
                max_positions,
                {"skip": "left out", "cut": "their first turns were cut"}[long_conversations],
            )
        if not self.sequences:
            raise ValueError(f"Expected questions to learn, got none in {len(rows)} conversations. Add some.")

    @cached_property
    def keys(self) -> list[list[str]]:
        """Keys of the images of each row, equal for equal images."""
        return image_keys(self.rows["images"][:])

    def place_of(self, row: int) -> str:
        """Return where a row comes from, for messages."""
        return self.rows[row].get("source") or f"Row {row + 1}"

    def _fitting(
        self, processor: Any, messages: Sequence[dict[str, str]], answer: str, encoded: Encoded, row: int
    ) -> Encoded | None:
        """Return the tokens of a question if the decoder has positions for all, those of its last turns, or None."""
        if self.max_positions is None or sum(map(len, encoded)) <= self.max_positions:
            return encoded
        place = self.place_of(row)
        if self.long_conversations == "stop":
            raise ValueError(
                f"The language model has {self.max_positions} positions, got {sum(map(len, encoded))} tokens in "
                f"{place}. Shorten it, or set --long_conversations skip or cut."
            )
        self.too_long[place] += 1
        rest = [*messages]
        while self.long_conversations == "cut" and (first := _first_turn(rest)) is not None:
            del rest[first : first + 2]
            encoded = encode_question(processor, rest, answer)
            if sum(map(len, encoded)) <= self.max_positions:
                return encoded
        if self.long_conversations == "cut":
            raise ValueError(
                f"The language model has {self.max_positions} positions, got {sum(map(len, encoded))} tokens in "
                f"{place} after its first turns were cut. Shorten it, or set --long_conversations skip."
            )
        return None

    def messages_of(self, question: dict[str, Any], row: int) -> list[dict[str, str]]:
        """Return the messages of a question, with `<image>` where the model gets one."""
        return replace_images(question["messages"]) if self.image_input == "nothing" else [*question["messages"]]

    def images_of(self, row: int) -> list[Any]:
        """Return the undecoded images of a row."""
        if self.image_input != "shuffled":
            return self.rows[row]["images"]
        return [self.rows[other]["images"][place] for other, place in self.others[row]]

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
        decoder: Configuration of the language model, which says which masks packed questions need.
    """

    def __init__(self, processor: Any, decoder: Any = None) -> None:
        self.decoder, self.unknown = decoder, unknown_token(processor.tokenizer)
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
            batch["attention_mask"] = decoder_masks(segments, batch["position_ids"], self.decoder)
        images = [
            image for item in items for image in item.images[: item.tokens.count(self.token) // self.image_seq_length]
        ]
        if images:
            batch["pixel_values"] = self.prepare([open_stored(image) for image in images], return_tensors="pt")[
                "pixel_values"
            ]
        return batch


def other_images(keys: Sequence[Sequence[str]]) -> list[list[tuple[int, int]]]:
    """Return for each row other images, as row and place: none that is equal to one of its own.

    Different images stand in a circle, in a random order of a fixed seed: where rows are sorted by their answers, or
    these come in turns, a neighbour tells the answer or never does. Each is exchanged for the next one that the row
    does not have.

    Raises:
        ValueError: if a row has all images.
    """
    places: dict[str, tuple[int, int]] = {}
    for row, found in enumerate(keys):
        for place, key in enumerate(found):
            places.setdefault(key, (row, place))
    circle = np.random.default_rng(0).permutation([*places]).tolist()
    number = {key: place for place, key in enumerate(circle)}

    def other(key: str, own: set[str]) -> str | None:
        further = (circle[(number[key] + step) % len(circle)] for step in range(1, len(circle)))
        return next((image for image in further if image not in own), None)

    others = []
    for row, found in enumerate(keys):
        chosen = [other(key, {*found}) for key in found]
        if None in chosen:
            raise ValueError(
                f"Shuffling needs images that a row does not have, row {row + 1} has all of them. Add some."
            )
        others.append([places[key] for key in chosen if key is not None])
    return others


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


def _first_turn(messages: Sequence[dict[str, str]]) -> int | None:
    """Return the place of the first turn, question and answer, that has no image and is not the last."""
    for place, turn in enumerate(messages[:-2]):
        following = messages[place + 1]
        if turn["role"] == "user" and following["role"] == "assistant" and IMAGE not in turn["content"]:
            return place
    return None


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
    "other_images",
    "pack_questions",
    "replace_images",
]
