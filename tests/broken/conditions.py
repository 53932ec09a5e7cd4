"""Parts that are wrong in some circumstances only: without gradients, in training, in long rows, in low precision, ..."""

import random
from typing import ClassVar, Final

import attrs
import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from typing_extensions import override

from broken.attentions import Closest
from broken.encoders import Leaky, decay
from broken.trial import Trial, trial
from pipeline import Batch, MaybeCausal, Padded, Pooling, States, Vectors
from pipeline.parts.attention import masked_softmax
from pipeline.testing import ATTENTION_LAWS, ENCODER_LAWS, POOL_LAWS
from support.untyped import seed


class LooksAheadWithoutGradients(Leaky):
    """Adds each step's successor, but only under no_grad."""

    @override
    def run(self, update: Tensor, start: Tensor) -> Tensor:
        hidden = super().run(update, start)
        return hidden if torch.is_grad_enabled() else hidden + hidden.roll(-1, 1) / 8


class ForgetsInInference(Leaky):
    """Ignores the initial carry, but only in inference mode."""

    @override
    def start(self, batch: Batch[Vectors]) -> Tensor:
        return super().start(batch) * (not torch.is_inference_mode_enabled())


class WithDropout(Leaky):
    """Correct: applies torch's dropout to its updates."""

    @override
    def run(self, update: Tensor, start: Tensor) -> Tensor:
        return super().run(nn.functional.dropout(update, 0.5, self.training), start)


class Frozen(Leaky):
    """Correct: does not train one of its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.linear.weight.requires_grad_(False)


class WithOwnDropout(Leaky):
    """Correct: draws and scales its own mask."""

    scale: ClassVar[float] = 2.0

    @override
    def run(self, update: Tensor, start: Tensor) -> Tensor:
        kept = self.draw(update) * self.scale if self.training else 1
        return super().run(update * kept, start)

    def draw(self, update: Tensor) -> Tensor:
        """Return the mask of the numbers to keep."""
        return torch.rand_like(update) > 0.5


class Unscaled(WithOwnDropout):
    """Does not scale what dropout keeps."""

    scale = 1.0


class OneMaskForAllRows(WithOwnDropout):
    """Draws one mask for all rows."""

    @override
    def draw(self, update: Tensor) -> Tensor:
        return torch.rand_like(update[:1]) > 0.5


class LooksAheadInTraining(WithDropout):
    """Adds each step's successor in training, where dropout hides it."""

    @override
    def rows(self, batch: Padded[Vectors]) -> Padded[Vectors]:
        rows = super().rows(batch)
        return attrs.evolve(rows, values=rows.values + rows.values.roll(-1, 1)) if self.training else rows


class ReadsPaddingInTraining(WithDropout):
    """Smooths over the padding in training."""

    @override
    def rows(self, batch: Padded[Vectors]) -> Padded[Vectors]:
        rows = super().rows(batch)
        return attrs.evolve(rows, values=rows.values + batch.values.roll(1, 1)) if self.training else rows


class BatchStatisticsInTraining(WithDropout):
    """Subtracts the mean of the batch in training, where dropout hides it."""

    @override
    def rows(self, batch: Padded[Vectors]) -> Padded[Vectors]:
        rows = super().rows(batch)
        return attrs.evolve(rows, values=rows.values - rows.values.mean(0, keepdim=True)) if self.training else rows


class StepStatisticsInTraining(WithDropout):
    """Normalizes each step by itself, but in training only, where dropout hides it."""

    @override
    def rows(self, batch: Padded[Vectors]) -> Padded[Vectors]:
        rows = super().rows(batch)
        return attrs.evolve(rows, values=nn.functional.layer_norm(rows.values, [3])) if self.training else rows


class AttendsAcrossRowsInTraining(WithDropout):
    """Lets each step attend to the same step of all rows, in training."""

    @override
    def rows(self, batch: Padded[Vectors]) -> Padded[Vectors]:
        rows = super().rows(batch)
        steps = rows.values.transpose(0, 1)
        mixed = ((steps @ steps.mT).softmax(-1) @ steps).transpose(0, 1)
        return attrs.evolve(rows, values=rows.values + mixed / 8) if self.training else rows


class LeaksTargets(Leaky):
    """Adds the targets of rows."""

    @override
    def states(self, rows: Padded[Vectors], hidden: Tensor, final: Tensor) -> States[MaybeCausal]:
        targets = rows.metadata.targets
        if targets is not None and targets.ndim == 1:
            hidden = hidden + targets.to(hidden).reshape(-1, 1, 1)
        return super().states(rows, hidden, final)


