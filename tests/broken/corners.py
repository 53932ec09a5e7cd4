"""Parts that are wrong in a corner: in one layout only, in training with dropout, among many rows, for long rows, ..."""

import random
from typing import Final

import attrs
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from typing_extensions import override

from broken.attentions import Closest
from broken.conditions import Sized, WithDropout, WithOwnDropout
from broken.encoders import Leaky
from broken.trial import Trial, trial
from pipeline import Batch, MaybeCausal, Packed, Padded, Pooling, States, Vectors
from pipeline.testing import ATTENTION_LAWS, ENCODER_LAWS, POOL_LAWS


class DetachesThePackedCarry(Leaky):
    """Returns a carry without gradients for packed batches."""

    @override
    def forward(self, batch: Batch[Vectors]) -> States[MaybeCausal]:
        states = super().forward(batch)
        return (
            States(states.steps, states.final, carry=(states.final.detach().unsqueeze(0),))
            if isinstance(batch, Packed)
            else states
        )


class LeaksTargetsOfPackedBatches(Leaky):
    """Adds the targets of rows to final states, for packed batches."""

    @override
    def forward(self, batch: Batch[Vectors]) -> States[MaybeCausal]:
        states, targets = super().forward(batch), batch.metadata.targets
        if targets is None or targets.ndim != 1 or isinstance(batch, Padded):
            return states
        return attrs.evolve(states, final=states.final + targets.to(states.final).unsqueeze(1))


class KeepsPackedBatches(Leaky):
    """Stores its last packed batch, without a graph."""

    last: Tensor | None = None

    @override
    def forward(self, batch: Batch[Vectors]) -> States[MaybeCausal]:
        if isinstance(batch, Packed):
            self.last = batch.values.detach()
        return super().forward(batch)


class CountsSixteenPackedRows(Leaky):
    """Doubles final states from row 16 on, for packed batches."""

    @override
    def forward(self, batch: Batch[Vectors]) -> States[MaybeCausal]:
        states = super().forward(batch)
        if not isinstance(batch, Packed):
            return states
        return attrs.evolve(states, final=torch.cat([states.final[:16], states.final[16:] * 2]))


class LosesPrecisionPacked(Leaky):
    """Doubles final states in bfloat16, for packed batches."""

    @override
    def forward(self, batch: Batch[Vectors]) -> States[MaybeCausal]:
        states = super().forward(batch)
        wrong = isinstance(batch, Packed) and batch.values.dtype is torch.bfloat16
        return attrs.evolve(states, final=states.final * 2) if wrong else states


