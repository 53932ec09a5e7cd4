"""A layer of a transformer: attention within the row, then a feed-forward part, each with a residual and a norm."""

from collections.abc import Callable
from typing import Final, Literal, TypeAlias, final

from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from pipeline_transformer.feed_forward import Activation, FeedForward
from pipeline_transformer.fused import add, add_and_normalize
from pipeline_transformer.products import apply_linear
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
        dropout = self.dropout if self.training else 0.0
        if self.norm == "pre":
            attended = self._attend(self.attention_norm(steps), attend)
            steps, normalized = add_and_normalize(steps, attended, self.feed_forward_norm, dropout)
            return add(steps, self.feed_forward(normalized), dropout)
        _, steps = add_and_normalize(steps, self._attend(steps, attend), self.attention_norm, dropout)
        return add_and_normalize(steps, self.feed_forward(steps), self.feed_forward_norm, dropout)[1]

    def _attend(self, steps: Tensor, attend: AttendSteps) -> Tensor:
        projected = apply_linear(self.projection, steps)
        return apply_linear(self.output, attend(projected, self.attention_dropout if self.training else 0.0))
