"""The laws of encoders."""

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias, get_args

import attrs
import torch
from torch import Tensor

from pipeline.data.batches import Batch, Carry, Packed, Padded
from pipeline.data.metadata import BatchMetadata
from pipeline.data.rows import Vectors
from pipeline.data.states import MaybeCausal, States
from pipeline.laws.compare import numbers, same
from pipeline.laws.graphs import GRAPHS
from pipeline.laws.inertness import EVERY_ROW, layouts_agree, no_gradient_reaches_padding, padding_is_inert
from pipeline.laws.law import FaultError, Law, check, law, loosely
from pipeline.laws.run import PlainModule, by_row, prepared, results, size_of, steps_of
from pipeline.laws.samples import drawn, padded
from pipeline.laws.upkeep import UPKEEP, differentiate, evaluation_is_deterministic
from pipeline.parts.capabilities import Layout
from pipeline.parts.encoder import Encoder

Made: TypeAlias = Callable[[], Encoder[MaybeCausal]]

_TRIES: Final = 3
"""How often something is changed at random before it counts as unseen: one change may be too small to show."""


@law
def declarations_fit_together(make: Made) -> None:
    """Sizes are 1 or more, `layouts` names one or both, and what is `causal` is not `bidirectional`."""
    encoder = make()
    if not isinstance(loosely(encoder), Encoder):
        msg = f"the factory made a {type(encoder).__name__}, which is no pipeline.Encoder; derive from it."
        raise FaultError(msg)
    for name in ("input_size", "output_size"):
        size: object = getattr(encoder, name, None)
        if not isinstance(size, int) or size < 1:
            msg = f"{name} must be a number of features, 1 or more, but {size!r} is declared; set it in __init__."
            raise FaultError(msg, argument=name)
    for name in ("causal", "bidirectional", "empty_rows", "stateful", "exportable"):
        declared: object = getattr(encoder, name, None)
        if not isinstance(declared, bool):
            msg = f"{name} must be True or False, but {declared!r} is declared."
            raise FaultError(msg, argument=name)
    known = get_args(Layout)
    if loosely(encoder.layouts) not in ((known[0],), (known[1],), known, known[::-1]):
        msg = f"layouts must be a tuple of one or both of {known}, but {encoder.layouts!r} is declared."
        raise FaultError(msg, argument="layouts")
    if encoder.causal and encoder.bidirectional:
        raise FaultError(
            "causal and bidirectional are both declared, but what reads a row from its end sees the future."
        )


@law
def sizes_are_true(make: Made) -> None:
    """There is one vector of `output_size` a step and one a row, of the same rows, from either layout."""
    encoder = prepared(make)
    for batch in _both_layouts(padded(drawn((4, 1, 3), size_of(encoder)), extra=1)):
        states = encoder(batch)
        if not isinstance(loosely(states), States):
            msg = (
                f"forward must give pipeline.States, but gave a {type(states).__name__}; see batch.with_values(hidden)."
            )
            raise FaultError(msg)
        shapes = [tuple(states.steps.packed().values.shape), tuple(states.final.shape)]
        wanted = [(batch.order.steps, encoder.output_size), (len(batch.lengths), encoder.output_size)]
        if shapes != wanted:
            msg = (
                f"output_size={encoder.output_size} is declared, so steps (packed) and final states must be {wanted}, "
                f"but they are {shapes}; declare the size that comes out."
            )
            raise FaultError(msg, shapes=shapes)


