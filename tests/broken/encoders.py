"""Encoders with one mistake each."""

import random
from collections.abc import Callable
from typing import Final

import attrs
import torch
from torch import Tensor, nn
from typing_extensions import override

from broken.trial import Trial, trial
from pipeline import Batch, Encoder, Hidden, MaybeCausal, Padded, States, Vectors
from pipeline.testing import ENCODER_LAWS

_ALONE: Final = (
    "a result that depends on batchmates or the width also differs alone, for prefixes, or next to empty rows"
)
_EVERY: Final = "a part with different results at every call breaks every law that compares two calls"


class Leaky(Encoder[MaybeCausal]):
    """A correct encoder: h[t] = h[t-1] / 2 + tanh(W x[t] + b), on padded rows filled with zeros."""

    causal = True
    stateful = True
    layouts = ("padded",)

    def __init__(self) -> None:
        super().__init__()
        self.input_size, self.output_size = 3, 4
        self.linear = nn.Linear(3, 4)

    @override
    def forward(self, batch: Batch[Vectors]) -> States[MaybeCausal]:
        rows = self.rows(batch.padded())
        start = self.start(batch)
        hidden = self.run(self.linear(rows.values).tanh(), start)
        final = select_last(hidden, start, rows.lengths)
        return self.states(rows, hidden, final)

    def rows(self, batch: Padded[Vectors]) -> Padded[Vectors]:
        """Return the input rows."""
        return batch.fill_padding(0)

    def start(self, batch: Batch[Vectors]) -> Tensor:
        """Return each row's initial state."""
        return (
            batch.values.new_zeros(len(batch.lengths), 4) if batch.initial_carry is None else batch.initial_carry[0][0]
        )

    def run(self, update: Tensor, start: Tensor) -> Tensor:
        """Return the state of every step."""
        return decay(update, start)

    def states(self, rows: Padded[Vectors], hidden: Tensor, final: Tensor) -> States[MaybeCausal]:
        """Return the output."""
        return States(rows.with_values(hidden), final, carry=(final.unsqueeze(0),) if self.stateful else None)


def decay(update: Tensor, start: Tensor) -> Tensor:
    """Compute a decaying sum over time."""
    state = start
    steps: list[Tensor] = []
    for step in update.unbind(1):
        state = state / 2 + step
        steps.append(state)
    return torch.stack(steps, 1) if steps else update


def select_last(hidden: Tensor, start: Tensor, lengths: Tensor) -> Tensor:
    """Return each row's last real state, or its initial state if it is empty."""
    last = lengths.to(hidden.device).reshape(-1, 1, 1).expand(-1, 1, hidden.shape[2])
    return torch.cat([start.unsqueeze(1), hidden], 1).gather(1, last).squeeze(1)


class Bidirectional(Leaky):
    """A correct bidirectional encoder: the backward direction starts at each row's own last step."""

    causal = False
    bidirectional = True
    stateful = False

    @override
    def forward(self, batch: Batch[Vectors]) -> States[MaybeCausal]:
        rows = batch.padded().fill_padding(0)
        update = self.linear(rows.values).tanh()
        zeros = update.new_zeros(len(update), 4)
        back = self.reverse(decay(self.reverse(update, rows), zeros), rows)
        hidden = decay(update, zeros) + back
        return self.states(rows, hidden, self.select_final(hidden, zeros, rows, back))

    def reverse(self, values: Tensor, rows: Padded[Vectors]) -> Tensor:
        """Reverse each row within its own length; its padding stays in place."""
        time = torch.arange(rows.width, device=values.device)
        lengths = rows.order.lengths_on_device.unsqueeze(1)
        places = torch.where(time < lengths, lengths - 1 - time, time)
        return values.gather(1, places.unsqueeze(-1).expand_as(values))

    def select_final(self, hidden: Tensor, zeros: Tensor, rows: Padded[Vectors], back: Tensor) -> Tensor:
        """Return the forward state at the last real step plus the backward state at the first."""
        first = back[:, 0].masked_fill((rows.lengths == 0).to(back.device).unsqueeze(1), 0) if rows.width else zeros
        return select_last(hidden - back, zeros, rows.lengths) + first


