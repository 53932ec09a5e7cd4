"""The input stage for rows of words."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import ClassVar, cast, final

from typing_extensions import override

from pipeline.data.kinds import Ids
from pipeline.data.predictions import Span
from pipeline.data.rows import Row
from pipeline.errors import TextError
from pipeline.labels import Target, is_step_target, to_steps
from pipeline.parts.tokenizer import Tokens
from pipeline.stages.input_stage import locate_in_row
from pipeline.stages.text_checks import check_target_count, check_text, make_text_error
from pipeline.stages.text_input_stage import TextInputStage


@final
class TokenizeWords(TextInputStage[Sequence[str]]):
    """Turn rows of words into rows of token ids, for taggers: targets and predictions are one per word.

    If a word has several tokens, its first token has the word's target and prediction. A word without tokens gets the
    unknown token. The options are those of `Tokenize`.

    Raises:
        OptionError: as `Tokenize`.

    Example:
        >>> tokenize = TokenizeWords.train([["New", "York", "is", "big"]])
        >>> from pipeline import Example
        >>> row = tokenize(Example(["York", "sleeps"], target=["PROPN", "VERB"]))
        >>> row.sequence.values.tolist(), list(row.target)
        ([5, 1], ['PROPN', 'VERB'])
    """

    by_words: ClassVar[bool] = True
    default_kind: ClassVar[str] = "whole"

    @classmethod
    @override
    def _iterate_texts(cls, inputs: Iterable[Sequence[str]]) -> Iterator[str]:
        for row, words in enumerate(inputs):
            _check_words(words, row)
            yield from (check_text(word, row) for word in words)

    @override
    def _check_input(self, value: object, row: int) -> None:
        _check_words(value, row)
        for word in cast("Sequence[object]", value):
            if not isinstance(word, str):
                raise make_text_error(word, row, "hold words", "use FromIds for ids")

    @override
    def _encode(self, inputs: list[Sequence[str]]) -> list[Tokens]:
        found = self.tokenizer.encode_words(inputs, offsets=self.offsets)
        return [
            self._add_missing_words(tokens, len(words))
            # Not strict: `tokenize` reports a wrong number of results.
            for tokens, words in zip(found, inputs, strict=False)
        ] + found[len(inputs) :]

    @override
    def _align_targets(
        self, tokens: Tokens, target: Target, row: int
    ) -> tuple[Sequence[int | str | None] | None, list[bool] | None]:
        is_first = [index == 0 or word != tokens.words[index - 1] for index, word in enumerate(tokens.words)]
        mask = None if all(is_first) else is_first
        if not is_step_target(target):
            return None, mask
        check_target_count(len(target), sum(is_first), "words", row)
        steps = cast("Sequence[int | str | None]", to_steps(target))
        return [steps[word] if first else None for word, first in zip(tokens.words, is_first, strict=True)], mask

    @override
    def locate_steps(self, value: Sequence[str], row: Row[Ids]) -> Sequence[Span] | None:
        """Return the place of each step in the words joined by spaces; a word's first token stands for the word."""
        words = join_spans(value)
        end = words[-1][1] if words else 0
        tokens = locate_in_row(row)
        spans: list[Span] = []
        word = -1
        for step, (first, last) in enumerate(tokens):
            if step < len(self.first_ids):
                spans.append((0, 0))
            elif step >= len(tokens) - len(self.last_ids):
                spans.append((end, end))
            elif row.answer_mask is None or row.answer_mask[step]:
                word += 1
                spans.append(words[word])
            elif row.sequence.offsets is None:
                spans.append(words[word])
            else:
                spans.append((words[word][0] + first, words[word][0] + last))
        return spans

    def _add_missing_words(self, tokens: Tokens, count: int) -> Tokens:
        """Give each word without tokens the unknown token, so that every word has a step."""
        missing = sorted(set(range(count)).difference(tokens.words))
        if not missing:
            return tokens
        if self.tokenizer.unk_token is None:
            msg = (
                f"word {missing[0]} has no tokens, and the tokenizer has no unk_token to stand for it; leave such "
                "words out, or read the tokenizer with unk_token=..."
            )
            raise TextError(msg, word=missing[0])
        unknown = self.tokenizer.vocabulary[self.tokenizer.unk_token]
        spans = tokens.offsets or [(0, 0)] * len(tokens.ids)
        found = [*zip(tokens.words, tokens.ids, spans, strict=True), *((word, unknown, (0, 0)) for word in missing)]
        found.sort(key=lambda token: token[0])
        words, ids, spans = zip(*found, strict=True)
        return Tokens(ids, spans if self.offsets else (), words)


def join_spans(texts: Iterable[str]) -> list[Span]:
    """Return the start and the end of each text in all of them, joined by spaces.

    Example:
        >>> join_spans(["New", "York"])
        [(0, 3), (4, 8)]
    """
    ends = [0, *accumulate(len(text) + 1 for text in texts)]
    return [(start, end - 1) for start, end in pairwise(ends)]


def _check_words(value: object, row: int) -> None:
    # To a type checker a text is a sequence of texts: its letters would be words.
    if isinstance(value, str | bytes | bytearray) or not isinstance(value, Sequence):
        raise make_text_error(value, row, "be a list of words", "use Tokenize for text that is not split yet")