class SeedsWithoutGradients(Leaky):
    """Seeds Python's generator under no_grad."""

    @override
    def run(self, update: Tensor, start: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            random.seed(3)
        return super().run(update, start)


class SwitchesOffOneDnn(Leaky):
    """Switches oneDNN off when it is created."""

    def __init__(self) -> None:
        super().__init__()
        setattr(torch.backends.mkldnn, "enabled", False)  # noqa: B010 - torch does not annotate it


class ForgetsItsCarryInTraining(Leaky):
    """Ignores the initial carry in training."""

    @override
    def start(self, batch: Batch[Vectors]) -> Tensor:
        return super().start(batch) * (not self.training)


class MixesItsCarryInTraining(WithDropout):
    """Returns a carry without its mean over the rows, in training."""

    @override
    def states(self, rows: Padded[Vectors], hidden: Tensor, final: Tensor) -> States[MaybeCausal]:
        carried = final - final.mean(0) if self.training else final
        return States(rows.with_values(hidden), final, carry=(carried.unsqueeze(0),))


class UnscaledALittle(WithOwnDropout):
    """Drops 3% without scale, which hardly changes the mean."""

    scale = 1.0

    @override
    def draw(self, update: Tensor) -> Tensor:
        return torch.rand_like(update) > 0.03


class SharesMasksInPairs(WithDropout):
    """Draws one mask for two rows."""

    @override
    def run(self, update: Tensor, start: Tensor) -> Tensor:
        half = nn.functional.dropout(torch.ones_like(update[: (len(update) + 1) // 2]), 0.5, self.training)
        return Leaky.run(self, update * half.repeat_interleave(2, 0)[: len(update)], start)


class ResetsEveryHundredSteps(Leaky):
    """Starts from zeros again at every 100th step."""

    @override
    def run(self, update: Tensor, start: Tensor) -> Tensor:
        blocks = torch.split(update, 100, 1)
        return torch.cat(
            [super(ResetsEveryHundredSteps, self).run(each, start * (not at)) for at, each in enumerate(blocks)], 1
        )


class DetachesManyRows(Leaky):
    """Detaches the rows from the ninth on."""

    @override
    def run(self, update: Tensor, start: Tensor) -> Tensor:
        return super().run(torch.cat([update[:8], update[8:].detach()]), start)


class WrongForEvenLongRows(Leaky):
    """Reverses the order of long rows of one length."""

    @override
    def rows(self, batch: Padded[Vectors]) -> Padded[Vectors]:
        rows = super().rows(batch)
        even = batch.width > 30 and not batch.lengths.is_meta and bool((batch.lengths == batch.width).all())
        return attrs.evolve(rows, values=rows.values.flip(0)) if even else rows


class InBlocksOfSixtyFour(Leaky):
    """Doubles the rows from the 65th on."""

    @override
    def run(self, update: Tensor, start: Tensor) -> Tensor:
        hidden = super().run(update, start)
        return torch.cat([hidden[:64], hidden[64:] * 2])


class StoresWhatItComputesFromWeights(Leaky):
    """Stores a number computed from its weights at the first call, so that it is old after loading."""

    stored: float | None = None

    @override
    def run(self, update: Tensor, start: Tensor) -> Tensor:
        if self.stored is None and not update.is_meta:
            self.stored = float(self.linear.bias.detach().sum())
        return super().run(update + (self.stored or 0), start)


class KeepsAHistoryOfNumbers(Leaky):
    """Appends a shape at each call to a list."""

    def __init__(self) -> None:
        super().__init__()
        self.history: list[torch.Size] = []

    @override
    def run(self, update: Tensor, start: Tensor) -> Tensor:
        self.history.append(update.shape)
        return super().run(update, start)


class KeepsLengths(Leaky):
    """Stores the lengths of its last batch."""

    last: Tensor | None = None

    @override
    def rows(self, batch: Padded[Vectors]) -> Padded[Vectors]:
        self.last = batch.lengths
        return super().rows(batch)


class DetachesAtSize64(Sized):
    """Detaches its input in its kernel for size 64."""

    @override
    def rows(self, batch: Padded[Vectors]) -> Padded[Vectors]:
        rows = super().rows(batch)
        return attrs.evolve(rows, values=rows.values.detach()) if self.output_size == 64 else rows


class NeedsAContiguousCarry(Leaky):
    """Reverses the rows of a carry that is not contiguous."""

    @override
    def start(self, batch: Batch[Vectors]) -> Tensor:
        start = super().start(batch)
        return start if start.is_contiguous() else start.flip(0)


class AddsOneByOne(Pooling):
    """Averages by adding steps one by one, which loses digits in bfloat16."""

    @override
    def forward(self, states: States[MaybeCausal]) -> Float[Tensor, "batch hidden"]:
        total = states.final * 0
        for step in states.padded().fill_padding(0).values.unbind(1):
            total = total + step
        return total / states.order.lengths_on_device.clamp(min=1).unsqueeze(1)


class SeesTheLastSteps(Pooling):
    """Takes the maximum of each row's last 500 steps."""

    @override
    def forward(self, states: States[MaybeCausal]) -> Float[Tensor, "batch hidden"]:
        rows, lengths = states.padded(), states.order.lengths_on_device.unsqueeze(1)
        if not rows.width:
            return states.final * 0
        seen = torch.arange(rows.width, device=lengths.device) >= lengths - 500
        values = rows.fill_padding(float("-inf")).values.masked_fill(~seen.unsqueeze(-1), float("-inf"))
        return values.amax(1).masked_fill(lengths == 0, 0)


class SeesTheWidthInTraining(Pooling):
    """Divides by the width in training, where dropout hides it."""

    @override
    def forward(self, states: States[MaybeCausal]) -> Float[Tensor, "batch hidden"]:
        total = nn.functional.dropout(states.padded().fill_padding(0).values, 0.5, self.training).sum(1)
        lengths = states.order.lengths_on_device.clamp(min=1).unsqueeze(1)
        return total / (max(1, states.width) if self.training else lengths)


class CopiesTheRowBefore(Pooling):
    """Gives an empty last row the sum of the row before it."""

    @override
    def forward(self, states: States[MaybeCausal]) -> Float[Tensor, "batch hidden"]:
        total = states.padded().fill_padding(0).values.sum(1)
        empty = len(total) > 1 and not total.is_meta and int(states.lengths[-1]) == 0
        return torch.cat([total[:-1], total[-2:-1]]) if empty else total


class SeesFewKeys(Closest):
    """Attends to the first 512 keys only."""

    @override
    def weights(
        self,
        query: Float[Tensor, "batch query hidden"],
        key: Float[Tensor, "batch key hidden"],
        mask: Bool[Tensor, "#batch #query key"],
    ) -> Float[Tensor, "batch query key"]:
        return super().weights(query, key, mask & (torch.arange(key.shape[1], device=key.device) < 512))


class ForgetsTheMaskInTraining(Closest):
    """Attends to the padding in training, where dropout hides it."""

    @override
    def weights(
        self,
        query: Float[Tensor, "batch query hidden"],
        key: Float[Tensor, "batch key hidden"],
        mask: Bool[Tensor, "#batch #query key"],
    ) -> Float[Tensor, "batch query key"]:
        weights = super().weights(query, key, torch.ones_like(mask) if self.training else mask)
        return nn.functional.dropout(weights, 0.5, self.training)


TRIALS: Final[tuple[Trial, ...]] = (
    trial(DetachesThePackedCarry, ENCODER_LAWS, "packed_and_padded_agree"),
    trial(LeaksTargetsOfPackedBatches, ENCODER_LAWS, "metadata_has_no_effect"),
    trial(KeepsPackedBatches, ENCODER_LAWS, "calls_leave_nothing_behind"),
    trial(CountsSixteenPackedRows, ENCODER_LAWS, "many_and_long_rows_are_independent"),
    trial(LosesPrecisionPacked, ENCODER_LAWS, "low_precision_agrees"),
    trial(SeedsWithoutGradients, ENCODER_LAWS, "global_state_is_preserved"),
    trial(SwitchesOffOneDnn, ENCODER_LAWS, "global_state_is_preserved"),
    trial(ForgetsItsCarryInTraining, ENCODER_LAWS, "training_without_randomness_equals_evaluation"),
    trial(MixesItsCarryInTraining, ENCODER_LAWS, "training_without_randomness_equals_evaluation"),
    trial(UnscaledALittle, ENCODER_LAWS, "dropout_is_scaled_and_independent"),
    trial(SharesMasksInPairs, ENCODER_LAWS, "dropout_is_scaled_and_independent"),
    trial(ResetsEveryHundredSteps, ENCODER_LAWS, "carry_continues_the_sequence"),
    trial(DetachesManyRows, ENCODER_LAWS, "gradients_of_long_rows_are_correct"),
    trial(WrongForEvenLongRows, ENCODER_LAWS, "many_and_long_rows_are_independent"),
    trial(InBlocksOfSixtyFour, ENCODER_LAWS, "many_and_long_rows_are_independent"),
    trial(StoresWhatItComputesFromWeights, ENCODER_LAWS, "state_dict_restores_results"),
    trial(KeepsAHistoryOfNumbers, ENCODER_LAWS, "calls_leave_nothing_behind"),
    trial(KeepsLengths, ENCODER_LAWS, "calls_leave_nothing_behind"),
    trial(DetachesAtSize64, ENCODER_LAWS, "other_sizes_obey"),
    trial(NeedsAContiguousCarry, ENCODER_LAWS, "memory_layout_has_no_effect"),
    trial(AddsOneByOne, POOL_LAWS, "low_precision_agrees"),
    trial(SeesTheLastSteps, POOL_LAWS, "long_rows_are_read_like_short_ones"),
    trial(
        SeesTheWidthInTraining,
        POOL_LAWS,
        "training_obeys_laws_of_rows training_without_randomness_equals_evaluation",
        "without dropout, training neither has the results of evaluation, nor the same ones for another width",
    ),
    trial(CopiesTheRowBefore, POOL_LAWS, "empty_rows_give_zeros"),
    trial(SeesFewKeys, ATTENTION_LAWS, "long_rows_are_read_like_short_ones"),
    trial(ForgetsTheMaskInTraining, ATTENTION_LAWS, "training_without_randomness_equals_evaluation"),
)
"""The broken parts of this file, with the laws that each breaks."""
