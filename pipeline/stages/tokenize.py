"""The input stage for texts."""

from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from typing import ClassVar, cast, final

from typing_extensions import override

from pipeline.builtin.tokenizers import Side
from pipeline.data.kinds import Ids
from pipeline.data.predictions import Span
from pipeline.data.rows import Row
from pipeline.errors import TargetError
from pipeline.labels import Target, is_step_target, to_steps
from pipeline.parts.tokenizer import Tokenizer, Tokens
from pipeline.stages.input_stage import locate_in_row
from pipeline.stages.text_checks import check_target_count, check_text, make_text_error
from pipeline.stages.text_input_stage import TextInputStage


@final
class Tokenize(TextInputStage[str]):
    """Turn texts into rows of token ids, with each token's offsets in the text.

    Special tokens that occur in a text are treated as text. A target is one class per text, a set of classes, a number,
    or a list of floats. For one target per token, use `with_token_targets`; bos and eos then have none.

    Args:
        tokenizer: splits the text; see `train`, `read` and `from_vocabulary`.
        bos: begin each row with the tokenizer's bos token.
        eos: end each row with the tokenizer's eos token.
        post_process: put the special tokens around each row that the tokenizer's file states, as `read` does.
        max_length: truncate rows to this number of tokens, special tokens included and kept; None does not truncate.
        truncation_side: the side at which tokens are left out, "right" or "left".
        offsets: keep each token's start and end in the text, in characters.
        has_token_targets: whether a list as target has one entry per token; see `with_token_targets`.

    Raises:
        OptionError: if the tokenizer has no bos or eos token to add, or `max_length` leaves no room for them.

    Example:
        >>> tokenize = Tokenize.train(["To be, or not to be"], lowercase=True, eos=True)
        >>> row = tokenize("Be not")
        >>> row.sequence.values.tolist(), row.sequence.offsets.tolist()
        ([4, 7, 3], [[0, 2], [3, 6], [6, 6]])
        >>> tokenize.decode(row.sequence.values)
        'be not'
    """

    by_words: ClassVar[bool] = False
    default_kind: ClassVar[str] = "words"

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        bos: bool = False,
        eos: bool = False,
        post_process: bool = False,
        max_length: int | None = None,
        truncation_side: Side = "right",
        offsets: bool = True,
        has_token_targets: bool = False,
    ) -> None:
        super().__init__(
            tokenizer,
            bos=bos,
            eos=eos,
            post_process=post_process,
            max_length=max_length,
            truncation_side=truncation_side,
            offsets=offsets,
        )
        self.has_token_targets = has_token_targets

    def with_token_targets(self) -> "Tokenize":
        """Return the same stage for examples whose targets are lists with one entry per token.

        Without it a list is an error: it could be meant otherwise, and have the length of the row by coincidence.

        Example:
            >>> from pipeline import Example
            >>> tokenize = Tokenize.train(["a b"]).with_token_targets()
            >>> tokenize(Example("a b", target=[1, None])).target
            [1, None]
        """
        copied = copy(self)
        copied.has_token_targets = True
        return copied

    @classmethod
    @override
    def _iterate_texts(cls, inputs: Iterable[str]) -> Iterator[str]:
        return (check_text(text, row) for row, text in enumerate(inputs))

    @override
    def _check_input(self, value: object, row: int) -> None:
        if not isinstance(value, str):
            fix = (
                "decode bytes, use TokenizeWords for words, or pass a text and its target as Example(text, target=...)"
            )
            raise make_text_error(value, row, "be text", fix)

    @override
    def _encode(self, inputs: list[str]) -> list[Tokens]:
        return self.tokenizer.encode(inputs, offsets=self.offsets)

    @override
    def _encode_ids(self, inputs: list[str]) -> list[list[int]]:
        return self.tokenizer.encode_ids(inputs)

    @override
    def locate_steps(self, value: str, row: Row[Ids]) -> Sequence[Span] | None:
        return None if row.sequence.offsets is None else locate_in_row(row)

    @override
    def _align_targets(
        self, tokens: Tokens, target: Target, row: int
    ) -> tuple[Sequence[int | str | None] | None, list[bool] | None]:
        if target is None or not is_step_target(target):
            return None, None
        if not self.has_token_targets:
            msg = (
                f"the target of row {row} must be one class, got a list of {len(target)}; write numbers as floats, "
                "[1.0, 2.0], and several classes of the text as a set, {'a', 'b'}; for one target per token, use "
                "tokenize.with_token_targets(), and for one per word TokenizeWords."
            )
            raise TargetError(msg, row=row)
        check_target_count(len(target), len(tokens.ids), "tokens", row)
        return cast("Sequence[int | str | None]", to_steps(target)), None
