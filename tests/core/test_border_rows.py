"""The row ids of a stage's output are those of its input, in training and in prediction."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor
from typing_extensions import override

from pipeline import (
    Attend,
    Attention,
    Batch,
    Bucket,
    Classify,
    Embed,
    Encode,
    Example,
    FromIds,
    Hidden,
    Ids,
    ModuleStage,
    Pad,
    Padded,
    Pool,
    Pooled,
    Pooling,
    Row,
    Scores,
    Stage,
    States,
    StepScores,
    Tag,
    Tokenize,
    Tokenizer,
    TokenizeWords,
    Vectors,
    set_checks,
)
from pipeline.data.metadata import IGNORED, BatchMetadata
from pipeline.errors import CompositionError, StageError
from pipeline.parts.tokenizer import Tokens
from pipeline_recurrent import GRU

# In the order of Bucket: the longest row first.
IDS = [[1], [1, 2, 3], [4, 5]]


class Change(ModuleStage[Any, Any]):
    """Applies a function to its input."""

    def __init__(self, change: Callable[[Any], Any]) -> None:
        super().__init__()
        self.change = change

    @override
    def forward(self, value: Any) -> Any:
        return self.change(value)


def make_pooled(*, change: Callable[[Pooled], Pooled]) -> Any:
    """Return a pipe with a stage between pooling and head."""
    data = FromIds() >> Bucket(rows=3) >> Pad() >> Embed(9, 4)
    return data >> Encode(GRU(4, 3)) >> Pool("mean") >> Change(change) >> Classify(2, input_size=3)


DROPPED: dict[str, Callable[[Any], Any]] = {
    "pooled": lambda value: Pooled(value.values),
    "reversed": lambda value: Pooled(
        value.values.flip(0), metadata=attrs.evolve(value.metadata, row_ids=value.row_ids.flip(0))
    ),
    "of another batch": lambda value: Pooled(value.values, metadata=BatchMetadata(value.row_ids + 1)),
    "fewer": lambda value: Pooled(value.values[1:], metadata=BatchMetadata(value.row_ids[1:])),
}


@pytest.mark.parametrize("kind", DROPPED)
@pytest.mark.parametrize("predicts", [False, True])
def test_a_stage_that_changes_the_row_ids_raises(kind: str, *, predicts: bool) -> None:
    """The error names the stage, and how to pass the metadata on."""
    pipe = make_pooled(change=DROPPED[kind])
    with pytest.raises(CompositionError, match=r"stage 7 `Change`: Change .*value\.with_values\(values\)"):
        list(pipe.predict(IDS) if predicts else pipe([Example(ids, target=1) for ids in IDS]))


def test_a_stage_that_loses_the_targets_raises() -> None:
    """Even if its new row ids, from 0, happen to be those of the input."""
    pooled = Pooled(torch.ones(2, 3), metadata=BatchMetadata(torch.arange(2), targets=torch.tensor([0, 1])))
    with pytest.raises(CompositionError, match=r"Change dropped the metadata .* without targets; keep the rows"):
        Change(lambda value: Pooled(value.values))(pooled)


def test_a_stage_that_loses_the_answer_mask_raises() -> None:
    """Otherwise words of several tokens would have several predictions."""
    mask = torch.tensor([[True, False]])
    batch = Padded(
        Vectors, torch.ones(1, 2, 3), torch.tensor([2]), metadata=BatchMetadata(torch.arange(1), answer_mask=mask)
    )
    with pytest.raises(CompositionError, match="without answer_mask"):
        Change(lambda value: Padded(Hidden, value.values, value.lengths))(batch)


KEPT: dict[str, Callable[[Any], Any]] = {
    "the same object": lambda value: value,
    "with_values": lambda value: value.with_values(value.values * 2),
    "metadata passed": lambda value: Pooled(value.values, metadata=value.metadata),
    "other targets": lambda value: Pooled(value.values, metadata=attrs.evolve(value.metadata, targets=None)),
    "equal row ids": lambda value: Pooled(
        value.values, metadata=attrs.evolve(value.metadata, row_ids=value.row_ids.clone())
    ),
}


@pytest.mark.parametrize("kind", KEPT)
def test_a_stage_that_keeps_the_row_ids_is_right(kind: str) -> None:
    """Each of the ways that the error recommends."""
    pipe = make_pooled(change=KEPT[kind])
    assert len(list(pipe.predict(IDS))) == 3
    (scores,) = pipe([Example(ids, target=len(ids) % 2) for ids in IDS])
    assert sorted(scores.row_ids.tolist()) == [0, 1, 2]


def test_values_of_every_type_can_be_replaced() -> None:
    """With the metadata kept, and another size where the type allows it."""
    metadata = BatchMetadata(torch.tensor([4, 7]), targets=torch.tensor([1, IGNORED]))
    assert Pooled(torch.ones(2, 3), metadata=metadata).with_values(torch.ones(2, 5)).metadata is metadata
    scores = Scores(torch.ones(2, 3), range(3), metadata=metadata).with_values(torch.tensor([[0, 1, 0], [2.0, 0, 0]]))
    assert list(scores.rows()) == [(4, 1), (7, 0)]
    steps = StepScores(torch.eye(3), torch.tensor([1, 2]), range(3), metadata=metadata).with_values(
        torch.eye(3).flip(0)
    )
    assert list(steps.rows()) == [(4, [1]), (7, [2, 0])]


def test_tensors_instead_of_batches_are_not_checked() -> None:
    """A stage may return anything: there is nothing to compare."""
    assert Change(lambda value: value.values)(Pooled(torch.ones(2, 3))).shape == (2, 3)


def test_without_checks_prediction_still_counts_rows() -> None:
    """The check around stages can be switched off, but no row is silently lost."""
    pipe = make_pooled(change=DROPPED["fewer"])
    with set_checks(False), pytest.raises(CompositionError, match="row 0 of 3 was not predicted|was not predicted"):
        list(pipe.predict(IDS))


class NewRow(Stage[Row[Ids], Row[Ids]]):
    """Reverses a row, and drops its id."""

    @override
    def __call__(self, value: Row[Ids], /) -> Row[Ids]:
        return Row(Ids(value.sequence.values.flip(0)))


def test_a_stage_that_drops_a_row_id_raises() -> None:
    """A row made without it would be row 0."""
    pipe = FromIds() >> NewRow() >> Bucket(rows=2) >> Pad()
    with pytest.raises(CompositionError, match=r"stage 2 `NewRow`: NewRow returned row 0 for row 1; keep the row id"):
        list(pipe(IDS))


class Stopping(ModuleStage[Batch[Vectors], Batch[Vectors]]):
    """Raises a StopIteration by mistake."""

    @override
    def forward(self, value: Batch[Vectors]) -> Batch[Vectors]:
        return next(iter(()))


def test_stop_iteration_is_an_error_of_the_stage() -> None:
    """Also if the stage is called alone: in a `map` of the caller's it would be the end."""
    batch = Padded(Vectors, torch.ones(1, 2, 3), torch.tensor([2]))
    with pytest.raises(StageError, match="`Stopping` raised StopIteration") as raised:
        list(map(Stopping(), [batch]))
    assert isinstance(raised.value.__cause__, StopIteration)


