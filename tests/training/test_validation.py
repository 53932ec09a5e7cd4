"""Validation data is checked before the first epoch."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pipeline import Bucket, Classify, Encode, Example, FromFeatures, FromIds, Labels, Pad, Pool, Vectors, classifier
from pipeline.core.contexts import seeded
from pipeline.errors import LabelError, OptionError, PipelineError, TargetError
from pipeline.sources import Records
from pipeline.training import validation
from pipeline.training.loop import Training
from pipeline.training.validation import check_validation
from support.untyped import as_any

LABELS = Labels(["bad", "good"])
TRAIN = [Example([2, 3], "good"), Example([4, 5, 6], "bad")] * 3


def make_pipe(**options: Any) -> Any:
    """Make a classifier."""
    with seeded(3):
        data = FromIds() >> Bucket(rows=2) >> Pad(labels=LABELS, **options)
        return data >> classifier(9, LABELS, embedding_dim=3, hidden_size=3)


def fail(*_: object) -> None:
    """Stand for an epoch that should not begin."""
    msg = "an epoch has begun"
    raise AssertionError(msg)


@pytest.mark.parametrize(
    ("valid", "error", "message"),
    [
        ([], OptionError, "valid must have at least one row, got none"),
        (Records(list[Example[list[int]]]()), OptionError, "valid must have at least one row, got none"),
        ([Example([2], "good"), Example([3], "ugly")], LabelError, "ugly.*This is in valid"),
        ([Example([2], "good"), Example([3])], TargetError, "target.*This is in valid"),
        (
            [Example([2]), Example([3])],
            TargetError,
            "valid must have at least one target in a row with steps, got none",
        ),
        ([Example([], "good")], TargetError, "valid must have at least one target in a row with steps, got none"),
        ({"a": 1}, OptionError, "must be records in order"),
    ],
)
def test_wrong_data_is_rejected_before_the_first_epoch(
    valid: Any, error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the argument's name."""
    monkeypatch.setattr(Training, "run", fail)
    with pytest.raises(error, match=message):
        make_pipe().fit(TRAIN, valid=valid, epochs=1, progress=False)


def test_features_that_are_not_finite_are_rejected() -> None:
    """Before the first epoch as well."""
    pipe = as_any(
        FromFeatures()
        >> Bucket(Vectors, rows=2)
        >> Pad(Vectors)
        >> Encode("gru", input_size=2, hidden_size=2)
        >> Pool("max")
        >> Classify(2)
    )
    with pytest.raises(PipelineError, match=r"(?i)nan.*This is in valid"):
        check_validation(pipe, [], [Example([[1.0, float("nan")]], 1)])


def test_only_the_first_rows_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond them there may be a target, and errors are found after the epoch."""
    monkeypatch.setattr(validation, "ROWS", 4)
    check_validation(make_pipe(missing="ignore"), TRAIN, [*([Example([2])] * 4), Example([2], "ugly")])
    with pytest.raises(TargetError, match="got none in 3 rows"):
        check_validation(make_pipe(missing="ignore"), TRAIN, [Example([2])] * 3)


class RandomRows:
    """Rows of one's own, which may draw at random."""

    def __init__(self) -> None:
        self.reads = 0

    def __iter__(self) -> Iterator[Example[list[int]]]:
        self.reads += 1
        return iter(TRAIN)


def test_data_of_ones_own_is_not_read_once_more() -> None:
    """It may draw from generators of its own."""
    rows = RandomRows()
    make_pipe().fit(TRAIN, valid=rows, epochs=2, progress=False)
    assert rows.reads == 2


@pytest.mark.parametrize("make", [lambda: list(TRAIN), lambda: Records(TRAIN)], ids=["list", "source"])
def test_the_check_changes_neither_generators_nor_epochs(make: Callable[[], Any]) -> None:
    """So that a training has the same weights with and without it."""
    pipe, before = make_pipe(), random.getstate()
    check_validation(pipe, TRAIN, make())
    assert random.getstate() == before
    assert pipe.stages["bucket"].epoch == 0
