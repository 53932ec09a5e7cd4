"""No stage waits for a device, forward or backward: values have no numbers here, lengths stay on the CPU.

On the device `meta` whatever reads a number raises. What a GPU waits for besides, a copy to it that is not
`non_blocking` and an index that lies on the CPU, is looked for at every operation.
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


def _refusing(
    _mode: object,
    func: Callable[..., object],
    _types: Iterable[type],
    args: tuple[object, ...] = (),
    kwargs: Mapping[str, object] | None = None,
) -> object:
    """Run an operation, unless a device would wait in it for a tensor of the CPU."""
    options = dict(kwargs or {})
    found = func(*args, **options)
    tensors = [each for each in leaves((args, options, found)) if isinstance(each, Tensor)]
    beside = [each for each in leaves((args, options)) if isinstance(each, Tensor) and not each.is_meta and each.ndim]
    if beside and any(each.is_meta for each in tensors) and not (options.get("non_blocking") or True in args[2:]):
        msg = f"{func} takes {tuple(beside[0].shape)} from the CPU, and waits"
        raise RuntimeError(msg)
    return found


leaves: Final[Callable[[object], list[object]]] = getattr(_pytree, "tree_leaves")  # noqa: B009
"""All that is in something nested; torch leaves its type open."""
_Mode: Final[type] = getattr(_python_dispatch, "TorchDispatchMode")  # noqa: B009
waits: Final = cast(
    "Callable[[], AbstractContextManager[object]]", type("Waits", (_Mode,), {"__torch_dispatch__": _refusing})
)
"""Inside, what would make the device `meta` wait is refused."""

Step: TypeAlias = tuple[Callable[[], Tensor], list[nn.Parameter]]
"""A forward pass to a loss, and what it is differentiated by."""
Run: TypeAlias = Callable[[str, list[int]], Step]
"""Makes a step on a device, of rows of some lengths."""


def vectors(device: str, lengths: list[int], targets: Tensor | None = None) -> Padded[Vectors]:
    """A batch whose values are elsewhere."""
    metadata = BatchMetadata(torch.arange(len(lengths)), targets)
    values = torch.zeros(len(lengths), WIDTH, 4)
    return Padded(Vectors, values, torch.tensor(lengths), metadata=metadata).to(device)


def ids(device: str, lengths: list[int], targets: Tensor) -> Padded[Ids]:
    """The same of ids."""
    metadata = BatchMetadata(torch.arange(len(lengths)), targets)
    values = torch.zeros(len(lengths), WIDTH, dtype=torch.int64)
    return Padded(Ids, values, torch.tensor(lengths), metadata=metadata).to(device)


def of_states(make: Callable[[], nn.Module], *, packed: bool) -> Run:
    """A stage of states, in one of the layouts."""

    def run(device: str, lengths: list[int]) -> Step:
        stage, batch = make().to(device), vectors(device, lengths)
        leaf = nn.Parameter(batch.values)

        def forward() -> Tensor:
            states = States.from_padded(leaf, batch.lengths)
            found: object = stage(States(states.packed(), states.final) if packed else states)
            if isinstance(found, Pooled):
                return found.values.sum()
            assert isinstance(found, States)
            return found.padded().values.sum()

        return forward, [leaf, *stage.parameters()]

    return run


def classified(device: str, lengths: list[int]) -> Step:
    """Ids to a loss a row."""
    model = (Pack() >> Embed(7, 4) >> Encode(LSTM(4, 3)) >> Dropout(0.5) >> Pool("max") >> Classify(2)).to(device)
    batch = ids(device, lengths, torch.zeros(len(lengths), dtype=torch.int64))
    return lambda: model(batch).loss(), list(model.parameters())


def tagged(device: str, lengths: list[int]) -> Step:
    """Padded ids to a loss a step."""
    model = (Embed(7, 4) >> Encode(GRU(4, 3, bidirectional=True)) >> Tag(2)).to(device)
    batch = ids(device, lengths, torch.zeros(len(lengths), WIDTH, dtype=torch.int64))
    return lambda: model(batch).loss(), list(model.parameters())


def continued(device: str, lengths: list[int]) -> Step:
    """A language model's loss."""
    model = (
        Pack() >> Embed(7, 4) >> Encode(LSTM(4, 3, engine="plain")) >> AttendEarlier("general") >> NextToken(7)
    ).to(device)
    batch = ids(device, lengths, torch.zeros(len(lengths), WIDTH, dtype=torch.int64))
    return lambda: model(batch).loss(), list(model.parameters())


def turned(device: str, lengths: list[int]) -> Step:
    """From layout to layout and back."""
    batch = vectors(device, lengths)
    leaf = nn.Parameter(batch.values)
    turn = Pack(Vectors) >> Unpack(Vectors)

    def forward() -> Tensor:
        rows: Padded[Vectors] = turn(Padded(Vectors, leaf, batch.lengths))
        return rows.fill_padding(1.0).values.sum()

    return forward, [leaf]


POOLS: Final = ("final", "last", "first", "sum", "mean", "max")
SCORES: Final = ("dot", "scaled_dot", "general", "additive")
STAGES: Final[dict[str, Callable[[], nn.Module]]] = {
    **{f"pool {how}": partial(Pool, how) for how in POOLS},
    "pool attention": partial(Pool, "attention", input_size=4),
    **{f"attend {how}": partial(Attend, how, input_size=4) for how in SCORES},
    **{f"attend earlier {how}": partial(AttendEarlier, how, input_size=4) for how in SCORES},
    **{f"attend a window {how}": partial(AttendEarlier, how, window=2, input_size=4) for how in SCORES},
    "attend in pieces": partial(AttendEarlier, "additive", input_size=4, memory=1),
}
RUNS: Final[dict[str, Run]] = {
    **{
        f"{name}, {'packed' if packed else 'padded'}": of_states(make, packed=packed)
        for name, make in STAGES.items()
        for packed in (True, False)
    },
    "classifier": classified,
    "tagger": tagged,
    "language model": continued,
    "layouts": turned,
}


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("name", RUNS)
def test_nothing_is_read_back(name: str, lengths: list[int]) -> None:
    """Forward and backward, rows of none among them."""
    forward, inputs = RUNS[name]("meta", lengths)
    with waits():
        slopes = torch.autograd.grad(forward(), inputs, allow_unused=True)
    assert all(slope is None or slope.is_meta for slope in slopes)


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
def test_what_waits_is_seen(waiting: Callable[[Tensor, Tensor], object]) -> None:
    """A number, a choice of unknown size, a copy that blocks, an index on the CPU."""
    values, lengths = torch.zeros(4, 3, device="meta"), torch.tensor([1, 0, 2, 0])
    with pytest.raises((RuntimeError, NotImplementedError)), waits():
        waiting(values, lengths)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU to wait for, and there is none here")
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("name", RUNS)
def test_a_gpu_is_not_waited_for(name: str, lengths: list[int]) -> None:
    """As torch itself sees it."""
    forward, inputs = RUNS[name]("cuda", lengths)
    set_mode: Callable[[str], None] = getattr(torch.cuda, "set_sync_debug_mode")  # noqa: B009
    set_mode("error")
    try:
        torch.autograd.grad(forward(), inputs, allow_unused=True)
    finally:
        set_mode("default")
