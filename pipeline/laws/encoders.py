"""Laws about encoders."""

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias, get_args

import attrs
import torch
from torch import Tensor

from pipeline.data.batches import Layout, Packed, Padded
from pipeline.data.kinds import Vectors
from pipeline.data.metadata import BatchMetadata
from pipeline.data.states import MaybeCausal, States
from pipeline.laws.common import COMMON_LAWS
from pipeline.laws.configs import config_makes_an_equal_part
from pipeline.laws.law import FaultError, Law, as_object, check_equal, check_laws, law, to_list
from pipeline.laws.parts import (
    choose_input_size,
    draw_carry,
    draw_rows,
    get_carry,
    make_batch,
    prepare,
    run_all,
    split_states,
    split_steps,
)
from pipeline.laws.rows import (
    causal_steps_do_not_look_ahead,
    no_gradient_reaches_padding,
    packed_and_padded_agree,
    padding_values_have_no_effect,
    redraw_steps,
)
from pipeline.laws.variations import metadata_has_no_effect
from pipeline.laws.weights import check_gradients, evaluation_is_deterministic
from pipeline.parts.encoder import Encoder

MakeEncoder: TypeAlias = Callable[[], Encoder[MaybeCausal]]

# Random changes of a step to try before a result counts as independent of it. One may have no effect by chance: relu
# maps all negative inputs to 0.
_TRIES: Final = 3


@law
def declared_attributes_are_valid(make: MakeEncoder) -> None:
    """Sizes are 1 or more, `layouts` names one or both layouts, and `causal` excludes `bidirectional`."""
    encoder = make()
    if not isinstance(as_object(encoder), Encoder):
        msg = f"the factory created a {type(encoder).__name__}, not a pipeline.Encoder; derive from Encoder."
        raise FaultError(msg)
    for name in ("input_size", "output_size"):
        size: object = getattr(encoder, name, None)
        if not isinstance(size, int) or size < 1:
            msg = f"{name} must be a number of features, 1 or more, got {size!r}; set it in __init__."
            raise FaultError(msg, argument=name)
    for name in ("causal", "bidirectional", "empty_rows", "stateful", "exportable"):
        declared: object = getattr(encoder, name, None)
        if not isinstance(declared, bool):
            msg = f"{name} must be True or False, got {declared!r}."
            raise FaultError(msg, argument=name)
    known = get_args(Layout)
    if as_object(encoder.layouts) not in ((known[0],), (known[1],), known, known[::-1]):
        msg = f"layouts must be a tuple of one or both of {known}, got {encoder.layouts!r}."
        raise FaultError(msg, argument="layouts")
    if encoder.causal and encoder.bidirectional:
        raise FaultError("causal and bidirectional exclude each other, got both; the backward direction is not causal.")


@law
def output_sizes_match_declared(make: MakeEncoder) -> None:
    """There is one vector of `output_size` per step and one per row, from either layout."""
    encoder = prepare(make)
    for batch in _make_both_layouts(make_batch(draw_rows((4, 1, 3), choose_input_size(encoder)), extra=1)):
        states = encoder(batch)
        if not isinstance(as_object(states), States):
            msg = f"forward must return pipeline.States, got a {type(states).__name__}; see batch.with_values(hidden)."
            raise FaultError(msg)
        shapes = [tuple(states.steps.packed().values.shape), tuple(states.final.shape)]
        wanted = [(batch.order.steps, encoder.output_size), (len(batch.lengths), encoder.output_size)]
        if shapes != wanted:
            msg = (
                f"with output_size={encoder.output_size}, steps (packed) and final states must have shapes {wanted}, "
                f"got {shapes}; set output_size to the size that forward returns."
            )
            raise FaultError(msg, shapes=shapes)


@law
def metadata_is_passed_on(make: MakeEncoder) -> None:
    """Lengths, width, order, row ids, targets and the answer mask of the output are those of the input."""
    encoder = prepare(make)
    rows = make_batch(draw_rows((4, 1, 3), choose_input_size(encoder)), extra=2)
    # Values that occur nowhere else (row ids out of order, a target per cell), so that a swap or a default shows.
    answer_mask = rows.order.mask(rows.width) & (torch.arange(rows.width) % 2 == 0)
    targets = torch.arange(3 * rows.width).reshape(3, -1)
    metadata = BatchMetadata(torch.tensor([7, 3, 5]), targets, answer_mask=answer_mask)
    fix = "Return States(batch.with_values(hidden), final): a new batch, made by hand, has lost them."
    for batch in _make_both_layouts(attrs.evolve(rows, metadata=metadata)):
        states = encoder(batch)
        if states.metadata.targets is None or states.metadata.answer_mask is None:
            msg = f"targets or the answer mask are missing from the output. {fix}"
            raise FaultError(msg)
        for name, found, wanted in (
            ("lengths", states.lengths, rows.lengths),
            ("order.lengths", states.order.lengths, rows.lengths),
            ("metadata.row_ids", states.metadata.row_ids, metadata.row_ids),
            ("metadata.targets", states.metadata.targets, targets),
            ("metadata.answer_mask", states.metadata.answer_mask, answer_mask),
        ):
            if not torch.equal(found, wanted):
                msg = f"{name} must be {to_list(wanted)}, as in the input, got {to_list(found)}. {fix}"
                raise FaultError(msg, argument=name)
        if states.width != rows.width:
            msg = f"the width must be {rows.width}, as in the input, got {states.width}. {fix}"
            raise FaultError(msg, argument="width")


