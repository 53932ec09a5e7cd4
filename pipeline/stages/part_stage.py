"""The base class of stages with an encoder, an attention or a pooling, passed as an object or by registered name."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Generic, TypeVar, cast

from torch import nn

from pipeline.core.inference import FusesForInference, InferenceOptions
from pipeline.core.stage import Spec, StageBase
from pipeline.errors import CompositionError, OptionError, SaveError, ShapeError
from pipeline.parts.attention import Attention
from pipeline.parts.config import read_config
from pipeline.parts.encoder import Encoder
from pipeline.parts.pooling import Pooling
from pipeline.registry.catalogue import Catalogue

P_co = TypeVar("P_co", bound=Encoder[Any] | Attention | Pooling, covariant=True)


class PartStage(nn.Module, StageBase, Generic[P_co]):
    """A stage with a part: an encoder, an attention or a pooling.

    A part given by name is made as soon as its input size is known: at once if it is among the options or the part
    needs none, else when the stage is joined to the one before it.

    Args:
        part: the part, or its registered name.
        child: the part's name in the stage's state-dict.
        name: the stage's name in its chain.
        options: options of the part, if it is given by name.

    Raises:
        OptionError: if the part is of another class, or there are options and it is not given by name.
        UnknownNameError: if no plugin offers the name.
        UnknownOptionError: if the part does not take an option, or needs one that is missing.
    """

    def __init__(self, part: P_co | str, child: str, name: str | None, options: Mapping[str, object]) -> None:
        super().__init__()
        self.name = name
        self._child = child
        self.part_name: str = part if isinstance(part, str) else type(part).__name__
        self.is_named: bool = isinstance(part, str)
        self._options = dict(options)
        # None for now, so that the state-dict has its keys in order once the part is made.
        self.register_module(child, None)
        if isinstance(part, str):
            self.get_catalogue().check(part, options)
            if "input_size" in options or not self.get_catalogue().is_lazy(part):
                self.add_module(child, self.get_catalogue().make(part, **options))
        elif options:
            msg = (
                f"options {sorted(options)} need a registered name, got a {self.part_name} object; "
                f"pass them to {self.part_name}(...) instead."
            )
            raise OptionError(msg)
        else:
            base, given = self.get_catalogue().base, cast("object", part)
            if isinstance(given, type):
                part_class = given.__name__
                stage = type(self).__name__
                msg = f"{stage} must get an object, got the class {part_class}; create an object: {part_class}(...)."
                raise OptionError(msg, part=part_class)
            if not isinstance(given, base):
                # With its module, because there are two classes LSTM.
                got = f"{type(given).__module__}.{self.part_name}"
                copied = ", or copy an nn.LSTM with LSTM.from_torch(module)" if base is Encoder else ""
                msg = (
                    f"{type(self).__name__} must get an object derived from {base.__name__} or a registered name, got "
                    f"a {got}; derive its class from pipeline.extend.{base.__name__}{copied}."
                )
                raise OptionError(msg, part=self.part_name)
            self.add_module(child, part)

    @abstractmethod
    def get_catalogue(self) -> Catalogue[P_co]:
        """Return the catalogue in which parts of this stage's kind are registered."""

    @property
    def part(self) -> P_co | None:
        """The part; None while its input size is not known."""
        return cast("P_co | None", getattr(self, self._child))

    @property
    def is_lazy(self) -> bool:
        """True if the part is not made yet, because its input size is not known."""
        return self.part is None

    def get_part_config(self) -> tuple[P_co | str, Mapping[str, object]]:
        """Return the part and its options as they were given: an object without options, or a name with its options.

        The input size is among the options even if another stage determined it.

        Raises:
            SaveError: if the part is not made yet.
        """
        part = self.part
        if part is None:
            kind = self.get_catalogue().kind
            msg = f"{kind} {self.part_name!r} does not know its input size yet; join it after the stage that feeds it."
            raise SaveError(msg, part=self.part_name)
        if not self.is_named:
            return part, {}
        options = dict(self._options)
        takes = self.get_catalogue().parameters(self.get_catalogue().offer(self.part_name))
        # An option may have been changed on the part. A part without `get_config` needs nothing: its options are known.
        if hasattr(part, "get_config"):
            options |= {name: value for name, value in read_config(part).items() if name in takes}
        if "input_size" in takes and part.input_size is not None:
            options["input_size"] = part.input_size
        return self.part_name, options

    def fuse_for_inference(self, before: StageBase, options: InferenceOptions, /) -> StageBase | None:
        """Return one stage that computes what `before` and this stage compute, if the part offers it."""
        part: object = self.part
        return part.fuse_for_inference(before, options) if isinstance(part, FusesForInference) else None

    def describe_part(self) -> str:
        """Return the part's kind and name, and the plugin that offers it, for errors that the part raises."""
        kind, offers = self.get_catalogue().kind, self.get_catalogue().offers
        # A part given as an object is found by its class, if a plugin offers that class.
        for offer in offers:
            if offer.name == self.part_name or offer.factory is type(self.part):
                return f"{kind} {self.part_name!r} of {offer.plugin}"
        return f"{kind} {self.part_name!r} of module {type(self.part).__module__}"

    def make_part(self, spec: Spec) -> P_co | None:
        """Make the part if it waits for its input size, and check that it has this one.

        Raises:
            CompositionError: if it has another input size, or waits for one that no stage determines.
        """
        size = spec.size
        if self.part is None:
            spec.reject_unsized(f"{self.get_catalogue().kind} {self.part_name!r}")
        if self.part is None and size is not None:
            self.add_module(
                self._child, self.get_catalogue().make(self.part_name, **{**self._options, "input_size": size})
            )
        part = self.part
        if part is not None and None not in {size, part.input_size} and part.input_size != size:
            kind = self.get_catalogue().kind
            axis = "feature" if kind == "encoder" else "hidden"
            msg = (
                f"the input has size {size} along the axis {axis!r}, but {kind} {self.part_name!r} has "
                f"input_size={part.input_size}; make the two equal."
            )
            raise CompositionError(msg, axis=axis, size=size, input_size=part.input_size)
        return part

    def get_part(self, size: int) -> P_co:
        """Return the part, for values with this number of features.

        Raises:
            CompositionError: if it still waits for its input size.
            ShapeError: if it has another input size.
        """
        part = self.part
        if part is None:
            msg = (
                f"{self.get_catalogue().kind} {self.part_name!r} does not know its input size yet; join it after the "
                f'stage that feeds it, or pass it: {type(self).__name__}("{self.part_name}", input_size={size}).'
            )
            raise CompositionError(msg, part=self.part_name)
        # Not `in (None, size)`: in a compiled graph a size may be symbolic, and only == and != support that.
        if part.input_size is not None and part.input_size != size:
            kind = self.get_catalogue().kind
            msg = (
                f"{kind} {self.part_name!r} has input_size={part.input_size}, got values with {size} features; "
                "make the two equal."
            )
            raise ShapeError(msg, size=size, input_size=part.input_size)
        return part