class MultipliesByTheMask(Leaky):
    """Masks by multiplication: NaN times zero is NaN."""

    @override
    def rows(self, batch: Padded[Vectors]) -> Padded[Vectors]:
        return attrs.evolve(batch, values=batch.values * batch.order.mask(batch.width).unsqueeze(-1))


class MeanOfTheWidth(Leaky):
    """Subtracts the mean over the width, padding and future included, but declares causal."""

    @override
    def rows(self, batch: Padded[Vectors]) -> Padded[Vectors]:
        mean = batch.values.mean(1, keepdim=True) if batch.width else 0
        return attrs.evolve(batch, values=batch.values - mean).fill_padding(0)


class LastColumn(Leaky):
    """Returns the last column as the final state."""

    @override
    def states(self, rows: Padded[Vectors], hidden: Tensor, final: Tensor) -> States[MaybeCausal]:
        return super().states(rows, hidden, hidden[:, -1] if rows.width else final)


class CarriesTheLastColumn(Leaky):
    """Returns the right final state, but the last column as the carry."""

    @override
    def states(self, rows: Padded[Vectors], hidden: Tensor, final: Tensor) -> States[MaybeCausal]:
        empty = (rows.order.lengths_on_device == 0).unsqueeze(1)
        carried = torch.where(empty, final, hidden[:, -1]) if rows.width else final
        return States(rows.with_values(hidden), final, carry=(carried.unsqueeze(0),))


class StartsBackwardInThePadding(Bidirectional):
    """Reverses the whole width, so that the backward direction starts in the padding."""

    @override
    def reverse(self, values: Tensor, rows: Padded[Vectors]) -> Tensor:
        return values.flip(1)


class EndsAtTheLastStep(Bidirectional):
    """Takes the backward state at the last step, which has seen only that step."""

    @override
    def select_final(self, hidden: Tensor, zeros: Tensor, rows: Padded[Vectors], back: Tensor) -> Tensor:
        return torch.cat(
            [select_last(hidden - back, zeros, rows.lengths)[:, :2], select_last(back, zeros, rows.lengths)[:, 2:]], 1
        )


class OneWay(Leaky):
    """Declares bidirectional, but reads forward only."""

    causal = False
    bidirectional = True


class LooksAhead(Leaky):
    """Adds the next step's update to each step, but declares causal."""

    stateful = False

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4, bias=False)  # so that the padding after the last step adds nothing

    @override
    def run(self, update: Tensor, start: Tensor) -> Tensor:
        return super().run(update, start) + nn.functional.pad(update[:, 1:], (0, 0, 0, min(1, update.shape[1]))) / 8


class ForgetsInitial(Leaky):
    """Ignores the initial carry."""

    @override
    def start(self, batch: Batch[Vectors]) -> Tensor:
        return batch.values.new_zeros(len(batch.lengths), 4)


class StartsFromOnes(Leaky):
    """Starts from ones without an initial carry, so an empty row ends in ones too."""

    @override
    def start(self, batch: Batch[Vectors]) -> Tensor:
        return super().start(batch) if batch.initial_carry is not None else super().start(batch) + 1


class ReturnsUndeclaredCarry(Leaky):
    """Returns a carry, but does not declare it."""

    stateful = False

    @override
    def states(self, rows: Padded[Vectors], hidden: Tensor, final: Tensor) -> States[MaybeCausal]:
        return States(rows.with_values(hidden), final, carry=(final.unsqueeze(0),))


class WrongSize(Leaky):
    """Declares one feature too many."""

    def __init__(self) -> None:
        super().__init__()
        self.output_size = 5