@law
def final_state_depends_on_its_row(make: MakeEncoder) -> None:
    """A row's final state depends on its last step, if causal; if bidirectional, every feature depends on both ends.

    The laws about rows check that it depends on nothing else.
    """
    encoder = prepare(make)
    rows = draw_rows((3, 5, 2), choose_input_size(encoder))
    for index, row in enumerate(rows):
        first, last = (_find_dependent_features(encoder, rows, index, step) for step in (0, len(row) - 1))
        if encoder.bidirectional and not bool((first & last).all()):
            unseen = "first" if not bool(first.all()) else "last"
            msg = (
                f"a change of the {unseen} step of row {index} does not change some features of its final state; the "
                "final state of a bidirectional encoder is the forward state at the last real step, joined with the "
                "backward state at the first step, and each of them has read the whole row."
            )
            raise FaultError(msg, row=index)
        if encoder.causal and not bool(last.any()):
            msg = f"a change of the last step of row {index} does not change its final state; return that step's state."
            raise FaultError(msg, row=index)
        if not any(bool(_find_dependent_features(encoder, rows, index, step).any()) for step in range(len(row))):
            msg = f"no change of any step of row {index} changes its final state; compute it from the row's own steps."
            raise FaultError(msg, row=index)


def _find_dependent_features(encoder: Encoder[MaybeCausal], rows: Sequence[Tensor], index: int, step: int) -> Tensor:
    """Return a mask of the features of a row's final state that depend on one of its steps."""
    before = encoder(make_batch(rows)).final[index].detach()
    changed = torch.zeros_like(before, dtype=torch.bool)
    for seed in range(_TRIES):
        after = encoder(make_batch(redraw_steps(rows, index, step, step + 1, seed))).final[index].detach()
        changed |= after != before
    return changed


@law
def bidirectional_reads_from_both_ends(make: MakeEncoder) -> None:
    """If `bidirectional` is declared, the first step's state depends on the last step, and the last on the first."""
    encoder = prepare(make)
    if not encoder.bidirectional:
        return
    rows = draw_rows((3, 4), choose_input_size(encoder))
    before = split_states(encoder(make_batch(rows)))[0]
    # The ends of a row of 3: a bidirectional encoder that turns the batch instead of the row fails other laws, but one
    # that reads in one direction only fails here.
    for step, other in ((0, 2), (2, 0)):
        changed = (make_batch(redraw_steps(rows, 0, step, step + 1, seed)) for seed in range(_TRIES))
        if all(torch.equal(split_states(encoder(batch))[0][other], before[other]) for batch in changed):
            msg = (
                f"step {other} of a row of 3 steps does not change with step {step}, so the encoder does not read from "
                "both ends; leave bidirectional out, or run the backward direction from each row's own last real step."
            )
            raise FaultError(msg, step=step)


@law
def empty_rows_return_initial_carry(make: MakeEncoder) -> None:
    """An empty row's final state is zeros, and its carry is the initial carry if it has one."""
    encoder = prepare(make)
    if not encoder.empty_rows:
        return
    for lengths in ((3, 0, 2), (4, 2, 0), (0, 0)):
        batch = make_batch(draw_rows(lengths, choose_input_size(encoder)), extra=1)
        empty = batch.lengths == 0
        for layout in _make_both_layouts(batch):
            states = encoder(layout)
            if (wrong := states.final[empty] != 0).any():
                msg = (
                    f"among lengths {lengths}, the final state of an empty row must be zeros, got "
                    f"{float(states.final[empty][wrong][0]):.6g}; usually the last column is used as the last step: "
                    "take each row's own last step, and zeros where the length is 0."
                )
                raise FaultError(msg)
            if not encoder.stateful:
                continue
            initial = draw_carry(encoder, layout)
            carry = get_carry(encoder(attrs.evolve(layout, initial_carry=initial)))
            for index, (found, wanted) in enumerate(zip(carry, initial, strict=True)):
                if not torch.equal(found[:, empty], wanted[:, empty]):
                    msg = f"among lengths {lengths}, carry[{index}] of an empty row is not its initial carry."
                    raise FaultError(msg)


@law
def carry_matches_declared(make: MakeEncoder) -> None:
    """If `stateful` is declared, the carry is tensors of layers x batch x size, and zeros equal no initial carry.

    Otherwise there is no carry.
    """
    encoder = prepare(make)
    batch = make_batch(draw_rows((4, 1, 3), choose_input_size(encoder)), extra=1)
    states = encoder(batch)
    if not encoder.stateful:
        if states.carry is not None:
            raise FaultError("a carry is returned without stateful; declare it, and start from batch.initial_carry.")
        return
    carry = get_carry(states)
    if not carry or any(state.ndim != 3 or state.shape[1] != 3 for state in carry):
        shapes = [tuple(state.shape) for state in carry]
        msg = f"carry must be tensors of layers x batch x size, with a batch of 3, got shapes {shapes}."
        raise FaultError(msg, shapes=shapes)
    # An encoder that starts from anything else than zeros would give other results at the first batch of a text than
    # after a reset of the carry.
    zeros = tuple(torch.zeros_like(state) for state in carry)
    found = split_states(encoder(attrs.evolve(batch, initial_carry=zeros)))
    check_equal(found, split_states(states), "with an initial carry of zeros instead of none")


