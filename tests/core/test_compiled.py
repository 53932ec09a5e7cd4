"""A padded classifier compiles to one graph and exports, strict and not; the checks are not traced."""

import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import final

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from pipeline import (
    Attend,
    AttendEarlier,
    Batch,
    Chain,
    Classify,
    Dropout,
    Embed,
    Encode,
    Encoder,
    Ids,
    Labels,
    MaybeCausal,
    Padded,
    Pool,
    Scores,
    States,
    Vectors,
    set_checks,
    set_padding_check,
)
from pipeline.data.states import last_by_row
from pipeline.errors import LengthError, ShapeError
from support.needs import mark_slow
from support.untyped import as_any, compile_graph, seed

TOKENS, CLASSES = 30, 3
POOLS = ["final", "first", "last", "max", "mean", "sum", "attention"]


@final
class Convolution(Encoder[MaybeCausal]):
    """A convolution over each step and its two neighbors: an encoder without a recurrent module."""

    layouts = ("padded",)
    exportable = True

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size, self.output_size, self.causal = input_size, hidden_size, False
        self.convolution = nn.Conv1d(input_size, hidden_size, 3, padding=1)

    @override
    def forward(self, batch: Batch[Vectors]) -> States[MaybeCausal]:
        rows = batch.padded().fill_padding(0)
        mixed: Tensor = self.convolution(rows.values.mT)
        steps = rows.with_values(torch.tanh(mixed.mT))
        return States(steps, last_by_row(steps))


@final
class OnTensors(nn.Module):
    """A chain with tensors as input and output, as torch.export needs it."""

    def __init__(self, model: Chain[Batch[Ids], Scores]) -> None:
        super().__init__()
        self.model = model

    @override
    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        return self.model(Padded(Ids, ids, lengths)).values


def make_classifier(pool: str = "max") -> OnTensors:
    """Return a model that embeds, encodes, attends, pools and classifies, all in the padded layout."""
    seed(0)
    encoded = Embed(TOKENS, 4) >> Dropout(0.1) >> Encode(Convolution(4, 5))
    # Attention would have no effect on the final states.
    states = encoded if pool == "final" else encoded >> Attend("general") >> AttendEarlier("dot")
    return OnTensors(states >> Pool(pool) >> Dropout(0.1) >> Classify(CLASSES)).eval()


def make_inputs(rows: int, steps: int) -> tuple[Tensor, Tensor]:
    """Return ids whose padding is no valid id, and lengths; one row is empty, one has the full width."""
    generator = torch.Generator().manual_seed(rows)
    lengths = torch.randint(1, steps, (rows,), generator=generator)
    lengths[0], lengths[-1] = steps, 0
    ids = torch.randint(0, TOKENS, (rows, steps), generator=generator)
    return ids.masked_fill(torch.arange(steps) >= lengths.unsqueeze(1), 10**9), lengths


@contextmanager
def ignore_warnings() -> Generator[None]:
    """Ignore warnings that torch raises while it traces."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def compile_model(model: nn.Module, backend: str | Callable[..., object] = "eager") -> Callable[..., Tensor]:
    """Return the model compiled to one graph, for any batch and time."""
    torch.compiler.reset()
    return compile_graph(model, fullgraph=True, backend=backend, dynamic=True)


@pytest.mark.parametrize("pool", mark_slow(POOLS, quick={"max", "attention"}))
def test_a_classifier_compiles_to_one_graph(pool: str) -> None:
    """For batches of several sizes, with the results of the eager model."""
    graphs: list[object] = []

    def count(graph: object, _: object) -> object:
        graphs.append(graph)
        return graph

    model = make_classifier(pool)
    graph = compile_model(model, count)
    with ignore_warnings():
        for rows, steps in ((4, 7), (3, 9), (8, 5)):
            ids, lengths = make_inputs(rows, steps)
            torch.testing.assert_close(graph(ids, lengths), model(ids, lengths))
    assert len(graphs) == 1, "it must not be compiled again for each size"


def test_a_compiled_model_has_the_gradients_of_the_eager_one() -> None:
    """With padding in the batch."""
    model = make_classifier()
    ids, lengths = make_inputs(5, 6)
    with ignore_warnings():
        ours = torch.autograd.grad(
            compile_model(model, "aot_eager")(ids, lengths).square().sum(), list(model.parameters())
        )
    plain = torch.autograd.grad(model(ids, lengths).square().sum(), list(model.parameters()))
    torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("pool", ["final", "max", "attention"])
def test_a_classifier_is_exported(pool: str, *, strict: bool) -> None:
    """For any batch and time; the program gives the results of the eager model."""
    model = make_classifier(pool)
    batch, time = torch.export.Dim("batch", min=1), torch.export.Dim("time", min=1)
    with ignore_warnings():
        program = torch.export.export(
            model, make_inputs(4, 7), dynamic_shapes=({0: batch, 1: time}, {0: batch}), strict=strict
        ).module()
    for rows, steps in ((4, 7), (3, 9), (8, 5)):
        ids, lengths = make_inputs(rows, steps)
        torch.testing.assert_close(program(ids, lengths), model(ids, lengths))


def test_a_head_with_labels_compiles() -> None:
    """Labels are attributes of the head."""
    torch.compiler.reset()
    model = Embed(TOKENS, 4) >> Encode(Convolution(4, 5)) >> Pool("max") >> Classify(Labels(["a", "b"]))

    def scores(ids: Tensor, lengths: Tensor) -> Tensor:
        return model(Padded(Ids, ids, lengths)).values

    ids, lengths = make_inputs(4, 7)
    graph = compile_graph(scores, fullgraph=True, backend="eager")
    with ignore_warnings():
        torch.testing.assert_close(graph(ids, lengths), scores(ids, lengths))


@pytest.mark.parametrize("checks", [False, True])
@pytest.mark.parametrize("padding", [False, True])
def test_the_switches_do_not_affect_graphs(*, checks: bool, padding: bool) -> None:
    """With any setting the graph is the same; the eager model is still checked."""
    model = make_classifier()
    ids, lengths = make_inputs(4, 7)
    expected = model(ids, lengths)
    with set_checks(checks), set_padding_check(padding), ignore_warnings():
        torch.testing.assert_close(compile_model(model)(ids, lengths), expected)
    with pytest.raises(ShapeError):
        model(ids, lengths.float())


@pytest.mark.filterwarnings("ignore")  # torch warns of tracing itself
def test_a_rejected_trace_leaves_compilation_as_it_was() -> None:
    """In a trace the sizes of a shape are tensors, which must not be remembered by the checks."""
    model, (ids, lengths) = make_classifier().eval(), make_inputs(2, 3)
    with pytest.raises(LengthError, match="use torch.export"):
        as_any(torch.jit).trace(model, (ids, lengths))
    with torch.no_grad():
        torch.testing.assert_close(compile_model(model)(ids, lengths), model(ids, lengths))