class DeclaresCausalAndBidirectional(Leaky):
    """Declares both causal and bidirectional."""

    bidirectional = True


class DropsMetadata(Leaky):
    """Makes a new batch by hand, without row ids and targets."""

    @override
    def states(self, rows: Padded[Vectors], hidden: Tensor, final: Tensor) -> States[MaybeCausal]:
        return States(Padded(Hidden, hidden, rows.lengths), final, carry=(final.unsqueeze(0),))


class StaysSorted(Leaky):
    """Sorts rows by length, and does not restore their order."""

    @override
    def states(self, rows: Padded[Vectors], hidden: Tensor, final: Tensor) -> States[MaybeCausal]:
        return super().states(rows, hidden[rows.lengths.argsort(descending=True, stable=True)], final)


class AddsTheRowIndex(Leaky):
    """Adds each row's index in the batch."""

    @override
    def run(self, update: Tensor, start: Tensor) -> Tensor:
        place = torch.arange(len(update), device=update.device, dtype=update.dtype).reshape(-1, 1, 1)
        return super().run(update, start) + place


class SubtractsTheBatchMean(Leaky):
    """Normalizes each step over the real steps of the whole batch."""

    @override
    def rows(self, batch: Padded[Vectors]) -> Padded[Vectors]:
        rows = batch.fill_padding(0)
        mean = rows.values.sum((0, 1)) / rows.order.lengths_on_device.sum().clamp(min=1)
        return attrs.evolve(rows, values=rows.values - mean).fill_padding(0)


class BatchNormed(Leaky):
    """Normalizes like nn.BatchNorm1d: by the batch in training, by running statistics in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    @override
    def rows(self, batch: Padded[Vectors]) -> Padded[Vectors]:
        rows = batch.fill_padding(0)
        return attrs.evolve(rows, values=self.norm(rows.values.transpose(1, 2)).transpose(1, 2)).fill_padding(0)


class NeverEvaluates(Leaky):
    """Applies dropout in evaluation too."""

    @override
    def run(self, update: Tensor, start: Tensor) -> Tensor:
        return super().run(nn.functional.dropout(update, 0.5, training=True), start)


class Lambda(Leaky):
    """Stores a lambda."""

    def __init__(self) -> None:
        super().__init__()
        self.squash: Callable[[Tensor], Tensor] = lambda values: values.tanh()


class Unregistered(Leaky):
    """Stores weights in a list, where torch does not see them."""

    def __init__(self) -> None:
        super().__init__()
        self.scales = [torch.rand(4)]

    @override
    def run(self, update: Tensor, start: Tensor) -> Tensor:
        return super().run(update * self.scales[0], start)


class Detaches(Leaky):
    """Detaches half of its input."""

    @override
    def run(self, update: Tensor, start: Tensor) -> Tensor:
        return super().run(update / 2 + update.detach() / 2, start)


class ReturnsFloat32(Leaky):
    """Returns float32 for any input."""

    @override
    def states(self, rows: Padded[Vectors], hidden: Tensor, final: Tensor) -> States[MaybeCausal]:
        return super().states(rows, hidden.float(), final.float())


class MultipliesByFloat64(Leaky):
    """Multiplies by a constant that is always float64."""

    def __init__(self) -> None:
        super().__init__()
        self.ones: Callable[[Tensor], Tensor] = make_float64_ones

    @override
    def run(self, update: Tensor, start: Tensor) -> Tensor:
        return super().run(update * self.ones(update), start)

    @override
    def states(self, rows: Padded[Vectors], hidden: Tensor, final: Tensor) -> States[MaybeCausal]:
        return super().states(rows, hidden, final.to(hidden.dtype))


def make_float64_ones(like: Tensor) -> Tensor:
    """Return ones in float64."""
    return torch.ones(like.shape[-1], dtype=torch.float64, device=like.device)


class OnTheCpu(Leaky):
    """Multiplies by a constant that is always on the CPU."""

    @override
    def run(self, update: Tensor, start: Tensor) -> Tensor:
        return super().run(update * torch.ones(4), start)


class ReadsBack(Leaky):
    """Branches on a number that it reads from a tensor."""

    @override
    def run(self, update: Tensor, start: Tensor) -> Tensor:
        return super().run(update if float(self.linear.bias.detach().sum()) < 100 else -update, start)


class LoopsOverTime(Leaky):
    """Loops over time in Python, but declares exportable: its graph has a fixed width."""

    exportable = True


class NotForCompilers(Leaky):
    """Calls a function that no graph can contain, but declares exportable."""

    exportable = True

    @override
    def run(self, update: Tensor, start: Tensor) -> Tensor:
        return super().run(run_outside_graphs(update), start)


def _identity(values: Tensor) -> Tensor:
    return values


run_outside_graphs: Callable[[Tensor], Tensor] = getattr(torch.compiler, "disable")(_identity)  # noqa: B009
"""torch does not annotate it."""


class Remembers(Leaky):
    """Keeps a count from call to call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    @override
    def run(self, update: Tensor, start: Tensor) -> Tensor:
        self.calls += 1
        return super().run(update, start) * (1 + 1e-3 * self.calls)


