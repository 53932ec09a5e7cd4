"""Laws about what concerns data and results: policies, sources and metrics."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, Protocol, TypeAlias, cast

import numpy as np
import torch

from pipeline.batching.plan import Plan
from pipeline.batching.policies import Policy
from pipeline.data.metadata import IGNORED, BatchMetadata
from pipeline.data.rows import Example
from pipeline.data.scores import Predictions, Scores, StepScores
from pipeline.data.values import MultiLabelScores, Values
from pipeline.errors import TargetError
from pipeline.laws.configs import config_makes_an_equal_part
from pipeline.laws.law import FaultError, Law, check_laws, law
from pipeline.parts.metric import Metric

MakePolicy: TypeAlias = Callable[[], Policy]
MakeMetric: TypeAlias = Callable[[], Metric]


class ReadsExamples(Protocol):
    """What the laws of sources need of a source."""

    def __len__(self) -> int:
        """Return the number of records."""
        ...

    def __iter__(self) -> Iterator[Example[object]]:
        """Read all records in order."""
        ...

    def read(self, number: int, /) -> Example[object]:
        """Read the record of a number."""
        ...

    def where(self, index: int, /) -> str:
        """Return the location of a record."""
        ...


MakeSource: TypeAlias = Callable[[], ReadsExamples]


def _draw_lengths(policy: Policy) -> list[int]:
    limit = policy.limit()
    longest = 40 if limit is None else min(limit, 40)
    # Empty rows, ties, many short rows and few long ones, and the longest row that is allowed.
    drawn = np.random.default_rng(0).geometric(0.15, 200).clip(1, longest)
    return [0, longest, *drawn.tolist(), 0 if limit is None else limit]


@law
def every_row_is_in_one_batch(make: MakePolicy) -> None:
    """No row is lost or doubled."""
    policy = make()
    lengths = _draw_lengths(policy)
    found = sorted(int(row) for batch in Plan.of(lengths, policy) for row in batch)
    if found != list(range(len(lengths))):
        msg = f"{len(lengths)} rows must be in one batch each, got {len(found)} of which {len(set(found))} differ."
        raise FaultError(msg)


@law
def batches_are_within_limit(make: MakePolicy) -> None:
    """A batch has at most the rows that `max_rows` allows for its longest row, and rows of one group only."""
    policy = make()
    lengths = _draw_lengths(policy)
    for batch in Plan.of(lengths, policy):
        of_batch = [lengths[int(row)] for row in batch]
        if len(of_batch) > policy.room(max(of_batch)):
            msg = f"{len(of_batch)} rows of up to {max(of_batch)} steps exceed {policy.room(max(of_batch))} rows."
            raise FaultError(msg)
        for edge in policy.edges():
            if min(of_batch) <= edge < max(of_batch):
                msg = f"a batch has rows of {min(of_batch)} and {max(of_batch)} steps, on both sides of edge {edge}."
                raise FaultError(msg)


@law
def room_does_not_grow_with_length(make: MakePolicy) -> None:
    """`max_rows` is 1 or more up to the limit, and never larger for a longer row."""
    policy = make()
    limit = policy.limit()
    rooms = [policy.max_rows(length) for length in range(1, 200 if limit is None else min(limit, 200) + 1)]
    for length, (before, after) in enumerate(itertools.pairwise(rooms), start=2):
        if after > before:
            msg = f"max_rows({length}) is {after}, more than max_rows({length - 1}), {before}; it must not grow."
            raise FaultError(msg)
    if rooms and min(rooms) < 1:
        msg = f"max_rows({rooms.index(min(rooms)) + 1}) must be 1 or more, got {min(rooms)}; or return a max_length."
        raise FaultError(msg)


@law
def padded_shapes_hold_their_rows(make: MakePolicy) -> None:
    """Each batch is padded to at least its rows and its longest row."""
    policy = make()
    lengths = _draw_lengths(policy)
    plan = Plan.of(lengths, policy)
    for batch, shape in zip(plan, plan.shapes.tolist(), strict=True):
        longest = max(lengths[int(row)] for row in batch)
        if shape[0] < len(batch) or shape[1] < longest:
            msg = f"{len(batch)} rows of up to {longest} steps are padded to {tuple(shape)}; `shapes` must hold them."
            raise FaultError(msg)


@law
def equal_policies_make_equal_batches(make: MakePolicy) -> None:
    """Two policies of one factory are equal, and give the same batches for the same seed."""
    first, second = make(), make()
    lengths = _draw_lengths(first)
    batches = [[batch.tolist() for batch in Plan.of(lengths, policy, seed=1)] for policy in (first, second)]
    if batches[0] != batches[1] or first != second:
        raise FaultError("two equal policies must be equal and make equal batches; write it with @attrs.frozen.")


POLICY_LAWS: Final[tuple[Law[Policy], ...]] = (
    room_does_not_grow_with_length,
    every_row_is_in_one_batch,
    batches_are_within_limit,
    padded_shapes_hold_their_rows,
    equal_policies_make_equal_batches,
    config_makes_an_equal_part,
)
"""Every law of a policy."""


def _is_equal(one: object, other: object) -> bool:
    """Compare examples, whose inputs may be tensors, arrays, or records of several fields."""
    if isinstance(one, Example) and isinstance(other, Example):
        first, second = cast("Example[object]", one), cast("Example[object]", other)
        return _is_equal((first.input, first.target), (second.input, second.target))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        fields, others = cast("Mapping[object, object]", one), cast("Mapping[object, object]", other)
        return _is_equal(tuple(fields.items()), tuple(others.items()))
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        left, right = cast("Sequence[object]", one), cast("Sequence[object]", other)
        return len(left) == len(right) and all(map(_is_equal, left, right))
    # Of arrays and tensors, the comparison is one again.
    return bool(np.all(np.asarray(one == other)))


@law
def source_can_be_read_again(make: MakeSource) -> None:
    """Each iteration starts at the first record, also while another one is running, and in a second source."""
    source = make()
    first = list(source)
    started = iter(source)
    next(started, None)
    if not _is_equal(list(source), first) or not _is_equal(list(make()), first):
        raise FaultError("a second iteration must give the same examples as the first; open the file in __iter__.")


@law
def source_length_is_number_of_records(make: MakeSource) -> None:
    """`len(source)` is the number of examples of an iteration."""
    source = make()
    claimed = len(source)
    count = len(list(source))
    if claimed != count or len(source) != count:
        msg = f"len is {claimed}, but an iteration gives {count} examples."
        raise FaultError(msg)


@law
def records_by_number_equal_iteration(make: MakeSource) -> None:
    """`source.read(i)` is the i-th example of an iteration, in any order, and has a location of its own."""
    source = make()
    wanted = list(source)
    for number in reversed(range(len(wanted))):
        found = source.read(number)
        if not _is_equal(found, wanted[number]):
            msg = f"read({number}) gives {found}, but iteration {wanted[number]}."
            raise FaultError(msg)
    places = {source.where(number) for number in range(len(wanted))}
    if len(places) != len(wanted):
        raise FaultError("two records have the same location in `where`; users could not find the one at fault.")


SOURCE_LAWS: Final[tuple[Law[ReadsExamples], ...]] = (
    source_can_be_read_again,
    source_length_is_number_of_records,
    records_by_number_equal_iteration,
)
"""Every law of a source that can be read by number."""

_TARGETS: Final = ((0, 1, IGNORED), (2,), (1, 1, 0, 2), (IGNORED,))


def _list_batches() -> list[list[Predictions[object, object]]]:
    """Return batches of predictions: of rows, of steps, of spans, of several classes per row, and of numbers."""
    generator = torch.Generator().manual_seed(7)
    found: list[list[Predictions[object, object]]] = [[] for _ in range(6)]
    rows, steps, spans, sets, numbers, vectors = found
    for targets in _TARGETS:
        count = len(targets)
        values = torch.randn(count, 3, generator=generator)
        classes = torch.tensor(targets)
        rows.append(Scores(values, range(3), metadata=BatchMetadata(torch.arange(count), classes)))
        # One row, padded by two steps whose targets must not count.
        padded = torch.tensor([[*targets, IGNORED, IGNORED]])
        one = BatchMetadata(torch.arange(1), padded)
        steps.append(StepScores(values, torch.tensor([count]), range(3), metadata=one))
        spans.append(StepScores(values, torch.tensor([count]), ["O", "B-name", "I-name"], metadata=one))
        # Of the same rows: whether a class is the target, as a number, and NaN where there is no target.
        is_class = (classes.unsqueeze(1) == torch.arange(3)).float()
        floats = is_class.masked_fill((classes == IGNORED).unsqueeze(1), torch.nan)
        of_rows = BatchMetadata(torch.arange(count), floats)
        sets.append(MultiLabelScores(values, range(3), torch.full((3,), 0.5), metadata=of_rows))
        vectors.append(Values[list[float]](values, metadata=of_rows))
        of_numbers = BatchMetadata(torch.arange(count), floats[:, 0])
        numbers.append(Values[float](values[:, 0], metadata=of_numbers))
    return found


def _accepted(make: MakeMetric) -> list[list[Predictions[object, object]]]:
    """Return the lists of batches that a metric is for."""
    found: list[list[Predictions[object, object]]] = []
    for batches in _list_batches():
        try:
            make().update(batches[0])
        except TargetError:
            continue
        found.append(batches)
    return found


def _compute(make: MakeMetric, batches: list[Predictions[object, object]]) -> float:
    metric = make()
    for batch in batches:
        metric.update(batch)
    return metric.compute()


def _check_close(found: float, wanted: float, condition: str) -> None:
    if not abs(found - wanted) <= 1e-9 * max(1.0, abs(wanted)):
        msg = f"{condition}, the metric is {found}, expected {wanted}."
        raise FaultError(msg)


@law
def order_of_batches_has_no_effect(make: MakeMetric) -> None:
    """The same batches in another order give the same number, and computing it twice too."""
    for batches in _accepted(make):
        metric = make()
        for batch in batches[::-1]:
            metric.update(batch)
        wanted = _compute(make, batches)
        _check_close(metric.compute(), wanted, "with the batches in reverse order")
        _check_close(metric.compute(), wanted, "computed again")


@law
def merged_metrics_equal_the_whole(make: MakeMetric) -> None:
    """Metrics of two parts of the batches, merged, equal that of all; also if one of them is empty."""
    for batches in _accepted(make):
        wanted = _compute(make, batches)
        for cut in range(len(batches) + 1):
            first, second = make(), make()
            for number, batch in enumerate(batches):
                (first if number < cut else second).update(batch)
            first.merge(second)
            _check_close(first.compute(), wanted, f"merged from {cut} and {len(batches) - cut} batches")


@law
def items_without_target_do_not_count(make: MakeMetric) -> None:
    """A batch without any target changes nothing."""
    for batches in _accepted(make):
        _check_close(_compute(make, batches[:-1]), _compute(make, batches), "without a batch that has no target")


METRIC_LAWS: Final[tuple[Law[Metric], ...]] = (
    order_of_batches_has_no_effect,
    merged_metrics_equal_the_whole,
    items_without_target_do_not_count,
)
"""Every law of a metric: of classes of rows or steps, of spans, of several classes per row, and of numbers."""


def check_policy(make: MakePolicy) -> None:
    """Check policies against `POLICY_LAWS`.

    Raises:
        LawBrokenError: if a law is broken; the error lists all broken laws.

    Example:
        >>> from pipeline.batching import Budget
        >>> check_policy(lambda: Budget(100))
    """
    check_laws(POLICY_LAWS, make, "policies", "POLICY_LAWS")


def check_source(make: MakeSource) -> None:
    """Check sources against `SOURCE_LAWS`; a source should have several records.

    Raises:
        LawBrokenError: if a law is broken; the error lists all broken laws.
    """
    check_laws(SOURCE_LAWS, make, "sources", "SOURCE_LAWS")


def check_metric(make: MakeMetric) -> None:
    """Check metrics against `METRIC_LAWS`.

    Raises:
        LawBrokenError: if a law is broken; the error lists all broken laws.
    """
    check_laws(METRIC_LAWS, make, "metrics", "METRIC_LAWS")
