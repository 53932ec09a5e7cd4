"""How an encoder in a pipe for inference computes: with weights arranged for the kernels, where they can be used."""

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Final, Protocol, cast, final

import torch
from torch import Tensor, nn
from typing_extensions import TypeIs

from pipeline.extend import InferenceOptions, Kind, OptionError, Packed, name_transform
from pipeline_recurrent.engines.choose import EngineName
from pipeline_recurrent.engines.engine import Cell, LayerOutputs, Weights
from pipeline_recurrent.frozen.stack import FrozenStack
from pipeline_recurrent.native.library import available
from pipeline_recurrent.torch_modules import HOOKS, TorchModule

_TORCH_MODULES: Final = {nn.LSTM, nn.GRU, nn.RNN}

_get_version: Callable[[Tensor], int] = attrgetter("_version")
_get_parameters: Callable[[nn.Module], Mapping[str, Tensor]] = attrgetter("_parameters")
_get_hooks: Callable[[nn.Module], Sequence[Mapping[int, object]]] = attrgetter(*HOOKS)


class PreparedEncoder(Protocol):
    """The attributes of an encoder that are read here."""

    rnn: TorchModule
    cell: Cell
    engine: EngineName
    input_size: int
    norms: nn.ModuleList | None
    highways: nn.ModuleList | None
    residual: bool
    training: bool

    def weights(self) -> list[list[Weights]]:
        """Return the weights of each direction of each layer."""
        ...

    def explain_not_exportable(self) -> str | None:
        """Return why the weights are not plain ones, as a clause after "its"."""
        ...


@final
class Inference:
    """The options of an encoder in a pipe for inference, and its weights, arranged for the kernels.

    The weights are arranged at the first batch; and again if they were changed or moved since, for example by
    `load_state_dict`.

    Args:
        encoder: the encoder.
        options: how to compute.

    Attributes:
        options: how to compute.
        reason: why the ordinary engines compute instead of the inference kernels, in float32; None if they do not.
        engine: the name of the engine in `States.engine` and reports.

    Raises:
        OptionError: if results must be deterministic, but the kernels cannot be used.
    """

    def __init__(self, encoder: PreparedEncoder, options: InferenceOptions) -> None:
        self.options: InferenceOptions = options
        self.reason: str | None = explain_unfit(encoder)
        self.engine: str = "native" if options.precision == "float32" else f"native {options.precision}"
        self._stack: FrozenStack | None = None
        self._sources: Sequence[int] = ()
        if self.reason is not None and options.deterministic:
            raise _make_error(self.reason)

    def __getstate__(self) -> dict[str, object]:
        """Leave out the arranged weights, whose addresses are of this process and this object."""
        return {**vars(self), "_stack": None, "_sources": ()}

    def compute(self, encoder: PreparedEncoder, packed: Packed[Kind], tables: Sequence[Tensor]) -> LayerOutputs | None:
        """Return the output of the last layer and the carry; None if an ordinary engine must compute.

        Args:
            encoder: the encoder.
            packed: the rows.
            tables: for ids, the input products of each direction of the first layer.

        Raises:
            OptionError: if results must be deterministic, but an ordinary engine would have to compute.
        """
        stack, reason = self._arrange(encoder, tables), self.reason or _explain_unfit_now(encoder, packed)
        if reason is not None and self.options.deterministic:
            raise _make_error(reason)
        # Vectors of another size or dtype: an ordinary engine rejects them, and explains what is wrong.
        is_wrong = not tables and (
            packed.values.shape[-1] != encoder.input_size or packed.values.dtype is not torch.float32
        )
        if stack is None or reason is not None or is_wrong:
            return None
        return stack.run(packed.values, packed.order, packed.initial_carry)

    def _arrange(self, encoder: PreparedEncoder, tables: Sequence[Tensor]) -> FrozenStack | None:
        """Return the arranged weights, which are new if those of the encoder were changed; None if they do not fit."""
        norms = [weight for norm in encoder.norms or () for weight in norm.parameters()]
        sources = _identify([*_get_parameters(encoder.rnn).values(), *norms, *tables])
        if sources == self._sources:
            return self._stack
        self.reason, self._stack = explain_unfit(encoder), None
        if self.reason is None:
            self._stack = FrozenStack(
                encoder.cell,
                encoder.weights(),
                self.options.precision,
                norms=[norm for norm in encoder.norms or () if _is_plain_norm(norm)],
                residual=encoder.residual,
                tables=tables,
            )
        self._sources = sources
        return self._stack


def explain_unfit(encoder: PreparedEncoder) -> str | None:
    """Return why the kernels cannot compute an encoder, as a clause after "because"."""
    reason = encoder.explain_not_exportable()
    if reason is not None:
        return f"its {reason}"
    if encoder.engine not in {"auto", "native"}:
        return f"engine={encoder.engine!r} was set"
    if encoder.highways is not None:
        return "it has highway connections between its layers"
    if not all(_is_plain_norm(norm) for norm in encoder.norms or ()):
        return "a norm between its layers is not an affine LayerNorm"
    weight = encoder.weights()[0][0][1]
    if weight.dtype is not torch.float32:
        return f"its weights are {weight.dtype}, and the kernels read torch.float32"
    return available(device=weight.device)


def _is_plain_norm(norm: nn.Module) -> TypeIs[nn.LayerNorm]:
    return type(norm) is nn.LayerNorm and norm.elementwise_affine and cast("object", norm.bias) is not None


def _explain_unfit_now(encoder: PreparedEncoder, packed: Packed[Kind]) -> str | None:
    """Return why the kernels cannot compute a batch, as a clause after "because"."""
    if encoder.training:
        return "the pipe is in training mode"
    given = (packed.values, *(packed.initial_carry or ()))
    if torch.is_grad_enabled() and any(each.requires_grad for each in given):
        return "gradients are needed"
    for number, each in enumerate(given):
        # The kernels get addresses, and would read whatever is there.
        if each.device.type != "cpu" or (number and each.dtype is not torch.float32):
            return f"the {'initial states' if number else 'values'} are {each.dtype} on {each.device}"
    if transform := name_transform(packed.values):
        return f"{transform} is active"
    # A parametrized module is of another class.
    if type(encoder.rnn) in _TORCH_MODULES and not any(_get_hooks(encoder.rnn)):
        return None
    reason = encoder.explain_not_exportable()
    return None if reason is None else f"its {reason}"


def _make_error(reason: str) -> OptionError:
    msg = (
        f"deterministic=True needs the compiled kernels for inference, which cannot be used, because {reason}; leave "
        "deterministic out."
    )
    return OptionError(msg, deterministic=True, reason=reason)


def _identify(tensors: Sequence[Tensor]) -> list[int]:
    """Return numbers that change if one of the tensors is replaced, moved or changed in place."""
    found = [tensor.data_ptr() for tensor in tensors]
    # Torch counts no changes of tensors that were made in inference mode.
    return found if any(tensor.is_inference() for tensor in tensors) else [*found, *map(_get_version, tensors)]
