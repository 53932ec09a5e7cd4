"""The batches of `fit`: three ways to make the same ones."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import pytest

from pipeline import BPTTWindows, Bucket, Embed, Example, FromIds, ModuleStage, Pad, Row, Shift, Stage, Stream
from pipeline.data.kinds import Ids
from pipeline.errors import CompositionError, OptionError
from pipeline.loading import Loader, StreamLoader
from pipeline.training.batches import count_batches, make_training_data
from pipeline.training.split_pipe import SplitPipe
from support.untyped import as_any, to_list

EXAMPLES = [Example([1 + row % 5] * (row % 7), row % 2) for row in range(40)]
MODEL = Embed(9, 3)


class Unchanged(Stage[Row[Ids], Row[Ids]]):
    """A stage of one's own between the input stage and the bucket."""

    def __call__(self, value: Row[Ids], /) -> Row[Ids]:
        """Return the row."""
        return value


class Weighted(ModuleStage[Row[Ids], Row[Ids]]):
    """A stage of one's own that is a module."""

    def forward(self, value: Row[Ids]) -> Row[Ids]:
        """Return the row."""
        return value


class Pairs(Stream[Row[Ids], list[Row[Ids]]]):
    """A stream of one's own: batches of two rows."""

    def __call__(self, values: Iterable[Row[Ids]], /) -> Iterator[list[Row[Ids]]]:
        """Yield batches of two rows."""
        rows = iter(values)
        while batch := list(islice(rows, 2)):
            yield batch


def make_pipes(**options: Any) -> dict[str, Any]:
    """Make pipes whose batches are equal, but made in different ways."""
    return {
        "planned": FromIds() >> Bucket(**options) >> Pad() >> MODEL,
        "stream": FromIds() >> Unchanged() >> Bucket(**options) >> Pad() >> MODEL,
    }


def list_rows(epochs: Any) -> list[list[int]]:
    """Return the row ids of each batch of an epoch."""
    return [to_list(batch.metadata.row_ids) for batch in epochs]


@pytest.mark.parametrize(
    "options", [{"rows": 4}, {"max_padded_steps": 20}, {}, {"max_padded_steps": 4, "too_long": "split"}]
)
def test_all_ways_make_the_batches_of_the_data_stages(options: dict[str, Any]) -> None:
    """In every epoch, also if the budget is chosen or rows are split."""
    pipes = make_pipes(**options)
    data = FromIds() >> Bucket(**options) >> Pad()
    made = {name: make_training_data(SplitPipe.of(pipe), EXAMPLES) for name, pipe in pipes.items()}
    assert isinstance(made["planned"].epochs, Loader)
    assert isinstance(made["stream"].epochs, StreamLoader)
    for _ in range(2):
        wanted = list_rows(data(EXAMPLES))
        assert all(list_rows(each.epochs) == wanted for each in made.values())


def test_an_epoch_of_the_pipe_s_own_bucket_is_not_counted() -> None:
    """Training starts at epoch 0 whatever the bucket was used for before."""
    for pipe in make_pipes(rows=4).values():
        bucket = as_any(pipe).stages["bucket"]
        bucket.set_epoch(3)
        data = make_training_data(SplitPipe.of(pipe), EXAMPLES)
        list(data.epochs)
        assert bucket.epoch == 3
        assert data.epochs.epoch == 1


@pytest.mark.parametrize("name", ["planned", "stream", "own"])
def test_a_state_continues_after_any_batch(name: str) -> None:
    """As a checkpoint needs it."""
    own = FromIds() >> Pairs() >> Pad() >> MODEL
    split = SplitPipe.of({**make_pipes(rows=4), "own": own}[name])
    wanted = make_training_data(split, EXAMPLES).epochs
    both = [list_rows(wanted), list_rows(wanted)]
    for done in (1, 3, len(both[0])):
        first = make_training_data(split, EXAMPLES).epochs
        batches = iter(first)
        for _ in range(done):
            next(batches)
        second = make_training_data(split, EXAMPLES).epochs
        second.load_state_dict(first.state_dict())
        assert list_rows(second) == both[0][done:]
        assert list_rows(second) == both[1]


def test_the_number_of_batches_of_a_stream_is_counted() -> None:
    """As a schedule needs it; not of data without an end."""
    pipe = FromIds() >> Shift() >> BPTTWindows(rows=3, steps=2) >> Pad() >> MODEL
    split = SplitPipe.of(pipe)
    assert count_batches(split, EXAMPLES) == len(list_rows(make_training_data(split, EXAMPLES).epochs))
    assert count_batches(split, as_any(iter(EXAMPLES))) is None


def test_windows_need_one_process_and_other_streams_none() -> None:
    """Windows continue each other, and each worker would read its own records."""
    windows = FromIds() >> Shift() >> BPTTWindows(rows=3, steps=2) >> Pad() >> MODEL
    with pytest.raises(OptionError, match="num_workers must be 0 or 1 with BPTTWindows"):
        make_training_data(SplitPipe.of(windows), EXAMPLES, num_workers=2)
    own = FromIds() >> Pairs() >> Pad() >> MODEL
    with pytest.raises(OptionError, match="num_workers must be 0 without one Bucket or BPTTWindows"):
        make_training_data(SplitPipe.of(own), EXAMPLES, num_workers=1)


def test_weights_before_the_stream_are_rejected() -> None:
    """Naming both stages."""
    pipe = FromIds() >> Weighted() >> Pairs() >> Pad() >> MODEL
    with pytest.raises(
        CompositionError, match="after the last stream, stage 3 `Pairs`, but stage 2 `Weighted` has some"
    ):
        SplitPipe.of(pipe)
