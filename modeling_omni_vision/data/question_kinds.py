"""Which kinds of questions a dataset asks, so that a model trained on it can say what it was not taught.

A kind is a template, `what colour is the {0}`, with words that stand in each other's place. Words are of one slot
where they come up in largely the same questions. Only a dataset with few kinds and many questions of each has them.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any

from ..processing_omni_vision_language import is_learned, question_words


MOST_TEMPLATES = 200
# Questions of each template at least, on average: fewer are not a closed set but people's own words.
FEWEST_QUESTIONS = 10
# Words are of one slot if they share this fraction of the questions in which either comes up.
ALIKE = 0.4
# Held-out questions that may fit no template: of an open set more do.
MOST_REFUSED = 0.01
EXAMPLES = 8


def learn_questions(texts: Iterable[str], held_out: Iterable[str] = ()) -> dict[str, Any] | None:
    """Return the `learned_questions` of an [`OmniVisionProcessor`], or None where questions have no few kinds.

    Args:
        texts: The questions of a training split, each as often as it is asked.
        held_out: Those of a validation split, which have to be of the same kinds.
    """
    asked = Counter(tuple(question_words(text)) for text in texts)
    slot_of: dict[str, str] = {}
    while True:
        # Slots found so far stand for their words: questions that differ in these alone become the same.
        found = _slots({_template(words, slot_of) for words in asked})
        if not found:
            break
        names = {name: word for word, name in slot_of.items()}
        slot_of |= {word: found[slot] for word, slot in slot_of.items() if slot in found}
        slot_of |= {word: slot for word, slot in found.items() if word not in names}
    kinds: defaultdict[tuple[str, ...], Counter[tuple[str, ...]]] = defaultdict(Counter)
    for words, times in asked.items():
        kinds[_template(words, slot_of)][words] += times
    if not kinds or len(kinds) > min(MOST_TEMPLATES, asked.total() / FEWEST_QUESTIONS):
        return None
    learned = _numbered(sorted(kinds.values(), key=Counter.total, reverse=True))
    fits = [is_learned(question_words(text), learned) for text in held_out]
    return learned if fits.count(False) <= MOST_REFUSED * len(fits) else None


def _template(words: Sequence[str], slot_of: dict[str, str]) -> tuple[str, ...]:
    return tuple(slot_of.get(word, word) for word in words)


def _slots(questions: set[tuple[str, ...]]) -> dict[str, str]:
    """Return the name of the slot of each word that belongs to one with others."""
    contexts: defaultdict[str, set[tuple[str, ...]]] = defaultdict(set)
    for words in questions:
        for place, word in enumerate(words):
            contexts[word].add((*words[:place], "", *words[place + 1 :]))
    group: dict[str, str] = {}
    for first, second in combinations(sorted(contexts), 2):
        both = len(contexts[first] & contexts[second])
        if both and both >= ALIKE * len(contexts[first] | contexts[second]):
            name, old = group.get(first, f"{{{first}}}"), group.get(second)
            group |= {word: name for word, slot in group.items() if slot == old} | {first: name, second: name}
    return group


def _numbered(kinds: Sequence[Counter[tuple[str, ...]]]) -> dict[str, Any]:
    """Write questions of each kind as a template; a slot has only words that came up at its place."""
    slots: dict[tuple[str, ...], str] = {}
    templates, examples = [], []
    for questions in kinds:
        places = [tuple(sorted(set(words))) for words in zip(*questions, strict=True)]
        for choices in places:
            if len(choices) > 1:
                slots.setdefault(choices, f"{{{len(slots)}}}")
        templates.append(" ".join(slots.get(choices, choices[0]) for choices in places))
        examples.append(" ".join(max(questions, key=lambda words: len(set(words)))).capitalize() + "?")
    return {"templates": templates, "slots": [[*choices] for choices in slots], "examples": examples[:EXAMPLES]}


__all__ = ["learn_questions"]
