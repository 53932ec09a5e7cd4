"""Pairs of texts in one row each: their class of rows, and the input stage for them."""

from collections.abc import Sequence
from typing import Final, cast, final

import attrs
import torch
from typing_extensions import TypeVar, override

from pipeline.builtin.tokenizers import HuggingFaceTokenizer, Strategy
from pipeline.checks.hints import describe
from pipeline.checks.options import check_choice
from pipeline.data.kinds import Ids
from pipeline.data.rows import Example, Row
from pipeline.data.tensors import to_tensor
from pipeline.errors import OptionError, TextError
from pipeline.parts.template import Template
from pipeline.parts.tokenizer import Tokens
from pipeline.stages.fields import Fields
from pipeline.stages.input_stage import InputStage
from pipeline.stages.text_input_stage import TextInputStage

X = TypeVar("X")


@final
@attrs.frozen(eq=False)
class JoinedPair(Fields):
    """Two texts in one row: the tokens of both, and for each token the segment (type id) that it belongs to."""

    token: Ids
    segment: Ids


@final
class TokenizeJoined(InputStage[tuple[X, X], JoinedPair]):
    """Turn pairs of texts into one row each, for encoders that read both texts together: `[CLS] a [SEP] b [SEP]`.

    The ids are those of the `tokenizers` and `transformers` libraries for a pair, if the tokenizer is read from their
    file. `JoinedPair.token` selects the tokens for a model without segments. Offsets count from the beginning of the
    text that a token is from.

    Args:
        tokenize: the input stage of each text. Its special tokens are put around both: what the tokenizer's file states
            for a pair, or bos before the first text and eos after each. Its `max_length` and `truncation_side` are
            those of the row.
        truncation: which text is cut: "longest_first" (both to an equal length, unless one is shorter), "only_first" or
            "only_second"; by default what the tokenizer's file states, or else "longest_first".

    Raises:
        OptionError: if `max_length` leaves no room for the special tokens.

    Example:
        >>> from pipeline import Tokenize
        >>> tokenize = TokenizeJoined(Tokenize.train(["is it so", "it is"], bos=True, eos=True))
        >>> row = tokenize(("is it so", "it is"))
        >>> row.sequence.token.values.tolist(), row.sequence.segment.values.tolist()
        ([2, 4, 5, 6, 3, 5, 4, 3], [0, 0, 0, 0, 0, 1, 1, 1])
    """

    def __init__(self, tokenize: TextInputStage[X], *, truncation: Strategy | None = None) -> None:
        self.tokenize: Final = tokenize
        tokenizer = tokenize.tokenizer
        stated = tokenizer.truncation.strategy if isinstance(tokenizer, HuggingFaceTokenizer) else "longest_first"
        self.truncation: Final[Strategy] = stated if truncation is None else truncation
        check_choice("truncation", self.truncation, ("longest_first", "only_first", "only_second"))
        self._template: Final[Template] = tokenize.get_template(2)
        added, longest = self._template.count(), tokenize.max_length
        if longest is not None and longest < added:
            msg = f"max_length must be {added} or more, to leave room for the special tokens, got {longest}; raise it."
            raise OptionError(msg, max_length=longest)

    @override
    def make_rows(self, examples: Sequence[Example[tuple[X, X]]], row_ids: Sequence[int]) -> list[Row[JoinedPair]]:
        """Return the rows of some examples.

        Raises:
            TextError: if an input is not a pair of texts, or the text to be cut is too short.
        """
        for example, row in zip(examples, row_ids, strict=True):
            given = cast("object", example.input)
            if not isinstance(given, tuple | list) or len(cast("Sequence[object]", given)) != 2:
                got = describe(example.input)
                msg = f"row {row} must be a pair of texts, got {got}; pass pairs: [(first, second), ...]."
                raise TextError(msg, row=row)
        firsts, seconds = (
            self.tokenize.tokenize([example.input[side] for example in examples], row_ids) for side in (0, 1)
        )
        return [
            self._make_row(first, second, example, row)
            for first, second, example, row in zip(firsts, seconds, examples, row_ids, strict=True)
        ]

    @override
    def locate_steps(self, value: tuple[X, X], row: Row[JoinedPair]) -> None:
        """Return None: a token's place is one in the first or in the second text, not in both."""

    def _make_row(self, first: Tokens, second: Tokens, example: Example[tuple[X, X]], row: int) -> Row[JoinedPair]:
        texts = (first, second)
        windows = self._find_windows(len(first.ids), len(second.ids), row)
        ids, segments = self._template.fill([text.ids[window] for text, window in zip(texts, windows, strict=True)])
        before, between, after = (len(part.ids) for part in self._template.parts)
        kept = [window.stop - window.start for window in windows]
        mask = [*[False] * before, *[True] * kept[0], *[False] * between, *[True] * kept[1], *[False] * after]
        spans = None
        if self.tokenize.offsets:
            cut = [list(text.offsets[window]) for text, window in zip(texts, windows, strict=True)]
            empty = [(0, 0)]
            flat = [*empty * before, *cut[0], *empty * between, *cut[1], *empty * after]
            spans = torch.tensor(flat, dtype=torch.int64, device="cpu").view(-1, 2)
        pair = JoinedPair(Ids(to_tensor(ids), spans), Ids(to_tensor(segments)))
        return Row(pair, example.target, row, None if all(mask) else mask)

    def _find_windows(self, first: int, second: int, row: int) -> tuple[slice, slice]:
        """Return which tokens of each text are kept."""
        longest = self.tokenize.max_length
        counts = (first, second)
        if longest is not None and first + second > (room := longest - self._template.count()):
            counts = self._cut(first, second, room, row)
        one, other = (
            slice(0, count) if self.tokenize.truncation_side == "right" else slice(given - count, given)
            for given, count in zip((first, second), counts, strict=True)
        )
        return one, other

    def _cut(self, first: int, second: int, room: int, row: int) -> tuple[int, int]:
        if self.truncation == "longest_first":
            return _cut_longest(first, second, room)
        excess, is_first = first + second - room, self.truncation == "only_first"
        # As in the `tokenizers` library, a token of the text must remain.
        if excess >= (first if is_first else second):
            msg = (
                f"row {row} has {first} and {second} tokens, {excess} too many, so that nothing would remain of the "
                f"text that truncation={self.truncation!r} cuts; raise max_length, or use truncation='longest_first'."
            )
            raise TextError(msg, row=row)
        return (first - excess, second) if is_first else (first, second - excess)


def _cut_longest(first: int, second: int, room: int) -> tuple[int, int]:
    """Return the tokens that are kept of each text: the longer one is cut, until both have the same number.

    Example:
        >>> _cut_longest(9, 3, 8), _cut_longest(9, 7, 9), _cut_longest(7, 9, 9)
        ((5, 3), (5, 4), (4, 5))
    """
    shorter, longer = min(first, second), max(first, second)
    kept = shorter if shorter <= room - shorter else room // 2
    rest = min(longer, room - kept)
    return (rest, kept) if first > second else (kept, rest)
