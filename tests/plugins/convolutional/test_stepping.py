"""Causal convolutional encoders run step by step: their carry is the inputs that later steps read."""

from collections.abc import Callable, Mapping
from pathlib import Path

import attrs
import pytest
import torch
from torch import Tensor, nn

from pipeline import AttendEarlier, Bucket, Causal, Embed, Encode, FromIds, Ids, NextToken, Pad, Padded, Shift
from pipeline.errors import CompositionError, ShapeError
from pipeline.export.program import run_onnx
from pipeline.testing import make_batch
from pipeline_convolutional import CNN, GatedCNN
from pipeline_convolutional.convolution import Convolutional
from support.needs import SLOW, needs
from support.untyped import as_any, seed

ENCODERS: Mapping[str, Callable[[], Convolutional[Causal]]] = {
    "widths": lambda: CNN(3, 2, causal=True, kernel_sizes=(1, 4, 2)),
    "dilated": lambda: CNN(3, 4, causal=True, kernel_sizes=(3,), num_layers=3, dilation=(1, 2, 4), residual=True),
    "gated": lambda: GatedCNN(3, 4, causal=True, kernel_size=2, num_layers=2),
}
PARTS = ([3, 1, 0], [1, 1, 1], [0, 0, 0], [0, 9, 1], [1, 0, 2])
"""The steps that each of three rows has in each call."""


def make_encoder(name: str) -> Convolutional[Causal]:
    """Return a small encoder in float64."""
    seed(1)
    return ENCODERS[name]().double().eval()


def read_whole(encoder: Convolutional[Causal], row: Tensor) -> Tensor:
    """Return the states of one row in one pass; the tests of encoders compare this with a loop over steps."""
    return encoder(make_batch([row])).padded().values[0]


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("name", ENCODERS)
def test_parts_of_rows_equal_whole_rows(name: str, deterministic: bool) -> None:
    """Rows of any length grow by any number of steps in each call; NaN in the padding has no effect."""
    encoder = make_encoder(name)
    encoder.deterministic = deterministic
    stage = Encode(encoder)
    rows = [torch.randn(sum(part[row] for part in PARTS), 3, dtype=torch.float64) for row in range(3)]
    whole = [read_whole(encoder, row) for row in rows]
    memory, done = None, [0, 0, 0]
    for part in PARTS:
        pieces = [row[start : start + more] for row, start, more in zip(rows, done, part, strict=True)]
        states, memory = stage.step(make_batch(pieces, extra=1, filling=torch.nan), memory)
        for row, (start, more) in enumerate(zip(done, part, strict=True)):
            torch.testing.assert_close(states.padded().values[row, :more], whole[row][start : start + more])
        done = [start + more for start, more in zip(done, part, strict=True)]


def test_a_memory_is_a_value_of_selected_rows() -> None:
    """It may continue several times, in any order of rows; the batch may also be packed."""
    encoder = make_encoder("dilated")
    stage = Encode(encoder)
    first = [torch.randn(length, 3, dtype=torch.float64) for length in (2, 11)]
    _, memory = stage.step(make_batch(first).packed(), None)
    following = [torch.randn(2, 3, dtype=torch.float64) for _ in range(3)]
    picked = [1, 0, 1]
    joined = [torch.cat([first[row], more]) for row, more in zip(picked, following, strict=True)]
    wanted = torch.stack([read_whole(encoder, row)[-2:] for row in joined])
    for batch in (make_batch(following), make_batch(following).packed()):
        states, _ = stage.step(batch, memory.select(torch.tensor(picked)))
        torch.testing.assert_close(states.padded().values, wanted)


def test_the_carry_is_the_inputs_that_later_steps_read() -> None:
    """Of the last steps, with zeros before a row."""
    encoder = make_encoder("widths")
    rows = [torch.arange(1.0, 16).double().view(5, 3), torch.full((1, 3), 7.0).double(), torch.zeros(0, 3).double()]
    carry = encoder(make_batch(rows)).carry
    assert carry is not None
    assert [tuple(each.shape) for each in carry] == [(3, 3, 3)]
    assert torch.equal(carry[0][:, 0], rows[0][2:])
    assert torch.equal(carry[0][:, 1], torch.tensor([[0.0] * 3, [0.0] * 3, [7.0] * 3]).double())
    assert not carry[0][:, 2].any()