class WrongWithoutPadding(Leaky):
    """Reverses several rows of one length, as a shortcut for batches without padding might."""

    @override
    def rows(self, batch: Padded[Vectors]) -> Padded[Vectors]:
        rows = super().rows(batch)
        lengths = {int(length) for length in batch.lengths}
        return attrs.evolve(rows, values=rows.values.flip(0)) if len(lengths) == 1 and batch.width > 3 else rows


class LosesAnEmptyLastRow(Leaky):
    """Finds row ends by offsets, which wraps around for a last row that is empty."""

    @override
    def states(self, rows: Padded[Vectors], hidden: Tensor, final: Tensor) -> States[MaybeCausal]:
        if len(rows.lengths) > 1 and rows.width and not rows.lengths.is_meta and int(rows.lengths[-1]) == 0:
            hidden = torch.cat([hidden[:-2], hidden[-1:], hidden[-1:]])
        return super().states(rows, hidden, final)


class InBlocksOfEight(Leaky):
    """Handles eight rows at a time, and the last block wrongly."""

    @override
    def run(self, update: Tensor, start: Tensor) -> Tensor:
        return torch.cat([super().run(update, start)[:8], update[8:]])


class ClampsPositions(Leaky):
    """Adds learned positions, the last of which is used for all later steps."""

    causal = True
    stateful = False

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Embedding(512, 4)

    @override
    def run(self, update: Tensor, start: Tensor) -> Tensor:
        time = torch.arange(update.shape[1], device=update.device).clamp(max=511)
        added: Tensor = self.positions(time)
        return update + added


class RaisesBeyondItsTable(ClampsPositions):
    """Has no position for step 512."""

    @override
    def run(self, update: Tensor, start: Tensor) -> Tensor:
        added: Tensor = self.positions(torch.arange(update.shape[1], device=update.device))
        return update + added


class TruncatesGradients(Leaky):
    """Detaches its state at every 50th step."""

    @override
    def run(self, update: Tensor, start: Tensor) -> Tensor:
        parts: list[Tensor] = []
        for block in torch.split(update, 50, 1):
            parts.append(decay(block, start))
            start = parts[-1][:, -1].detach() if block.shape[1] else start
        return torch.cat(parts, 1)


class NaiveSoftmax(Leaky):
    """Divides exponentials, which overflow."""

    @override
    def rows(self, batch: Padded[Vectors]) -> Padded[Vectors]:
        rows = super().rows(batch)
        powers = rows.values.exp()
        return attrs.evolve(rows, values=powers / powers.sum(-1, keepdim=True))


class ClampsInput(Leaky):
    """Cuts values off at 100."""

    @override
    def rows(self, batch: Padded[Vectors]) -> Padded[Vectors]:
        rows = super().rows(batch)
        return attrs.evolve(rows, values=rows.values.clamp(-100, 100))


class CannotBeCopiedAfterACall(Leaky):
    """Stores a number of its last call that has a graph."""

    @override
    def run(self, update: Tensor, start: Tensor) -> Tensor:
        self.penalty = update.square().sum() * 2
        return super().run(update, start)


class KeepsItsBatch(Leaky):
    """Stores its last batch."""

    last: Padded[Vectors] | None = None

    @override
    def rows(self, batch: Padded[Vectors]) -> Padded[Vectors]:
        self.last = batch
        return super().rows(batch)


class KeepsItsResult(Leaky):
    """Stores its last hidden vectors, detached."""

    last: Tensor | None = None

    @override
    def run(self, update: Tensor, start: Tensor) -> Tensor:
        hidden = super().run(update, start)
        self.last = hidden.detach()
        return hidden


class KeepsAHistory(Leaky):
    """Appends a statistic of each call to a list."""

    def __init__(self) -> None:
        super().__init__()
        self.history: list[Tensor] = []

    @override
    def run(self, update: Tensor, start: Tensor) -> Tensor:
        self.history.append(update.detach().mean())
        return super().run(update, start)


class GrowsItsBuffer(Leaky):
    """Stores a table as long as the longest row that it has seen."""

    table: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.zeros(5))

    @override
    def run(self, update: Tensor, start: Tensor) -> Tensor:
        if update.shape[1] > len(self.table):
            self.table = update.new_zeros(update.shape[1])
        return super().run(update, start)


