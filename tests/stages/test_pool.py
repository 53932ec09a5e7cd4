"""Stages that have no effect on `Pool("final")`, which reads the encoder's final states, are errors."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from typing_extensions import override

from pipeline import (
    Attend,
    AttendEarlier,
    Causal,
    Classify,
    Dropout,
    Embed,
    Encode,
    Hidden,
    ModuleStage,
    NextToken,
    Padded,
    Pool,
    States,
    Tag,
    Unpack,
    Vectors,
    classifier,
    set_checks,
)
from pipeline.builtin.pools import FinalPool
from pipeline.data.batches import Batch
from pipeline.errors import CompositionError
from pipeline.parts.encoder import Encoder
from pipeline_recurrent import GRU, LSTM

ENCODED = Embed(9, 4) >> Encode(LSTM(4, 8))
BATCH = Padded(Vectors, torch.ones(2, 3, 4), torch.tensor([3, 1]))

INEFFECTIVE: dict[str, Callable[[], Any]] = {
    "Dropout": lambda: ENCODED >> Dropout(0.9),
    "Attend": lambda: ENCODED >> Attend("general"),
    "AttendEarlier": lambda: ENCODED >> AttendEarlier("dot") >> Dropout(0.0),
    "two": lambda: ENCODED >> AttendEarlier("dot") >> Attend("dot"),
    "a chain of its own": lambda: ENCODED >> (Dropout(0.9) >> AttendEarlier("dot")),
}


@pytest.mark.parametrize("kind", INEFFECTIVE)
def test_a_stage_without_effect_is_an_error_when_joined(kind: str) -> None:
    """With the positions of both, and what to do instead."""
    with pytest.raises(
        CompositionError, match=r"between stage \d `\w+` and stage \d `Pool`: \w+ has no effect on Pool\('fi"
    ):
        _ = INEFFECTIVE[kind]() >> Pool("final")


@pytest.mark.parametrize("kind", INEFFECTIVE)
def test_it_is_an_error_in_any_order_of_joining(kind: str) -> None:
    """Also if the pooling is joined to its head first, as an object or by name."""
    for pooling in (Pool("final"), Pool(FinalPool())):
        with pytest.raises(CompositionError, match=r"has no effect on Pool\('final'\)"):
            _ = INEFFECTIVE[kind]() >> (pooling >> Classify(2))


@pytest.mark.parametrize("kind", INEFFECTIVE)
@pytest.mark.parametrize("pooling", ["last", "first", "mean", "max", "sum", "attention"])
def test_other_poolings_read_the_steps(kind: str, pooling: str) -> None:
    """So these stages have an effect on them."""
    assert (INEFFECTIVE[kind]() >> Pool(pooling) >> Classify(2)).check().problem is None


EFFECTIVE: dict[str, Callable[[], Any]] = {
    "dropout before the encoder": lambda: Embed(9, 4) >> Dropout(0.5) >> Encode(GRU(4, 8)) >> Pool("final"),
    "dropout after the pooling": lambda: ENCODED >> Pool("final") >> Dropout(0.5) >> Classify(2),
    "another encoder after it": lambda: (
        ENCODED >> Attend("dot") >> Unpack() >> Encode(GRU(8, 3), Hidden, name="second") >> Pool("final")
    ),
    "probability 0": lambda: ENCODED >> Dropout(0.0) >> Pool("final"),
    "a head over steps": lambda: ENCODED >> AttendEarlier("dot") >> Dropout(0.5) >> NextToken(9),
    "tags": lambda: ENCODED >> Attend("dot") >> Tag(3),
    "a whole model": lambda: classifier(9, 2, pooling="final", dropout=0.5),
}


@pytest.mark.parametrize("kind", EFFECTIVE)
def test_stages_with_an_effect_are_right(kind: str) -> None:
    """Where what they change is read."""
    assert EFFECTIVE[kind]().check().problem is None


def test_stages_called_by_hand_are_checked_too() -> None:
    """There `>>` cannot know."""
    states = Encode(LSTM(4, 8))(BATCH)
    for changed in (
        Dropout(0.9)(states),
        Attend("dot", input_size=8)(states),
        AttendEarlier("dot", input_size=8)(states),
    ):
        with pytest.raises(CompositionError, match=r"Pool\('final'\) reads the final states, but .* changed the steps"):
            Pool("final")(changed)
        assert Pool("mean")(changed).values.shape == (2, 8)
    assert torch.equal(Pool("final")(Dropout(0.9).eval()(states)).values, states.final)
    with set_checks(False):
        assert torch.equal(Pool("final")(Attend("dot", input_size=8)(states)).values, states.final)


class Scaled(ModuleStage[States[Causal], States[Causal]]):
    """A stage of a user's own that changes the steps, and does not override `build`."""

    @override
    def forward(self, value: States[Causal]) -> States[Causal]:
        return value.with_values(value.steps.with_values(value.steps.values * 2))


def test_a_stage_of_ones_own_without_effect_is_found_by_check() -> None:
    """And by a run; `>>` does not know what it does."""
    chain = Encode(LSTM(4, 8)) >> Scaled() >> Pool("final")
    with pytest.raises(CompositionError, match="a stage changed the steps after the encoder"):
        chain.check()
    with pytest.raises(CompositionError, match="stage 3 `Pool`: .* a stage changed the steps after the encoder"):
        chain(BATCH)


def test_states_made_without_final_states_have_none() -> None:
    """The last step of a bidirectional encoder is not its final state: the backward half has read one step there."""
    output, final = torch.nn.GRU(4, 8, batch_first=True, bidirectional=True)(torch.ones(1, 3, 4))
    with pytest.raises(
        CompositionError, match=r"States\.from_padded got no final states; choose another .*final=\.\.\."
    ):
        Pool("final")(States.from_padded(output, torch.tensor([3])))
    given = States.from_padded(output, torch.tensor([3]), final=final.transpose(0, 1).flatten(1))
    assert torch.equal(Pool("final")(given).values, torch.cat([final[0], final[1]], 1))
    assert torch.equal(Pool("last")(States.from_padded(output, torch.tensor([3]))).values, output[:, -1])


class Residual(Encoder[Causal]):
    """An encoder that adds its input to another one's steps, and says which final states belong to them."""

    def __init__(self) -> None:
        super().__init__()
        self.input_size, self.output_size, self.causal = 4, 4, True
        self.inner = GRU(4, 4)

    @override
    def forward(self, batch: Batch[Vectors]) -> States[Causal]:
        states = self.inner(batch)
        packed = batch.packed()
        return states.with_values(packed.with_values(packed.values + states.packed().values))


def test_an_encoder_vouches_for_its_final_states() -> None:
    """Whatever it did to get them."""
    assert (Encode(Residual()) >> Pool("final"))(BATCH).values.shape == (2, 4)
