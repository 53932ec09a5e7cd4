"""Between the two layouts: only the real steps, or a rectangle."""

from typing import Final, Generic, TypeVar, cast, final, overload

from typing_extensions import TypeIs, override

from pipeline.core.stage import ModuleStage, Spec
from pipeline.data.batches import Packed, Padded
from pipeline.data.rows import Hidden, Ids, K, Kind, Vectors
from pipeline.data.states import Causal, MaybeCausal, States
from pipeline.errors import CompositionError, ShapeError

U_contra = TypeVar("U_contra", contravariant=True)


@final
class Pack(ModuleStage[Padded[K], Packed[K]]):
    """Padded rows, in any order, to their real steps alone; what comes out keeps the rows' order.

    Args:
        kind: what the rows are; ids if left out.

    Source: torch's `pack_padded_sequence`, whose order this is; here a row may be empty.

    Example:
        >>> import torch
        >>> batch = Padded(Ids, torch.tensor([[1, 2, 3], [3, 4, 0]]), torch.tensor([3, 2]))
        >>> Pack()(batch).values.tolist()
        [1, 3, 2, 4, 3]
    """

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
        """The real steps of the batch.

        Raises:
            ShapeError: if the batch is of another kind.
        """
        _check_kind(self, self.kind, value.kind)
        return value.packed()


@final
class Unpack(ModuleStage[U_contra, Padded[K]], Generic[U_contra, K]):
    """Packed rows, or an encoder's states, back to a rectangle as wide as the one they came from.

    Its padding holds zeros. States lose their final states: pool those first.

    Args:
        kind: what the steps are; hidden vectors if left out. Causal states are `Vectors` if so said, for
            another causal encoder to read.

    Example:
        >>> import torch
        >>> batch = Padded(Ids, torch.tensor([[1, 2, 3], [3, 4, 9]]), torch.tensor([3, 2]))
        >>> Unpack(Ids)(Pack()(batch)).values.tolist()
        [[1, 2, 3], [3, 4, 0]]
    """

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
                "the steps that come in have seen the future, but Unpack was made for Vectors, which have not; "
                "make it Unpack()."
            )
            raise CompositionError(msg)
        return spec

    @override
    def forward(self, value: U_contra) -> Padded[K]:
        """The rectangle.

        Raises:
            ShapeError: if the batch is of another kind.
        """
        if _is_states(value):
            rows = value.padded()
            return cast(
                "Padded[K]", Padded(self.kind, rows.values, rows.lengths, metadata=rows.metadata, order=rows.order)
            )
        if not isinstance(value, Packed):
            msg = f"Unpack takes Packed or States, but a {type(value).__name__} arrived; join it after Pack or Encode."
            raise ShapeError(msg)
        batch = cast("Packed[K]", value)
        _check_kind(self, self.kind, batch.kind)
        return batch.padded()


def _is_states(value: object) -> TypeIs[States[MaybeCausal]]:
    return isinstance(value, States)


def _check_kind(stage: object, wanted: type[Kind], came: type[Kind]) -> None:
    if not issubclass(came, wanted):
        name = type(stage).__name__
        msg = f"{name} was made for {wanted.__name__}, but {came.__name__} arrived; make it {name}({came.__name__})."
        raise ShapeError(msg)
