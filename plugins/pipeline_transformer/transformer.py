"""The base of the transformer encoder: options, layers, and the layouts in which they compute."""

from collections.abc import Mapping
from typing import Final, TypedDict, cast, get_args

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from typing_extensions import override

from pipeline.errors import LengthError
from pipeline.extend import (
    Batch,
    CompositionError,
    Encoder,
    Hidden,
    InferenceOptions,
    Layout,
    OptionError,
    S_co,
    States,
    Stepping,
    Vectors,
    check_bool,
    check_int,
    check_optional_int,
    check_positive,
    check_probability,
    last_by_row,
    name_transform,
    sum_by_row,
)
from pipeline_transformer.attention import attend_padded, attend_rows
from pipeline_transformer.feed_forward import Activation
from pipeline_transformer.layer import Layer, Norm, apply_layers
from pipeline_transformer.layout import RowLayout
from pipeline_transformer.positions import (
    Positions,
    RelativeBias,
    make_linear_bias,
    make_rotations,
    make_sinusoids,
    rotate,
    spread_bias,
)
from pipeline_transformer.shapes import unfold_axis
from pipeline_transformer.spec import AttentionForm
from pipeline_transformer.stepping import KeysAndValues, NextSteps
from pipeline_transformer.varlen import attend_varlen, supports_varlen


class Options(TypedDict, total=False):
    """The options of a transformer; `Transformer` describes them, `BaseTransformer.__init__` has their defaults."""

    num_layers: int
    num_heads: int
    num_kv_heads: int | None
    feedforward_size: int | None
    dropout: float
    attention_dropout: float | None
    activation: Activation
    norm: Norm
    final_norm: bool | None
    positions: Positions | None
    max_length: int
    window: int | None
    bias: bool
    layer_norm_eps: float


