"""The feed-forward part of a layer."""

from typing import Final, Literal, TypeAlias, final

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import silu
from typing_extensions import override

from pipeline.extend import drop, has_hooks
from pipeline_transformer.fused import activate
from pipeline_transformer.products import apply_linear, multiply

Activation: TypeAlias = Literal["gelu", "relu", "swiglu"]
"""The activations."""


@final
class FeedForward(nn.Module):
    """Two linear layers with an activation between them.

    With "swiglu" the first one is twice as large: one half is multiplied by the other, after its activation.

    Args:
        hidden_size: the number of features of input and output.
        feedforward_size: the number of features between the layers.
        activation: "gelu", "relu" or "swiglu".
        dropout: the probability on the features between the layers.
        bias: whether the layers have biases.

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.3; Shazeer 2020, "GLU Variants Improve Transformer",
    arXiv:2002.05202.
    """

    def __init__(
        self, hidden_size: int, feedforward_size: int, activation: Activation, dropout: float, *, bias: bool
    ) -> None:
        super().__init__()
        self.activation: Final = activation
        self.dropout = dropout
        inner_size = feedforward_size * (2 if activation == "swiglu" else 1)
        self.expand: nn.Linear = nn.Linear(hidden_size, inner_size, bias=bias)
        self.contract: nn.Linear = nn.Linear(feedforward_size, hidden_size, bias=bias)

    @override
    def forward(self, steps: Float[Tensor, "*axes hidden"]) -> Float[Tensor, "*axes hidden"]:
        return apply_linear(self.contract, self._expand(steps))

    def leave_bias(
        self, steps: Float[Tensor, "*axes hidden"]
    ) -> tuple[Float[Tensor, "*axes hidden"], Float[Tensor, " hidden"] | None]:
        """Return the result without the last bias, and this bias; None if it is added, or there is none."""
        return (self(steps), None) if has_hooks(self) else multiply(self.contract, self._expand(steps))

    def _expand(self, steps: Tensor) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        if self.activation == "swiglu":
            values, gate = apply_linear(self.expand, steps).chunk(2, dim=-1)
            active = silu(gate) * values
            return drop(active, dropout) if dropout else active
        values, bias = multiply(self.expand, steps)
        is_linear = type(self.contract) is nn.Linear and not has_hooks(self.contract)
        return activate(values, bias, self.activation, dropout, overwrite_gradient=is_linear)