def test_hooks_act_on_steps() -> None:
    """With a hook, a layer is called; without one, only what a step needs is computed."""
    encoder = make_encoder("dilated")
    rows = [torch.randn(3, 3, dtype=torch.float64)]
    layer = next(part for part in encoder.modules() if isinstance(part, nn.Conv1d))

    def double(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        del module, inputs
        return 2 * output

    as_any(layer).register_forward_hook(double)
    _, memory = Encode(encoder).step(make_batch([rows[0][:2]]), None)
    states, _ = Encode(encoder).step(make_batch([rows[0][2:]]), memory)
    torch.testing.assert_close(states.padded().values[0, 0], read_whole(encoder, rows[0])[2])


def test_a_carry_of_another_encoder_is_an_error() -> None:
    """It has other shapes."""
    batch = make_batch([torch.zeros(2, 3).double()])
    carry = make_encoder("gated")(batch).carry
    with pytest.raises(ShapeError, match=r"initial_carry must be tensors of shapes .*, got .*; pass the carry of this"):
        make_encoder("widths")(attrs.evolve(batch, initial_carry=carry))


def test_an_encoder_that_does_not_step_is_rejected() -> None:
    """It reads later steps, or, with a width of 1, no earlier ones."""
    batch = make_batch([torch.zeros(1, 3)])
    with pytest.raises(CompositionError, match="must be causal to run step by step"):
        Encode(CNN(3, 2)).step(batch, None)
    with pytest.raises(CompositionError, match="must be stateful to run step by step"):
        Encode(CNN(3, 2, causal=True, kernel_sizes=(1,))).step(batch, None)


def test_generated_tokens_are_those_of_whole_rows() -> None:
    """Greedy generation equals the best token of each whole prefix."""
    seed(2)
    encoder = CNN(8, 8, causal=True, kernel_sizes=(3,), num_layers=2, dilation=(1, 2))
    model = Embed(11, 8) >> Encode(encoder) >> NextToken(11)
    pipe = FromIds() >> Shift() >> Bucket(max_padded_steps=64) >> Pad() >> model
    model.eval()
    prompts = [[1, 2, 3], [4]]
    found = list(pipe.generate(prompts, max_new_tokens=6, temperature=0))
    for prompt, new in zip(prompts, found, strict=True):
        ids = list(prompt)
        for _ in range(6):
            scores = as_any(model)(as_any(Pad())(list(FromIds().map([ids])))).values.reshape(len(ids), -1)
            ids.append(int(scores[-1].argmax()))
        assert ids[len(prompt) :] == new


@SLOW
def test_a_language_model_is_exported_step_by_step(tmp_path: Path) -> None:
    """As a program of torch; attention over earlier steps follows."""
    seed(0)
    encoder = GatedCNN(4, 3, causal=True, kernel_size=3, num_layers=2)
    model = Embed(9, 4) >> Encode(encoder) >> AttendEarlier("general") >> NextToken(9)
    exported = model.export(tmp_path / "step.pt2", form="step", batches=12)
    assert exported.difference <= 1e-5
    assert [each.shape for each in exported.inputs[1:3]] == [(2, "batch", 4), (2, "batch", 3)]


@needs("onnx", "onnxruntime", "onnxscript")
def test_steps_in_onnx_equal_the_whole_rows(tmp_path: Path) -> None:
    """The carry begins with zeros."""
    seed(0)
    encoder = CNN(4, 3, causal=True, kernel_sizes=(2, 3), num_layers=2, dilation=2, residual=True)
    model = Embed(9, 4) >> Encode(encoder) >> NextToken(9)
    exported = model.export(tmp_path / "step.onnx", form="step", batches=5)
    run = run_onnx(tmp_path / "step.onnx")
    sizes = [[1 if size == "batch" else int(size) for size in each.shape or ()] for each in exported.inputs[1:]]
    ids, states = torch.tensor([[5, 7, 0, 1, 1, 8, 2]]), [torch.zeros(each) for each in sizes]
    found: list[Tensor] = []
    for step in range(7):
        scores, *states = run([ids[:, step], *states])
        found.append(scores)
    wanted = as_any(model)(Padded(Ids, ids, torch.tensor([7]))).values
    torch.testing.assert_close(torch.cat(found), wanted)
