"""What the stages that hold a part share: it comes as an object, or by a registered name once its size is known."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Generic, TypeVar, cast

from torch import nn

from pipeline.core.stage import StageBase
from pipeline.errors import CompositionError, OptionError, ShapeError
from pipeline.parts.attention import Attention
from pipeline.parts.encoder import Encoder
from pipeline.parts.pooling import Pooling
from pipeline.registry.catalogue import Catalogue

P_co = TypeVar("P_co", bound=Encoder[Any] | Attention | Pooling, covariant=True)


class PartStage(nn.Module, StageBase, Generic[P_co]):
    """A stage with a place for an encoder, an attention or a pooling.

    Args:
        part: the part, or its registered name.
        child: what the part is called in the stage's state-dict.
        name: what the stage is called in its chain.
        options: for a name, what the part takes.

    Raises:
        OptionError: if a part that was made already comes with options.
        UnknownNameError: if no plugin offers the name.
        UnknownOptionError: if the part does not take an option, or needs one that is missing.
    """

    def __init__(self, part: P_co | str, child: str, name: str | None, options: Mapping[str, object]) -> None:
        super().__init__()
        self.name = name
        self._child = child
        self.part_name: str = part if isinstance(part, str) else type(part).__name__
        self._options = dict(options)
        self.register_module(child, None)
        if isinstance(part, str):
            self.catalogue().check(part, options)
            if "input_size" in options or not self.catalogue().is_lazy(part):
                self.add_module(child, self.catalogue().make(part, **options))
        elif options:
            msg = f"options {sorted(options)} go with a registered name; {self.part_name} was made already."
            raise OptionError(msg)
        else:
            self.add_module(child, part)

    @abstractmethod
    def catalogue(self) -> Catalogue[P_co]:
        """Where parts of this stage's kind are registered."""

    @property
    def held(self) -> P_co | None:
        """The part; None while its size is not known."""
        return cast("P_co | None", getattr(self, self._child))

    @property
    def is_lazy(self) -> bool:
        """Whether the part is not made yet, for want of its input size."""
        return self.held is None

    def make_part(self, size: int | None) -> P_co | None:
        """Make the part if it waited for this size, and make sure that the size is its own.

        Raises:
            CompositionError: if it reads another.
        """
        if self.held is None and size is not None:
            self.add_module(self._child, self.catalogue().make(self.part_name, **{**self._options, "input_size": size}))
        part = self.held
        if part is not None and None not in {size, part.input_size} and part.input_size != size:
            axis = "feature" if self.catalogue().kind == "encoder" else "hidden"
            msg = (
                f"{size} features come in, but {self.catalogue().kind} {self.part_name!r} reads "
                f"input_size={part.input_size} along the axis {axis!r}; make the two equal."
            )
            raise CompositionError(msg, axis=axis, size=size, input_size=part.input_size)
        return part

    def get_part(self, size: int) -> P_co:
        """The part, for values of so many features.

        Raises:
            CompositionError: if it still waits for its input size.
            ShapeError: if it reads another size.
        """
        part = self.held
        if part is None:
            msg = (
                f"{self.catalogue().kind} {self.part_name!r} does not know its input size yet; join it behind the stage "
                f'that feeds it, or say it: {type(self).__name__}("{self.part_name}", input_size={size}).'
            )
            raise CompositionError(msg, part=self.part_name)
        # Compared, not looked for in a tuple: in a graph a size may be a symbol.
        if part.input_size is not None and part.input_size != size:
            kind = self.catalogue().kind
            msg = f"{kind} {self.part_name!r} reads {part.input_size} features, but {size} arrived; make the two equal."
            raise ShapeError(msg, size=size, input_size=part.input_size)
        return part
