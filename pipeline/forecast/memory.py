"""Measure the peak memory of one training step by running it."""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import accumulate
from operator import methodcaller
from typing import Any, Final, TypeAlias, cast, final

import attrs
import torch
from torch import Tensor, nn
from torch.autograd.profiler import profile
from torch.utils import _pytree as pytree

from pipeline.checks.hints import describe
from pipeline.core.chain import Chain
from pipeline.core.contexts import temporary_mode
from pipeline.core.stage import Stage, StageBase
from pipeline.data.batches import Padded, is_batch
from pipeline.data.kinds import Ids, Kind, Vectors
from pipeline.data.scores import Scores, StepScores
from pipeline.errors import OptionError
from pipeline.summary.dry_run import list_input_types, prepare_stages
from pipeline.summary.meta import isolate_run
from pipeline.summary.samples import make_sample

Model: TypeAlias = Stage[Padded[Ids], object] | Stage[Padded[Vectors], object]
"""A model that takes padded batches."""


@final
@attrs.frozen
class Memory:
    """Peak memory of a training step: weights, gradients, and all tensors kept between forward and backward pass.

    The state of an optimizer is not included; for Adam, it is twice the size of the weights.

    Attributes:
        peak: bytes; None if the step ran out of memory.
        rows: the number of rows of the batch.
        steps: the number of steps of each row; the batch has no padding.
        method: how it was measured.
    """

    peak: int | None
    rows: int
    steps: int
    method: str

    def __str__(self) -> str:
        return "does not fit" if self.peak is None else format_bytes(self.peak)