@law
def what_rides_along_is_passed_on(make: Made) -> None:
    """Lengths, width, order, places, targets and the steps that are asked for come out as they went in."""
    encoder = prepared(make)
    rows = padded(drawn((4, 1, 3), size_of(encoder)), extra=2)
    asked = rows.order.mask(rows.width) & (torch.arange(rows.width) % 2 == 0)
    targets = torch.arange(3 * rows.width).reshape(3, -1)
    metadata = BatchMetadata(torch.tensor([7, 3, 5]), targets, asked)
    remedy = "Give States(batch.with_values(hidden), final): a new batch, made by hand, has lost them."
    for batch in _both_layouts(attrs.evolve(rows, metadata=metadata)):
        states = encoder(batch)
        if states.metadata.targets is None or states.metadata.answer_mask is None:
            msg = f"targets, or which steps are asked for, are missing from what came out. {remedy}"
            raise FaultError(msg)
        for name, found, wanted in (
            ("lengths", states.lengths, rows.lengths),
            ("order.lengths", states.order.lengths, rows.lengths),
            ("metadata.places", states.metadata.row_ids, metadata.row_ids),
            ("metadata.targets", states.metadata.targets, targets),
            ("metadata.asked", states.metadata.answer_mask, asked),
        ):
            if not torch.equal(found, wanted):
                msg = f"{name} came in as {numbers(wanted)}, but went out as {numbers(found)}. {remedy}"
                raise FaultError(msg, argument=name)
        if states.width != rows.width:
            msg = f"the batch is {rows.width} steps wide, but what came out {states.width}. {remedy}"
            raise FaultError(msg, argument="width")


@law
def final_states_belong_to_their_rows(make: Made) -> None:
    """A row's final state depends on its steps: on the last, if causal; if bidirectional, all of it on both ends.

    That it is the one that the row gives alone, whatever its mates and its padding, is what the laws of rows say.
    """
    encoder = prepared(make)
    rows = drawn((3, 5, 2), size_of(encoder))
    for index, row in enumerate(rows):
        first, last = (_seen(encoder, rows, index, step) for step in (0, len(row) - 1))
        if encoder.bidirectional and not bool((first & last).all()):
            blind = "first" if not bool(first.all()) else "last"
            msg = (
                f"a change of the {blind} step of row {index} leaves some features of its final state as they were; a "
                "bidirectional encoder ends in the forward state at the last real step, joined with the backward "
                "state at the first one, each of which has read the whole row."
            )
            raise FaultError(msg, row=index)
        if encoder.causal and not bool(last.any()):
            msg = f"a change of the last step of row {index} leaves its final state as it was; end with that step's."
            raise FaultError(msg, row=index)
        if not any(bool(_seen(encoder, rows, index, step).any()) for step in range(len(row))):
            msg = f"no change of any step of row {index} changes its final state; make it of the row's own steps."
            raise FaultError(msg, row=index)


def _seen(encoder: Encoder[MaybeCausal], rows: Sequence[Tensor], index: int, step: int) -> Tensor:
    """Which features of a row's final state change with one of its steps."""
    before = encoder(padded(rows)).final[index].detach()
    seen = torch.zeros_like(before, dtype=torch.bool)
    for seed in range(_TRIES):
        seen |= encoder(padded(_changed(rows, index, step, step + 1, seed))).final[index].detach() != before
    return seen


def _changed(rows: Sequence[Tensor], index: int, start: int, end: int, seed: int) -> list[Tensor]:
    """The rows with some steps of one of them drawn anew."""
    row = rows[index].clone()
    row[start:end] = drawn((end - start,), row.shape[1], seed=100 + seed)[0]
    return [*rows[:index], row, *rows[index + 1 :]]


@law
def causal_steps_do_not_look_ahead(make: Callable[[], Encoder[MaybeCausal] | PlainModule]) -> None:
    """What declares `causal` gives each step from the steps up to it: another future, or none, leaves it as it was."""
    part = prepared(make)
    if not part.causal:
        return
    rows = drawn((6, 4, 5), size_of(part))
    whole = results(part, padded(rows))
    remedy = "Usually a direction, a mask or a convolution that sees the future, or a mean of the row: or not causal."
    for cut in range(1, 6):
        past = [before[:cut] for before in whole[:1]]
        found = results(part, padded(_changed(rows, 0, cut, 6, cut)))[0]
        same([found[:cut]], past, f"with the steps from {cut} on changed, earlier ones", remedy=remedy)
        found = results(part, padded([rows[0][:cut], *rows[1:]]))[0]
        same([found[:cut]], past, f"with the row cut off at step {cut}, what is left", remedy=remedy)