@law
def rows_start_from_initial_carry(make: MakeEncoder) -> None:
    """If `stateful` is declared, each row starts from its own initial carry, which gets its gradient."""
    encoder = prepare(make)
    if not encoder.stateful:
        return
    rows = draw_rows((2, 4, 3), choose_input_size(encoder))
    batch = make_batch(rows)
    # Random and different for each row, so that swapped rows or ignored states show.
    initial = draw_carry(encoder, batch)
    found = run_all(encoder, attrs.evolve(batch, initial_carry=initial))
    for index, (result, without) in enumerate(zip(found, split_states(encoder(batch)), strict=True)):
        if torch.equal(result[0], without):
            msg = f"row {index} gives the same with and without an initial carry; start from batch.initial_carry."
            raise FaultError(msg, row=index)
        own = tuple(state[:, index : index + 1] for state in initial)
        alone = run_all(encoder, attrs.evolve(make_batch([rows[index]]), initial_carry=own))[0]
        check_equal(alone, result, f"row {index} alone (its result, then its carry), with its own initial carry")

    def compute(*carry: Tensor) -> Tensor:
        found = run_all(encoder, attrs.evolve(batch, initial_carry=carry))
        return torch.cat([tensor.flatten() for row in found for tensor in row if tensor.is_floating_point()])

    check_gradients(compute, initial, "the initial carry")


@law
def carry_continues_the_sequence(make: MakeEncoder) -> None:
    """A carry is accepted as the next initial carry; causal encoders then give the same as on the uncut rows."""
    encoder = prepare(make)
    if not encoder.stateful:
        return
    for lengths, all_cuts in (
        ((5, 5, 5), range(1, 5)),
        ((5, 3, 4), range(1, 5)),
        ((4,), range(1, 4)),
        ((600,), (250,)),
    ):
        rows = draw_rows(lengths, choose_input_size(encoder))
        whole = encoder(make_batch(rows))
        for cut in all_cuts:
            # Rows of different lengths are cut at different steps too, so that each half has a step of every row.
            cuts = [min(cut, length - 1) for length in lengths]
            # The two halves of each row, the second started from the carry of the first.
            first = encoder(make_batch([row[:end] for row, end in zip(rows, cuts, strict=True)]))
            rest = make_batch([row[end:] for row, end in zip(rows, cuts, strict=True)])
            second = encoder(attrs.evolve(rest, initial_carry=get_carry(first)))
            if not encoder.causal:
                continue
            joined = [torch.cat(pair) for pair in zip(split_steps(first.steps), split_steps(second.steps), strict=True)]
            condition = f"rows of lengths {lengths} cut at steps {cuts}"
            fix = "Carry all state that the next step needs, of every layer, from each row's own last real step."
            check_equal(joined, split_steps(whole.steps), condition, fix=fix)
            check_equal(list(second.final), list(whole.final), f"final states of {condition}", fix=fix)
            found, wanted = (
                [row for state in carry for row in state.unbind(1)] for carry in map(get_carry, (second, whole))
            )
            check_equal(found, wanted, f"the carry after {condition}", fix=fix)


def _make_both_layouts(batch: Padded[Vectors]) -> tuple[Padded[Vectors], Packed[Vectors]]:
    return batch, batch.packed()


ENCODER_LAWS: Final[tuple[Law[Encoder[MaybeCausal]], ...]] = (
    declared_attributes_are_valid,
    output_sizes_match_declared,
    evaluation_is_deterministic,
    metadata_is_passed_on,
    packed_and_padded_agree,
    padding_values_have_no_effect,
    no_gradient_reaches_padding,
    metadata_has_no_effect,
    empty_rows_return_initial_carry,
    final_state_depends_on_its_row,
    causal_steps_do_not_look_ahead,
    bidirectional_reads_from_both_ends,
    carry_matches_declared,
    rows_start_from_initial_carry,
    carry_continues_the_sequence,
    config_makes_an_equal_part,
    *COMMON_LAWS,
)
"""Every law of an encoder, the quick ones first."""


def check_encoder(make: MakeEncoder) -> None:
    """Check encoders against `ENCODER_LAWS`.

    Args:
        make: takes no arguments and creates a new encoder at every call. Small sizes are quick, and show as much.

    Raises:
        LawBrokenError: if a law is broken; the error lists all broken laws.
        OptionError: if `make` is a part instead of a function that creates one.

    Example:
        >>> from pipeline_recurrent import GRU
        >>> check_encoder(lambda: GRU(3, 4, bidirectional=True))
    """
    check_laws(ENCODER_LAWS, make, "encoders", "ENCODER_LAWS")
