"""A causal transformer that runs step by step gives the states of the whole rows."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from pipeline import Bucket, Embed, Encode, FromIds, MaybeCausal, NextToken, Pad, Shift
from pipeline.errors import CompositionError, LengthError
from pipeline.testing import make_batch
from pipeline_transformer import Transformer
from pipeline_transformer.stepping import KeysAndValues
from pipeline_transformer.transformer import BaseTransformer
from support.untyped import as_any, seed

OPTIONS: Mapping[str, Mapping[str, object]] = {
    "sinusoidal": {},
    "grouped, rotary": {"positions": "rotary", "num_kv_heads": 1, "norm": "post"},
    "learned": {"positions": "learned", "max_length": 9},
    "alibi, window": {"positions": "alibi", "window": 2},
    "relative": {"positions": "relative"},
}
PARTS = ([3, 1, 0], [1, 1, 1], [0, 4, 1], [1, 0, 2])
"""The steps that each of three rows has in each call."""


def make_encoder(name: str) -> BaseTransformer[MaybeCausal]:
    """Return a small encoder in float64."""
    seed(1)
    encoder: BaseTransformer[MaybeCausal] = as_any(Transformer)(3, 8, causal=True, num_heads=2, **OPTIONS[name])
    return encoder.double().eval()


@pytest.mark.parametrize("name", OPTIONS)
def test_parts_of_rows_equal_whole_rows(name: str) -> None:
    """Rows of any length grow by any number of steps in each call."""
    encoder = make_encoder(name)
    rows = [torch.randn(sum(part[row] for part in PARTS), 3, dtype=torch.float64) for row in range(3)]
    whole = encoder(make_batch(rows)).padded().values
    memory, done = None, [0, 0, 0]
    for part in PARTS:
        pieces = [row[start : start + more] for row, start, more in zip(rows, done, part, strict=True)]
        states, memory = encoder.step(make_batch(pieces, extra=1, filling=torch.nan), memory)
        for row, (start, more) in enumerate(zip(done, part, strict=True)):
            torch.testing.assert_close(states.padded().values[row, :more], whole[row, start : start + more])
        done = [start + more for start, more in zip(done, part, strict=True)]


@pytest.mark.parametrize("name", OPTIONS)
def test_a_call_without_any_step_changes_nothing(name: str) -> None:
    """No row has a step, in the first call and between two others."""
    encoder, row = make_encoder(name), torch.randn(4, 3, dtype=torch.float64)
    memory, found = None, list[Tensor]()
    for steps in (row[:0], row[:3], row[:0], row[3:]):
        states, memory = encoder.step(make_batch([steps]), memory)
        found.append(states.packed().values)
    torch.testing.assert_close(torch.cat(found), encoder(make_batch([row])).packed().values)


def test_a_memory_is_a_value_of_selected_rows() -> None:
    """A step changes no memory, which may continue several times, in any order of rows."""
    encoder = make_encoder("sinusoidal")
    first = [torch.randn(length, 3, dtype=torch.float64) for length in (2, 4)]
    _, memory = encoder.step(make_batch(first), None)
    following = [torch.randn(1, 3, dtype=torch.float64) for _ in range(3)]
    picked = [1, 0, 1]

    def run() -> Tensor:
        states, _ = encoder.step(make_batch(following), memory.select(torch.tensor(picked)))
        return states.padded().values[:, 0]

    found = run()
    joined = [torch.cat([first[row], more]) for row, more in zip(picked, following, strict=True)]
    torch.testing.assert_close(found, encoder(make_batch(joined)).final)
    assert torch.equal(found, run())
    assert isinstance(memory, KeysAndValues)


def test_an_encoder_that_sees_later_steps_is_rejected() -> None:
    """The message names the causal form."""
    with pytest.raises(CompositionError, match="a Transformer must be causal to run step by step"):
        Transformer(3, 8).step(make_batch([torch.zeros(1, 3)]), None)


def test_rows_do_not_outgrow_learned_positions() -> None:
    """The error comes at the step that is one too many."""
    encoder = make_encoder("learned")
    _, memory = encoder.step(make_batch([torch.zeros(9, 3).double()]), None)
    with pytest.raises(LengthError, match="at most max_length=9 steps, since each position is learned, got 10"):
        encoder.step(make_batch([torch.zeros(1, 3).double()]), memory)


def test_generated_tokens_are_those_of_whole_rows() -> None:
    """Greedy generation equals the best token of each whole prefix."""
    seed(2)
    model = Embed(11, 8) >> Encode(Transformer(8, 8, causal=True, positions="rotary")) >> NextToken(11)
    pipe = FromIds() >> Shift() >> Bucket(max_padded_steps=64) >> Pad() >> model
    model.eval()
    prompts = [[1, 2, 3], [4]]
    found = list(pipe.generate(prompts, max_new_tokens=5, temperature=0))
    for prompt, new in zip(prompts, found, strict=True):
        ids = list(prompt)
        for _ in range(5):
            scores = as_any(model)(as_any(Pad())(list(FromIds().map([ids])))).values.reshape(len(ids), -1)
            ids.append(int(scores[-1].argmax()))
        assert ids[len(prompt) :] == new
