"""The memory of one training step, measured by making it."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeAlias, cast, final

import attrs
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pipeline.checks.shapes import described
from pipeline.core.chain import Chain
from pipeline.core.stage import Stage, StageBase
from pipeline.data.batches import Padded, is_batch
from pipeline.data.rows import Ids, Kind, Vectors
from pipeline.data.scores import Scores, StepScores
from pipeline.errors import OptionError
from pipeline.forecast.peak import peak_bytes
from pipeline.summary.entries import allowed, prepared
from pipeline.summary.shapes import sample, unmarked

Model: TypeAlias = Stage[Padded[Ids], object] | Stage[Padded[Vectors], object]
"""What a training step can be made with: padded batches in."""


@final
@attrs.frozen
class Memory:
    """The peak of a training step: weights, their gradients, and all that is kept between forward and backward pass.

    The state of an optimizer comes on top: for Adam, twice the weights.

    Attributes:
        peak: bytes; None if the step ran out of memory.
        rows: how many rows the batch had.
        steps: how many steps each of them had: as many as the batch is wide, so that none is padding.
        method: how it was found.
    """

    peak: int | None
    rows: int
    steps: int
    method: str

    def __str__(self) -> str:
        return "does not fit" if self.peak is None else in_bytes(self.peak)


def in_bytes(number: int) -> str:
    """A number of bytes in the unit that suits it.

    Example:
        >>> in_bytes(512), in_bytes(3 * 2**20), in_bytes(5 * 2**30 // 2)
        ('512 B', '3.0 MiB', '2.5 GiB')
    """
    size, units = float(number), ["B", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1024 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{number} B" if units[0] == "B" else f"{size:,.1f} {units[0]}"


def measured(model: Model, rows: int, steps: int) -> Memory:
    """The peak memory of one training step: a batch that is random and full, forward, loss, backward, no update.

    On a CPU, every allocation of torch is added up; on a GPU, its allocator says the peak. The model is left as it
    was: weights, gradients, buffers, mode, and the state of the random generators.

    Args:
        model: takes padded ids or vectors; on the device that is asked about.
        rows: how many rows the batch has.
        steps: how many steps each row has.

    Raises:
        OptionError: if no batch can be made for the model, or nothing that it gives has a gradient.

    Example:
        >>> from pipeline import classifier
        >>> small, large = (measured(classifier(100, 3), 2, steps).peak for steps in (4, 64))
        >>> small < large
        True
    """
    module = _module(model)
    device = next((weight.device for weight in module.parameters()), torch.device("cpu"))
    on_gpu = device.type == "cuda"
    method = f"measured on {device.type}: one training step of a full batch, without an optimizer's state"
    with _unchanged(module, device):
        try:
            peak = _peak_on_gpu(module, rows, steps, device) if on_gpu else _peak(module, rows, steps, device)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            peak = None
    return Memory(peak, rows, steps, method)


def _module(model: object) -> nn.Module:
    if not isinstance(model, nn.Module):
        msg = (
            "model must be a stage with weights that takes padded batches, such as classifier(...) or "
            f"Pack() >> Embed(...) >> ..., but {described(model)} arrived."
        )
        raise OptionError(msg)
    return model


def _peak(module: nn.Module, rows: int, steps: int, device: torch.device) -> int:
    held = sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))
    return held + peak_bytes(lambda: _train(module, rows, steps, device))


def _peak_on_gpu(module: nn.Module, rows: int, steps: int, device: torch.device) -> int:
    # What others hold on the device is theirs: the weights count, and what the step adds.
    held = sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    _train(module, rows, steps, device)
    torch.cuda.synchronize(device)
    return held + torch.cuda.max_memory_allocated(device) - before


def _train(module: nn.Module, rows: int, steps: int, device: torch.device) -> None:
    given: object = module(_batch(module, rows, steps, device))
    torch.autograd.backward([_loss(given)])


def _batch(module: nn.Module, rows: int, steps: int, device: torch.device) -> Padded[Kind]:
    """A batch that the model takes, every row as long as the batch is wide."""
    stops = prepared(_parts(module))
    weights = [weight.dtype for weight in module.parameters() if weight.is_floating_point()]
    dtype = weights[0] if weights else torch.get_default_dtype()
    made = (sample(hint, stops[0].size, rows=rows, time=steps, dtype=dtype) for hint in allowed(stops))
    # A model that takes either layout is fed what a loader gives.
    empty = next((found for found in made if is_batch(found) and isinstance(found, Padded)), None)
    if empty is None:
        msg = (
            "model must take padded batches of ids, or of vectors whose size it says, but nothing tells what it "
            "takes; begin it with Pack(), or give its first stage an input_size."
        )
        raise OptionError(msg)
    shape, lengths = empty.values.shape, torch.full((rows,), steps)
    if empty.kind is Ids:
        return Padded(Ids, torch.randint(_vocabulary(module), shape).to(device), lengths)
    return Padded(Vectors, torch.randn(shape, dtype=dtype).to(device), lengths)


def _parts(module: object) -> Mapping[str, StageBase]:
    if isinstance(module, Chain):
        return cast("Chain[object, object]", module).parts
    return {"model": cast("StageBase", module)}


def _vocabulary(module: nn.Module) -> int:
    """Below which number every embedding of the model has an entry."""
    return min((child.num_embeddings for child in module.modules() if isinstance(child, nn.Embedding)), default=1)


def _loss(given: object) -> Tensor:
    """The cross-entropy of scores; of anything else, the sum of all that has a gradient."""
    if isinstance(given, Scores | StepScores):
        given = -cast("Scores[object] | StepScores[object]", given).log_softmax().mean()
    leaves: Sequence[object] = pytree.tree_leaves(given)
    sums = [leaf.sum() for leaf in leaves if isinstance(leaf, Tensor) and leaf.requires_grad]
    if not sums:
        msg = "model must give something that has a gradient, but nothing of it has one; unfreeze some of its weights."
        raise OptionError(msg)
    return torch.stack(sums).sum()


@contextmanager
def _unchanged(module: nn.Module, device: torch.device) -> Generator[None]:
    """Training mode and fresh gradients for a while; afterwards the module, and the generators, are as they were."""
    modes = {child: child.training for child in module.modules()}
    gradients = [(weight, weight.grad) for weight in module.parameters()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]
    drawn = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    with unmarked(), torch.enable_grad():
        try:
            for weight, _ in gradients:
                weight.grad = None
            module.train()
            yield
        finally:
            if drawn is not None:
                torch.cuda.set_rng_state(drawn, device)
            for child, training in modes.items():
                child.training = training
            for weight, gradient in gradients:
                weight.grad = gradient
            with torch.no_grad():
                for buffer, content in buffers:
                    buffer.copy_(content)


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or any("can't allocate memory" in text for text in _texts(error))


def _texts(error: BaseException | None) -> Iterator[str]:
    while error is not None:
        yield str(error)
        error = error.__cause__
