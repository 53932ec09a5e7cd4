"""What flows: batches in both layouts, their order, their metadata, and what they refuse."""

import copy
import pickle

import pytest
import torch
from hypothesis import given
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils import _pytree as pytree

from pipeline import Ids, Packed, Padded, Pooled, Report, Scores, States, StepScores, Vectors
from pipeline.data.metadata import IGNORED, BatchMetadata
from pipeline.data.order import Order
from pipeline.errors import EmptyBatchError, LengthError, PipelineError, ShapeError, TargetError
from pipeline.testing import packing_is_inverse, padded
from support.strategies import lengths, ragged
from support.untyped import listed, loosely, seed


@given(counts=lengths())
def test_the_order_is_torchs(counts: list[int]) -> None:
    """Packed steps and batch sizes are those of torch's own packing, with the empty rows left out."""
    sizes = torch.tensor(counts)
    values = torch.arange(len(counts) * 7).reshape(len(counts), 7)
    packed = Padded(Ids, values, sizes).packed()
    if not any(counts):
        assert packed.values.shape == (0,)
        return
    theirs = pack_padded_sequence(values[sizes > 0], sizes[sizes > 0], batch_first=True, enforce_sorted=False)
    assert listed(packed.values) == listed(theirs.data)
    assert listed(packed.order.batch_sizes) == listed(theirs.batch_sizes)


@given(counts=lengths())
def test_the_order_knows_every_step(counts: list[int]) -> None:
    """Rows, times, first, last and reading order agree with a loop over the rows."""
    order = Order(torch.tensor(counts))
    where = {cell: step for step, cell in enumerate(zip(listed(order.row), listed(order.time), strict=True))}
    some = [row for row, count in enumerate(counts) if count]
    assert listed(order.reading) == [where[row, time] for row, count in enumerate(counts) for time in range(count)]
    assert listed(order.first) == [where[row, 0] for row in some]
    assert listed(order.last) == [where[row, counts[row] - 1] for row in some]
    assert listed(order.mask(7).sum(1)) == counts
    assert order.sizes == listed(order.batch_sizes)


@given(counts=lengths())
def test_the_order_knows_neighbours_and_mirrors(counts: list[int]) -> None:
    """The step before, the one as far from the end, each row's last, and the cells of a time-major rectangle."""
    order = Order(torch.tensor(counts))
    where = {cell: step for step, cell in enumerate(zip(listed(order.row), listed(order.time), strict=True))}
    longest_first = listed(order.rows)[: order.occupied]
    assert listed(order.previous) == [where[row, time - 1] for row, time in where if time]
    assert listed(order.mirrored) == [where[row, counts[row] - 1 - time] for row, time in where]
    assert listed(order.ends) == [where[row, counts[row] - 1] for row in longest_first]
    assert listed(order.grid) == [time * order.occupied + longest_first.index(row) for row, time in where]


@given(rows=ragged())
def test_packing_is_inverse_to_unpacking(rows: list[Tensor]) -> None:
    """Values, lengths and the padded width come back."""
    packing_is_inverse(padded(rows, extra=2, filling=torch.nan))


@pytest.mark.parametrize(("rows", "time"), [(1, 1), (1, 5), (3, 1), (3, 4), (2, 0)])
def test_rows_of_one_length_are_packed_as_others_are(rows: int, time: int) -> None:
    """As by the cells of their order, there and back; gradients reach each cell once; the batch keeps its numbers."""
    values = torch.randn(rows, time, 3, dtype=torch.float64, requires_grad=True)
    before = values.detach().clone()
    packed = Padded(Vectors, values, torch.full((rows,), time)).packed()
    assert torch.equal(packed.values, values.flatten(0, 1)[packed.order.cells(time)])
    back = packed.padded().values
    assert back.is_contiguous()
    assert torch.equal(back, values)
    weights = torch.randn_like(before)
    assert torch.equal(torch.autograd.grad((back * weights).sum(), values)[0], weights)
    assert torch.equal(values, before)


