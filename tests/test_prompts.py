"""Prompt lists: the two looks are what their recipe makes, and share nothing."""

import re
from collections import Counter

import pytest

from mergekit_diff.experiments.metrics.text import parse, words
from mergekit_diff.experiments.models.embedded import data
from mergekit_diff.experiments.models.embedded.looks import looks
from mergekit_diff.experiments.study.loading import PROMPTS, read_prompts

LOOKS = ("emoji-look-1", "emoji-look-2")
NAMES = {word: name for name, word in data.concepts(trained=True).items()}


def pairs(name):
    """(word, style) of every caption."""
    return [parse(caption, words()) for caption in read_prompts(name)]


def test_the_looks_are_what_the_recipe_makes():
    assert {name: (PROMPTS / f"{name}.txt").read_text().splitlines() for name in LOOKS} == looks()


def test_the_looks_share_no_concept_and_no_word_of_one():
    first, second = ({word for word, _ in pairs(name)} for name in LOOKS)
    assert not first & second
    assert not {part for word in first for part in word.split()} & {part for word in second for part in word.split()}
    assert first | second == set(NAMES)


@pytest.mark.parametrize("name", LOOKS)
def test_a_look_has_64_captions_that_training_has_seen_in_all_styles(name):
    listed = pairs(name)
    assert len(listed) == len(set(listed)) == 64
    assert not {(NAMES[word], style) for word, style in listed} & data.held_out()
    assert all(20 <= count <= 23 for count in Counter(style for _, style in listed).values())


@pytest.mark.parametrize("name", LOOKS)
def test_no_concept_is_drawn_both_flat_and_in_3d(name):
    styles = [style for word in NAMES for style in [{s for w, s in pairs(name) if w == word}] if style]
    assert all(len(style - {"noto"}) == 1 for style in styles)


@pytest.mark.parametrize("length", [12, 16, 24])
def test_short_lists_are_the_beginning_of_a_long_one(length):
    assert read_prompts(f"emoji-{length}") == read_prompts("emoji-64")[:length]


def test_captions_are_plain():
    assert all(re.fullmatch(r"a (noto|flat|3d) [a-z ]+", caption) for name in LOOKS for caption in read_prompts(name))
