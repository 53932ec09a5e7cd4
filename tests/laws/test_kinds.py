"""Test that the library's stages, heads, policies, sources and metrics obey their laws, and that broken ones do not."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import cast

import attrs
import pytest
import torch
from torch import Tensor
from typing_extensions import override

from pipeline import (
    Attend,
    Batch,
    Classify,
    ClassifyMultiLabel,
    Dropout,
    EachStep,
    Embed,
    Encode,
    Example,
    Ids,
    Labels,
    ModuleStage,
    Nested,
    NextToken,
    Pack,
    Pool,
    Pooled,
    Predictions,
    Regress,
    Scores,
    States,
    Tag,
    Values,
    Vectors,
)
from pipeline.batching import Boundaries, Budget, Policy, Rows, Shapes
from pipeline.core.stage import Spec, StageBase
from pipeline.extend import Metric, derive_vectors
from pipeline.registry import registry
from pipeline.sources import Records
from pipeline.testing import (
    HEAD_LAWS,
    LawBrokenError,
    check_head,
    check_metric,
    check_policy,
    check_source,
    check_stage,
)
from pipeline_attention import Dot
from pipeline_recurrent import GRU

STAGES: dict[str, Callable[[], StageBase]] = {
    "embed": lambda: Embed(5, 3),
    "pack": Pack,
    "dropout": Dropout,
    "encode": lambda: Encode(GRU(3, 5)),
    "attend": lambda: Attend(Dot(4)),
    "pool": lambda: Pool("mean"),
    "tag": lambda: Tag(2, input_size=3),
}
POLICIES: dict[str, Callable[[], Policy]] = {
    "rows": lambda: Rows(7),
    "budget": lambda: Budget(90, quadratic=30),
    "boundaries": lambda: Boundaries((5, 12), rows=4),
    "shapes": lambda: Shapes([(4, 16), (2, 64)]),
}


@pytest.mark.parametrize("name", STAGES)
def test_stages_obey(name: str) -> None:
    """With their own sizes, and with a size that they get from the stage before."""
    check_stage(STAGES[name])


def test_heads_obey() -> None:
    """Heads of rows and of steps, of classes and of numbers."""
    check_head(lambda: Classify(Labels(["a", "b"])))
    check_head(lambda: ClassifyMultiLabel(3))
    check_head(lambda: Tag(3, input_size=2))
    check_head(lambda: NextToken(3))
    check_head(lambda: Regress(2))
    check_head(lambda: Regress(input_size=3))


@pytest.mark.parametrize("name", POLICIES)
def test_policies_obey(name: str) -> None:
    """All policies of the library."""
    check_policy(POLICIES[name])


def test_sources_and_metrics_obey() -> None:
    """Records in memory, and every registered metric."""
    check_source(lambda: Records(["to be", "or not", "to be"]))
    for name in ("accuracy", "macro_f1"):
        check_metric(partial(registry().metrics.make, name))


class SumsPadding(ModuleStage[States, Pooled]):
    """Averages over the width of the batch, and drops the metadata."""

    def forward(self, value: States) -> Pooled:
        """Return a mean of each row."""
        return Pooled(value.steps.padded().values.mean(1))


class WrongSize(ModuleStage[Pooled, Pooled]):
    """Declares another size than it returns, and compares rows with each other."""

    @override
    def build(self, spec: Spec, /) -> Spec:
        return Spec(size=1)

    def forward(self, value: Pooled) -> Pooled:
        """Subtract the mean of the batch."""
        return value.with_values(value.values - value.values.mean(0))


def get_broken(run: Callable[[], None]) -> set[str]:
    """Return the names of the laws that are broken."""
    with pytest.raises(LawBrokenError) as caught:
        run()
    return set(cast("tuple[str, ...]", caught.value.details["laws"]))


def test_broken_stages_are_found() -> None:
    """Lost metadata, padding that reaches a result, rows that depend on each other, and a wrong size."""
    assert {"stages_pass_metadata_on", "padding_does_not_reach_outputs"} <= get_broken(lambda: check_stage(SumsPadding))
    assert {"rows_are_independent", "build_returns_output_size"} == get_broken(lambda: check_stage(WrongSize))


class HoldsFunction(ModuleStage[Pooled, Pooled]):
    """Has a local function among its attributes, which pickle rejects."""

    def __init__(self) -> None:
        super().__init__()

        def keep(values: Tensor) -> Tensor:
            return values

        self.function = keep

    def forward(self, value: Pooled) -> Pooled:
        """Return the rows as they are."""
        return value.with_values(self.function(value.values))


class ForgetsNumber(ModuleStage[Pooled, Pooled]):
    """Leaves a number out of its pickled state."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 2.0

    @override
    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "number": 1.0}

    def forward(self, value: Pooled) -> Pooled:
        """Multiply each row by the number."""
        return value.with_values(value.values * self.number)