def test_the_report_counts_real_and_padded_steps() -> None:
    """Eight rows of 4 to 8 steps: 45 real ones in a rectangle of 64, in either layout."""
    sizes = torch.tensor([4, 6, 8, 5, 4, 3, 7, 8])
    batch = Padded(Ids, torch.zeros(8, 8, dtype=torch.int64), sizes)
    assert batch.report() == batch.packed().report() == Report(batches=1, rows=8, steps=45, padded=64)
    assert batch.report().wasted == pytest.approx(19 / 64)
    assert Report().wasted == 0


def test_states_are_sliced_from_a_plain_rectangle() -> None:
    """Their final states are the last real steps; what holds other vectors has them in the layout that it had."""
    values = torch.arange(12.0).reshape(2, 3, 2)
    states = States.from_padded(values, torch.tensor([1, 3]))
    assert listed(states.final) == [[0, 1], [10, 11]]
    again = states.with_values(states.padded().with_values(values + 100))
    assert isinstance(again.steps, Padded)
    assert listed(again.padded().values[0]) == [[100, 101], [0, 0], [0, 0]]
    packed = States(states.packed(), states.final).with_values(states.padded().with_values(values + 100))
    assert isinstance(packed.steps, Packed)
    assert torch.equal(packed.padded().values, again.padded().values)


def test_batches_survive_copies_and_pickling() -> None:
    """As a worker of a DataLoader sends them."""
    batch = Padded(Vectors, torch.randn(2, 3, 4), torch.tensor([3, 1]), metadata=BatchMetadata(torch.tensor([5, 6])))
    states = States.from_padded(batch.values, batch.lengths)
    for other in (copy.deepcopy(batch), pickle.loads(pickle.dumps(batch))):
        assert torch.equal(other.values, batch.values)
        assert listed(other.metadata.row_ids) == [5, 6]
        assert other.kind is Vectors
    assert torch.equal(pickle.loads(pickle.dumps(states)).steps.values, states.steps.values)


def test_a_batch_moves_and_its_lengths_stay() -> None:
    """Values, targets, initial states and indices go to the device; lengths and places steer from the CPU."""
    metadata = BatchMetadata(torch.tensor([0]), targets=torch.tensor([1]))
    batch = Padded(
        Vectors, torch.zeros(1, 2, 3), torch.tensor([2]), initial_carry=(torch.zeros(1, 1, 3),), metadata=metadata
    )
    for moved in (batch.to("meta"), batch.packed().to("meta")):
        assert moved.values.device.type == "meta"
        assert moved.initial_carry is not None
        assert moved.initial_carry[0].device.type == "meta"
        assert moved.metadata.targets is not None
        assert moved.metadata.targets.device.type == "meta"
        assert moved.order.row.device.type == moved.order.lengths_on_device.device.type == "meta"
        assert moved.lengths.device.type == moved.metadata.row_ids.device.type == "cpu"
    assert States.from_padded(batch.values, batch.lengths).to("meta").final.device.type == "meta"
    assert Pooled(torch.zeros(1, 2)).to("meta").values.device.type == "meta"
    assert Scores(torch.zeros(1, 2), range(2)).to("meta").values.device.type == "meta"
    assert StepScores(torch.zeros(2, 2), batch.lengths, range(2)).to("meta").values.device.type == "meta"


