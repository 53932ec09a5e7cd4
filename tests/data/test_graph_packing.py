"""Whole models compile to one graph for all sizes, with the results and gradients of the eager model."""

import os
import warnings
from collections.abc import Callable, Generator
from importlib import import_module

import attrs
import pytest
import torch
from torch import Tensor

from pipeline import Padded
from pipeline.data.graph_packing import locate_ends, locate_steps
from pipeline.data.kinds import Kind
from pipeline.data.packing_order import PackingOrder
from pipeline.data.values import Joint
from support.exported import MODELS, draw_batch, make_model
from support.needs import SLOW
from support.untyped import as_any, compile_graph

# A compilation takes seconds: these have all stages and layouts among them. `PIPELINE_TESTS_LONG=1` adds the others.
COMPILED = (
    MODELS
    if os.environ.get("PIPELINE_TESTS_LONG") == "1"
    else [
        "classifier",
        *(pytest.param(name, marks=SLOW) for name in ("language model", "matcher", "heads", "letters")),
    ]
)

# No batch of one row or without any step: for the sizes 0 and 1 torch makes graphs of their own.
SHAPES = ((4, 0, 3), (2, 6, 0, 5, 5), (3, 3), (2, 0, 1))


@pytest.fixture(autouse=True)
def _reset() -> Generator[None]:
    """Forget compiled graphs, and ignore what torch warns of while it traces."""
    torch.compiler.reset()
    # By default torch takes sizes that are equal in the first batch for one size, and traces again if they differ.
    config = as_any(import_module("torch.fx.experimental._config"))
    with warnings.catch_warnings(), config.patch(use_duck_shape=False):
        warnings.simplefilter("ignore")
        yield


def compile_counted(model: object) -> tuple[Callable[..., object], list[object]]:
    """Return a model compiled to one graph, with traced gradients, and the list of its graphs."""
    graphs: list[object] = []
    make_backend = as_any(import_module("torch._dynamo")).lookup_backend("aot_eager")

    def backend(graph: object, inputs: object) -> object:
        graphs.append(graph)
        return make_backend(graph, inputs)

    return compile_graph(model, fullgraph=True, dynamic=True, backend=backend), graphs


def list_values(result: object) -> list[Tensor]:
    """Return the tensors of a model's result."""
    parts = result.parts.values() if isinstance(result, Joint) else [result]
    return [as_any(part).values for part in parts]


def differentiate(model: object, result: object) -> list[Tensor]:
    """Return the gradients of all weights."""
    loss = sum((values.square().sum() for values in list_values(result)), torch.zeros(()))
    return list(torch.autograd.grad(loss, list(as_any(model).parameters())))


@pytest.mark.parametrize("name", COMPILED)
def test_a_model_compiles_to_one_graph(name: str) -> None:
    """For padded batches of several sizes, empty rows included; the graph packs where the model does."""
    model = make_model(name)
    graph, graphs = compile_counted(model)
    first = 0
    for lengths in SHAPES:
        batch = draw_batch(name, lengths)
        found, wanted = graph(batch), model(batch)
        # Torch may trace a graph twice before it is finished.
        first = first or len(graphs)
        torch.testing.assert_close(list_values(found), list_values(wanted))
        torch.testing.assert_close(differentiate(model, found), differentiate(model, wanted))
    assert len(graphs) == first, "no other size may need another graph"


def test_a_compiled_model_takes_packed_rows() -> None:
    """Made outside of the graph; also of another number of rows and steps."""
    stages = list(make_model("tagger").stages.values())[1:]
    model = as_any(stages[0])
    for stage in stages[1:]:
        model = model >> stage
    graph, graphs = compile_counted(model)
    first = 0
    for lengths in SHAPES:
        packed = draw_batch("tagger", lengths).packed()
        torch.testing.assert_close(list_values(graph(packed)), list_values(model(packed)))
        first = first or len(graphs)
    assert len(graphs) == first


def test_a_loss_is_a_part_of_the_graph() -> None:
    """With targets per step, whose weights are those of the eager loss."""
    model = make_model("tagger")

    def compute(batch: Padded[Kind]) -> Tensor:
        loss: Tensor = as_any(model(batch)).loss(reduction="sum")
        return loss

    graph, _ = compile_counted(compute)
    batch = draw_batch("tagger", (4, 0, 3))
    targets = torch.randint(0, 3, batch.values.shape).masked_fill(~batch.mask, -100)
    batch = attrs.evolve(batch, metadata=attrs.evolve(batch.metadata, targets=targets))
    torch.testing.assert_close(graph(batch), compute(batch))


@pytest.mark.parametrize("lengths", [(3, 0, 5), (0, 0), (1,)])
def test_operators_give_the_positions_of_the_packing_order(lengths: tuple[int, ...]) -> None:
    """Rows and times, and the ends of rows; an empty row has the number of all steps."""
    rows = torch.tensor(lengths)
    order, steps = PackingOrder(rows), sum(lengths)
    torch.testing.assert_close(locate_steps(rows, steps), torch.stack([order.row_of_step, order.time_of_step]))
    ends = locate_ends(rows, steps)
    assert (ends[:, rows == 0] == steps).all()
    torch.testing.assert_close(ends[:, rows > 0], torch.stack([order.first_steps, order.last_steps]))


@SLOW
def test_machine_code_gives_the_same_results() -> None:
    """By inductor, torch's own backend, where a C++ compiler is found."""
    if not _has_compiler():
        pytest.skip("no C++ compiler, or no setuptools, that torch's inductor can use")
    model = make_model("classifier")
    graph = compile_graph(model, fullgraph=True, dynamic=True)
    for lengths in SHAPES[:2]:
        batch = draw_batch("classifier", lengths)
        found, wanted = graph(batch), model(batch)
        torch.testing.assert_close(list_values(found), list_values(wanted))
        torch.testing.assert_close(differentiate(model, found), differentiate(model, wanted))


def _has_compiler() -> bool:
    try:
        # Setuptools cannot be loaded where something has loaded the standard library's distutils.
        import_module("torch.utils.cpp_extension")
        return bool(as_any(import_module("torch._inductor.cpp_builder")).get_cpp_compiler())
    except Exception:  # noqa: BLE001 - torch raises errors of its own
        return False
