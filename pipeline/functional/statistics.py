"""Statistics of the real steps of each row, in either layout: smooth maximum, deviation, quantiles, largest values."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from pipeline.data.batches import Batch, Packed
from pipeline.data.kinds import Hidden
from pipeline.data.states import empty_rows_mask
from pipeline.functional.segments import compact, max_by_row, sum_wide_by_row, widen


def min_by_row(steps: Batch[Hidden]) -> Float[Tensor, "batch feature"]:
    """Return the minimum of each feature over a row's steps. Equal minima share the gradient.

    Example:
        >>> min_by_row(Packed(Hidden, torch.tensor([[2.0], [1.0], [3.0]]), torch.tensor([2, 0, 1]))).tolist()
        [[2.0], [0.0], [1.0]]
    """
    # 0 - x and not -x, which would make the zeros of empty rows negative.
    return 0 - max_by_row(steps.with_values(-steps.values))


def logsumexp_by_row(
    steps: Batch[Hidden], temperature: float = 1.0, *, mean: bool = False
) -> Float[Tensor, "batch feature"]:
    """Return `t log(sum(exp(x / t)))` of each feature over a row's steps, for a temperature t; zeros for an empty row.

    Args:
        steps: the steps.
        temperature: the lower it is, the closer the result is to the maximum.
        mean: divide the sum by the number of steps.

    Example:
        >>> steps = Packed(Hidden, torch.tensor([[1.0], [5.0], [1.0]]), torch.tensor([2, 0, 1]))
        >>> logsumexp_by_row(steps, mean=True).tolist()
        [[1.0], [0.0], [5.0]]
    """
    steps = _compact_filled(steps)
    # The result does not depend on what is subtracted and added again, hence no gradient. With the maximum, `exp`
    # cannot overflow.
    maximum = widen(max_by_row(steps.with_values(steps.values.detach())))
    # As in `torch.logsumexp`: an infinite maximum, less itself, would be NaN.
    maximum = maximum.masked_fill(maximum.isinf(), 0)
    powers = ((widen(steps.values) - _spread(maximum, steps)) / temperature).exp()
    total = sum_wide_by_row(steps.with_values(powers))
    if mean:
        total = total / steps.order.lengths_on_device.clamp(min=1).unsqueeze(1)
    # Filled before the logarithm, whose slope at 0 is infinite.
    smooth = total.masked_fill(empty_rows_mask(steps), 1).log() * temperature + maximum
    return smooth.to(steps.values.dtype)


def mean_and_std_by_row(
    steps: Batch[Hidden],
) -> tuple[Float[Tensor, "batch feature"], Float[Tensor, "batch feature"]]:
    """Return the mean and the standard deviation of each feature over a row's steps; zeros for an empty row.

    The deviation is that of the steps themselves, divided by their number and not by one less. That of one step, or of
    equal ones, is 0, and so is its gradient.

    Example:
        >>> steps = Packed(Hidden, torch.tensor([[1.0], [5.0], [3.0]]), torch.tensor([2, 1]))
        >>> [each.tolist() for each in mean_and_std_by_row(steps)]
        [[[2.0], [5.0]], [[1.0], [0.0]]]
    """
    steps = _compact_filled(steps)
    count = steps.order.lengths_on_device.clamp(min=1).unsqueeze(1)
    mean = sum_wide_by_row(steps) / count
    squares = (widen(steps.values) - _spread(mean, steps)).square()
    variance = sum_wide_by_row(steps.with_values(squares)) / count
    # Filled before the root, whose slope at 0 is infinite.
    is_zero = variance == 0
    std = variance.masked_fill(is_zero, 1).sqrt().masked_fill(is_zero, 0)
    return mean.to(steps.values.dtype), std.to(steps.values.dtype)


def _compact_filled(steps: Batch[Hidden]) -> Batch[Hidden]:
    """Return the same steps without padding, or with zeros in it: nothing of NaN may reach a gradient."""
    steps = compact(steps)
    return steps if isinstance(steps, Packed) else steps.fill_padding(0)


def _spread(values: Float[Tensor, "batch feature"], steps: Batch[Hidden]) -> Tensor:
    """Return the vector of each row at each of its steps."""
    if isinstance(steps, Packed):
        return values.index_select(0, steps.order.locate_steps(steps.values)[0])
    return values.unsqueeze(1)


def quantiles_by_row(steps: Batch[Hidden], quantiles: Sequence[float]) -> Float[Tensor, "batch quantile feature"]:
    """Return quantiles of each feature over a row's steps, between two steps by linear interpolation.

    An empty row gives zeros. As in `torch.quantile`, a feature that is NaN in some step gives NaN.

    Example:
        >>> steps = Packed(Hidden, torch.tensor([[1.0], [7.0], [3.0], [2.0]]), torch.tensor([3, 1]))
        >>> quantiles_by_row(steps, [0.5, 0.75]).squeeze(2).tolist()
        [[2.0, 2.5], [7.0, 7.0]]
    """
    rows = _widen_rectangle(steps, math.nan, 1)
    # NaN sorts last, that of padding too: the real steps come first.
    ordered = widen(rows).sort(dim=1).values
    # float32 counts steps up to 16 million.
    shares = torch.tensor(quantiles, dtype=ordered.dtype, device=ordered.device)
    last = (steps.order.lengths_on_device - 1).clamp(min=0).unsqueeze(1)
    place = shares * last
    lower = place.floor()
    found = torch.lerp(
        _select(ordered, lower.long()), _select(ordered, place.ceil().long()), (place - lower).unsqueeze(2)
    )
    # A row with NaN in a real step has fewer numbers than steps.
    found = found.masked_fill(_select(ordered, last).isnan(), math.nan)
    return found.masked_fill(empty_rows_mask(steps).unsqueeze(2), 0).to(steps.values.dtype)


def largest_by_row(steps: Batch[Hidden], k: int) -> Float[Tensor, "batch k feature"]:
    """Return the k largest values of each feature over a row's steps, in the order of the steps.

    Of equal values the earlier ones are taken. A row with fewer than k steps gives all of them, and then zeros.

    Example:
        >>> steps = Packed(Hidden, torch.tensor([[3.0], [7.0], [1.0], [4.0]]), torch.tensor([3, 1]))
        >>> largest_by_row(steps, 2).squeeze(2).tolist()
        [[3.0, 4.0], [7.0, 0.0]]
    """
    values = _widen_rectangle(steps, -math.inf, k).detach()
    # NaN counts as the largest number, as in a sort; comparisons with it would be false.
    places = _find_largest(values.masked_fill(values.isnan(), math.inf), k)
    return _widen_rectangle(steps, 0, k).gather(1, places)


def _find_largest(values: Float[Tensor, "batch time feature"], k: int) -> Int64[Tensor, "batch k feature"]:
    """Return the places of the k largest values of each feature, in their order; of equal values the earlier ones.

    Relu gives many equal zeros, and which of them are taken must not depend on other rows. `topk` and the sort of ONNX
    do not promise it, so that ties are decided by counting: of the values that equal the k-th largest, the first ones
    are taken. A stable sort takes as long for 20 steps, and 1.5 times as long for 100.
    """
    bound = values.topk(k, dim=1).values[:, -1:]
    is_above, is_equal = values > bound, values == bound
    missing = k - is_above.sum(1, keepdim=True)
    is_taken = is_above | (is_equal & (is_equal.cumsum(1) <= missing))
    # Exactly k are taken, and no two of their numbers are equal.
    time = torch.arange(values.shape[1], device=values.device).unsqueeze(1)
    return -torch.where(is_taken, -time, -(2**62)).topk(k, dim=1).values


def _widen_rectangle(steps: Batch[Hidden], fill: float, minimum: int) -> Float[Tensor, "batch time feature"]:
    """Return the steps in a rectangle with one value in the padding, and at least a minimum width.

    Sorting rows of unequal length one by one would take a second sort of all steps by row.
    """
    values = steps.padded().fill_padding(fill).values
    missing = minimum if torch.compiler.is_compiling() else max(minimum - values.shape[1], 0)
    if not missing:
        return values
    return torch.cat([values, values.new_full((values.shape[0], missing, values.shape[2]), fill)], dim=1)


def _select(values: Float[Tensor, "batch time feature"], places: Tensor) -> Float[Tensor, "batch place feature"]:
    """Return the steps of each row at its places."""
    return values.gather(1, places.unsqueeze(2).expand(-1, -1, values.shape[2]))


def scale_sum_by_row(steps: Batch[Hidden]) -> Float[Tensor, "batch feature"]:
    """Return the sum of each row's steps, divided by the square root of their number; zeros for an empty row.

    Example:
        >>> scale_sum_by_row(Packed(Hidden, torch.ones(4, 1), torch.tensor([4, 0]))).tolist()
        [[2.0], [0.0]]
    """
    total = sum_wide_by_row(steps)
    root = steps.order.lengths_on_device.clamp(min=1).to(total.dtype).sqrt()
    return (total / root.unsqueeze(1)).to(steps.values.dtype)
