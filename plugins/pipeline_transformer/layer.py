"""A layer of a transformer: attention within the row, then a feed-forward part, each with a residual and a norm."""

from collections.abc import Callable, Iterable
from typing import Final, Literal, TypeAlias, final

from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from pipeline.extend import has_hooks
from pipeline_transformer.feed_forward import Activation, FeedForward
from pipeline_transformer.fused import add, add_and_normalize
from pipeline_transformer.products import apply_linear, multiply
from pipeline_transformer.spec import AttentionForm

Norm: TypeAlias = Literal["pre", "post"]
"""Where a layer normalizes: the input of each part, or the sum of its input and its output."""

AttendSteps: TypeAlias = Callable[[Tensor, float], Tensor]
"""Returns the contexts of projected steps; the second argument is the dropout of weights."""


@final
class Layer(nn.Module):
    """A layer over steps in any layout; how steps attend to each other is given by the caller.

    Args:
        form: the form of the attention.
        hidden_size: the number of features of a step.
        feedforward_size: the number of features within the feed-forward part.
        activation: its activation.
        norm: "pre" or "post".
        dropout: the probability on the output of both parts, and within the feed-forward part.
        attention_dropout: the probability on the weights of the attention.
        bias: whether linear layers and norms have biases.
        layer_norm_eps: the number that is added to a variance.

    Source: Vaswani et al. 2017, arXiv:1706.03762; pre-norm: Xiong et al. 2020, "On Layer Normalization in the
    Transformer Architecture", arXiv:2002.04745.
    """

    def __init__(
        self,
        form: AttentionForm,
        hidden_size: int,
        feedforward_size: int,
        *,
        activation: Activation,
        norm: Norm,
        dropout: float,
        attention_dropout: float,
        bias: bool,
        layer_norm_eps: float,
    ) -> None:
        super().__init__()
        self.norm: Final = norm
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        # Queries, keys and values of all heads in one product.
        self.projection: nn.Linear = nn.Linear(hidden_size, form.features, bias=bias)
        self.output: nn.Linear = nn.Linear(form.heads * form.size, hidden_size, bias=bias)
        self.feed_forward: FeedForward = FeedForward(hidden_size, feedforward_size, activation, dropout, bias=bias)
        self.attention_norm: nn.LayerNorm = nn.LayerNorm(hidden_size, layer_norm_eps, bias=bias)
        self.feed_forward_norm: nn.LayerNorm = nn.LayerNorm(hidden_size, layer_norm_eps, bias=bias)
        for module in (self.projection, self.output, self.feed_forward.expand, self.feed_forward.contract):
            nn.init.xavier_uniform_(module.weight)
            if bias:
                nn.init.zeros_(module.bias)

    @override
    def forward(self, steps: Float[Tensor, "*axes hidden"], attend: AttendSteps) -> Float[Tensor, "*axes hidden"]:
        if self.norm == "pre":
            steps, values, bias = self._begin(steps, self.attention_norm(steps), attend)
            return add(steps, values, self._dropout, bias=bias)
        values, bias = self._attend(steps, attend)
        _, steps = add_and_normalize(steps, values, self.attention_norm, self._dropout, bias=bias)
        values, bias = self.feed_forward.leave_bias(steps)
        return add_and_normalize(steps, values, self.feed_forward_norm, self._dropout, bias=bias)[1]

    def apply_and_normalize(
        self, steps: Tensor, normalized: Tensor | None, attend: AttendSteps, norm_after: nn.Module
    ) -> tuple[Tensor, Tensor]:
        """Return the result of a layer whose norm is "pre", and the norm after it.

        Args:
            steps: the input.
            normalized: the attention's norm of the input; None if it is not computed yet.
            attend: see `forward`.
            norm_after: the norm of the result.
        """
        first: Tensor = self.attention_norm(steps) if normalized is None else normalized
        steps, values, bias = self._begin(steps, first, attend)
        return add_and_normalize(steps, values, norm_after, self._dropout, bias=bias)

    def _begin(self, steps: Tensor, normalized: Tensor, attend: AttendSteps) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the last residual, and the values and the bias to add to it."""
        values, bias = self._attend(normalized, attend)
        steps, normalized = add_and_normalize(steps, values, self.feed_forward_norm, self._dropout, bias=bias)
        return steps, *self.feed_forward.leave_bias(normalized)

    def _attend(self, steps: Tensor, attend: AttendSteps) -> tuple[Tensor, Tensor | None]:
        projected = apply_linear(self.projection, steps)
        return multiply(self.output, attend(projected, self.attention_dropout if self.training else 0.0))

    @property
    def _dropout(self) -> float:
        return self.dropout if self.training else 0.0


def apply_layers(
    layers: Iterable[nn.Module], steps: Float[Tensor, "*axes hidden"], attend: AttendSteps, norm_after: nn.Module
) -> Float[Tensor, "*axes hidden"]:
    """Return the norm of what the last layer returns.

    The sum at the end of a layer and the norm at the beginning of the next one are computed together, unless one of the
    two has hooks, which run only if it is called.

    Args:
        layers: the layers.
        steps: the input of the first one.
        attend: see `Layer.forward`.
        norm_after: the norm.
    """
    called = list(layers)
    plain = [_find_plain(layer) for layer in called]
    norms = [None if layer is None else layer.attention_norm for layer in plain[1:]]
    normalized: Tensor | None = None
    for layer, own, norm in zip(called, plain, (*norms, norm_after), strict=False):
        if own is None or norm is None:
            steps, normalized = layer(steps, attend), None
        else:
            steps, normalized = own.apply_and_normalize(steps, normalized, attend, norm)
    return norm_after(steps) if normalized is None else normalized


def _find_plain(layer: nn.Module) -> Layer | None:
    """Return the layer if its parts may be computed without calling it; else None."""
    if type(layer) is not Layer or layer.norm == "post" or has_hooks(layer):
        return None
    return layer
