"""A module that is judged: how it is made and called, and what its documentation says."""

from collections.abc import Callable, Mapping, Sequence

import attrs
from torch import nn

from court.forms.form import Form
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
        forms: the other forms in which it is judged: those of this library.
    """

    name: str
    call: str
    make: Callable[[], nn.Module]
    options: ModuleOptions
    unsupported: Mapping[str, str] = attrs.field(factory=dict[str, str])
    note: str = ""
    forms: Sequence[Form] = ()

    def find_unsupported(self) -> Mapping[str, str]:
        """Return the reasons why laws are not asked, by their names."""
        if self.options.get("causal"):
            return self.unsupported
        return {**self.unsupported, "causal_steps_do_not_look_ahead": "it is not meant to be causal"}


@attrs.frozen(kw_only=True)
class Library:
    """A library with the modules that are judged.

    Attributes:
        name: its name.
        packages: the distributions that it needs, the first one is the library itself.
        list_cases: imports the library, and returns the modules.
        better: what it does better than this library.
        calls: how all its modules are called, if they are called alike; the page then has no call for each.
    """

    name: str
    packages: Sequence[str]
    list_cases: Callable[[], Sequence[Case]]
    better: str = ""
    calls: str = ""
