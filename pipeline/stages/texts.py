"""Target texts: what a model with a decoder learns to generate."""

from collections.abc import Sequence
from typing import ClassVar, Final, cast, final

import numpy as np
from jaxtyping import Int64
from torch import Tensor
from typing_extensions import override

from pipeline.data.metadata import IGNORED
from pipeline.data.tensors import pad_flat
from pipeline.errors import OptionError, TargetError
from pipeline.labels import is_missing
from pipeline.stages.tokenize import Tokenize
from pipeline.targets import TargetType


@final
class Texts(TargetType):
    """Texts to generate: the targets of a decoder, `Pad(targets=Texts(tokenize))`.

    Each target becomes its tokens and eos. Sources and targets may have different tokenizers, or share one.

    Args:
        tokenize: the tokenizer of the targets, with bos and eos; the decoder gets the same one.

    Raises:
        OptionError: if it adds no bos or no eos, without which a decoder knows neither the first token nor the end.

    Example:
        >>> tokenize = Tokenize.train(["ja nein"], bos=True, eos=True)
        >>> Texts(tokenize).convert(["nein ja", None, "ja"], [0, 1, 2]).tolist()
        [[5, 4, 3], [-100, -100, -100], [4, 3, -100]]
    """

    is_sequence: ClassVar[bool] = True

    def __init__(self, tokenize: Tokenize) -> None:
        check_ends(tokenize)
        self.tokenize: Final = tokenize

    @override
    def convert(self, targets: Sequence[object], row_ids: Sequence[int]) -> Int64[Tensor, "batch steps"]:
        """Return the ids of each target with eos, and `IGNORED` in the padding and for rows without a target.

        Raises:
            TargetError: if a target is no text.
        """
        texts: list[str] = []
        numbers: list[int] = []
        for target, row in zip(targets, row_ids, strict=True):
            if is_missing(target):
                continue
            if not isinstance(target, str):
                msg = f"the target of row {row} must be a text, got {target!r:.60}; pass Example(source, target=text)."
                raise TargetError(msg, row=row)
            texts.append(target)
            numbers.append(row)
        room = None if self.tokenize.max_length is None else self.tokenize.max_length - self.tokenize.count_added()
        found = iter(self.tokenize.tokenize(texts, numbers) if texts else ())
        end = self.tokenize.last_ids
        rows = [() if is_missing(target) else (*next(found).ids[:room], *end) for target in targets]
        counts = list(map(len, rows))
        flat = np.array([each for row in rows for each in row], np.int64)
        return pad_flat(flat, counts, max(counts), IGNORED)

    @override
    def __repr__(self) -> str:
        return f"Texts({self.tokenize!r})"


def check_ends(tokenize: Tokenize) -> None:
    """Reject a tokenizer of targets that does not add one token before and one after each text.

    Raises:
        OptionError: with what it adds.
    """
    if not isinstance(cast("object", tokenize), Tokenize):
        msg = f"the tokenizer of targets must be a Tokenize stage, got {tokenize!r:.60}; pass Tokenize.train(...)."
        raise OptionError(msg)
    if len(tokenize.first_ids) != 1 or len(tokenize.last_ids) != 1:
        msg = (
            "the tokenizer of targets must add bos and eos, from which a decoder starts and at which it stops, got "
            f"{len(tokenize.first_ids)} and {len(tokenize.last_ids)} tokens; pass Tokenize(..., bos=True, eos=True)."
        )
        raise OptionError(msg)
