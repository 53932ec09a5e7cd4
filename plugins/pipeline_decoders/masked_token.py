"""Predict the tokens that were hidden: the head of masked-token pretraining."""

from collections.abc import Mapping
from typing import ClassVar, Self, final

import attrs
import torch
from jaxtyping import Int64
from torch import Tensor, nn
from typing_extensions import override

from pipeline import Embed
from pipeline.extend import (
    IGNORED,
    BatchMetadata,
    CompositionError,
    MaybeCausal,
    ModuleStage,
    OptionError,
    Packed,
    PackingOrder,
    ShapeError,
    Spec,
    States,
    StepScores,
    check_int,
    check_optional_int,
    compute_gelu,
)


@final
class MaskedToken(ModuleStage[States[MaybeCausal], StepScores[int]]):
    """Score every token at the steps that `MaskTokens` chose, and at no other: this costs little.

    Shape: states with hidden vectors of `input_size` to step scores of `tokens` classes, whose rows are the chosen
    steps. Predictions are the token ids at these steps, in order. Metrics are perplexity and accuracy over them.

    Args:
        tokens: the number of tokens, or the embedding whose weights to share (tied weights).
        inner_size: compute a linear layer to this number of features, GELU and layer normalization before the scores;
            None scores the states themselves. With tied weights, it is the size of the embedding.
        input_size: the number of features of a step's vector; by default that of the stage before.
        name: the stage's name in its chain.

    Raises:
        OptionError: if there are no tokens, or a size differs from that of a tied embedding.

    Source: Devlin et al. 2019, arXiv:1810.04805, section 3.1, with the layers of their published code; Press and Wolf
    2017, arXiv:1608.05859 (tied weights).

    Example:
        >>> states = States.from_padded(torch.ones(1, 3, 4), torch.tensor([3]))
        >>> MaskedToken(Embed(9, 4))(states).values.shape  # without MaskTokens before it, all steps
        torch.Size([3, 9])
    """

    default_metrics: ClassVar[list[str]] = ["perplexity", "accuracy"]
    exportable = False

    def __init__(
        self,
        tokens: int | Embed,
        *,
        inner_size: int | None = None,
        input_size: int | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        weight = tokens.weight if isinstance(tokens, Embed) else None
        advice = "pass the size of the vocabulary, or the Embed whose weights to share"
        number = tokens if weight is None else len(weight)
        self.tokens: int = check_int("tokens", number, minimum=1, advice=advice)
        inner_size = check_optional_int("inner_size", inner_size, minimum=1)
        input_size = check_optional_int("input_size", input_size, minimum=1)
        size = None if weight is None else weight.shape[1]
        if size is not None and inner_size is None and input_size is None:
            input_size = size
        scored = input_size if inner_size is None else inner_size
        if size not in {None, scored}:
            name_of_size = "input_size" if inner_size is None else "inner_size"
            msg = (
                f"{name_of_size} must be {size}, the size of the tied embedding, got {scored}; pass inner_size={size}, "
                "which brings the states to that size."
            )
            raise OptionError(msg, size=size)
        self.inner_size = inner_size
        self.input_size = input_size
        self.dense: nn.Linear | None = None
        self.norm: nn.LayerNorm | None = None if inner_size is None else nn.LayerNorm(inner_size)
        self.linear: nn.Linear | None = None if scored is None else nn.Linear(scored, self.tokens)
        if self.linear is not None and weight is not None:
            self.linear.weight = weight
        if input_size is not None:
            self._make_weights(input_size)

    def get_config(self) -> Mapping[str, object]:
        """Return the arguments with which this stage can be made again."""
        # Tied weights need no option: whatever shares a tensor when it is saved shares it when it is loaded.
        return {name: getattr(self, name) for name in ("tokens", "inner_size", "input_size", "name")}

    @property
    def is_lazy(self) -> bool:
        """True if a layer is not made yet, because the input size is not known."""
        return self.input_size is None

    @override
    def build(self, spec: Spec, /) -> Spec:
        if self.input_size is None:
            spec.reject_unsized("MaskedToken")
        if self.input_size is None and spec.size is not None:
            self._make_weights(spec.size)
        if spec.size not in {None, self.input_size}:
            msg = (
                f"the input has size {spec.size} along the axis 'hidden', but MaskedToken has "
                f"input_size={self.input_size}; leave input_size out, or, with tied weights, pass inner_size."
            )
            raise CompositionError(msg, axis="hidden", size=spec.size, input_size=self.input_size)
        return Spec()

    def _make_weights(self, size: int) -> None:
        self.input_size = size
        if self.inner_size is not None:
            self.dense = nn.Linear(size, self.inner_size)
        elif self.linear is None:
            self.linear = nn.Linear(size, self.tokens)

    def explain_not_exportable(self) -> str:
        """Return why it is not part of an exported model."""
        return "scores are for the steps that MaskTokens chose; export a pipe with the trained encoder and another head"

    @override
    def forward(self, value: States[MaybeCausal]) -> StepScores[int]:
        """Return the scores at the chosen steps.

        Raises:
            CompositionError: if the input size is not known yet.
            ShapeError: if the states have another size than the input size.
        """
        if self.linear is None or self.input_size is None:
            msg = "MaskedToken does not know its input size yet; join it after the stage whose vectors it scores."
            raise CompositionError(msg)
        size = value.steps.values.shape[-1]
        if size != self.input_size:
            msg = f"MaskedToken has input_size={self.input_size}, got vectors of {size} features; make the two equal."
            raise ShapeError(msg, size=size, input_size=self.input_size)
        chosen = _Chosen.of(value)
        vectors = value.steps.values.flatten(0, -2).index_select(0, chosen.positions)
        if self.dense is not None and self.norm is not None:
            vectors = self.norm(compute_gelu(self.dense(vectors)))
        scores: Tensor = self.linear(vectors)
        return StepScores(
            scores,
            chosen.lengths,
            range(self.tokens),
            metadata=chosen.metadata,
            order=chosen.order,
            step_numbers=chosen.step_numbers,
        )


@final
@attrs.frozen(eq=False)
class _Chosen:
    """The steps that need a prediction, as rows of their own.

    Attributes:
        positions: the index of each in the values of the states, in packed order.
        lengths: their number in each row.
        order: their packing order.
        step_numbers: the number of each in its row.
        metadata: their targets.
    """

    positions: Int64[Tensor, " chosen"]
    lengths: Int64[Tensor, " batch"]
    order: PackingOrder
    step_numbers: Int64[Tensor, "batch time"]
    metadata: BatchMetadata

    @classmethod
    def of(cls, value: States[MaybeCausal]) -> Self:
        """Find the steps that the answer mask names; all of them if there is no mask."""
        metadata, width = value.metadata, value.width
        mask = torch.arange(width, device="cpu") < value.lengths.unsqueeze(1)
        if metadata.answer_mask is not None:
            mask = mask & metadata.answer_mask
        lengths = mask.sum(1)
        # All on the CPU, where lengths and masks are. Real steps come first in the rows of the result.
        rows, times = mask.nonzero().unbind(1)
        places = (mask.cumsum(1) - 1)[rows, times]
        longest = int(lengths.max())
        numbers = torch.zeros(len(mask), longest, dtype=torch.int64, device="cpu")
        numbers[rows, places] = times
        device = value.steps.values.device
        order = PackingOrder(lengths, device)
        packed_rows, packed_places = PackingOrder(lengths).locate_steps()
        flat = packed_rows * width + numbers[packed_rows, packed_places]
        if isinstance(value.steps, Packed):
            index = torch.zeros(len(mask) * width, dtype=torch.int64, device="cpu")
            own = PackingOrder(value.lengths)
            index[own.flat_indices(width)] = torch.arange(own.steps, device="cpu")
            flat = index[flat]
        targets = metadata.targets
        if targets is not None and targets.ndim == 2 and not targets.is_floating_point():
            known = numbers.to(device, non_blocking=True)
            missing = (torch.arange(longest, device="cpu") >= lengths.unsqueeze(1)).to(device, non_blocking=True)
            targets = targets.gather(1, known).masked_fill(missing, IGNORED) if width else targets
        made = attrs.evolve(metadata, targets=targets, answer_mask=torch.ones_like(numbers, dtype=torch.bool))
        return cls(flat.to(device, non_blocking=True), lengths, order, numbers, made)