class BaseTransformer(Encoder[S_co], Stepping[Batch[Vectors], States[S_co], KeysAndValues]):
    """The layers of a transformer over packed rows; `Transformer` adds the types of its constructor.

    Attributes:
        form: the form of the attention.
        input: the projection of the input; the identity if the sizes are equal.
        layers: the layers.
        norm_after: the norm after the last layer; the identity without `final_norm`.
        position_weight: the learned positions; None without.
        relative_bias: the learned biases of scores; None without.
    """

    exportable = True
    layouts: tuple[Layout, ...] = ("packed", "padded")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        causal: bool = False,
        num_layers: int = 2,
        num_heads: int = 4,
        num_kv_heads: int | None = None,
        feedforward_size: int | None = None,
        dropout: float = 0.1,
        attention_dropout: float | None = None,
        activation: Activation = "gelu",
        norm: Norm = "pre",
        final_norm: bool | None = None,
        positions: Positions | None = "sinusoidal",
        max_length: int = 512,
        window: int | None = None,
        bias: bool = True,
        layer_norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        for option, number in (
            ("input_size", input_size),
            ("hidden_size", hidden_size),
            ("num_layers", num_layers),
            ("num_heads", num_heads),
            ("max_length", max_length),
        ):
            check_int(option, number, minimum=1)
        check_optional_int("num_kv_heads", num_kv_heads, minimum=1)
        check_optional_int("feedforward_size", feedforward_size, minimum=1)
        check_optional_int("window", window, minimum=0)
        check_probability("dropout", dropout)
        if attention_dropout is not None:
            check_probability("attention_dropout", attention_dropout)
        check_positive("layer_norm_eps", layer_norm_eps)
        check_bool("causal", causal)
        check_bool("bias", bias)
        if final_norm is not None:
            check_bool("final_norm", final_norm)
        _check_choices(activation=activation, norm=norm, positions=positions)
        self.input_size: int = input_size
        self.hidden_size: int = hidden_size
        self.output_size: int = hidden_size
        self.causal: bool = causal
        self.num_layers: int = num_layers
        self.num_heads: int = num_heads
        self.num_kv_heads: int | None = num_kv_heads
        self.feedforward_size: int | None = feedforward_size
        self.dropout: float = dropout
        self.attention_dropout: float | None = attention_dropout
        self.activation: Activation = activation
        self.norm: Norm = norm
        self.final_norm: bool | None = final_norm
        self.positions: Positions | None = positions
        self.max_length: int = max_length
        self.window: int | None = window
        self.bias: bool = bias
        self.layer_norm_eps: float = layer_norm_eps
        self.form: Final = _make_form(hidden_size, num_heads, num_kv_heads, causal, window, positions)
        self.input: nn.Linear | nn.Identity = (
            nn.Identity() if input_size == hidden_size else nn.Linear(input_size, hidden_size)
        )
        self.position_weight: nn.Parameter | None = None
        if positions == "learned":
            self.position_weight = nn.Parameter(nn.init.normal_(torch.empty(max_length, hidden_size), std=0.02))
        self.relative_bias: RelativeBias | None = (
            RelativeBias(num_heads, causal=causal) if positions == "relative" else None
        )
        self.layers: nn.ModuleList = nn.ModuleList(
            Layer(
                self.form,
                hidden_size,
                4 * hidden_size if feedforward_size is None else feedforward_size,
                activation=activation,
                norm=norm,
                dropout=dropout,
                attention_dropout=dropout if attention_dropout is None else attention_dropout,
                bias=bias,
                layer_norm_eps=layer_norm_eps,
            )
            for _ in range(num_layers)
        )
        has_norm = norm == "pre" if final_norm is None else final_norm
        self.norm_after: nn.LayerNorm | nn.Identity = (
            nn.LayerNorm(hidden_size, layer_norm_eps, bias=bias) if has_norm else nn.Identity()
        )

    def get_config(self) -> Mapping[str, object]:
        """Return the options with which this encoder can be made again."""
        names = ("input_size", "hidden_size", "causal", *Options.__annotations__)
        return {name: cast("object", getattr(self, name)) for name in names}

    def list_layers(self) -> list[Layer]:
        """Return the layers, with their type."""
        return [layer for layer in self.layers if isinstance(layer, Layer)]

    def prepare_for_inference(self, options: InferenceOptions, /) -> None:
        """Accept options for inference; products are computed in float32.

        Raises:
            OptionError: if results must be deterministic: the kernels of attention do not promise it.
        """
        if options.deterministic:
            msg = (
                "deterministic=True is not supported by Transformer, whose results differ in the last bits from batch "
                "to batch; leave deterministic out, or use an encoder that supports it, such as lstm."
            )
            raise OptionError(msg, deterministic=True)

    @override
    def forward(self, batch: Batch[Vectors]) -> States[S_co]:
        """Return the hidden vectors and final states of a batch.

        Raises:
            LengthError: if a row is longer than the learned positions.
        """
        if torch.compiler.is_compiling() or name_transform() is not None or not self._computes_rows(batch.values):
            return self._encode_padded(batch)
        return self._encode_rows(batch)

    def _computes_rows(self, values: Tensor) -> bool:
        """Return whether a kernel exists that needs no padding."""
        device = values.device.type
        if device == "cpu":
            return True
        low = torch.is_autocast_enabled(device) if device == "cuda" else False
        dtype = torch.get_autocast_dtype(device) if low else next(self.parameters()).dtype
        plain = self.positions not in {"alibi", "relative"} and not (self.training and self._weight_dropout)
        return supports_varlen(values.device, dtype, self.form, plain=plain)

    @property
    def _weight_dropout(self) -> float:
        return self.dropout if self.attention_dropout is None else self.attention_dropout

    def _encode_rows(self, batch: Batch[Vectors]) -> States[S_co]:
        """Compute on real steps only."""
        packed = batch.packed()
        layout = RowLayout.of(packed.order)
        self._check_length(layout.longest)
        times = torch.arange(layout.longest, device="cpu")
        steps = self._begin(layout.arrange(packed.values), times, layout.times)
        rotations = self._make_rotations(times, steps)
        rotations = None if rotations is None else rotations.index_select(0, layout.times)
        bias = self._make_bias(layout.longest, steps)

        def attend(projected: Tensor, dropout: float) -> Tensor:
            rotated = self._rotate(projected, rotations)
            if rotated.device.type == "cpu":
                return attend_rows(rotated, layout.groups, self.form, bias, dropout=dropout)
            return attend_varlen(rotated, layout, self.form)

        steps = apply_layers(self.layers, steps, attend, self.norm_after)
        rows = batch.lengths.shape[0]
        final = layout.select_last(steps, rows) if self.causal else layout.average(steps, rows)
        return self.make_states(packed.with_values(layout.restore(steps)), final)

    def _encode_padded(self, batch: Batch[Vectors]) -> States[S_co]:
        """Compute on a rectangle: in graphs, under transforms of functions, and on other devices."""
        rows = batch.padded().fill_padding(0)
        width = rows.values.shape[1]
        if not torch.compiler.is_compiling():
            self._check_length(batch.order.longest)
        times = torch.arange(width, device="cpu")
        steps = self._begin(rows.values, times, None)
        rotations = self._make_rotations(times, steps)
        bias = self._make_bias(width, steps)
        mask = rows.mask

        def attend(projected: Tensor, dropout: float) -> Tensor:
            return attend_padded(self._rotate(projected, rotations), mask, self.form, bias, dropout=dropout)

        hidden: Batch[Hidden] = rows.with_values(apply_layers(self.layers, steps, attend, self.norm_after))
        return self.make_states(hidden, last_by_row(hidden) if self.causal else _average(hidden))

    @override
    def step(self, value: Batch[Vectors], memory: KeysAndValues | None, /) -> tuple[States[S_co], KeysAndValues]:
        """Return the states of the next steps of each row, which attend to the kept keys and values of earlier ones.

        Raises:
            CompositionError: if the encoder is not causal.
            LengthError: if a row becomes longer than the learned positions.
        """
        if not self.causal:
            msg = (
                "a Transformer must be causal to run step by step, but its steps depend on later ones; make it "
                'Transformer(..., causal=True), or by name "causal_transformer".'
            )
            raise CompositionError(msg)
        rows = value.padded().fill_padding(0)
        batch, width, device = rows.values.shape[0], rows.values.shape[1], rows.values.device
        following = NextSteps(memory, rows.lengths, width, self.form, device)
        self._check_length(int(following.stored.max()))
        times = following.times.flatten()
        steps = self._begin(rows.values, times, torch.arange(batch * width, device=device).view(batch, width))
        rotations = self._make_rotations(times, steps)
        rotations = None if rotations is None else rotations.view(batch, width, self.form.size)
        bias = self._make_step_bias(following.distances, steps)

        def attend(projected: Tensor, dropout: float) -> Tensor:
            del dropout
            return following.attend(self._rotate(projected, rotations), bias)

        hidden: Batch[Hidden] = rows.with_values(apply_layers(self.layers, steps, attend, self.norm_after))
        return self.make_states(hidden, last_by_row(hidden)), following.make_memory()

    def _make_step_bias(
        self, distances: Int64[Tensor, "batch query key"], like: Tensor
    ) -> Float[Tensor, "batch heads query key"] | None:
        """Return the biases of scores for some distances of each row."""
        if self.positions == "alibi":
            found = make_linear_bias(distances.flatten(), self.num_heads).to(like.device, like.dtype)
        elif self.relative_bias is not None:
            found = self.relative_bias(distances.flatten().to(like.device))
        else:
            return None
        return found.reshape(self.num_heads, *distances.shape).transpose(0, 1)

    def _begin(self, values: Tensor, times: Tensor, times_of_steps: Tensor | None) -> Tensor:
        """Return the input of the first layer: the projected values with their positions."""
        steps: Tensor = self.input(values)
        if self.positions == "sinusoidal":
            added: Tensor = make_sinusoids(times, self.hidden_size).to(steps.device, steps.dtype)
        elif self.position_weight is not None:
            # A rectangle may be wider than its longest row.
            added = self.position_weight.index_select(0, times.clamp(max=self.max_length - 1).to(steps.device))
        else:
            return steps
        if times_of_steps is None:
            return steps + added
        return steps + added.index_select(0, times_of_steps.flatten()).view_as(steps)

    def _make_rotations(self, times: Tensor, like: Tensor) -> Tensor | None:
        if self.positions != "rotary":
            return None
        return make_rotations(times, self.form.size).to(like.device, like.dtype)

    def _rotate(self, projected: Tensor, rotations: Tensor | None) -> Tensor:
        """Rotate queries and keys."""
        if rotations is None:
            return projected
        size = self.form.size
        turned = (self.form.heads + self.form.kv_heads) * size
        heads = rotate(unfold_axis(projected[..., :turned], -1, (-1, size)), rotations)
        return torch.cat([heads.flatten(-2), projected[..., turned:]], dim=-1)

    def _make_bias(self, length: int, like: Tensor) -> Float[Tensor, "heads query key"] | None:
        """Return the biases of scores for rows of some length."""
        # Of no step there is no distance.
        distances = torch.arange(1 - length, max(length, 1), device="cpu")
        if self.positions == "alibi":
            return spread_bias(make_linear_bias(distances, self.num_heads).to(like.device, like.dtype), length)
        if self.relative_bias is None:
            return None
        return spread_bias(self.relative_bias(distances.to(like.device)), length)

    def _check_length(self, longest: int) -> None:
        """Reject rows that are longer than the learned positions."""
        if self.position_weight is not None and longest > self.max_length:
            msg = (
                f"rows must have at most max_length={self.max_length} steps, since each position is learned, got "
                f"{longest}; raise max_length, truncate the rows, or choose other positions."
            )
            raise LengthError(msg)


