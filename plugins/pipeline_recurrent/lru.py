"""The linear recurrent unit: a diagonal linear recurrence with complex states."""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal, TypeAlias, cast, final, get_args, overload

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import gelu, glu
from typing_extensions import Unpack, override

from pipeline.extend import (
    Causal,
    MaybeCausal,
    OptionError,
    S_co,
    check_number,
    check_optional_int,
    compute_gelu,
    compute_sigmoid,
)
from pipeline_recurrent.native.scans import Recurrence
from pipeline_recurrent.scan_layer import ScanLayer, widen
from pipeline_recurrent.scanned import Scanned, ScanOptions, expand_scan_options

Mix: TypeAlias = Literal["none", "glu", "mlp"]
"""What mixes the features of an LRU's output at each step."""


@final
class LRU(Scanned[S_co]):
    """A linear recurrence of complex states with constant factors, by a parallel scan over packed rows.

    h[t] = lambda h[t-1] + gamma (B x[t]) and y[t] = Re(C h[t]) + D x[t]. Each feature of the state has a factor of
    its own, lambda = exp(-exp(nu) + i exp(theta)). Its modulus is below 1 for any nu, so the recurrence is always
    stable, and gamma = exp(log_gamma) begins as sqrt(1 - |lambda|^2), which keeps the size of the states. The
    recurrence is linear; what makes a stack nonlinear is `mix`. In half precision use autocast: phases in weights
    of bfloat16 are off by a hundredth, which adds up over the steps. In one direction it is causal. The `carry` of
    its states is `(real, imaginary)`, (layers x directions) x batch x state.

    Args:
        input_size: features of an input vector.
        hidden_size: features of the output, per direction.
        state_size: features of the complex state; by default `hidden_size`.
        min_radius: the smallest modulus of lambda at the beginning. Near 1 it remembers for long: choose 0.9 or more
            for rows of thousands of steps.
        max_radius: the largest one.
        max_phase: the largest phase of lambda at the beginning. Choose a small one, such as pi / 10, for long rows.
        mix: "glu" (by default): y goes through GELU and a gated linear unit, as in the paper's block; "mlp": through
            two linear layers with GELU; "none": y itself.
        bidirectional: see `MinGRU`, as for the other options. `layer_norm=True, residual=True` is the paper's block.

    Raises:
        OptionError: if an option is out of its range.

    Source: Orvieto et al. 2023, "Resurrecting Recurrent Neural Networks for Long Sequences", arXiv:2303.06349. There D
    is a vector, since input and output have one size; ours is a matrix, since they may differ. The norm of a block
    comes after it here, as between the layers of `LSTM`, and its skip connection leaves out the first layer.

    Example:
        >>> encoder = LRU(4, 6, state_size=8, min_radius=0.9)
        >>> bool((encoder.layers[0].compute_factors().abs() >= 0.9).all())
        True
    """

    @overload
    def __init__(
        self: "LRU[Causal]",
        input_size: int,
        hidden_size: int,
        *,
        state_size: int | None = None,
        min_radius: float = 0.0,
        max_radius: float = 1.0,
        max_phase: float = 2 * math.pi,
        mix: Mix = "glu",
        bidirectional: Literal[False] = False,
        **options: Unpack[ScanOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: "LRU[MaybeCausal]",
        input_size: int,
        hidden_size: int,
        *,
        state_size: int | None = None,
        min_radius: float = 0.0,
        max_radius: float = 1.0,
        max_phase: float = 2 * math.pi,
        mix: Mix = "glu",
        bidirectional: bool = False,
        **options: Unpack[ScanOptions],
    ) -> None: ...
    @expand_scan_options
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        state_size: int | None = None,
        min_radius: float = 0.0,
        max_radius: float = 1.0,
        max_phase: float = 2 * math.pi,
        mix: Mix = "glu",
        bidirectional: bool = False,
        **options: Unpack[ScanOptions],
    ) -> None:
        check_optional_int("state_size", state_size, minimum=1)
        check_number("min_radius", min_radius, minimum=0, maximum=1)
        check_number("max_radius", max_radius, minimum=0, maximum=1)
        check_number("max_phase", max_phase, minimum=0)
        if not 0 <= min_radius < max_radius <= 1:
            msg = f"the radii must be 0 <= min_radius < max_radius <= 1, got {min_radius} and {max_radius}."
            raise OptionError(msg, min_radius=min_radius, max_radius=max_radius)
        if not 0 < max_phase <= 2 * math.pi:
            msg = f"max_phase must be an angle, 0 < max_phase <= 2 pi, got {max_phase}."
            raise OptionError(msg, max_phase=max_phase)
        if mix not in get_args(Mix):
            msg = f"mix must be none, glu or mlp, got {mix!r}."
            raise OptionError(msg, mix=mix)
        radii = (min_radius, max_radius)
        super().__init__(
            lambda size: LRULayer(size, hidden_size, state_size or hidden_size, radii, max_phase, mix),
            input_size,
            hidden_size,
            bidirectional=bidirectional,
            **options,
        )
        self.state_size: int = state_size or hidden_size
        self.min_radius: float = min_radius
        self.max_radius: float = max_radius
        self.max_phase: float = max_phase
        self.mix: Mix = mix

    @override
    def get_config(self) -> dict[str, object]:
        names = ("state_size", "min_radius", "max_radius", "max_phase", "mix")
        return {**super().get_config(), **{name: cast("object", getattr(self, name)) for name in names}}


