"""Rows with several fields, with inner rows and with sides, for tests."""

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from pipeline import Fields, Ids, Nested, Row, Sides, Vectors


@attrs.frozen(eq=False)
class Event(Fields):
    """An id and two numbers per step."""

    code: Ids
    amount: Vectors


@attrs.frozen(eq=False)
class Word(Fields):
    """A word's id and its characters."""

    word: Ids
    characters: Nested[Ids]


@attrs.frozen(eq=False)
class Pair(Sides):
    """Two sequences of ids."""

    premise: Ids
    hypothesis: Ids


def make_ids(ids: Sequence[int]) -> Ids:
    """Return a sequence of ids."""
    return Ids(torch.tensor(ids, dtype=torch.int64))


def make_nested(words: Sequence[str]) -> Nested[Ids]:
    """Return words of the letters a to z as inner rows of ids."""
    ids = [ord(letter) - ord("a") for word in words for letter in word]
    return Nested(make_ids(ids), torch.tensor([len(word) for word in words], dtype=torch.int64))


def make_event(codes: Sequence[int], row_id: int = 0) -> Row[Event]:
    """Return a row of events whose amounts follow from their codes."""
    amounts = [[code / 2, -float(code)] for code in codes]
    values: Tensor = torch.tensor(amounts, dtype=torch.float64).reshape(len(codes), 2)
    return Row(Event(make_ids(codes), Vectors(values)), row_id=row_id)


def make_words(words: Sequence[str], row_id: int = 0) -> Row[Word]:
    """Return a row of words, where a word's id is its length."""
    return Row(Word(make_ids([len(word) for word in words]), make_nested(words)), row_id=row_id)