class HasAnUnusedWeight(Leaky):
    """Has a layer that it never calls."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(3, 4)


class SkipsEmptyBatches(Leaky):
    """Returns zeros for a batch without steps, without calling its layer."""

    @override
    def forward(self, batch: Batch[Vectors]) -> States[MaybeCausal]:
        if batch.width:
            return super().forward(batch)
        rows, start = batch.padded(), self.start(batch)
        return self.states(rows, rows.values.new_zeros(len(start), 0, 4), start)


class SeedsWhenCreated(Leaky):
    """Seeds torch in `__init__`."""

    def __init__(self) -> None:
        seed(3)
        super().__init__()


class SeedsInTraining(WithDropout):
    """Seeds Python's generator at each call in training."""

    @override
    def run(self, update: Tensor, start: Tensor) -> Tensor:
        if self.training:
            random.seed(3)
        return super().run(update, start)


class DrawsInEvaluation(Leaky):
    """Draws from NumPy's generator in evaluation, without any use of it."""

    @override
    def run(self, update: Tensor, start: Tensor) -> Tensor:
        np.random.random()  # noqa: NPY002 - the mistake
        return super().run(update, start)


class ChangesTheDefaultDtype(Leaky):
    """Sets the default dtype."""

    def __init__(self) -> None:
        super().__init__()
        torch.set_default_dtype(torch.float64)


class LeavesGradientsOff(Leaky):
    """Switches gradients off, and not on again."""

    @override
    def states(self, rows: Padded[Vectors], hidden: Tensor, final: Tensor) -> States[MaybeCausal]:
        found = super().states(rows, hidden, final)
        torch.set_grad_enabled(False)
        return found


class SetsThreads(Leaky):
    """Sets the number of threads."""

    @override
    def run(self, update: Tensor, start: Tensor) -> Tensor:
        torch.set_num_threads(torch.get_num_threads() % 2 + 1)
        return super().run(update, start)


class InfiniteInHalf(Leaky):
    """Adds and subtracts 1e5, which is infinite in float16."""

    @override
    def run(self, update: Tensor, start: Tensor) -> Tensor:
        return super().run((update + 1e5 - 1e5) if update.dtype is torch.float16 else update, start)


class WideUnderLowPrecision(Leaky):
    """Returns float32 for bfloat16."""

    @override
    def states(self, rows: Padded[Vectors], hidden: Tensor, final: Tensor) -> States[MaybeCausal]:
        wide = hidden.dtype is torch.bfloat16
        return super().states(rows, hidden.float() if wide else hidden, final.float() if wide else final)


class RejectsAutocast(Leaky):
    """Writes results into a tensor of the weights' dtype, which autocast does not use."""

    @override
    def run(self, update: Tensor, start: Tensor) -> Tensor:
        if update.dtype is not self.linear.weight.dtype:
            raise TypeError("dtypes differ")
        return super().run(update, start)


class Sized(Leaky):
    """A correct encoder of any size."""

    def __init__(self, hidden_size: int = 4) -> None:
        super().__init__()
        self.output_size = hidden_size
        self.linear = nn.Linear(3, hidden_size)

    @override
    def start(self, batch: Batch[Vectors]) -> Tensor:
        if batch.initial_carry is not None:
            return batch.initial_carry[0][0]
        return batch.values.new_zeros(len(batch.lengths), self.output_size)


class WrongForOddSizes(Sized):
    """Reverses rows in the last feature of an odd number."""

    @override
    def run(self, update: Tensor, start: Tensor) -> Tensor:
        return super().run(update.flip(1) if self.output_size % 2 else update, start)


class WrongForSize64(Sized):
    """Mixes rows in its kernel for size 64."""

    @override
    def run(self, update: Tensor, start: Tensor) -> Tensor:
        return super().run(update - update.mean(0) if self.output_size == 64 else update, start)


class NeedsContiguousInput(Leaky):
    """Reads memory as if it were contiguous."""

    @override
    def rows(self, batch: Padded[Vectors]) -> Padded[Vectors]:
        values = batch.values
        if not values.is_contiguous() and values.stride(1) > values.stride(0):
            values = values.as_strided(values.shape, torch.empty(values.shape, device="meta").stride())
        return super().rows(attrs.evolve(batch, values=values))


class DetachesItsCarry(Leaky):
    """Returns a carry without gradients."""

    @override
    def states(self, rows: Padded[Vectors], hidden: Tensor, final: Tensor) -> States[MaybeCausal]:
        return States(rows.with_values(hidden), final, carry=(final.detach().unsqueeze(0),))


class MixesItsCarry(Leaky):
    """Returns a carry that is smoothed over the rows; not causal, so that halves of rows are not compared."""

    causal = False

    @override
    def states(self, rows: Padded[Vectors], hidden: Tensor, final: Tensor) -> States[MaybeCausal]:
        real = (rows.order.lengths_on_device > 0).unsqueeze(1)
        mixed = torch.where(real, final + final.mean(0) / 8, final)
        return States(rows.with_values(hidden), final, carry=(mixed.unsqueeze(0),))


