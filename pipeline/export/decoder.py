"""A head that generates texts, as export sees it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

from torch import Tensor, nn
from typing_extensions import TypeIs

from pipeline.core.stage import StageBase
from pipeline.data.states import MaybeCausal, States
from pipeline.errors import ExportError
from pipeline.functional.generation.options import GenerateSettings
from pipeline.stages.tokenize import Tokenize

M = TypeVar("M")


@runtime_checkable
class Decoder(Protocol[M]):
    """A head that generates a text from the states of another, one token at a time.

    What it remembers between two tokens is a memory of its own type, which consists of tensors.

    Attributes:
        target: the tokenizer of the texts; it adds bos, from which the decoder starts, and eos, at which it stops.
        settings: how texts are searched for.
    """

    target: Tokenize
    settings: GenerateSettings

    @property
    def blocked_ids(self) -> Sequence[int]:
        """The tokens that never occur within a text."""
        ...

    @property
    def source_axes(self) -> Mapping[str, Sequence[str]]:
        """The names and axes of the tensors that each step reads. Axes of fixed size are empty. One is "batch"."""
        ...

    @property
    def state_axes(self) -> Mapping[str, Sequence[str]]:
        """The names and axes of the tensors that change from one step to the next."""
        ...

    def read_source(self, states: States[MaybeCausal]) -> M:
        """Return the memory of each row before its first token."""
        ...

    def step(self, tokens: Tensor, memory: M) -> tuple[Tensor, M]:
        """Return the scores of the token after the next one of each row, and the new memory."""
        ...

    def flatten_memory(self, memory: M) -> Mapping[str, Tensor]:
        """Return the tensors of `source_axes` and `state_axes`. Works in graphs."""
        ...

    def restore_memory(self, tensors: Mapping[str, Tensor]) -> M:
        """Return the memory that consists of these tensors. Works in graphs."""
        ...


def is_decoder(stage: object) -> TypeIs[Decoder[Any]]:
    """Return whether a stage generates texts."""
    return isinstance(stage, Decoder)


def find_decoder(stages: Mapping[str, StageBase]) -> Decoder[Any] | None:
    """Return the decoder in which a model ends; None if it ends in another stage.

    Raises:
        ExportError: if a decoder is inside another stage, such as `Heads`.
    """
    last = cast("object", list(stages.values())[-1])
    for name, stage in stages.items():
        list_parts: Callable[[], Iterable[tuple[str, object]]] = getattr(stage, "named_modules", lambda: ())
        for path, part in list_parts():
            if is_decoder(part) and part is not last:
                msg = (
                    f"{path!r} of stage {name!r}, {type(part).__name__}, cannot be exported inside another stage; "
                    "export a pipe that ends in this decoder alone."
                )
                raise ExportError(msg, stage=name, part=type(part).__name__)
    return last if isinstance(last, nn.Module) and is_decoder(last) else None