def _average(steps: Batch[Hidden]) -> Float[Tensor, "batch feature"]:
    """Return the mean of each row's steps; zeros for an empty row."""
    return sum_by_row(steps) / steps.order.lengths_on_device.clamp(min=1).unsqueeze(-1).to(steps.values.dtype)


def _make_form(
    hidden_size: int,
    num_heads: int,
    num_kv_heads: int | None,
    causal: bool,
    window: int | None,
    positions: Positions | None,
) -> AttentionForm:
    """Return the form of the attention.

    Raises:
        OptionError: if heads do not divide each other or the features.
    """
    if hidden_size % num_heads:
        msg = f"num_heads must divide hidden_size={hidden_size}, got {num_heads}."
        raise OptionError(msg, num_heads=num_heads)
    kv_heads = num_heads if num_kv_heads is None else num_kv_heads
    if num_heads % kv_heads:
        msg = f"num_kv_heads must divide num_heads={num_heads}, got {kv_heads}."
        raise OptionError(msg, num_kv_heads=kv_heads)
    size = hidden_size // num_heads
    if positions == "rotary" and size % 2:
        msg = (
            f"positions='rotary' rotates pairs of features, but a head has {size} (hidden_size / num_heads); "
            "choose an even number."
        )
        raise OptionError(msg, num_heads=num_heads)
    return AttentionForm(num_heads, kv_heads, size, causal, window)


def _check_choices(activation: str, norm: str, positions: str | None) -> None:
    for option, given, known in (
        ("activation", activation, get_args(Activation)),
        ("norm", norm, get_args(Norm)),
        ("positions", positions, (*get_args(Positions), None)),
    ):
        if given not in known:
            msg = f"{option} must be one of {', '.join(map(str, known))}, got {given!r}."
            raise OptionError(msg, **{option: given})
