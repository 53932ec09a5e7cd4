"""What the doors share: they take inputs in, many at a time, and number their places."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Generic, TypeVar, cast

from typing_extensions import override

from pipeline.core.stage import Spec, Stage
from pipeline.data.rows import Example, K, Row, refuse_text

X = TypeVar("X")

_CHUNK = 256


class InputStage(Stage[X | Example[X], Row[K]], Generic[X, K]):
    """A stage that takes inputs of one type, bare or in an `Example`, to rows."""

    @abstractmethod
    def rows(self, examples: Sequence[Example[X]], places: Sequence[int]) -> list[Row[K]]:
        """The rows of some examples, which stand at those places of the input."""

    @override
    def build(self, spec: Spec, /) -> Spec:
        return spec

    @override
    def __call__(self, value: X | Example[X], /) -> Row[K]:
        """The row of one input."""
        return self.rows([example_of(value)], [0])[0]

    @override
    def map(self, values: Iterable[X | Example[X]], /) -> Iterator[Row[K]]:
        """Rows of many inputs, lazily, some hundred at a time, each with its place.

        Raises:
            TextError: if one text arrives where many inputs are meant.
        """
        refuse_text(values)
        return self._over(iter(values))

    def _over(self, inputs: Iterator[X | Example[X]]) -> Iterator[Row[K]]:
        first = 0
        while chunk := examples_of(islice(inputs, _CHUNK)):
            yield from self.rows(chunk, range(first, first + len(chunk)))
            first += len(chunk)


def example_of(value: X | Example[X]) -> Example[X]:
    """An input in an `Example`, if it is not in one already."""
    return examples_of([value])[0]


def examples_of(values: Iterable[X | Example[X]]) -> list[Example[X]]:
    """Several inputs in examples."""
    return [cast("Example[X]", value) if isinstance(value, Example) else Example(value) for value in values]