@law
def bidirectional_reads_from_both_ends(make: Made) -> None:
    """What declares `bidirectional` lets its first step see the last one, and its last one the first."""
    encoder = prepared(make)
    if not encoder.bidirectional:
        return
    rows = drawn((3, 4), size_of(encoder))
    before = by_row(encoder(padded(rows)))[0]
    for step, other in ((0, 2), (2, 0)):
        found = [by_row(encoder(padded(_changed(rows, 0, step, step + 1, seed))))[0] for seed in range(_TRIES)]
        if all(torch.equal(each[other], before[other]) for each in found):
            msg = (
                f"step {other} of a row of 3 does not change with step {step}, so that it is not read from both ends; "
                "leave bidirectional out, or run the second direction from each row's own last real step."
            )
            raise FaultError(msg, step=step)


@law
def empty_rows_end_as_they_began(make: Made) -> None:
    """A row of no steps ends in zeros or, where it came with one, in its initial state."""
    encoder = prepared(make)
    if not encoder.empty_rows:
        return
    for lengths in ((3, 0, 2), (0, 0)):
        batch = padded(drawn(lengths, size_of(encoder)), extra=1)
        empty = batch.lengths == 0
        for each in _both_layouts(batch):
            states = encoder(each)
            if not bool((states.final[empty] == 0).all()):
                msg = f"among lengths {lengths}, an empty row ends in {numbers(states.final[empty][0])}, not in zeros."
                raise FaultError(msg)
            if not encoder.stateful:
                continue
            for index, (found, came) in enumerate(zip(*_with_initial(encoder, each), strict=True)):
                if not torch.equal(found[:, empty], came[:, empty]):
                    msg = f"among lengths {lengths}, carried[{index}] of an empty row is not its initial state."
                    raise FaultError(msg)


def _with_initial(encoder: Encoder[MaybeCausal], batch: Batch[Vectors]) -> tuple[Carry, Carry]:
    """What is carried from a batch that starts from initial states, and those."""
    initial = _initial(encoder, batch)
    return _carried(encoder(attrs.evolve(batch, initial_carry=initial))), initial


def _carried(states: States[MaybeCausal]) -> Carry:
    if states.carry is None:
        raise FaultError(
            "stateful is declared, but nothing is carried; give States(..., carried=...), or do not declare it."
        )
    return states.carry


def _initial(encoder: Encoder[MaybeCausal], batch: Batch[Vectors], *, seed: int = 9) -> Carry:
    """Initial states of random numbers, in the form of those that are carried."""
    generator = torch.Generator().manual_seed(seed)
    like = _carried(encoder(batch))
    return tuple(
        torch.randn(state.shape, dtype=state.dtype, generator=generator) if state.is_floating_point() else state
        for state in like
    )


@law
def carries_what_it_declares(make: Made) -> None:
    """What declares `stateful` carries tensors of layers x batch x size, of which zeros are as good as none to start.

    What does not, carries nothing.
    """
    encoder = prepared(make)
    batch = padded(drawn((4, 1, 3), size_of(encoder)), extra=1)
    states = encoder(batch)
    if not encoder.stateful:
        if states.carry is not None:
            raise FaultError(
                "something is carried, but stateful is not declared; declare it, and start from batch.initial."
            )
        return
    carried = _carried(states)
    if not carried or any(state.ndim != 3 or state.shape[1] != 3 for state in carried):
        shapes = [tuple(state.shape) for state in carried]
        msg = f"what is carried must be tensors of layers x batch x size, with a batch of 3, but {shapes} came."
        raise FaultError(msg, shapes=shapes)
    zeros = tuple(torch.zeros_like(state) for state in carried)
    found = by_row(encoder(attrs.evolve(batch, initial_carry=zeros)))
    same(found, by_row(states), "from initial states of zeros instead of none")