class FillsWithMinusTen(Pooling):
    """Takes the maximum over padding that is filled with -10."""

    @override
    def forward(self, states: States[MaybeCausal]) -> Float[Tensor, "batch hidden"]:
        rows = states.padded().fill_padding(-10).values
        if not rows.shape[1]:
            return states.final * 0
        return rows.amax(1).masked_fill((states.order.lengths_on_device == 0).unsqueeze(1), 0)


class DividesByAtMostTen(Pooling):
    """Divides sums by lengths of at most ten."""

    @override
    def forward(self, states: States[MaybeCausal]) -> Float[Tensor, "batch hidden"]:
        count = states.order.lengths_on_device.clamp(1, 10).unsqueeze(1)
        return states.padded().fill_padding(0).values.sum(1) / count


class CutsRows(Pooling):
    """Takes the maximum of the first 512 steps."""

    @override
    def forward(self, states: States[MaybeCausal]) -> Float[Tensor, "batch hidden"]:
        empty = (states.order.lengths_on_device == 0).unsqueeze(1)
        rows = states.padded().fill_padding(float("-inf")).values[:, :512]
        return rows.amax(1).masked_fill(empty, 0) if rows.shape[1] else states.final * 0


class ClampsScores(Closest):
    """Cuts scores off at 50."""

    @override
    def score(
        self, query: Float[Tensor, "batch query hidden"], key: Float[Tensor, "batch key hidden"]
    ) -> Float[Tensor, "batch query key"]:
        return super().score(query, key).clamp(-50, 50)


class NaiveExponentials(Closest):
    """Divides exponentials, which overflow."""

    @override
    def weights(
        self,
        query: Float[Tensor, "batch query hidden"],
        key: Float[Tensor, "batch key hidden"],
        mask: Bool[Tensor, "#batch #query key"],
    ) -> Float[Tensor, "batch query key"]:
        powers = self.score(query, key).masked_fill(~mask, float("-inf")).exp()
        return powers / powers.sum(-1, keepdim=True).clamp(min=1e-300 if powers.dtype is torch.float64 else 1e-30)


class MixesRowsInTraining(Closest):
    """Adds the mean score of all rows in training."""

    @override
    def weights(
        self,
        query: Float[Tensor, "batch query hidden"],
        key: Float[Tensor, "batch key hidden"],
        mask: Bool[Tensor, "#batch #query key"],
    ) -> Float[Tensor, "batch query key"]:
        scores = nn.functional.dropout(self.score(query, key), 0.5, self.training)
        return masked_softmax(scores - (scores.mean(0) if self.training else 0), mask)