class WritesIntoItsInput(Leaky):
    """Fills the padding of the input batch in place."""

    @override
    def rows(self, batch: Padded[Vectors]) -> Padded[Vectors]:
        if batch.values.device.type == "cpu" and batch.values.is_contiguous():
            batch.values.data[~batch.order.mask(batch.width)] = 0
        return batch.fill_padding(0)


class DrawsElsewhere(Leaky):
    """Draws a weight from Python's generator, which torch's seed does not affect."""

    def __init__(self) -> None:
        super().__init__()
        self.linear.bias.data.fill_(random.random())


class CopiesItself(Leaky):
    """Returns itself as its deep copy."""

    def __deepcopy__(self, _: object) -> "CopiesItself":
        return self


class DividesByLength(Leaky):
    """Returns the sum of a row's states divided by its length, which may be 0."""

    stateful = False

    @override
    def states(self, rows: Padded[Vectors], hidden: Tensor, final: Tensor) -> States[MaybeCausal]:
        mean = rows.with_values(hidden).fill_padding(0).values.sum(1) / rows.order.lengths_on_device.unsqueeze(1)
        return super().states(rows, hidden, mean)


class ReadsOneLayout(Leaky):
    """Treats every batch as padded."""

    @override
    def forward(self, batch: Batch[Vectors]) -> States[MaybeCausal]:
        return super().forward(
            Padded(Vectors, batch.values, batch.lengths, initial_carry=batch.initial_carry, metadata=batch.metadata)
        )