def test_stages_that_do_not_survive_pickling_are_found() -> None:
    """A pipe with one could not be sent to another process, or would answer otherwise there."""
    assert get_broken(lambda: check_stage(HoldsFunction)) == {"pickled_stage_is_equal"}
    assert get_broken(lambda: check_stage(ForgetsNumber)) == {"pickled_stage_is_equal"}


class CountsMissing(Values[float]):
    """Numbers whose loss counts rows without a target as zeros."""

    def loss(self, *_: object, **__: object) -> Tensor:
        """Return the mean error over all rows."""
        assert self.targets is not None
        return (self.values - self.targets.nan_to_num()).square().mean()

    @override
    def rows(self) -> Iterator[tuple[int, float]]:
        yield from enumerate(map(float, self.values))


class CountingHead(ModuleStage[Pooled, Predictions[float, float]]):
    """A head with that loss."""

    def forward(self, value: Pooled) -> Predictions[float, float]:
        """Return the first feature."""
        return CountsMissing(value.values[:, 0], metadata=value.metadata)


def test_broken_heads_are_found() -> None:
    """A loss that counts rows without a target, and predictions without row ids."""
    assert get_broken(lambda: check_head(CountingHead)) == {"predictions_are_per_row", "missing_targets_have_no_loss"}
    assert len(HEAD_LAWS) == 9


@attrs.frozen
class Growing(Policy):
    """More rows for longer rows."""

    def max_rows(self, longest: int) -> int:
        """Return the length."""
        return longest


@attrs.frozen
class Random(Policy):
    """Another limit each time."""

    def max_rows(self, longest: int) -> int:
        """Draw a number."""
        return max(1, 9 - longest) + int(torch.randint(9, ()))


def test_broken_policies_are_found() -> None:
    """Room that grows with the length, and policies that are not equal."""
    assert "room_does_not_grow_with_length" in get_broken(lambda: check_policy(Growing))
    assert "equal_policies_make_equal_batches" in get_broken(lambda: check_policy(Random))


class Once:
    """A source that is read once, and miscounts."""

    def __init__(self) -> None:
        self.examples = iter([Example("a"), Example("b")])

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Iterator[Example[object]]:
        return self.examples

    def read(self, number: int, /) -> Example[object]:
        """Return another record."""
        return Example(number)

    def where(self, index: int, /) -> str:
        """Return the same location for all."""
        return f"record of {len(self) + 0 * index}"


class Last(Metric):
    """The size of the last batch."""

    size = 0

    def update(self, predictions: Predictions[object, object], /) -> None:
        """Keep the size."""
        assert isinstance(predictions, Scores) or predictions is not None
        self.size = len(list(predictions.rows()))

    def compute(self) -> float:
        """Return it."""
        return float(self.size)

    def merge(self, other: Metric, /) -> None:
        """Forget the other one."""


def test_broken_sources_and_metrics_are_found() -> None:
    """A source that is exhausted, and a metric that keeps the last batch only."""
    wanted = {"source_can_be_read_again", "source_length_is_number_of_records", "records_by_number_equal_iteration"}
    assert get_broken(lambda: check_source(Once)) == wanted
    assert {"order_of_batches_has_no_effect", "merged_metrics_equal_the_whole"} <= get_broken(
        lambda: check_metric(Last)
    )


def test_random_state_is_restored() -> None:
    """Laws draw numbers of their own."""
    before = torch.get_rng_state()
    check_stage(lambda: Embed(5, 3))
    assert torch.equal(torch.get_rng_state(), before)


class CountsInner(ModuleStage[Batch[Nested[Ids]], Batch[Vectors]]):
    """Compares the lengths of inner rows with those of the whole batch."""

    def forward(self, value: Batch[Nested[Ids]]) -> Batch[Vectors]:
        """Return a number per step."""
        assert value.inner is not None
        rows = value.padded().fill_padding(0)
        counts = value.inner.lengths[rows.values].double().unsqueeze(2)
        return derive_vectors(counts - counts.mean(), rows, None)


def test_stages_on_nested_rows_are_tested() -> None:
    """Embedders of characters obey; a stage that compares rows does not."""
    check_stage(lambda: EachStep(Embed(5, 3) >> Encode(GRU(3, 2)) >> Pool("final")))
    assert "rows_are_independent" in get_broken(lambda: check_stage(CountsInner))
