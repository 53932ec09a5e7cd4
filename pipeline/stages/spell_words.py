"""Words with their characters: their class of rows, and the input stage for them."""

from collections.abc import Iterable, Sequence
from typing import Final, final

import attrs
from typing_extensions import override

from pipeline.data.kinds import Ids, Nested
from pipeline.data.predictions import Span
from pipeline.data.rows import Example, Row
from pipeline.stages.fields import Fields
from pipeline.stages.from_columns import FromNested
from pipeline.stages.input_stage import InputStage
from pipeline.stages.tokenize import Tokenize
from pipeline.stages.tokenize_words import TokenizeWords


@final
@attrs.frozen(eq=False)
class SpelledWord(Fields):
    """A word per step: its id, and the ids of its characters.

    For other names, or more fields, such as the ending of a word, derive a class from `Fields`.
    """

    word: Ids
    characters: Nested[Ids]


@final
class SpellWords(InputStage[Sequence[str], SpelledWord]):
    """Turn rows of words into rows of their ids and characters, for taggers; targets and predictions are one per word.

    Args:
        words: the input stage of the words, with one id per word.
        characters: the input stage of the characters of a word.

    Example:
        >>> spell = SpellWords.train([["To", "be", "or", "not", "to", "be"]], min_frequency=1)
        >>> row = spell(["Be", "to", "me"])
        >>> row.sequence.word.values.tolist(), row.sequence.characters.counts.tolist()
        ([4, 5, 1], [2, 2, 2])
    """

    def __init__(self, words: TokenizeWords, characters: Tokenize) -> None:
        self.words: Final = words
        self.characters: Final = characters
        self._nested: Final = FromNested(characters)

    @classmethod
    def train(
        cls,
        inputs: Iterable[Sequence[str]],
        *,
        vocab_size: int = 30_000,
        min_frequency: int = 2,
        lowercase: bool = True,
    ) -> "SpellWords":
        """Collect the words and the characters of rows of words, and make the stage for them.

        Args:
            inputs: rows of words.
            vocab_size: the largest number of words.
            min_frequency: how often a word, and a character, occurs at least; a rarer one is unknown. With 1, no word
                of the training data is unknown, and the model learns nothing about unknown words.
            lowercase: whether words are looked up in lower case. Characters keep their case.

        Raises:
            TextError: if `inputs` is a single text, or contains something that is not a row of words.
        """
        rows = list(inputs)
        words = TokenizeWords.train(rows, vocab_size=vocab_size, min_frequency=min_frequency, lowercase=lowercase)
        letters = (word for row in rows for word in row)
        return cls(words, Tokenize.train(letters, "characters", min_frequency=min_frequency, offsets=False))

    @property
    def vocab_size(self) -> int:
        """The number of ids of words: `num_embeddings` of `Embed`."""
        return self.words.vocab_size

    @property
    def num_characters(self) -> int:
        """The number of ids of characters: `num_embeddings` of an embedder of characters."""
        return self.characters.vocab_size

    @override
    def make_rows(self, examples: Sequence[Example[Sequence[str]]], row_ids: Sequence[int]) -> list[Row[SpelledWord]]:
        """Return the rows of some examples.

        Raises:
            TextError: if an input is not a row of words.
            TargetError: if there are targets per step, but not one per word.
            ShapeError: if a word has several ids.
        """
        words = self.words.make_rows(examples, row_ids)
        letters = self._nested.make_rows([Example(example.input) for example in examples], row_ids)
        return [
            Row(SpelledWord(word.sequence, characters.sequence), word.target, word.row_id, word.answer_mask)
            for word, characters in zip(words, letters, strict=True)
        ]

    @override
    def locate_steps(self, value: Sequence[str], row: Row[SpelledWord]) -> Sequence[Span] | None:
        """Return the place of each word in the words joined by spaces."""
        words = Row(row.sequence.word, row_id=row.row_id, answer_mask=row.answer_mask, start_step=row.start_step)
        return self.words.locate_steps(value, words)