@final
class LRULayer(ScanLayer):
    """One direction of one layer of an `LRU`.

    Attributes:
        nu: logarithms of minus the logarithm of the moduli.
        theta: logarithms of the phases.
        log_gamma: logarithms of the scales of the input.
        into: B, the real parts above the imaginary ones: (2 x state) x feature.
        out: C, side by side, the imaginary parts with their sign changed: output x (2 x state).
        skip: D, output x feature.
        mixer: the linear layers of `mix`, without parameters if it is "none".
    """

    recurrence: ClassVar[Recurrence] = "lru"
    is_complex = True
    output_is_state = False

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        state_size: int,
        radii: tuple[float, float],
        max_phase: float,
        mix: Mix,
    ) -> None:
        super().__init__()
        self.state_size: int = state_size
        self.output_size: int = hidden_size
        self.mix: Mix = mix
        least, most = radii
        # Uniform on the ring between both radii. Never 0 or 1: the logarithm below would be infinite.
        square = (torch.rand(state_size) * (most**2 - least**2) + least**2).clamp(1e-6, 1 - 1e-6)
        modulus = square.sqrt()
        phase = (max_phase * torch.rand(state_size)).clamp(min=1e-6)
        self.nu: nn.Parameter = nn.Parameter((-modulus.log()).log())
        self.theta: nn.Parameter = nn.Parameter(phase.log())
        self.log_gamma: nn.Parameter = nn.Parameter((1 - square).log() / 2)
        self.into: nn.Linear = nn.Linear(input_size, 2 * state_size, bias=False)
        self.out: nn.Linear = nn.Linear(2 * state_size, hidden_size, bias=False)
        self.skip: nn.Linear = nn.Linear(input_size, hidden_size, bias=False)
        nn.init.normal_(self.into.weight, std=(2 * input_size) ** -0.5)
        nn.init.normal_(self.out.weight, std=state_size**-0.5)
        nn.init.normal_(self.skip.weight, std=input_size**-0.5)
        sizes = {"none": (), "glu": (2 * hidden_size,), "mlp": (2 * hidden_size, hidden_size)}[mix]
        self.mixer: nn.ModuleList = nn.ModuleList(
            nn.Linear(before, after) for before, after in zip((hidden_size, *sizes), sizes, strict=False)
        )

    def compute_factors(self) -> Tensor:
        """Return lambda, complex."""
        return torch.complex(*self._compute_parts())

    def _compute_parts(self) -> tuple[Tensor, Tensor]:
        modulus, phase = torch.exp(-torch.exp(widen(self.nu))), torch.exp(widen(self.theta))
        return modulus * torch.cos(phase), modulus * torch.sin(phase)

    @property
    @override
    def projection(self) -> nn.Linear:
        return self.into

    @override
    def make_constants(self) -> Sequence[Tensor]:
        """Return the real and the imaginary parts of lambda, and gamma."""
        return torch.stack(self._compute_parts()), torch.exp(widen(self.log_gamma))

    @override
    def make_terms(self, product: Float[Tensor, "*axes columns"], *constants: Tensor) -> tuple[Tensor, Tensor]:
        factors, scale = constants
        parts = product.view(*product.shape[:-1], 2, self.state_size)
        add = torch.movedim(parts, -2, 0) * scale
        keep = factors.to(add.dtype)
        return keep.view(2, *[1] * (product.ndim - 1), self.state_size).expand(add.shape), add

    @override
    def read(
        self, states: Float[Tensor, "*axes state"], x: Float[Tensor, "*axes feature"]
    ) -> Float[Tensor, "*axes output"]:
        output = cast("Tensor", self.out(states.to(x.dtype))) + cast("Tensor", self.skip(x))
        if self.mix == "none":
            return output
        rectify = compute_gelu if self.deterministic else gelu
        output = cast("Tensor", self.mixer[0](rectify(output) if self.mix == "glu" else output))
        if self.mix == "mlp":
            return cast("Tensor", self.mixer[1](rectify(output)))
        if self.deterministic:
            values, gates = output.chunk(2, dim=-1)
            return values * compute_sigmoid(gates)
        return glu(output, dim=-1)