@law
def rows_start_from_their_initial_states(make: Made) -> None:
    """What declares `stateful` starts each row from its own initial state, which gets its gradient."""
    encoder = prepared(make)
    if not encoder.stateful:
        return
    rows = drawn((4, 4, 4), size_of(encoder))
    batch = padded(rows)
    initial = _initial(encoder, batch)
    found = by_row(encoder(attrs.evolve(batch, initial_carry=initial)))
    for index, (result, plain) in enumerate(zip(found, by_row(encoder(batch)), strict=True)):
        if torch.equal(result, plain):
            msg = f"row {index} gives the same from an initial state as from none; start from batch.initial."
            raise FaultError(msg, row=index)
        own = tuple(state[:, index : index + 1] for state in initial)
        alone = by_row(encoder(attrs.evolve(padded([rows[index]]), initial_carry=own)))
        same(alone, [result], f"row {index} alone, from its own initial state")

    def outcome(*states: Tensor) -> Tensor:
        return torch.cat(by_row(encoder(attrs.evolve(batch, initial_carry=states))))

    differentiate(outcome, initial, "the initial states")


@law
def what_is_carried_goes_in_again(make: Made) -> None:
    """What one batch carries out, the next takes in: cut at any step, a causal encoder gives what it gives uncut."""
    encoder = prepared(make)
    if not encoder.stateful:
        return
    for lengths in ((5, 5, 5), (5, 3, 4), (4,)):
        rows = drawn(lengths, size_of(encoder))
        whole = encoder(padded(rows))
        for cut in range(1, max(lengths)):
            # Rows of unlike lengths end at unlike steps in the first part, too; each part has a step of every row.
            cuts = [min(cut, length - 1) for length in lengths]
            first = encoder(padded([row[:end] for row, end in zip(rows, cuts, strict=True)]))
            rest = padded([row[end:] for row, end in zip(rows, cuts, strict=True)])
            second = encoder(attrs.evolve(rest, initial_carry=_carried(first)))
            if not encoder.causal:
                continue
            parts = [torch.cat(pair) for pair in zip(steps_of(first.steps), steps_of(second.steps), strict=True)]
            of = f"rows of lengths {lengths} cut at steps {cuts}"
            remedy = "Carry the whole state that the next step needs, of every layer, at each row's own last real step."
            same(parts, steps_of(whole.steps), of, remedy=remedy)
            same(list(second.final), list(whole.final), f"final states of {of}", remedy=remedy)
            ends = ([*state.unbind(1)] for state in (*_carried(second), *_carried(whole)))
            found = [row for state in ends for row in state]
            half = len(found) // 2
            same(found[:half], found[half:], f"what is carried out of {of}", remedy=remedy)


def _both_layouts(batch: Padded[Vectors]) -> tuple[Padded[Vectors], Packed[Vectors]]:
    return batch, batch.packed()


ENCODER_LAWS: Final[tuple[Law[Encoder[MaybeCausal]], ...]] = (
    declarations_fit_together,
    sizes_are_true,
    evaluation_is_deterministic,
    what_rides_along_is_passed_on,
    layouts_agree,
    padding_is_inert,
    no_gradient_reaches_padding,
    *EVERY_ROW,
    empty_rows_end_as_they_began,
    final_states_belong_to_their_rows,
    causal_steps_do_not_look_ahead,
    bidirectional_reads_from_both_ends,
    carries_what_it_declares,
    rows_start_from_their_initial_states,
    what_is_carried_goes_in_again,
    *UPKEEP,
    *GRAPHS,
)
"""Every law of an encoder, the quick ones first."""


def check_encoder(make: Made) -> None:
    """Hold encoders against `ENCODER_LAWS`.

    Args:
        make: takes nothing and makes a new encoder at every call. Small sizes are quick, and show as much.

    Raises:
        LawBrokenError: if they break any; it tells of all of them.
        OptionError: if `make` is a part, and no function that makes one.

    Example:
        >>> from pipeline_recurrent import GRU
        >>> check_encoder(lambda: GRU(3, 4, bidirectional=True))
    """
    check(ENCODER_LAWS, make, "encoders")