TRIALS: Final[tuple[Trial, ...]] = (
    trial(
        MultipliesByTheMask,
        ENCODER_LAWS,
        """no_gradient_reaches_padding low_precision_agrees training_obeys_laws_of_rows""",
        "gradients are also taken in training and in low precision",
    ),
    trial(
        MeanOfTheWidth,
        ENCODER_LAWS,
        """padding_values_have_no_effect no_gradient_reaches_padding amount_of_padding_has_no_effect
        batchmates_have_no_effect empty_rows_have_no_effect causal_steps_do_not_look_ahead
        carry_continues_the_sequence large_values_are_stable low_precision_agrees
        many_and_long_rows_are_independent rows_start_from_initial_carry training_obeys_laws_of_rows
        packed_and_padded_agree""",
        _ALONE,
    ),
    trial(
        LastColumn,
        ENCODER_LAWS,
        """amount_of_padding_has_no_effect batchmates_have_no_effect empty_rows_have_no_effect
        empty_rows_return_initial_carry carry_continues_the_sequence large_values_are_stable
        many_and_long_rows_are_independent rows_start_from_initial_carry training_obeys_laws_of_rows""",
        _ALONE,
    ),
    trial(
        CarriesTheLastColumn,
        ENCODER_LAWS,
        """carry_continues_the_sequence batchmates_have_no_effect many_and_long_rows_are_independent
        rows_start_from_initial_carry""",
        "a carry from the padding also depends on batchmates",
    ),
    trial(
        StartsBackwardInThePadding,
        ENCODER_LAWS,
        """amount_of_padding_has_no_effect batchmates_have_no_effect empty_rows_have_no_effect
        large_values_are_stable many_and_long_rows_are_independent training_obeys_laws_of_rows""",
        _ALONE,
    ),
    trial(EndsAtTheLastStep, ENCODER_LAWS, "final_state_depends_on_its_row"),
    trial(OneWay, ENCODER_LAWS, "bidirectional_reads_from_both_ends"),
    trial(
        LooksAhead,
        ENCODER_LAWS,
        """causal_steps_do_not_look_ahead training_obeys_laws_of_rows""",
        "it looks ahead in training too",
    ),
    trial(
        ForgetsInitial,
        ENCODER_LAWS,
        "empty_rows_return_initial_carry rows_start_from_initial_carry carry_continues_the_sequence",
        "the initial carry is also needed for empty rows and for second halves",
    ),
    trial(
        StartsFromOnes,
        ENCODER_LAWS,
        "empty_rows_return_initial_carry carry_matches_declared",
        "without an initial carry, empty rows must end in zeros",
    ),
    trial(ReturnsUndeclaredCarry, ENCODER_LAWS, "carry_matches_declared"),
    trial(WrongSize, ENCODER_LAWS, "output_sizes_match_declared"),
    trial(
        DeclaresCausalAndBidirectional,
        ENCODER_LAWS,
        "declared_attributes_are_valid bidirectional_reads_from_both_ends",
        "one of two declarations that exclude each other is false",
    ),
    trial(DropsMetadata, ENCODER_LAWS, "metadata_is_passed_on"),
    trial(
        StaysSorted,
        ENCODER_LAWS,
        """row_order_has_no_effect batchmates_have_no_effect empty_rows_have_no_effect
        causal_steps_do_not_look_ahead carry_continues_the_sequence large_values_are_stable
        many_and_long_rows_are_independent rows_start_from_initial_carry training_obeys_laws_of_rows""",
        "swapped rows show wherever rows of different lengths are compared",
    ),
    trial(
        AddsTheRowIndex,
        ENCODER_LAWS,
        """row_order_has_no_effect batchmates_have_no_effect empty_rows_have_no_effect
        rows_start_from_initial_carry carry_continues_the_sequence large_values_are_stable
        many_and_long_rows_are_independent""",
        "a row alone always has index 0",
    ),
    trial(
        SubtractsTheBatchMean,
        ENCODER_LAWS,
        """batchmates_have_no_effect causal_steps_do_not_look_ahead rows_start_from_initial_carry
        carry_continues_the_sequence large_values_are_stable many_and_long_rows_are_independent
        training_obeys_laws_of_rows""",
        _ALONE,
    ),
    trial(
        BatchNormed,
        ENCODER_LAWS,
        """training_without_randomness_equals_evaluation training_obeys_laws_of_rows""",
        "statistics of the batch depend on batchmates",
    ),
    trial(
        NeverEvaluates,
        ENCODER_LAWS,
        """evaluation_is_deterministic packed_and_padded_agree padding_values_have_no_effect
        no_gradient_reaches_padding batchmates_have_no_effect row_order_has_no_effect
        amount_of_padding_has_no_effect empty_rows_have_no_effect causal_steps_do_not_look_ahead
        carry_matches_declared rows_start_from_initial_carry carry_continues_the_sequence
        gradients_are_correct training_without_randomness_equals_evaluation same_seed_makes_equal_parts
        state_dict_restores_results deep_copy_is_equal pickled_copy_is_equal output_dtype_follows_part
        global_state_is_preserved gradient_mode_has_no_effect gradients_of_long_rows_are_correct
        large_values_are_stable low_precision_agrees many_and_long_rows_are_independent
        memory_layout_has_no_effect""",
        _EVERY,
    ),
    trial(
        Remembers,
        ENCODER_LAWS,
        """evaluation_is_deterministic packed_and_padded_agree padding_values_have_no_effect
        no_gradient_reaches_padding batchmates_have_no_effect row_order_has_no_effect
        amount_of_padding_has_no_effect empty_rows_have_no_effect causal_steps_do_not_look_ahead
        carry_matches_declared rows_start_from_initial_carry carry_continues_the_sequence
        gradients_are_correct training_without_randomness_equals_evaluation deep_copy_is_equal
        pickled_copy_is_equal output_dtype_follows_part dropout_is_scaled_and_independent
        gradient_mode_has_no_effect gradients_of_long_rows_are_correct large_values_are_stable
        many_and_long_rows_are_independent memory_layout_has_no_effect metadata_has_no_effect
        training_obeys_laws_of_rows state_dict_restores_results""",
        _EVERY,
    ),
    trial(Lambda, ENCODER_LAWS, "pickled_copy_is_equal"),
    trial(
        Unregistered,
        ENCODER_LAWS,
        """state_dict_restores_results output_device_follows_part low_precision_agrees""",
        "torch neither saves nor moves tensors that it does not see",
    ),
    trial(
        Detaches,
        ENCODER_LAWS,
        """gradients_are_correct gradients_of_long_rows_are_correct""",
        "the gradients of long rows are wrong too",
    ),
    trial(
        ReturnsFloat32,
        ENCODER_LAWS,
        """output_dtype_follows_part gradients_are_correct rows_start_from_initial_carry
        carry_continues_the_sequence gradients_of_long_rows_are_correct low_precision_agrees""",
        "finite differences and carries need all digits of float64",
    ),
    trial(
        MultipliesByFloat64,
        ENCODER_LAWS,
        """output_dtype_follows_part low_precision_agrees""",
        "float64 is also returned for lower precision",
    ),
    trial(OnTheCpu, ENCODER_LAWS, """output_device_follows_part low_precision_agrees""", "the constant is float32 too"),
    trial(ReadsBack, ENCODER_LAWS, "output_device_follows_part"),
    trial(LoopsOverTime, ENCODER_LAWS, "exported_part_is_equal"),
    trial(
        NotForCompilers,
        ENCODER_LAWS,
        "compiled_part_is_equal exported_part_is_equal",
        "a strict export compiles first",
    ),
    trial(WritesIntoItsInput, ENCODER_LAWS, "input_is_not_modified"),
    trial(DrawsElsewhere, ENCODER_LAWS, "same_seed_makes_equal_parts"),
    trial(
        CopiesItself, ENCODER_LAWS, "deep_copy_is_equal low_precision_agrees", "the law about precision changes a copy"
    ),
    trial(
        DividesByLength,
        ENCODER_LAWS,
        """empty_rows_have_no_effect empty_rows_return_initial_carry low_precision_agrees
        packed_and_padded_agree training_without_randomness_equals_evaluation""",
        "NaN is neither finite nor zero",
    ),
    trial(
        ReadsOneLayout,
        ENCODER_LAWS,
        """packed_and_padded_agree every_weight_is_used output_sizes_match_declared metadata_is_passed_on
        empty_rows_return_initial_carry gradient_mode_has_no_effect calls_leave_nothing_behind
        global_state_is_preserved low_precision_agrees many_and_long_rows_are_independent
        memory_layout_has_no_effect metadata_has_no_effect training_without_randomness_equals_evaluation""",
        "it raises for every packed batch",
    ),
)
"""The broken parts of this file, with the laws that each breaks."""
