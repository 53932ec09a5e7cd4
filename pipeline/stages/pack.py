"""Convert between the two layouts: packed (real steps only) and padded (a rectangle)."""

from typing import Final, Generic, TypeVar, cast, final, overload

from typing_extensions import TypeIs, override

from pipeline.core.stage import ModuleStage, Spec
from pipeline.data.batches import Packed, Padded
from pipeline.data.kinds import Hidden, Ids, K, Kind, Vectors, format_kind, is_kind
from pipeline.data.rectangles import keeps_rectangles
from pipeline.data.states import Causal, MaybeCausal, States
from pipeline.errors import CompositionError, ShapeError

U_contra = TypeVar("U_contra", contravariant=True)


@final
class Pack(ModuleStage[Padded[K], Packed[K]]):
    """Pack padded rows: keep their real steps only. Rows may come in any order, which is kept.

    Args:
        kind: the kind of the rows; `Ids` by default.

    Source: torch's `pack_padded_sequence`, whose order of steps this is; here a row may be empty.

    Example:
        >>> import torch
        >>> batch = Padded(Ids, torch.tensor([[1, 2, 3], [3, 4, 0]]), torch.tensor([3, 2]))
        >>> Pack()(batch).values.tolist()
        [1, 3, 2, 4, 3]
    """

    stepwise = True

    @overload
    def __init__(self: "Pack[Ids]") -> None: ...
    @overload
    def __init__(self, kind: type[K]) -> None: ...
    def __init__(self, kind: type[Kind] = Ids) -> None:
        super().__init__()
        self.kind: Final = kind

    @override
    def build(self, spec: Spec, /) -> Spec:
        return spec

    @override
    def forward(self, value: Padded[K]) -> Packed[K]:
        """Return the real steps of the batch.

        Raises:
            ShapeError: if the batch is of another kind.
        """
        _check_kind(self, self.kind, value.kind)
        return cast("Packed[K]", value) if keeps_rectangles() else value.packed()


@final
class Unpack(ModuleStage[U_contra, Padded[K]], Generic[U_contra, K]):
    """Pad packed rows, or an encoder's states, to the width that they were packed from.

    The padding is zeros. Final states are lost: pool them first.

    Args:
        kind: the kind of the steps; `Hidden` by default. Pass `Vectors` to let another causal encoder read causal
            states.

    Example:
        >>> import torch
        >>> batch = Padded(Ids, torch.tensor([[1, 2, 3], [3, 4, 9]]), torch.tensor([3, 2]))
        >>> Unpack(Ids)(Pack()(batch)).values.tolist()
        [[1, 2, 3], [3, 4, 0]]
    """

    stepwise = True

    @overload
    def __init__(self: "Unpack[Packed[Hidden] | States[MaybeCausal], Hidden]") -> None: ...
    @overload
    def __init__(self: "Unpack[Packed[Ids], Ids]", kind: type[Ids]) -> None: ...
    @overload
    def __init__(self: "Unpack[Packed[Vectors] | States[Causal], Vectors]", kind: type[Vectors]) -> None: ...
    @overload
    def __init__(self: "Unpack[Packed[Hidden] | States[MaybeCausal], Hidden]", kind: type[Hidden]) -> None: ...
    def __init__(self, kind: type[Kind] = Hidden) -> None:
        super().__init__()
        self.kind: Final = kind

    @override
    def build(self, spec: Spec, /) -> Spec:
        if self.kind is Vectors and spec.causal is False:
            msg = (
                "the input of Unpack(Vectors) must be causal, but its steps depend on later ones; "
                "make it Unpack(), whose output is Hidden."
            )
            raise CompositionError(msg)
        return spec

    @override
    def forward(self, value: U_contra) -> Padded[K]:
        """Return the padded batch.

        Raises:
            ShapeError: if the input is of another type or kind.
        """
        # By hand: the kind of states is Hidden, and Unpack(Vectors) makes Vectors of causal ones.
        if _is_states(value):
            rows = value.padded()
            return cast(
                "Padded[K]", Padded(self.kind, rows.values, rows.lengths, metadata=rows.metadata, order=rows.order)
            )
        if isinstance(value, Padded) and keeps_rectangles():
            return cast("Padded[K]", value)
        given = cast("object", value)
        if not isinstance(given, Packed):
            msg = (
                f"the input of Unpack must be Packed or States, got {type(given).__name__}; "
                "join it after Pack or Encode."
            )
            raise ShapeError(msg)
        batch = cast("Packed[K]", value)
        _check_kind(self, self.kind, batch.kind)
        return batch.padded()


def _is_states(value: object) -> TypeIs[States[MaybeCausal]]:
    return isinstance(value, States)


def _check_kind(stage: object, wanted: type[Kind], kind: type[Kind]) -> None:
    if not is_kind(kind, wanted):
        name, got = type(stage).__name__, format_kind(kind)
        msg = f"the input of {name} must be {format_kind(wanted)}, got {got}; make it {name}({got})."
        raise ShapeError(msg)
