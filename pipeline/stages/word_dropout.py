"""Replace ids by the unknown one at random, in training."""

from typing import final

import torch
from typing_extensions import override

from pipeline.checks.options import check_int, check_probability
from pipeline.core.stage import ModuleStage, Spec
from pipeline.data.batches import Batch, Padded, derive_packed, derive_padded
from pipeline.data.kinds import Ids
from pipeline.errors import ShapeError


@final
class WordDropout(ModuleStage[Batch[Ids], Batch[Ids]]):
    """Replace each id by the unknown one with a probability, in training only; put it before `Embed`.

    Words that are unknown in use are rare or absent in training, so that the vector of the unknown token, and how the
    model reads a word by its neighbors or its characters, would hardly be trained.

    Args:
        p: the probability with which an id is replaced.
        unk_id: the id of the unknown token; 1 in tokenizers that were trained here. See `Tokenize.unk_id`.

    Raises:
        OptionError: if `p` is not in 0 <= p < 1, or `unk_id` is negative.

    Source: Iyyer et al. 2015, "Deep Unordered Composition Rivals Syntactic Methods for Text Classification", section
    3.2, where the words are left out; Kiperwasser and Goldberg 2016, "Simple and Accurate Dependency Parsing Using
    Bidirectional LSTM Feature Representations", arXiv:1603.04351, section 4, where rare words are replaced more often.
    Here all words are replaced with one probability.

    Example:
        >>> from pipeline import Packed
        >>> batch = Packed(Ids, torch.arange(4, 204), torch.tensor([200]))
        >>> dropout = WordDropout(0.5)
        >>> bool((dropout(batch).values == 1).any()), bool((dropout.eval()(batch).values == 1).any())
        (True, False)
    """

    stepwise = True  # in evaluation mode, in which `Chain.step` runs

    def __init__(self, p: float = 0.25, unk_id: int = 1) -> None:
        super().__init__()
        check_probability("p", p)
        self.p = p
        self.unk_id: int = check_int("unk_id", unk_id, minimum=0)

    @override
    def build(self, spec: Spec, /) -> Spec:
        return spec

    @override
    def forward(self, value: Batch[Ids]) -> Batch[Ids]:
        """Return the batch, in training with some ids replaced.

        Raises:
            ShapeError: if it does not hold ids.
        """
        if value.kind is not Ids:
            msg = f"the input of WordDropout must be Ids, got {value.kind.__name__}; put it before Embed."
            raise ShapeError(msg)
        if not self.training or self.p == 0:
            return value
        ids = value.values
        replaced = ids.masked_fill(torch.rand(ids.shape, device=ids.device) < self.p, self.unk_id)
        derive = derive_padded if isinstance(value, Padded) else derive_packed
        return derive(Ids, replaced, value, value.initial_carry)

    @override
    def extra_repr(self) -> str:
        return f"p={self.p}, unk_id={self.unk_id}"
