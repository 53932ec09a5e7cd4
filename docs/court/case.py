"""A module that is judged: how it is made and called, and what its documentation says."""

from collections.abc import Callable, Mapping, Sequence

import attrs
from torch import nn

from pipeline.testing import ModuleOptions


@attrs.frozen(kw_only=True)
class Case:
    """One module of a library.

    Attributes:
        name: its name.
        call: how it is called, as in the documentation of its library: a few lines of Python.
        make: creates the module, a new one at every call.
        options: the same call as options of the laws.
        unsupported: for laws that the documentation of the library, or the form of the call, rules out: the reason.
        note: what else a reader should know, such as what it does that this library does not.
    """

    name: str
    call: str
    make: Callable[[], nn.Module]
    options: ModuleOptions
    unsupported: Mapping[str, str] = attrs.field(factory=dict[str, str])
    note: str = ""


@attrs.frozen(kw_only=True)
class Library:
    """A library with the modules that are judged.

    Attributes:
        name: its name.
        packages: the distributions that it needs, the first one is the library itself.
        list_cases: imports the library, and returns the modules.
        better: what it does better than this library.
    """

    name: str
    packages: Sequence[str]
    list_cases: Callable[[], Sequence[Case]]
    better: str = ""
