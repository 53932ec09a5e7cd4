"""What embedders of numbers share: one operation on the values of a batch, and sizes from the stage before."""

from collections.abc import Callable

from torch import Tensor

from pipeline.extend import (
    Batch,
    CompositionError,
    Padded,
    ShapeError,
    Spec,
    Vectors,
    check_int,
    derive_vectors,
)


def map_vectors(value: Batch[Vectors], function: Callable[[Tensor], Tensor]) -> Batch[Vectors]:
    """Return the batch with a function applied to its vectors; the padding is zeros before and after it."""
    batch = value.fill_padding(0) if isinstance(value, Padded) else value
    result = derive_vectors(function(batch.values), batch, batch.initial_carry)
    return result.fill_padding(0) if isinstance(result, Padded) else result


def check_sizes(**options: int) -> None:
    """Reject sizes that are no integers of 1 or more.

    Raises:
        OptionError: naming the option.
    """
    for name, number in options.items():
        check_int(name, number, minimum=1)


def check_input_size(stage: str, input_size: int | None, spec: Spec) -> None:
    """Reject an input of another size than that of the stage.

    Raises:
        CompositionError: naming both sizes.
    """
    if None not in (input_size, spec.size) and spec.size != input_size:
        msg = (
            f"the input has size {spec.size} along 'feature', but {stage} has input_size={input_size}; make them equal."
        )
        raise CompositionError(msg, axis="feature", size=spec.size)


def check_features(stage: str, input_size: int | None, value: Batch[Vectors]) -> None:
    """Reject a batch with another number of features than that of the stage.

    Raises:
        ShapeError: naming both numbers.
        CompositionError: if the number of the stage is not known.
    """
    size = value.values.shape[-1]
    if input_size is None:
        msg = f"the input size of {stage} is not known; pass input_size={size}, since no stage before determines it."
        raise CompositionError(msg, size=size)
    if size != input_size:
        msg = f"{stage} has input_size={input_size}, got vectors of {size} features; make them equal."
        raise ShapeError(msg, size=size)
