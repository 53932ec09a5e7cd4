"""No stage synchronizes with its device, in the forward or the backward pass.

Values are on the device `meta`, where reading a value raises. Two other causes of synchronization, a copy that is not
`non_blocking` and an index on the CPU, are detected at every operation.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Final, TypeAlias, cast

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _python_dispatch, _pytree

from pipeline import (
    Attend,
    AttendEarlier,
    Classify,
    Dropout,
    Embed,
    Encode,
    Ids,
    NextToken,
    Pack,
    Padded,
    Pool,
    Pooled,
    States,
    Tag,
    Unpack,
    Vectors,
)
from pipeline.data.metadata import BatchMetadata
from pipeline_recurrent import GRU, LSTM

LENGTHS: Final = ([3, 0, 5, 1], [5, 5, 5, 5], [0, 0, 0, 0])
WIDTH: Final = 5


def _reject_waiting(
    _mode: object,
    func: Callable[..., object],
    _types: Iterable[type],
    args: tuple[object, ...] = (),
    kwargs: Mapping[str, object] | None = None,
) -> object:
    """Run an operation; raise if a device would wait for a tensor on the CPU."""
    options = dict(kwargs or {})
    result = func(*args, **options)
    tensors = [each for each in leaves((args, options, result)) if isinstance(each, Tensor)]
    on_cpu = [each for each in leaves((args, options)) if isinstance(each, Tensor) and not each.is_meta and each.ndim]
    if on_cpu and any(each.is_meta for each in tensors) and not (options.get("non_blocking") or True in args[2:]):
        msg = f"{func} takes {tuple(on_cpu[0].shape)} from the CPU, and waits"
        raise RuntimeError(msg)
    return result


leaves: Final[Callable[[object], list[object]]] = getattr(_pytree, "tree_leaves")  # noqa: B009
"""`tree_leaves` with a type, which torch leaves open."""
_Mode: Final[type] = getattr(_python_dispatch, "TorchDispatchMode")  # noqa: B009
forbid_waiting: Final = cast(
    "Callable[[], AbstractContextManager[object]]", type("Waits", (_Mode,), {"__torch_dispatch__": _reject_waiting})
)
"""A context manager in which operations that would make the device wait raise."""

Step: TypeAlias = tuple[Callable[[], Tensor], list[nn.Parameter]]
"""A forward pass to a loss, and the leaves of its gradients."""
Run: TypeAlias = Callable[[str, list[int]], Step]
"""A function that makes a step on a device, for rows of given lengths."""


def make_vectors(device: str, lengths: list[int], targets: Tensor | None = None) -> Padded[Vectors]:
    """Return a batch of vectors on a device."""
    metadata = BatchMetadata(torch.arange(len(lengths)), targets)
    values = torch.zeros(len(lengths), WIDTH, 4)
    return Padded(Vectors, values, torch.tensor(lengths), metadata=metadata).to(device)


def make_ids(device: str, lengths: list[int], targets: Tensor) -> Padded[Ids]:
    """Return a batch of ids on a device."""
    metadata = BatchMetadata(torch.arange(len(lengths)), targets)
    values = torch.zeros(len(lengths), WIDTH, dtype=torch.int64)
    return Padded(Ids, values, torch.tensor(lengths), metadata=metadata).to(device)


def run_stage(make: Callable[[], nn.Module], *, packed: bool) -> Run:
    """Return a run of one stage on states in one layout."""

    def run(device: str, lengths: list[int]) -> Step:
        stage, batch = make().to(device), make_vectors(device, lengths)
        leaf = nn.Parameter(batch.values)

        def forward() -> Tensor:
            states = States.from_padded(leaf, batch.lengths)
            output: object = stage(States(states.packed() if packed else states.steps, states.final))
            if isinstance(output, Pooled):
                return output.values.sum()
            assert isinstance(output, States)
            return output.padded().values.sum()

        return forward, [leaf, *stage.parameters()]

    return run


def run_classifier(device: str, lengths: list[int]) -> Step:
    """Run packed ids to a loss over rows."""
    model = (Pack() >> Embed(7, 4) >> Encode(LSTM(4, 3)) >> Dropout(0.5) >> Pool("max") >> Classify(2)).to(device)
    batch = make_ids(device, lengths, torch.zeros(len(lengths), dtype=torch.int64))
    return lambda: model(batch).loss(), list(model.parameters())


def run_tagger(device: str, lengths: list[int]) -> Step:
    """Run padded ids to a loss over steps."""
    model = (Embed(7, 4) >> Encode(GRU(4, 3, bidirectional=True)) >> Tag(2)).to(device)
    batch = make_ids(device, lengths, torch.zeros(len(lengths), WIDTH, dtype=torch.int64))
    return lambda: model(batch).loss(), list(model.parameters())


def run_language_model(device: str, lengths: list[int]) -> Step:
    """Run a language model to its loss."""
    model = (
        Pack() >> Embed(7, 4) >> Encode(LSTM(4, 3, engine="plain")) >> AttendEarlier("general") >> NextToken(7)
    ).to(device)
    batch = make_ids(device, lengths, torch.zeros(len(lengths), WIDTH, dtype=torch.int64))
    return lambda: model(batch).loss(), list(model.parameters())


def run_conversions(device: str, lengths: list[int]) -> Step:
    """Convert a batch to the packed layout and back."""
    batch = make_vectors(device, lengths)
    leaf = nn.Parameter(batch.values)
    convert = Pack(Vectors) >> Unpack(Vectors)

    def forward() -> Tensor:
        rows: Padded[Vectors] = convert(Padded(Vectors, leaf, batch.lengths))
        return rows.fill_padding(1.0).values.sum()

    return forward, [leaf]


POOLS: Final = ("final", "last", "first", "sum", "mean", "max")
SCORES: Final = ("dot", "scaled_dot", "general", "additive")
STAGES: Final[dict[str, Callable[[], nn.Module]]] = {
    **{f"pool {name}": partial(Pool, name) for name in POOLS},
    "pool attention": partial(Pool, "attention", input_size=4),
    **{f"attend {name}": partial(Attend, name, input_size=4) for name in SCORES},
    **{f"attend earlier {name}": partial(AttendEarlier, name, input_size=4) for name in SCORES},
    **{f"attend a window {name}": partial(AttendEarlier, name, window=2, input_size=4) for name in SCORES},
    "attend in pieces": partial(AttendEarlier, "additive", input_size=4, memory=1),
}
RUNS: Final[dict[str, Run]] = {
    **{
        f"{name}, {'packed' if packed else 'padded'}": run_stage(make, packed=packed)
        for name, make in STAGES.items()
        for packed in (True, False)
    },
    "classifier": run_classifier,
    "tagger": run_tagger,
    "language model": run_language_model,
    "layouts": run_conversions,
}


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("name", RUNS)
def test_nothing_is_read_back(name: str, lengths: list[int]) -> None:
    """Forward and backward, with empty rows."""
    forward, inputs = RUNS[name]("meta", lengths)
    with forbid_waiting():
        gradients = torch.autograd.grad(forward(), inputs, allow_unused=True)
    assert all(each is None or each.is_meta for each in gradients)


WAITING: Final[list[Callable[[Tensor, Tensor], object]]] = [
    lambda values, _: values.sum().item(),
    lambda values, _: values[values > 0],
    lambda values, _: values.nonzero(),
    lambda values, _: bool(values.any()),
    lambda values, lengths: values.index_select(0, lengths.to("meta")),
    lambda values, lengths: values[lengths],
    lambda values, lengths: values.repeat_interleave(lengths.to("meta", non_blocking=True), 0),
]


@pytest.mark.parametrize("waiting", WAITING)
def test_waiting_operations_are_detected(waiting: Callable[[Tensor, Tensor], object]) -> None:
    """A value read, a result of unknown size, a blocking copy, an index on the CPU."""
    values, lengths = torch.zeros(4, 3, device="meta"), torch.tensor([1, 0, 2, 0])
    with pytest.raises((RuntimeError, NotImplementedError)), forbid_waiting():
        waiting(values, lengths)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("name", RUNS)
def test_nothing_synchronizes_with_a_gpu(name: str, lengths: list[int]) -> None:
    """Torch's own debug mode raises if something does."""
    forward, inputs = RUNS[name]("cuda", lengths)
    set_mode: Callable[[str], None] = getattr(torch.cuda, "set_sync_debug_mode")  # noqa: B009
    set_mode("error")
    try:
        torch.autograd.grad(forward(), inputs, allow_unused=True)
    finally:
        set_mode("default")
