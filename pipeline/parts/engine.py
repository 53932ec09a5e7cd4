"""Base class of engines: one of several ways to compute the same numbers, which differ in speed."""

from abc import ABC
from typing import ClassVar


class Engine(ABC):
    """A way to compute a part of a model. A package that has several defines what their methods take and return.

    Attributes:
        name: its name in options, reports and errors; the name by which it is registered.
        computes: the import package whose parts it computes, such as `pipeline_recurrent`.
    """

    name: ClassVar[str]
    computes: ClassVar[str]
