"""Under poison padding is NaN at every border, and a stage that lets it into an answer is named."""

import math
import os
import subprocess
import sys

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
from pipeline.core.padding import GUARD, poisoned
from pipeline.data.row_ends import last_by_row
from pipeline.errors import PaddingLeakError
from pipeline_recurrent import LSTM
from support.untyped import listed

VALUES, LENGTHS = torch.arange(18.0).reshape(2, 3, 3), torch.tensor([3, 1])
ROWS = Padded(Vectors, VALUES, LENGTHS)


class Meaning(ModuleStage[States[MaybeCausal], Pooled]):
    """The mistake that everyone makes once: a mean over the padding too."""

    @override
    def forward(self, value: States[MaybeCausal]) -> Pooled:
        return Pooled(value.steps.values.mean(1), metadata=value.metadata)


class Neighbours(Encoder[MaybeCausal]):
    """A convolution that reads padding behind a row's last step."""

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


class Careless(Pooling):
    """A sum that multiplies by the mask, as if nothing times zero were something."""

    @override
    def forward(self, states: States[MaybeCausal]) -> Tensor:
        return (states.steps.padded().values * states.mask.unsqueeze(-1)).sum(1)


def test_padding_is_filled_and_nothing_else() -> None:
    """NaN for vectors, a number that no table has for ids; packed rows have no padding."""
    vectors, ids = poisoned(ROWS), poisoned(Padded(Ids, torch.tensor([[1, 2], [3, 4]]), torch.tensor([2, 1])))
    assert vectors.values.isnan().sum() == 6
    assert torch.equal(vectors.packed().values, ROWS.packed().values)
    assert listed(ids.values.flatten()) == [1, 2, 3, GUARD]
    states = States.from_padded(VALUES, LENGTHS)
    assert poisoned(states).steps.values.isnan().sum() == 6
    assert poisoned(states).final is states.final
    packed = ROWS.packed()
    assert poisoned(packed) is packed
    assert poisoned(3) == 3


def test_a_leak_is_found_in_the_stage_that_leaks() -> None:
    """And nowhere without poison, where it is a wrong answer in silence."""
    states = States.from_padded(VALUES, LENGTHS)
    assert Meaning()(states).values.isfinite().all()
    with (
        set_padding_check(True),
        pytest.raises(PaddingLeakError, match="Meaning let padding into its values: under poison, row 1"),
    ):
        Meaning()(states)
    with (
        set_padding_check(True),
        pytest.raises(PaddingLeakError, match="Encode let padding into its values: under poison, row 1"),
    ):
        Encode(Neighbours())(ROWS)
    with set_padding_check(True), pytest.raises(PaddingLeakError, match="Pool let padding into its values") as found:
        Pool(Careless())(states)
    assert found.value.details["row"] == 1


def test_a_leak_in_a_pipe_names_the_place() -> None:
    """The stages before it are clean, and those behind it never run."""
    data = FromFeatures() >> Bucket(Vectors, rows=2) >> Pad(Vectors)
    pipe = data >> Encode(Neighbours()) >> Pool("max") >> Classify(2)
    rows = [torch.ones(4, 3), torch.ones(2, 3)]
    list(pipe.predict(rows))
    with (
        set_padding_check(True),
        pytest.raises(PaddingLeakError, match=r"^stage 4 `Encode`: Encode let padding into its values"),
    ):
        list(pipe.predict(rows))


def test_what_is_clean_gives_the_same_under_poison() -> None:
    """All that ships, in either layout."""
    ids = Padded(Ids, torch.tensor([[1, 2, 3], [4, 0, 0], [0, 0, 0]]), torch.tensor([3, 1, 0]))
    for pool in ("final", "first", "last", "max", "mean", "sum", "attention"):
        model = Embed(5, 3) >> Encode(LSTM(3, 4, bidirectional=True)) >> Pool(pool) >> Classify(2)
        wanted = model(ids).values
        with set_padding_check(True):
            assert torch.equal(model(ids).values, wanted)
            torch.testing.assert_close(model(Packed(Ids, torch.tensor([1, 4, 2, 3]), ids.lengths)).values, wanted)


def test_what_was_nan_before_is_no_leak() -> None:
    """A model that diverged is not blamed on padding."""
    with set_padding_check(True):
        assert Meaning()(States.from_padded(VALUES * math.nan, LENGTHS)).values.isnan().all()
        assert Meaning()(States.from_padded(VALUES.to("meta"), LENGTHS)).values.is_meta


def test_the_environment_switches_it_on() -> None:
    """From the start."""
    code = "from pipeline.checks.switches import SWITCHES; print(SWITCHES.poison)"
    run = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PIPELINE_PADDING_CHECK": "1"}, capture_output=True, check=True
    )
    assert run.stdout.split() == [b"True"]