def format_bytes(number: int) -> str:
    """Write a number of bytes in a suitable unit.

    Example:
        >>> format_bytes(512), format_bytes(3 * 2**20), format_bytes(5 * 2**30 // 2)
        ('512 B', '3.0 MiB', '2.5 GiB')
    """
    size, units = float(number), ["B", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1024 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{number} B" if units[0] == "B" else f"{size:,.1f} {units[0]}"


def measure_memory(model: Model, rows: int, steps: int) -> Memory:
    """Measure the peak memory of one training step: forward pass, loss and backward pass of a random batch.

    On a CPU, all allocations of torch are added up; on a GPU, the allocator reports the peak. The model is left as it
    was: weights, gradients, buffers, mode, and the random generators' state.

    Args:
        model: takes padded ids or vectors; it is measured on the device that it is on.
        rows: the number of rows of the batch.
        steps: the number of steps of each row.

    Raises:
        OptionError: if no batch can be made for the model, or if no output has a gradient.

    Example:
        >>> from pipeline import classifier
        >>> small, large = (measure_memory(classifier(100, 3), 2, steps).peak for steps in (4, 64))
        >>> small < large
        True
    """
    module: object = model
    if not isinstance(module, nn.Module):
        msg = (
            "model must be a stage with weights that takes padded batches, such as classifier(...) or "
            f"Pack() >> Embed(...) >> ..., got {describe(module)}; leave model out, or give such a stage."
        )
        raise OptionError(msg)
    device = next((weight.device for weight in module.parameters()), torch.device("cpu"))
    method = f"measured on {device.type}: one training step of a full batch, without an optimizer's state"
    with _preserve_training_state(module):
        try:
            train = partial(_train_step, module, rows, steps, device)
            peak = _measure_on_gpu(train, device) if device.type == "cuda" else measure_peak_bytes(train)
            # Both functions measure only the memory that the step adds, so that other models on the device do not
            # count. The weights are added here.
            peak += sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            peak = None
    return Memory(peak, rows, steps, method)


def _measure_on_gpu(run: Callable[[], object], device: torch.device) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


_nbytes: Final[Callable[[object], int]] = methodcaller("nbytes")  # missing from torch's type stubs

# The profiler's name for an allocation or a release of memory.
_MEMORY_EVENT: Final = "[memory]"


def measure_peak_bytes(run: Callable[[], object]) -> int:
    """Return the peak size of the CPU tensors that a function allocates, in bytes.

    All allocations and releases of torch's allocator are added up, so the result is exact and repeatable; the size of
    the process would depend on what ran before. Memory that libraries allocate themselves (scratch space of oneDNN and
    MKL) is not included.

    Example:
        >>> import torch
        >>> measure_peak_bytes(lambda: torch.zeros(256) + torch.ones(256))
        3072
    """
    profiled = profile(profile_memory=True)
    with profiled:
        run()
    results = profiled.kineto_results
    assert results is not None
    # Each event is one allocation (positive) or release (negative); their running sum is the memory in use.
    # The profiler's own tables give the memory of each operation, not the memory at one time.
    events = sorted((event.start_ns(), _nbytes(event)) for event in results.events() if event.name() == _MEMORY_EVENT)
    return max(accumulate(size for _, size in events), default=0)


def _train_step(module: nn.Module, rows: int, steps: int, device: torch.device) -> None:
    output: object = module(_make_batch(module, rows, steps, device))
    torch.autograd.backward([_compute_loss(output)])


def _make_batch(module: nn.Module, rows: int, steps: int, device: torch.device) -> Padded[Kind]:
    """Make a random batch without padding that the model takes."""
    stages = prepare_stages(_get_stages(module))
    dtypes = [weight.dtype for weight in module.parameters() if weight.is_floating_point()]
    dtype = dtypes[0] if dtypes else torch.get_default_dtype()
    first = stages[0]
    samples = (
        make_sample(hint, first.input_size, rows=rows, time=steps, dtype=dtype, field_sizes=first.field_sizes)
        for hint in list_input_types(stages)
    )
    # A model that takes both padded and packed batches gets padded ones, as from a loader.
    sample = next((found for found in samples if is_batch(found) and isinstance(found, Padded)), None)
    if sample is None:
        msg = (
            "model must take padded batches of ids, or of vectors of a known size, but its input type is unknown; "
            "begin it with Pack(), or set input_size in its first stage."
        )
        raise OptionError(msg)
    drawn: Padded[Kind] = _draw(sample, _get_vocab_size(module), device)
    return drawn


def _draw(sample: Any, vocab_size: int, device: torch.device) -> Any:  # noqa: ANN401 - a batch in the layout of the sample
    """Return a batch with random ids and vectors in place of a sample's, which have shapes only."""
    values: Tensor = sample.values
    if sample.inner is not None:
        # The numbers of the inner rows, each of which occurs once.
        drawn = torch.arange(values.numel()).reshape(values.shape)
    elif values.is_floating_point():
        drawn = torch.randn(values.shape, dtype=values.dtype)
    else:
        drawn = torch.randint(vocab_size, values.shape)
    fields = None
    if sample.fields is not None:
        fields = {name: _draw(field, vocab_size, device) for name, field in sample.fields.items()}
    inner = None if sample.inner is None else _draw(sample.inner, vocab_size, device)
    order = sample.order.to(device)
    return attrs.evolve(sample, values=drawn.to(device), fields=fields, inner=inner, order=order)


def _get_stages(module: object) -> Mapping[str, StageBase]:
    if isinstance(module, Chain):
        return cast("Chain[object, object]", module).stages
    return {"model": cast("StageBase", module)}


def _get_vocab_size(module: nn.Module) -> int:
    """Return the size of the smallest embedding: all ids below it are valid everywhere in the model."""
    return min((child.num_embeddings for child in module.modules() if isinstance(child, nn.Embedding)), default=1)


def _compute_loss(output: object) -> Tensor:
    """Return the cross-entropy of scores; for any other output, the sum of all tensors that have a gradient."""
    summed = output
    if isinstance(output, Scores | StepScores):
        probabilities = cast("Scores[object] | StepScores[object]", output).log_softmax()
        if probabilities.requires_grad:
            summed = -probabilities.mean()
    leaves: Sequence[object] = pytree.tree_leaves(summed)
    sums = [leaf.sum() for leaf in leaves if isinstance(leaf, Tensor) and leaf.requires_grad]
    if not sums:
        raise OptionError("model must have an output with a gradient, but no output has one; unfreeze some weights.")
    return torch.stack(sums).sum()


@contextmanager
def _preserve_training_state(module: nn.Module) -> Generator[None]:
    """Switch to training mode, with empty gradients; at the end restore the module and the random generators."""
    gradients = [(weight, weight.grad) for weight in module.parameters()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]
    with isolate_run(), torch.enable_grad(), temporary_mode(module, training=True):
        try:
            for weight, _ in gradients:
                weight.grad = None
            yield
        finally:
            for weight, gradient in gradients:
                weight.grad = gradient
            # Buffers change in a training step: the running mean of a batch norm, for example.
            with torch.no_grad():
                for buffer, content in buffers:
                    buffer.copy_(content)


def _is_out_of_memory(error: BaseException | None) -> bool:
    # On a CPU, torch raises a RuntimeError with this text. Either error may be the cause of one of ours.
    while error is not None:
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            return True
        error = error.__cause__
    return False