VECTORS = torch.zeros(2, 3, 4)
SIZES = torch.tensor([3, 1])
REFUSED: list[tuple[str, type[PipelineError], str, dict[str, object]]] = [
    ("float lengths", ShapeError, r"lengths must be Int64\[Tensor, 'batch'\], but float32 of shape \(2,\) arrived",
     {"lengths": torch.tensor([2.9, 1.0])}),
    ("a list of lengths", ShapeError, r"lengths must be Int64\[Tensor, 'batch'\], but a list arrived",
     {"lengths": [3, 1]}),
    ("too many lengths", ShapeError, r"lengths must be .* but int64 of shape \(3,\) arrived, beside values float32",
     {"lengths": torch.tensor([3, 1, 1])}),
    ("too long", LengthError, r"lengths\[1\] is 4, but values has only 3 steps; build the batch with Pad, or pass",
     {"lengths": torch.tensor([3, 4])}),
    ("negative", LengthError, r"lengths\[1\] is -1, but a row has 0 steps or more; count its steps again",
     {"lengths": torch.tensor([3, -1])}),
    ("no row", EmptyBatchError, r"lengths is empty: a batch holds at least one row",
     {"values": torch.zeros(0, 3, 4), "lengths": torch.tensor([], dtype=torch.int64)}),
    ("lengths elsewhere", ShapeError, r"lengths must be on the CPU, but they are on meta; .* pass lengths.cpu\(\)",
     {"lengths": SIZES.to("meta")}),
    ("ids for vectors", ShapeError, r"values must be floating-point vectors of batch x time x feature for kind Vectors, "
     r"but int64 of shape \(2, 3\) arrived; say Ids for numbered tokens", {"values": torch.zeros(2, 3).long()}),
    ("vectors for ids", ShapeError, r"values must be int64 ids of batch x time for kind Ids, but float32",
     {"kind": Ids}),
    ("too many places", ShapeError, r"metadata has places of 3 rows, but the batch has 2",
     {"metadata": BatchMetadata(torch.arange(3))}),
    ("targets of another width", ShapeError, r"metadata.targets has 5 steps a row, but the batch is 3 steps wide",
     {"metadata": BatchMetadata(torch.arange(2), targets=torch.zeros(2, 5).long())}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("error", "message", "wrong"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
def test_what_cannot_be_true_is_refused(error: type[PipelineError], message: str, wrong: dict[str, object]) -> None:
    """Each with the argument, the rule, what arrived and what to do; torch would take most of it in silence."""
    arguments = {"kind": Vectors, "values": VECTORS, "lengths": SIZES, **wrong}
    with pytest.raises(error, match=message):
        loosely(Padded)(**arguments)


def test_packed_values_must_add_up() -> None:
    """Packed rows and states have as many steps as their lengths say."""
    with pytest.raises(LengthError, match="lengths add up to 4 steps, but values has 5; pack values and lengths of"):
        Packed(Vectors, torch.zeros(5, 2), SIZES)
    with pytest.raises(LengthError, match="lengths add up to 4 steps, but values has 3"):
        StepScores(torch.zeros(3, 2), SIZES, range(2))
    with pytest.raises(
        ShapeError, match=r"States: final must be batch x hidden, \(2, 2\) like its steps, but .* \(3, 2\)"
    ):
        States(Packed(Vectors, torch.zeros(4, 2), SIZES), torch.zeros(3, 2))


def test_every_checked_class_bites() -> None:
    """The annotations of all that flows are checked when it is made."""
    flat = torch.zeros(2)
    with pytest.raises(ShapeError, match="Pooled: values must be Float"):
        Pooled(flat)
    with pytest.raises(ShapeError, match="Scores: values must be Float"):
        Scores(flat, range(2))
    with pytest.raises(ShapeError, match="StepScores: values must be Float"):
        StepScores(flat, SIZES, range(2))
    with pytest.raises(ShapeError, match="Packed: values must be Shaped"):
        Packed(Ids, torch.tensor(1), SIZES)
    with pytest.raises(ShapeError, match="BatchMetadata: places must be Int64"):
        BatchMetadata(flat)
    with pytest.raises(
        ShapeError, match=r"targets must be Int64\[Tensor, 'batch'\] or Int64\[Tensor, 'batch time'\] or"
    ):
        BatchMetadata(torch.arange(2), targets=torch.zeros(3).long())


def scored(targets: Tensor) -> StepScores[int]:
    """Scores of two rows of 3 and 1 steps, with a target a step."""
    seed(0)
    return StepScores(torch.randn(4, 5), SIZES, range(5), metadata=BatchMetadata(torch.arange(2), targets=targets))


def test_step_losses_weigh_real_steps_that_have_a_target() -> None:
    """Padding and steps without a target weigh nothing, whatever the padding's targets are."""
    targets = torch.tensor([[1, IGNORED, 4], [2, 0, 0]])
    scores = scored(targets)
    rows = scores.values[scores.order.reading].log_softmax(-1)
    wanted = -(rows[0, 1] + rows[2, 4] + rows[3, 2]) / 3
    torch.testing.assert_close(scores.loss(), wanted)
    torch.testing.assert_close(scores.log_softmax()[scores.order.reading], rows)


def test_micro_batches_add_up() -> None:
    """Losses over the weight of the whole batch sum to its loss, unlike means of means."""
    targets = torch.tensor([0, 1, IGNORED, 1, 0])
    values = torch.randn(5, 2)
    whole = Scores(values, range(2), metadata=BatchMetadata(torch.arange(5), targets=targets))
    parts = [
        Scores(values[i:j], range(2), metadata=BatchMetadata(torch.arange(j - i), targets=targets[i:j]))
        for i, j in ((0, 2), (2, 5))
    ]
    weight = sum((part.metadata.weight for part in parts), torch.tensor(0))
    assert weight == whole.metadata.weight == 4
    torch.testing.assert_close(sum(part.loss(over=weight) for part in parts), whole.loss())


def test_a_loss_of_nothing_is_zero() -> None:
    """A batch in which no row has a target gives 0, not NaN."""
    scores = Scores(
        torch.randn(2, 3), range(3), metadata=BatchMetadata(torch.arange(2), targets=torch.tensor([IGNORED] * 2))
    )
    assert scores.loss() == 0


def test_missing_and_strange_targets_are_refused() -> None:
    """With the row that they came with, and what to do."""
    with pytest.raises(TargetError, match="the loss needs targets, one a row, but the batch has none; feed Example"):
        Scores(torch.zeros(2, 3), range(3)).loss()
    with pytest.raises(TargetError, match="the loss needs targets, one a row, but the batch has one a step"):
        Scores(torch.zeros(2, 3), range(3), metadata=BatchMetadata(torch.arange(2), torch.zeros(2, 4).long())).loss()
    with pytest.raises(TargetError, match="the loss needs targets, one a step, but the batch has one a row"):
        scored(torch.tensor([1, 2])).loss()
    with pytest.raises(TargetError, match="targets must be classes from 0 to 4, but 5 arrived in row 1; give the head"):
        scored(torch.tensor([[1, 1, 1], [5, 0, 0]])).loss()
    strange = BatchMetadata(torch.tensor([8, 9]), targets=torch.tensor([0, 3]))
    with pytest.raises(TargetError, match="from 0 to 2, but 3 arrived in row 9"):
        Scores(torch.zeros(2, 3), range(3), metadata=strange).loss()


def test_answers_leave_out_steps_that_are_not_asked() -> None:
    """Such as bos, eos, and the later pieces of a split word."""
    metadata = BatchMetadata(torch.tensor([4, 2]), answer_mask=torch.tensor([[False, True, True], [True, True, True]]))
    values = torch.eye(4)
    scores = StepScores(values, SIZES, ["a", "b", "c", "d"], metadata=metadata)
    plain = StepScores(values, SIZES, ["a", "b", "c", "d"])
    everything = dict(plain.rows())
    assert dict(scores.rows()) == {4: everything[0][1:], 2: everything[1]}


def double(tensor: Tensor) -> Tensor:
    """Twice a tensor."""
    return tensor * 2


def to_meta(tensor: Tensor) -> Tensor:
    """A tensor elsewhere."""
    return tensor.to("meta")


def test_batches_are_pytrees_with_keys() -> None:
    """Tensors are mapped under their fields' names; lengths and places go along as they are."""
    metadata = BatchMetadata(torch.tensor([0]), targets=torch.tensor([1]))
    batch = Padded(
        Vectors, torch.ones(1, 2, 3), torch.tensor([2]), initial_carry=(torch.ones(1, 1, 3),), metadata=metadata
    )
    leaves, _ = pytree.tree_flatten_with_path(batch)
    assert {pytree.keystr(path) for path, _ in leaves} == {".values", ".initial[0]", ".metadata.targets"}
    doubled = pytree.tree_map(double, batch)
    assert isinstance(doubled, Padded)
    assert doubled.values.sum() == 12
    assert doubled.metadata.targets == 2
    assert doubled.lengths is batch.lengths
    moved = pytree.tree_map(to_meta, States.from_padded(batch.values, batch.lengths))
    assert isinstance(moved, States)
    assert moved.order.row.device.type == "meta"