def fail(*_: object) -> None:
    """Raise an error that is not of this library."""
    raise ZeroDivisionError


def test_an_error_of_a_part_names_its_stage_and_plugin() -> None:
    """In a note: programs may read the message of another library's error."""
    encoder = GRU(3, 4)
    encoder.register_forward_pre_hook(fail)
    with pytest.raises(ZeroDivisionError) as raised:
        (Encode(encoder) >> Tag(2))(Padded(Vectors, torch.ones(1, 2, 3), torch.tensor([2])))
    assert any("`Encode`, in encoder 'GRU' of ragged-pipeline" in note for note in raised.value.__notes__)
    assert "It was raised in stage 1 `Encode`." in raised.value.__notes__


class FailingPooling(Pooling):
    """A pooling of a user's own with an error."""

    @override
    def forward(self, states: States) -> Tensor:
        raise ZeroDivisionError


class FailingAttention(Attention):
    """An attention of a user's own with an error."""

    input_size = 3

    @override
    def score(self, query: Tensor, key: Tensor) -> Tensor:
        raise ZeroDivisionError


class FailingTokenizer(Tokenizer):
    """A tokenizer of a user's own with an error."""

    vocabulary: Mapping[str, int] = {"a": 0}
    pad_token = unk_token = bos_token = eos_token = None

    @override
    def encode(self, texts: Sequence[str], *, offsets: bool = True) -> list[Tokens]:
        raise ZeroDivisionError

    @override
    def encode_words(self, rows: Sequence[Sequence[str]], *, offsets: bool = True) -> list[Tokens]:
        raise ZeroDivisionError

    @override
    def decode(self, ids: Sequence[int]) -> str:
        return ""


STATES = States.from_padded(torch.ones(1, 2, 3), torch.tensor([2]))
FAILING: dict[str, Callable[[], object]] = {
    "pool 'FailingPooling'": lambda: Pool(FailingPooling())(STATES),
    "attention 'FailingAttention'": lambda: Attend(FailingAttention())(STATES),
    "tokenizer 'FailingTokenizer'": lambda: list((Tokenize(FailingTokenizer()) >> Bucket(rows=1))(["a"])),
}


@pytest.mark.parametrize("part", FAILING)
def test_errors_of_all_kinds_of_parts_are_named(part: str) -> None:
    """With the module of a class that no plugin offers."""
    with pytest.raises(ZeroDivisionError) as raised:
        FAILING[part]()
    assert any(f"in {part} of module" in note and "test_border_rows" in note for note in raised.value.__notes__)


class NewMetadata(ModuleStage[Padded[Ids], Padded[Ids]]):
    """Keeps the row ids, but not what else travels with the rows."""

    @override
    def forward(self, value: Padded[Ids]) -> Padded[Ids]:
        return Padded(Ids, value.values, value.lengths, metadata=BatchMetadata(value.row_ids))


def test_a_stage_that_drops_the_answer_mask_raises() -> None:
    """Without it, eos would get a tag too, one more than there are words."""
    words = TokenizeWords.train([["a", "b"]], eos=True)
    tag = Embed(words.vocab_size, 3) >> Encode("gru", hidden_size=4) >> Tag(2)
    data = words >> Bucket(rows=2) >> Pad()
    assert [len(tags) for tags in (data >> tag).predict([["a", "b"], ["a"]])] == [2, 1]
    with pytest.raises(CompositionError, match="NewMetadata dropped the metadata of its input.* without answer_mask"):
        list((data >> NewMetadata() >> tag).predict([["a", "b"], ["a"]]))