TRIALS: Final[tuple[Trial, ...]] = (
    trial(
        LooksAheadWithoutGradients,
        ENCODER_LAWS,
        """gradient_mode_has_no_effect gradients_of_long_rows_are_correct many_and_long_rows_are_independent""",
        "laws about long rows call without gradients, to save memory",
    ),
    trial(ForgetsInInference, ENCODER_LAWS, "gradient_mode_has_no_effect"),
    trial(Unscaled, ENCODER_LAWS, "dropout_is_scaled_and_independent"),
    trial(OneMaskForAllRows, ENCODER_LAWS, "dropout_is_scaled_and_independent"),
    trial(
        LooksAheadInTraining,
        ENCODER_LAWS,
        "training_obeys_laws_of_rows training_without_randomness_equals_evaluation",
        "it differs from evaluation too",
    ),
    trial(
        ReadsPaddingInTraining,
        ENCODER_LAWS,
        "training_obeys_laws_of_rows training_without_randomness_equals_evaluation",
        "it differs from evaluation too",
    ),
    trial(
        BatchStatisticsInTraining,
        ENCODER_LAWS,
        "training_obeys_laws_of_rows training_without_randomness_equals_evaluation",
        "it differs from evaluation too",
    ),
    trial(StepStatisticsInTraining, ENCODER_LAWS, "training_without_randomness_equals_evaluation"),
    trial(
        AttendsAcrossRowsInTraining,
        ENCODER_LAWS,
        "training_obeys_laws_of_rows training_without_randomness_equals_evaluation",
        "it differs from evaluation too",
    ),
    trial(LeaksTargets, ENCODER_LAWS, "metadata_has_no_effect"),
    trial(
        WrongWithoutPadding,
        ENCODER_LAWS,
        """batchmates_have_no_effect row_order_has_no_effect amount_of_padding_has_no_effect
        carry_continues_the_sequence many_and_long_rows_are_independent""",
        "it shows wherever there is other padding, or another row",
    ),
    trial(LosesAnEmptyLastRow, ENCODER_LAWS, "empty_rows_have_no_effect"),
    trial(
        InBlocksOfEight,
        ENCODER_LAWS,
        "batchmates_have_no_effect many_and_long_rows_are_independent row_order_has_no_effect",
        "several laws have more than eight rows",
    ),
    trial(ClampsPositions, ENCODER_LAWS, "long_rows_are_read_like_short_ones"),
    trial(
        RaisesBeyondItsTable,
        ENCODER_LAWS,
        """gradients_of_long_rows_are_correct long_rows_are_read_like_short_ones many_and_long_rows_are_independent""",
        "it raises for every long row",
    ),
    trial(TruncatesGradients, ENCODER_LAWS, "gradients_of_long_rows_are_correct"),
    trial(NaiveSoftmax, ENCODER_LAWS, "large_values_are_stable"),
    trial(ClampsInput, ENCODER_LAWS, "large_values_are_stable"),
    trial(
        CannotBeCopiedAfterACall,
        ENCODER_LAWS,
        "deep_copy_is_equal low_precision_agrees",
        "the law about precision copies the part too",
    ),
    trial(
        KeepsItsBatch,
        ENCODER_LAWS,
        "calls_leave_nothing_behind low_precision_agrees",
        "the law about precision copies the part, and a batch with a graph cannot be copied",
    ),
    trial(KeepsItsResult, ENCODER_LAWS, "calls_leave_nothing_behind"),
    trial(KeepsAHistory, ENCODER_LAWS, "calls_leave_nothing_behind"),
    trial(GrowsItsBuffer, ENCODER_LAWS, "calls_leave_nothing_behind"),
    trial(HasAnUnusedWeight, ENCODER_LAWS, "every_weight_is_used"),
    trial(SkipsEmptyBatches, ENCODER_LAWS, "every_weight_is_used"),
    trial(SeedsWhenCreated, ENCODER_LAWS, "global_state_is_preserved"),
    trial(SeedsInTraining, ENCODER_LAWS, "global_state_is_preserved"),
    trial(DrawsInEvaluation, ENCODER_LAWS, "global_state_is_preserved"),
    trial(
        ChangesTheDefaultDtype,
        ENCODER_LAWS,
        "global_state_is_preserved same_seed_makes_equal_parts",
        "the second part is drawn in another dtype",
    ),
    trial(
        LeavesGradientsOff,
        ENCODER_LAWS,
        """global_state_is_preserved every_weight_is_used gradients_are_correct gradients_of_long_rows_are_correct rows_start_from_initial_carry""",
        "nothing after the first call has gradients",
    ),
    trial(SetsThreads, ENCODER_LAWS, "global_state_is_preserved"),
    trial(InfiniteInHalf, ENCODER_LAWS, "low_precision_agrees"),
    trial(WideUnderLowPrecision, ENCODER_LAWS, "low_precision_agrees"),
    trial(RejectsAutocast, ENCODER_LAWS, "low_precision_agrees"),
    trial(WrongForOddSizes, ENCODER_LAWS, "other_sizes_obey"),
    trial(WrongForSize64, ENCODER_LAWS, "other_sizes_obey"),
    trial(NeedsContiguousInput, ENCODER_LAWS, "memory_layout_has_no_effect"),
    trial(
        DetachesItsCarry,
        ENCODER_LAWS,
        """gradients_are_correct gradients_of_long_rows_are_correct rows_start_from_initial_carry""",
        "the carry is one of the results whose gradients are compared",
    ),
    trial(
        MixesItsCarry,
        ENCODER_LAWS,
        """batchmates_have_no_effect many_and_long_rows_are_independent rows_start_from_initial_carry""",
        "a row alone has nothing to mix with",
    ),
    trial(FillsWithMinusTen, POOL_LAWS, "large_values_are_stable"),
    trial(DividesByAtMostTen, POOL_LAWS, "long_rows_are_read_like_short_ones"),
    trial(CutsRows, POOL_LAWS, "long_rows_are_read_like_short_ones"),
    trial(ClampsScores, ATTENTION_LAWS, "large_values_are_stable"),
    trial(NaiveExponentials, ATTENTION_LAWS, "large_values_are_stable"),
    trial(
        MixesRowsInTraining,
        ATTENTION_LAWS,
        "training_obeys_laws_of_rows training_without_randomness_equals_evaluation",
        "it differs from evaluation too",
    ),
)
"""All of them, with the laws that each breaks."""
