"""The form of a model that `export` wrote: a graph in ONNX, which onnxruntime runs."""

import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Self

import torch
from torch import Tensor, nn
from typing_extensions import override

from court.forms.form import Form
from court.forms.precision import Exact

_BATCHES: Final = 10
"""The random batches of the comparison that `export` makes by itself; the laws compare many more."""

TOLERANCE: Final = 1e-5
"""The difference that `export` allows by default: the runtime's kernels round otherwise than torch's."""

_WITHOUT_GRADIENTS: Final = "onnxruntime computes no gradients"
_WITHOUT_TRAINING: Final = "a graph is exported in evaluation mode"


class ExportedModule(nn.Module):
    """A file in ONNX, called like the model from which it was written.

    Args:
        session: the session of onnxruntime.
        spread: returns the named tensors that the graph takes, for values and lengths.
        exact: the model itself.
        per_step: whether results are batch x time x anything.
    """

    def __init__(
        self,
        session: Any,  # noqa: ANN401 - onnxruntime has no types
        spread: Callable[[Tensor, Tensor], Mapping[str, Tensor]],
        exact: nn.Module,
        *,
        per_step: bool,
    ) -> None:
        super().__init__()
        self.session = session
        self.spread = spread
        self.per_step = per_step
        # In a tuple, because it is no part of this module.
        self.exact: tuple[nn.Module] = (exact,)

    @override
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self  # it has no state, and a session cannot be copied

    @override
    def forward(self, values: Tensor, lengths: Tensor) -> Tensor:
        """Return the results in float64."""
        width = values.shape[1]
        if not width:
            # As the documentation says: no axis of a graph may be empty.
            values = values.new_zeros(values.shape[0], 1, *values.shape[2:])
        if values.is_floating_point():
            values = values.float()
        arrays = {name: tensor.detach().numpy() for name, tensor in self.spread(values, lengths).items()}
        found = [torch.as_tensor(each).double() for each in self.session.run(None, arrays)]
        result = found[0] if len(found) == 1 else torch.cat(found, -1)
        return result[:, :width] if self.per_step else result

    def make_exact(self) -> nn.Module:
        """Return the model in float64, with the weights of the graph."""
        return Exact(self.exact[0].double(), torch.float32)


def make_exported(
    make: Callable[[], nn.Module],
    write: Callable[[nn.Module, Path, int], None],
    spread: Callable[[Tensor, Tensor], Mapping[str, Tensor]],
    *,
    per_step: bool,
) -> Form:
    """Return the exported form of a model; the file is written at the first call.

    Args:
        make: creates the model.
        write: exports it to a file, after a comparison on some batches.
        spread: as for `ExportedModule`.
        per_step: as for `ExportedModule`.
    """

    @cache
    def export() -> nn.Module:
        model = make().eval()
        runtime: Any = import_module("onnxruntime")
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "model.onnx"
            write(model, file, _BATCHES)
            options = runtime.SessionOptions()
            options.intra_op_num_threads = options.inter_op_num_threads = 1  # threads would wait for each other
            session = runtime.InferenceSession(str(file), options)
        return ExportedModule(session, spread, model, per_step=per_step)

    return Form(
        name="exported",
        make=export,
        rounding=TOLERANCE,
        unsupported={
            "no_gradient_reaches_padding": _WITHOUT_GRADIENTS,
            "training_obeys_laws_of_rows": _WITHOUT_TRAINING,
        },
    )
