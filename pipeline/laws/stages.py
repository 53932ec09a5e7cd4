"""Laws about stages on batches, embedders and heads."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Never, TypeAlias, cast

import attrs
import torch
from torch import Tensor, nn

from pipeline.checks.hints import describe, get_classes, is_unconstrained, resolve_hints
from pipeline.core.contexts import seeded
from pipeline.core.stage import ModuleStage, Spec, StageBase
from pipeline.data.batches import Batch, Packed, Padded
from pipeline.data.decoded import Decoded
from pipeline.data.kinds import Hidden, Ids, Kind, Nested, Vectors
from pipeline.data.metadata import IGNORED, BatchMetadata, Collated, check_same_metadata
from pipeline.data.rows import FILLER
from pipeline.data.scores import Predictions, StepScores
from pipeline.data.states import Pooled, States
from pipeline.data.tensors import to_ints
from pipeline.errors import PipelineError
from pipeline.functional.segments import sum_by_row
from pipeline.laws.configs import config_makes_an_equal_part
from pipeline.laws.law import FaultError, Law, check_equal, check_laws, law
from pipeline.laws.parts import FILLINGS, draw_rows, make_batch, split_states, split_steps
from pipeline.laws.pickling import pickle_and_unpickle
from pipeline.text import format_error

MakeStage: TypeAlias = Callable[[], StageBase]
MakeHead: TypeAlias = Callable[[], ModuleStage[Never, Predictions[object, object]]]

_Input: TypeAlias = Padded[Vectors] | Packed[Vectors] | Padded[Kind] | Packed[Kind] | States | Pooled

LENGTHS: Final = (4, 0, 1, 6, 4)

# The size of the input of a stage that takes any.
_SIZE: Final = 4


@attrs.frozen(eq=False)
class _Runner:
    """A stage with the form of its input: its class, its kind, and its size."""

    stage: StageBase
    form: type
    kind: type[Kind]
    size: int

    def make_input(
        self, rows: Sequence[Tensor], metadata: BatchMetadata | None = None, *, extra: int = 0, filling: float = 0.0
    ) -> _Input:
        """Return rows as the input of the stage."""
        batch = make_batch(rows, extra=extra, filling=filling)
        if metadata is not None:
            batch = attrs.evolve(batch, metadata=metadata)
        if self.form is States:
            clean = batch.fill_padding(0)
            return States(batch, sum_by_row(clean) / 2)
        if self.form is Pooled:
            return Pooled(sum_by_row(batch.fill_padding(0)), metadata=batch.metadata)
        if self.kind in {Ids, Nested}:
            # Two ids, which every embedding has; in the padding, one that none has. Of nested rows, those of two inner
            # rows, one of three steps and one of a single step.
            numbers = (batch.fill_padding(0).values[..., 0] > 0).long()
            padding = 0 if filling == 0 else 2**40
            numbers = numbers.where(batch.order.mask(batch.width), padding)
            inner = None
            if self.kind is Nested:
                inner = Padded(Ids, torch.tensor([[1, 0, 1], [0, padding, padding]]), torch.tensor([3, 1])).packed()
            kind = cast("type[Kind]", self.kind)
            ids: Padded[Kind] = Padded(kind, numbers, batch.lengths, metadata=batch.metadata, inner=inner)
            return ids if self.form is Padded else ids.packed()
        return batch if self.form is Padded else batch.packed()

    def run(self, value: _Input) -> object:
        """Return the output of the stage."""
        return cast("Callable[[object], object]", self.stage)(value)

    def run_rows(self, rows: Sequence[Tensor], *, extra: int = 0, filling: float = 0.0) -> list[Tensor]:
        """Return the output of the stage for each row."""
        return _split(self.run(self.make_input(rows, extra=extra, filling=filling)), len(rows))


def _split(output: object, count: int) -> list[Tensor]:
    """Return an output row by row.

    Raises:
        FaultError: if the output does not have these rows.
    """
    if isinstance(output, States):
        return split_states(cast("States", output))
    if isinstance(output, Padded | Packed):
        return split_steps(cast("Batch[Hidden]", output))
    if isinstance(output, StepScores):
        return list(torch.split(output.values.index_select(0, output.order.reading_order), to_ints(output.lengths)))
    if isinstance(output, Decoded):
        # The ids of the best text of each row, with their log-probabilities; fillers have texts too.
        best = [found[0] for found in cast("Decoded[object]", output).generated or ()]
        return [torch.tensor([*each.ids, *each.log_probabilities], dtype=torch.float64) for each in best]
    values: object = getattr(output, "values", None)
    if not isinstance(values, Tensor) or len(values) != count:
        msg = f"for {count} rows the stage must return a batch, states, or values per row, got {describe(output)}."
        raise FaultError(msg)
    return list(values)


def _prepare(make: Callable[[], object]) -> _Runner | None:
    """Create a stage in float64 and evaluation mode, and find the input that it takes; None if it takes no batch.

    Raises:
        FaultError: if it takes a batch, but fails for each.
    """
    stage = make()
    if not isinstance(stage, StageBase):
        msg = f"it must be a stage, got {describe(stage)}."
        raise FaultError(msg)
    method = stage.forward if isinstance(stage, nn.Module) else getattr(stage, "__call__", None)  # noqa: B004 - its hints
    hints = [hint for name, hint in resolve_hints(method).items() if name != "return"] if callable(method) else []
    hint = hints[0] if hints else object
    takes = get_classes(hint) or ()
    forms = [form for form in (Packed, Padded, States, Pooled) if form in takes or is_unconstrained(hint)]
    if not forms:
        return None
    if isinstance(stage, nn.Module):
        declared = {size for weight in stage.parameters() for size in weight.shape}
        stage.double().eval()
    else:
        declared = set[int]()
    failure: Exception | None = None
    for size in [_SIZE, *sorted(declared - {_SIZE})]:
        for form in forms:
            for kind in (Vectors, Ids, Nested) if form in {Packed, Padded} else (Vectors,):
                runner = _Runner(stage, form, kind, size)
                try:
                    stage.build(Spec(size=size, causal=True))
                    if isinstance(stage, nn.Module):
                        stage.double().eval()  # weights that were made by `build`
                    runner.run(runner.make_input(draw_rows((2, 1), size)))
                except PipelineError as error:
                    failure = failure or error
                else:
                    return runner
    msg = f"it fails for every batch that it should take: {failure}"
    raise FaultError(msg) from failure


def _draw(runner: _Runner, lengths: Sequence[int] = LENGTHS) -> Sequence[Tensor]:
    return draw_rows(lengths, runner.size)


@law
def stages_pass_metadata_on(make: MakeStage) -> None:
    """Row ids, targets, masks and lengths of the output are those of the input, in the same order."""
    runner = _prepare(make)
    if runner is None:
        return
    rows, width = _draw(runner), max(LENGTHS)
    mask = torch.arange(width) < torch.tensor(LENGTHS).unsqueeze(1) - 1
    metadata = BatchMetadata(
        torch.tensor([7, 3, FILLER, 0, 9]),
        torch.tensor([0, IGNORED, IGNORED, 0, 0]),
        mask,
        torch.tensor([2, 0, 0, 0, 5]),
    )
    value = runner.make_input(rows, metadata)
    output = runner.run(value)
    found: object = getattr(output, "metadata", None)
    if not isinstance(output, Collated) or not isinstance(found, BatchMetadata):
        msg = f"it must return something with metadata, got {describe(output)}; pass metadata=value.metadata."
        raise FaultError(msg)
    check_same_metadata(type(runner.stage).__name__, metadata, found)
    lengths: object = getattr(output, "lengths", None)
    if isinstance(lengths, Tensor) and to_ints(lengths) != list(LENGTHS):
        msg = f"lengths {LENGTHS} became {to_ints(lengths)}; use value.with_values(values)."
        raise FaultError(msg)


@law
def padding_does_not_reach_outputs(make: MakeStage) -> None:
    """Whatever is in the padding, and however much of it there is, each row gives the same."""
    runner = _prepare(make)
    if runner is None:
        return
    rows = _draw(runner)
    wanted = runner.run_rows(rows)
    for filling in FILLINGS:
        for extra in (0, 3):
            found = runner.run_rows(rows, extra=extra, filling=filling)
            fix = "Usually a sum or a maximum over the width; use value.packed(), or fill_padding."
            check_equal(found, wanted, f"with {filling} in the padding, {extra} steps wider", fix=fix)


@law
def rows_are_independent(make: MakeStage) -> None:
    """A row alone gives the same as among others."""
    runner = _prepare(make)
    if runner is None:
        return
    rows = _draw(runner)
    together = runner.run_rows(rows)
    for number, row in enumerate(rows):
        fix = "Usually statistics over the batch, or a result at the wrong row."
        check_equal(runner.run_rows([row]), together[number : number + 1], f"row {number} alone", fix=fix)


@law
def empty_rows_are_accepted(make: MakeStage) -> None:
    """Empty rows, alone and among others, give finite outputs."""
    runner = _prepare(make)
    if runner is None:
        return
    for lengths in ((3, 0, 2), (0, 0)):
        for number, found in enumerate(runner.run_rows(_draw(runner, lengths))):
            if not bool(found.isfinite().all()):
                msg = f"among rows of lengths {lengths}, row {number} gives {describe(found)} that is not finite."
                raise FaultError(msg, row=number)


@law
def build_returns_output_size(make: MakeStage) -> None:
    """The size that `build` returns, if any, is the size of the output."""
    runner = _prepare(make)
    if runner is None:
        return
    size = runner.stage.build(Spec(size=runner.size, causal=True)).size
    if size is None:
        return
    found = runner.run_rows(_draw(runner))[0].shape[-1]
    if size != found:
        msg = f"build returns size {size}, but the output has {found} features; stages after it get the wrong size."
        raise FaultError(msg)


@law
def pickled_stage_is_equal(make: MakeStage) -> None:
    """An unpickled copy gives bitwise the same: pipes are sent to other processes. Its class may be local."""
    runner = _prepare(make)
    if runner is None:
        return
    rows = _draw(runner)
    wanted = runner.run_rows(rows)
    try:
        copied = pickle_and_unpickle(runner.stage)
    except Exception as error:
        msg = (
            f"it cannot be pickled and unpickled ({format_error(error, 300)}); usually a lambda, a generator or an "
            "open file among its attributes: use a method, or functools.partial of a function."
        )
        raise FaultError(msg) from error
    check_equal(attrs.evolve(runner, stage=copied).run_rows(rows), wanted, "an unpickled copy", rounding=0)


STAGE_LAWS: Final[tuple[Law[StageBase], ...]] = (
    stages_pass_metadata_on,
    padding_does_not_reach_outputs,
    rows_are_independent,
    empty_rows_are_accepted,
    build_returns_output_size,
    pickled_stage_is_equal,
    config_makes_an_equal_part,
)
"""Every law of a stage on batches, of an embedder and of a head."""


@law
def predictions_are_per_row(make: MakeHead) -> None:
    """There is one prediction per row with its row id, in order, and none for a filler; with scores too."""
    predictions, _ = _predict(make, None)
    for each in (predictions.rows(), predictions.scored_rows()):
        found = [row_id for row_id, _ in each]
        if found != [7, 3, 0, 9]:
            msg = f"for row ids [7, 3, FILLER, 0, 9] the predictions are those of {found}; leave out fillers only."
            raise FaultError(msg)


@law
def missing_targets_have_no_loss(make: MakeHead) -> None:
    """The loss of rows of which some have no target is the loss of the others; without any target it is finite."""
    predictions, _ = _predict(make, None)
    if not hasattr(predictions, "loss"):
        return
    compute = partial(_compute_loss, make, are_texts=isinstance(predictions, Decoded))
    for targets, missing in _list_targets(predictions):
        try:
            loss = compute(targets)
        except PipelineError:
            continue  # targets of another type
        partly, without = targets.clone(), targets.clone()
        partly[3] = missing
        without[:] = missing
        # Another target of the row with none must not matter; a loss that counts it as a class would.
        kept = [0, 1, 2, 4]
        wanted = compute(targets[kept], kept)
        check_equal([compute(partly)], [wanted], "the loss of rows of which one has no target")
        if not bool(compute(without).isfinite()) or not bool(loss.isfinite()):
            raise FaultError("the loss of a batch without targets is not finite; divide by at least 1.")
        return
    raise FaultError("its loss accepts no classes or numbers, per row or per step.")


def _list_targets(predictions: object) -> list[tuple[Tensor, float]]:
    values: object = getattr(predictions, "values", None)
    size = values.shape[-1] if isinstance(values, Tensor) else 1
    count, width = len(LENGTHS), max(LENGTHS)
    mask = torch.arange(width) < torch.tensor(LENGTHS).unsqueeze(1)
    return [
        (torch.zeros(count, dtype=torch.int64), IGNORED),
        (torch.zeros(count, width, dtype=torch.int64).where(mask, IGNORED), IGNORED),
        (torch.ones(count, dtype=torch.float64), float("nan")),
        (torch.ones(count, size, dtype=torch.float64), float("nan")),
    ]


def _predict(
    make: MakeHead, targets: Tensor | None, rows: Sequence[int] = range(len(LENGTHS)), *, are_texts: bool = False
) -> tuple[Predictions[object, object], BatchMetadata]:
    # The same weights each time: a law is seeded once, but makes several heads.
    with seeded(3):
        runner = _prepare(make)
    if runner is None:
        raise FaultError("a head must take a batch, states or pooled rows; annotate the argument of forward.")
    row_ids = torch.tensor([7, 3, FILLER, 0, 9])[list(rows)]
    drawn = _draw(runner)
    chosen = [drawn[row] for row in rows]
    if targets is not None and targets.ndim == 2 and not targets.is_floating_point():
        targets = targets[:, : max(map(len, chosen))]
    metadata = BatchMetadata(row_ids, targets)
    if are_texts and targets is not None and targets.ndim == 2:
        metadata = attrs.evolve(metadata, target_lengths={"": (targets != IGNORED).sum(1)})
    found = runner.run(runner.make_input(chosen, metadata))
    if not isinstance(found, Predictions):
        msg = f"a head must return Predictions, got {describe(found)}."
        raise FaultError(msg)
    return cast("Predictions[object, object]", found), metadata


def _compute_loss(
    make: MakeHead, targets: Tensor, rows: Sequence[int] = range(len(LENGTHS)), *, are_texts: bool = False
) -> Tensor:
    predictions, _ = _predict(make, targets, rows, are_texts=are_texts)
    loss = cast("Callable[[], Tensor]", getattr(predictions, "loss"))  # noqa: B009 - predictions need no loss
    return loss()


HEAD_LAWS: Final[tuple[Law[ModuleStage[Never, Predictions[object, object]]], ...]] = (
    *STAGE_LAWS,
    predictions_are_per_row,
    missing_targets_have_no_loss,
)
"""Every law of a head."""


def check_stage(make: MakeStage) -> None:
    """Check stages on batches, such as embedders, against `STAGE_LAWS`.

    Other stages, on rows or streams, pass: there is no law for them.

    Args:
        make: takes no arguments and creates a new stage at every call.

    Raises:
        LawBrokenError: if a law is broken; the error lists all broken laws.
        OptionError: if `make` is a stage instead of a function that creates one.

    Example:
        >>> from pipeline import Embed
        >>> check_stage(lambda: Embed(5, 3))
    """
    check_laws(STAGE_LAWS, make, "stages", "STAGE_LAWS")


def check_head(make: MakeHead) -> None:
    """Check heads against `HEAD_LAWS`.

    Args:
        make: takes no arguments and creates a new head at every call.

    Raises:
        LawBrokenError: if a law is broken; the error lists all broken laws.
        OptionError: if `make` is a head instead of a function that creates one.
    """
    check_laws(HEAD_LAWS, make, "heads", "HEAD_LAWS")
