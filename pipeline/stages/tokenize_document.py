"""The input stage for documents: texts whose steps are their sentences."""

import re
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Final, Literal, TypeAlias, cast, final

import attrs
from typing_extensions import override

from pipeline.checks.options import check_choice, check_optional_int
from pipeline.data.kinds import Ids, Nested, concat_sequences
from pipeline.data.predictions import Span
from pipeline.data.rows import Example, Row
from pipeline.data.tensors import to_ints, to_tensor
from pipeline.errors import OptionError, ShapeError
from pipeline.stages.input_stage import InputStage
from pipeline.stages.text_checks import make_text_error
from pipeline.stages.tokenize import Tokenize

Split: TypeAlias = Literal["sentences", "lines", "paragraphs"]
"""How a text becomes sentences."""

Splitter: TypeAlias = Callable[[str], Sequence[str]]
"""A function from a text to its sentences: parts of the text, in their order."""

_PATTERNS: Final[dict[str, re.Pattern[str]]] = {
    # A sentence ends in one of . ! ? or an ellipsis, which closing quotes and brackets may follow, before a space; in
    # Chinese and Japanese at its mark. A blank line ends one too.
    "sentences": re.compile("(?<=[.!?\u2026])[\"'\u00bb\u201d\u2019)\\]]*\\s+|(?<=[\u3002\uff01\uff1f])|\\n\\s*\\n"),
    "lines": re.compile(r"\n"),
    "paragraphs": re.compile(r"\n\s*\n"),
}


@final
class TokenizeDocument(InputStage[str, Nested[Ids]]):
    """Turn texts into rows whose steps are their sentences, each a sequence of tokens.

    For documents that are lists of sentences already, or of rows of words, use `FromNested`. Parts of the text without
    any token, such as blank lines, are left out; a text without sentences is an empty row.

    Args:
        tokenize: the input stage of a sentence. Its `max_length` limits each sentence.
        split: "sentences" (at the marks that end one, or a blank line), "lines", "paragraphs" (at blank lines), or a
            function that returns the sentences of a text, such as one of a library for a language. A function cannot be
            saved with the pipe.
        max_sentences: truncate documents to this number of sentences; None does not truncate.

    Raises:
        OptionError: if `split` is none of these, or `max_sentences` is below 1.

    Example:
        >>> document = TokenizeDocument(Tokenize.train(["it is so", "is it"], lowercase=True))
        >>> row = document("Is it so? It is.")
        >>> len(row), row.sequence.counts.tolist(), document.locate_tokens("Is it so? It is.")[1][:2]
        (2, [4, 3], [(10, 12), (13, 15)])
    """

    def __init__(
        self, tokenize: Tokenize, *, split: Split | Splitter = "sentences", max_sentences: int | None = None
    ) -> None:
        if not callable(split):
            check_choice("split", split, tuple(_PATTERNS))
        check_optional_int("max_sentences", max_sentences, minimum=1, advice="None does not truncate")
        self.tokenize: Final = tokenize
        self.split: Final[Split | Splitter] = split
        self.max_sentences: Final = max_sentences

    @override
    def make_rows(self, examples: Sequence[Example[str]], row_ids: Sequence[int]) -> list[Row[Nested[Ids]]]:
        """Return the rows of some examples.

        Raises:
            TextError: if an input is not text, or holds a lone surrogate.
            ShapeError: if a function returns sentences that are not parts of the text, in their order.
        """
        for example, row in zip(examples, row_ids, strict=True):
            given = cast("object", example.input)
            if not isinstance(given, str):
                raise make_text_error(given, row, "be text", "use FromNested for documents that are lists of sentences")
        spans = [self._split(example.input, row) for example, row in zip(examples, row_ids, strict=True)]
        texts, numbers = list[str](), list[int]()
        for example, row, found in zip(examples, row_ids, spans, strict=True):
            texts += [example.input[start:end] for start, end in found]
            numbers += [row] * len(found)
        # The sentences of all documents together, which takes less time than one by one.
        sentences = [row.sequence for row in self.tokenize.make_rows(list(map(Example, texts)), numbers)]
        ends = [0, *accumulate(map(len, spans))]
        return [
            Row(self._join(sentences[first:last]), example.target, row)
            for example, row, first, last in zip(examples, row_ids, ends[:-1], ends[1:], strict=True)
        ]

    @override
    def locate_steps(self, value: str, row: Row[Nested[Ids]]) -> Sequence[Span]:
        """Return the start and the end of each sentence in the text."""
        kept = [span for span, tokens in self._read(value, row.row_id) if len(tokens)]
        return kept[row.start_step : row.start_step + len(row)]

    def locate_tokens(self, value: str) -> list[list[Span]]:
        """Return the start and the end of each token of each sentence, in the text.

        Raises:
            OptionError: if `tokenize` keeps no offsets.
        """
        if not self.tokenize.offsets:
            raise OptionError("the places of tokens are not known; make the Tokenize stage with offsets=True.")
        found: list[list[Span]] = []
        for (first, _), tokens in self._read(value, 0):
            if len(tokens) and tokens.offsets is not None:
                flat = [first + place for place in to_ints(tokens.offsets.reshape(-1))]
                found.append(list(zip(flat[::2], flat[1::2], strict=True)))
        return found[: self.max_sentences]

    def _read(self, text: str, row: int) -> list[tuple[Span, Ids]]:
        spans = self._split(text, row)
        rows = self.tokenize.make_rows([Example(text[start:end]) for start, end in spans], [row] * len(spans))
        return [(span, each.sequence) for span, each in zip(spans, rows, strict=True)]

    def _split(self, text: str, row: int) -> list[Span]:
        """Return the start and the end of each sentence, without the space around it."""
        if callable(self.split):
            found = _find_parts(text, self.split(text), row)
        else:
            cuts = [match.span() for match in _PATTERNS[self.split].finditer(text)]
            # Closing quotes and brackets belong to the sentence before.
            ends = [start + len(text[start:end].rstrip()) for start, end in cuts]
            found = list(zip([0, *(end for _, end in cuts)], [*ends, len(text)], strict=True))
        stripped = [_strip(text, start, end) for start, end in found]
        return [(start, end) for start, end in stripped if start < end]

    def _join(self, sentences: Sequence[Ids]) -> Nested[Ids]:
        kept = [sentence for sentence in sentences if len(sentence)][: self.max_sentences]
        inner = concat_sequences(kept) if kept else self.tokenize("").sequence.cut(slice(0))
        # Offsets count from the beginning of each sentence, so that those of equal sentences are equal.
        return Nested(attrs.evolve(inner, offsets=None), to_tensor(list(map(len, kept))))


def _find_parts(text: str, parts: Sequence[str], row: int) -> list[Span]:
    spans: list[Span] = []
    place = 0
    for number, part in enumerate(parts):
        start = text.find(part, place)
        if start < 0:
            msg = (
                f"sentence {number} of row {row} must be a part of the text after the sentences before it, got "
                f"{part[:40]!r}; return the sentences as they are in the text, or use FromNested."
            )
            raise ShapeError(msg, row=row)
        place = start + len(part)
        spans.append((start, place))
    return spans


def _strip(text: str, start: int, end: int) -> Span:
    part = text[start:end]
    return start + len(part) - len(part.lstrip()), start + len(part.rstrip())
