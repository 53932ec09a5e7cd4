"""Text to numbered tokens."""

from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import ClassVar, final

from typing_extensions import override

from pipeline.builtin.tokenizers import HuggingFace
from pipeline.data.rows import refuse_text
from pipeline.labels import Target, is_step_target
from pipeline.parts.tokenizer import Tokens
from pipeline.registry import registry
from pipeline.stages.tokenizing import Tokenizing, check_count, refuse, text_of


@final
class Tokenize(Tokenizing[str]):
    """Text in, numbered tokens out, with each token's place in the text.

    Special tokens that stand in the text are text. Targets, where they are one a step, must be one
    a token; bos and eos get none.

    Args:
        tokenizer: what cuts the text; see `train` and `read`.
        bos: begin each row with the token for that.
        eos: end each row with the token for that.
        max_length: cut rows to so many tokens, bos and eos included and kept; None keeps them whole.
        offsets: keep each token's start and end in the text, in characters.

    Raises:
        OptionError: if the tokenizer has no bos or eos that is asked for, or `max_length` leaves no room for them.

    Example:
        >>> tokenize = Tokenize.train(["To be, or not to be"], lowercase=True, eos=True)
        >>> row = tokenize("Be not")
        >>> row.sequence.values.tolist(), row.sequence.offsets.tolist()
        ([4, 7, 3], [[0, 2], [3, 6], [6, 6]])
        >>> tokenize.decode(row.sequence.values)
        'be not'
    """

    by_words: ClassVar[bool] = False

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        kind: str = "words",
        *,
        bos: bool = False,
        eos: bool = False,
        max_length: int | None = None,
        offsets: bool = True,
        **options: object,
    ) -> "Tokenize":
        """A tokenizer learned from text.

        Args:
            texts: what to learn from.
            kind: a registered name: `words`, `characters`, `bytes`, `bpe`, or what plugins offer.
            bos: as in `Tokenize`.
            eos: as in `Tokenize`.
            max_length: as in `Tokenize`.
            offsets: as in `Tokenize`.
            options: what the named tokenizer takes: `vocab_size`, `min_frequency`, `lowercase`, `normalization`.

        Raises:
            UnknownNameError: if no plugin offers the kind.
            UnknownOptionError: if it does not take an option.
            TextError: if `texts` is one text, or holds something that is none.
        """
        refuse_text(texts)
        checked = (text_of(text, place) for place, text in enumerate(texts))
        tokenizer = registry().tokenizers.make(kind, texts=checked, **options)
        return cls(tokenizer, bos=bos, eos=eos, max_length=max_length, offsets=offsets)

    @classmethod
    def read(
        cls,
        file: str | PathLike[str],
        *,
        pad: str | None,
        unknown: str | None,
        bos_token: str | None = None,
        eos_token: str | None = None,
        max_length: int | None = None,
        offsets: bool = True,
    ) -> "Tokenize":
        """A tokenizer from a `tokenizer.json`, its special tokens said explicitly.

        Args:
            file: the path.
            pad: which token of the file is its padding; None for none.
            unknown: which token stands for what it does not know; None for none.
            bos_token: what each row begins with; None for nothing.
            eos_token: what each row ends with; None for nothing.
            max_length: as in `Tokenize`.
            offsets: as in `Tokenize`.

        Raises:
            OptionError: if the file is no tokenizer, or lacks one of the tokens.
        """
        tokenizer = HuggingFace.read(Path(file), pad=pad, unknown=unknown, bos=bos_token, eos=eos_token)
        return cls(
            tokenizer,
            bos=bos_token is not None,
            eos=eos_token is not None,
            max_length=max_length,
            offsets=offsets,
        )

    @override
    def check(self, value: object, place: int) -> None:
        if not isinstance(value, str):
            refuse(value, place, "be text", "decode bytes, and split words go to TokenizeWords")

    @override
    def encode(self, inputs: list[str]) -> list[Tokens]:
        return self.answered(self.tokenizer.encode(inputs, offsets=self.offsets), len(inputs))

    @override
    def aligned(
        self, tokens: Tokens, target: Target, place: int
    ) -> tuple[Sequence[int | str | None] | None, list[bool] | None]:
        if target is None or not isinstance(target, Sequence) or not is_step_target(target):
            return None, None
        check_count(len(target), len(tokens.ids), "tokens", place)
        return target, None
