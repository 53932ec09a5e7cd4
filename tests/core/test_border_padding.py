"""The padding check fills padding with NaN before every stage, and names a stage whose result depends on it."""

import math

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from pipeline import (
    Batch,
    Bucket,
    Classify,
    Embed,
    Encode,
    Encoder,
    FromFeatures,
    Ids,
    MaybeCausal,
    ModuleStage,
    Packed,
    Pad,
    Padded,
    Pool,
    Pooled,
    Pooling,
    States,
    Vectors,
    set_padding_check,
)
from pipeline.core.border import PADDING_ID, mark_padding
from pipeline.data.states import last_by_row
from pipeline.errors import PaddingLeakError
from pipeline_recurrent import LSTM
from support.untyped import to_list

VALUES, LENGTHS = torch.arange(18.0).reshape(2, 3, 3), torch.tensor([3, 1])
ROWS = Padded(Vectors, VALUES, LENGTHS)


class MeanOverPadding(ModuleStage[States[MaybeCausal], Pooled]):
    """A common mistake: a mean over all positions, padding included."""

    @override
    def forward(self, value: States[MaybeCausal]) -> Pooled:
        return Pooled(value.steps.values.mean(1), metadata=value.metadata)


class Convolution(Encoder[MaybeCausal]):
    """A convolution that reads the padding after a row's last step."""

    layouts = ("padded",)

    def __init__(self) -> None:
        super().__init__()
        self.input_size, self.output_size, self.causal = 3, 2, False
        self.convolution = nn.Conv1d(3, 2, 3, padding=1)

    @override
    def forward(self, batch: Batch[Vectors]) -> States[MaybeCausal]:
        mixed: Tensor = self.convolution(batch.padded().values.mT)
        steps = batch.padded().with_values(mixed.mT)
        return States(steps, last_by_row(steps))


class MultiplyingPool(Pooling):
    """A sum that multiplies by the mask: NaN times 0 is NaN."""

    @override
    def forward(self, states: States[MaybeCausal]) -> Tensor:
        return (states.steps.padded().values * states.mask.unsqueeze(-1)).sum(1)


def test_only_padding_is_marked() -> None:
    """With NaN for vectors, and an id that no table has for ids; packed rows have no padding."""
    vectors, ids = mark_padding(ROWS), mark_padding(Padded(Ids, torch.tensor([[1, 2], [3, 4]]), torch.tensor([2, 1])))
    assert vectors.values.isnan().sum() == 6
    assert torch.equal(vectors.packed().values, ROWS.packed().values)
    assert to_list(ids.values.flatten()) == [1, 2, 3, PADDING_ID]
    states = States.from_padded(VALUES, LENGTHS)
    assert mark_padding(states).steps.values.isnan().sum() == 6
    assert mark_padding(states).final is states.final
    packed = ROWS.packed()
    assert mark_padding(packed) is packed
    assert mark_padding(3) == 3


def test_the_leaking_stage_is_named() -> None:
    """Without the padding check, the result is silently wrong."""
    states = States.from_padded(VALUES, LENGTHS)
    assert MeanOverPadding()(states).values.isfinite().all()
    with (
        set_padding_check(True),
        pytest.raises(PaddingLeakError, match="MeanOverPadding let padding affect its values: .* row 1 became NaN"),
    ):
        MeanOverPadding()(states)
    with (
        set_padding_check(True),
        pytest.raises(PaddingLeakError, match="Encode let padding affect its values: .* row 1 became NaN"),
    ):
        Encode(Convolution())(ROWS)
    with set_padding_check(True), pytest.raises(PaddingLeakError, match="Pool let padding affect its values") as raised:
        Pool(MultiplyingPool())(states)
    assert raised.value.details["row"] == 1


def test_a_leak_in_a_pipe_has_the_position_of_the_stage() -> None:
    """Earlier stages pass the check, and later ones never run."""
    data = FromFeatures() >> Bucket(Vectors, rows=2) >> Pad(Vectors)
    pipe = data >> Encode(Convolution()) >> Pool("max") >> Classify(2)
    rows = [torch.ones(4, 3), torch.ones(2, 3)]
    list(pipe.predict(rows))
    with (
        set_padding_check(True),
        pytest.raises(PaddingLeakError, match=r"^stage 4 `Encode`: Encode let padding affect its values"),
    ):
        list(pipe.predict(rows))


@pytest.mark.filterwarnings("ignore:.* this direction has read one step only")
def test_stages_of_this_library_pass_the_padding_check() -> None:
    """With equal results, in both layouts."""
    ids = Padded(Ids, torch.tensor([[1, 2, 3], [4, 0, 0], [0, 0, 0]]), torch.tensor([3, 1, 0]))
    for pool in ("final", "first", "last", "max", "mean", "sum", "attention"):
        model = Embed(5, 3) >> Encode(LSTM(3, 4, bidirectional=True)) >> Pool(pool) >> Classify(2)
        expected = model(ids).values
        with set_padding_check(True):
            assert torch.equal(model(ids).values, expected)
            torch.testing.assert_close(model(Packed(Ids, torch.tensor([1, 4, 2, 3]), ids.lengths)).values, expected)


def test_nan_in_real_steps_is_not_a_leak() -> None:
    """If a model diverged, padding is not the cause; tensors on `meta` have no values."""
    with set_padding_check(True):
        assert MeanOverPadding()(States.from_padded(VALUES * math.nan, LENGTHS)).values.isnan().all()
        assert MeanOverPadding()(States.from_padded(VALUES.to("meta"), LENGTHS)).values.is_meta
