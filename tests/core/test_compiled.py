"""A padded classifier in a graph: compiled whole, and exported, strict and not; the checks stand aside."""

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
from pipeline.data.row_ends import last_by_row
from pipeline.errors import ShapeError
from support.untyped import graphed, seed

TOKENS, CLASSES = 30, 3
POOLS = ["final", "first", "last", "max", "mean", "sum", "attention"]


@final
class Convolution(Encoder[MaybeCausal]):
    """Each step and its two neighbours: an encoder that holds no recurrent module."""

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
    """A chain as a graph takes it: tensors in, a tensor out."""

    def __init__(self, model: Chain[Batch[Ids], Scores]) -> None:
        super().__init__()
        self.model = model

    @override
    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        return self.model(Padded(Ids, ids, lengths)).values


def classifier(pool: str = "max") -> OnTensors:
    """Embed, encode, attend, pool and classify, all on the rectangle."""
    seed(0)
    states = Embed(TOKENS, 4) >> Dropout(0.1) >> Encode(Convolution(4, 5)) >> Attend("general") >> AttendEarlier("dot")
    return OnTensors(states >> Pool(pool) >> Dropout(0.1) >> Classify(CLASSES)).eval()


def inputs(rows: int, steps: int) -> tuple[Tensor, Tensor]:
    """Ids whose padding is no id at all, and lengths; one row is empty, one is as long as may be."""
    generator = torch.Generator().manual_seed(rows)
    lengths = torch.randint(1, steps, (rows,), generator=generator)
    lengths[0], lengths[-1] = steps, 0
    ids = torch.randint(0, TOKENS, (rows, steps), generator=generator)
    return ids.masked_fill(torch.arange(steps) >= lengths.unsqueeze(1), 10**9), lengths


@contextmanager
def quiet() -> Generator[None]:
    """What torch warns of while it makes a graph is not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def compiled(model: nn.Module, backend: str | Callable[..., object] = "eager") -> Callable[..., Tensor]:
    """The model as one graph, for any batch and time."""
    torch.compiler.reset()
    return graphed(model, fullgraph=True, backend=backend, dynamic=True)


@pytest.mark.parametrize("pool", POOLS)
def test_a_classifier_compiles_whole(pool: str) -> None:
    """One graph for batches of many sizes, with the very answers."""
    graphs: list[object] = []

    def counting(graph: object, _: object) -> object:
        graphs.append(graph)
        return graph

    model = classifier(pool)
    graph = compiled(model, counting)
    with quiet():
        for rows, steps in ((4, 7), (3, 9), (8, 5)):
            ids, lengths = inputs(rows, steps)
            torch.testing.assert_close(graph(ids, lengths), model(ids, lengths))
    assert len(graphs) == 1, "a graph for each size is one too many"


def test_it_trains_when_compiled() -> None:
    """Gradients are those of the plain run; padding gives none."""
    model = classifier()
    ids, lengths = inputs(5, 6)
    with quiet():
        ours = torch.autograd.grad(compiled(model, "aot_eager")(ids, lengths).square().sum(), list(model.parameters()))
    plain = torch.autograd.grad(model(ids, lengths).square().sum(), list(model.parameters()))
    torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("pool", ["final", "max", "attention"])
def test_a_classifier_is_exported(pool: str, *, strict: bool) -> None:
    """For any batch and time; the program gives the same without this library."""
    model = classifier(pool)
    batch, time = torch.export.Dim("batch", min=1), torch.export.Dim("time", min=1)
    with quiet():
        program = torch.export.export(
            model, inputs(4, 7), dynamic_shapes=({0: batch, 1: time}, {0: batch}), strict=strict
        ).module()
    for rows, steps in ((4, 7), (3, 9), (8, 5)):
        ids, lengths = inputs(rows, steps)
        torch.testing.assert_close(program(ids, lengths), model(ids, lengths))


def test_answers_in_names_compile_too() -> None:
    """Labels are part of a head, and no obstacle."""
    torch.compiler.reset()
    model = Embed(TOKENS, 4) >> Encode(Convolution(4, 5)) >> Pool("max") >> Classify(Labels(["a", "b"]))

    def scores(ids: Tensor, lengths: Tensor) -> Tensor:
        return model(Padded(Ids, ids, lengths)).values

    ids, lengths = inputs(4, 7)
    graph = graphed(scores, fullgraph=True, backend="eager")
    with quiet():
        torch.testing.assert_close(graph(ids, lengths), scores(ids, lengths))


@pytest.mark.parametrize("checks", [False, True])
@pytest.mark.parametrize("poison", [False, True])
def test_the_switches_do_not_stand_in_the_way(*, checks: bool, poison: bool) -> None:
    """Checked, unchecked or poisoned, a graph is the same; outside of it the checks are back."""
    model = classifier()
    ids, lengths = inputs(4, 7)
    wanted = model(ids, lengths)
    with set_checks(checks), set_padding_check(poison), quiet():
        torch.testing.assert_close(compiled(model)(ids, lengths), wanted)
    with pytest.raises(ShapeError):
        model(ids, lengths.float())
