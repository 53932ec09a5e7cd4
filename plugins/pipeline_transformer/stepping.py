"""Steps of a causal transformer one by one: the keys and values of earlier steps are kept, not computed again."""

from collections.abc import Sequence
from typing import Self, final

import attrs
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from typing_extensions import override

from pipeline.extend import ON_CPU, Memory, as_pytree
from pipeline_transformer.shapes import split_features, unfold_axis
from pipeline_transformer.spec import AttentionForm


@final
@as_pytree
@attrs.frozen(eq=False)
class KeysAndValues(Memory):
    """The keys and values of the earlier steps of each row.

    Attributes:
        layers: for each layer the keys and values of all heads side by side; row `i` has its steps at the positions 0
            to `stored[i] - 1`, and finite numbers after them.
        stored: the number of steps of each row; on the CPU.
    """

    layers: tuple[Float[Tensor, "batch width feature"], ...]
    stored: Int64[Tensor, " batch"] = attrs.field(metadata=ON_CPU)

    @override
    def select(self, rows: Int64[Tensor, " selected"]) -> Self:
        layers = tuple(layer.index_select(0, rows.to(layer.device)) for layer in self.layers)
        return attrs.evolve(self, layers=layers, stored=self.stored[rows])


@final
class NextSteps:
    """The next steps of each row, and the times at which they and the keys stand.

    Args:
        memory: the keys and values of earlier steps; None at the beginning.
        lengths: the number of next steps of each row; on the CPU.
        width: the size of the time axis of the rectangle that holds them.
        form: the form of the attention.
        device: the device of the steps.

    Attributes:
        times: the time of each step of the rectangle.
        stored: the number of steps of each row, the next ones included.
    """

    def __init__(
        self,
        memory: KeysAndValues | None,
        lengths: Int64[Tensor, " batch"],
        width: int,
        form: AttentionForm,
        device: torch.device,
    ) -> None:
        self._earlier: Sequence[Tensor | None] | None = None if memory is None else memory.layers
        self._form = form
        began = torch.zeros_like(lengths) if memory is None else memory.stored
        self.times: Int64[Tensor, "batch time"] = began.unsqueeze(1) + torch.arange(width, device=lengths.device)
        self.stored: Int64[Tensor, " batch"] = began + lengths
        self._width = int(self.stored.max())
        is_real = torch.arange(width, device=lengths.device) < lengths.unsqueeze(1)
        row, step = is_real.nonzero().unbind(1)
        # The places of the real steps in a flat rectangle of next steps, and in one of all steps.
        self._source: Int64[Tensor, " steps"] = (row * width + step).to(device)
        self._target: Int64[Tensor, " steps"] = (row * self._width + self.times[row, step]).to(device)
        self._mask = self._make_mask().to(device)
        self._layers: list[Tensor] = []

    @property
    def key_times(self) -> Int64[Tensor, " key"]:
        """The times of the keys."""
        return torch.arange(self._width, device=self.stored.device)

    @property
    def distances(self) -> Int64[Tensor, "batch query key"]:
        """How far each key lies before each query."""
        return self.times.unsqueeze(2) - self.key_times

    def make_memory(self) -> KeysAndValues:
        """Return the keys and values of all steps, when all layers have attended."""
        return KeysAndValues(tuple(self._layers), self.stored)

    def attend(
        self, projected: Float[Tensor, "batch time feature"], bias: Float[Tensor, "batch heads query key"] | None
    ) -> Float[Tensor, "batch time hidden"]:
        """Return the contexts of the next steps in the next layer, whose keys and values are kept."""
        form, (batch, width) = self._form, projected.shape[:2]
        query_size, key_size = form.heads * form.size, form.kv_heads * form.size
        query, new = split_features(projected, [query_size, 2 * key_size], -1)
        stored = self._append(new)
        key, values = split_features(stored, key_size, -1)
        query = unfold_axis(query, -1, (form.heads, form.size)).transpose(1, 2)
        key, values = (unfold_axis(part, -1, (form.kv_heads, form.size)).transpose(1, 2) for part in (key, values))
        if form.sharing > 1:
            key, values = (part.repeat_interleave(form.sharing, 1) for part in (key, values))
        mask = self._mask if bias is None else bias.to(query.dtype).masked_fill(~self._mask, -torch.inf)
        contexts = scaled_dot_product_attention(query, key, values, attn_mask=mask, scale=form.scale)
        return contexts.transpose(1, 2).reshape(batch, width, query_size)

    def _append(self, new: Float[Tensor, "batch time feature"]) -> Float[Tensor, "batch key feature"]:
        """Return the keys and values of all steps. The copy takes less time than the attention that reads it."""
        earlier = None if self._earlier is None else self._earlier[len(self._layers)]
        stored = new.new_zeros(new.shape[0], self._width, new.shape[2])
        if earlier is not None:
            stored[:, : earlier.shape[1]] = earlier
        flat = stored.flatten(0, 1)
        stored = flat.index_copy(0, self._target, new.flatten(0, 1).index_select(0, self._source)).view_as(stored)
        self._layers.append(stored)
        return stored

    def _make_mask(self) -> Bool[Tensor, "batch 1 query key"]:
        allowed = self._form.allows(self.times.unsqueeze(2), self.key_times)
        allowed = allowed & (self.key_times < self.stored.view(-1, 1, 1))
        # Steps in the padding attend to the first key too: a softmax over no key would be NaN.
        return (allowed | (self.key_times == 0) & ~allowed.any(2, keepdim=True)).unsqueeze(1)
