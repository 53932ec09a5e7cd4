"""Which of the installed plugins are loaded: all, some, all but some, or none."""

import os
import re
from collections.abc import Iterable, Mapping
from typing import Final, Literal, Self, TypeAlias

import attrs

from pipeline.errors import OptionError

PLUGINS: Final = "PIPELINE_PLUGINS"
"""The environment variable that names the plugins to load, or, behind a dash each, those to block."""

STRICT: Final = "PIPELINE_PLUGINS_STRICT"
"""The environment variable that makes a plugin that cannot be loaded an error."""

Skip: TypeAlias = Literal["blocked", "not chosen"]
"""Why a plugin is not loaded, though nothing is wrong with it."""


def normalised(package: str) -> str:
    """A package's name as it is compared: neither case nor the signs between words mean anything.

    Source: PEP 503, "Simple Repository API", section "Normalized Names".

    Example:
        >>> normalised("Two_Words.more")
        'two-words-more'
    """
    return re.sub(r"[-_.]+", "-", package).lower()


def _several(argument: str, names: Iterable[str]) -> frozenset[str]:
    # A word is an iterable of words too: its letters.
    if isinstance(names, str):
        msg = f"{argument} must be names in a list, but the text {names!r} arrived; write {argument}=[{names!r}]."
        raise OptionError(msg, **{argument: names})
    return frozenset(names)


def _only(names: Iterable[str] | None) -> frozenset[str] | None:
    return None if names is None else _several("only", names)


def _block(names: Iterable[str]) -> frozenset[str]:
    return _several("block", names)


@attrs.frozen
class Choice:
    """Which plugins are loaded. A name means the entry points and the packages that are called so.

    Attributes:
        only: load these alone; none of them if it is empty; None to load all.
        block: load all but these.
        strict: a plugin that cannot be loaded is an error instead of a warning.
        origin: where the names come from, for messages.

    Raises:
        OptionError: if both `only` and `block` name plugins, or one of them is a text instead of a list.

    Example:
        >>> Choice(block=["mingru"]).skips("pipeline-mingru", "mingru")
        'blocked'
        >>> Choice(only=["Pipeline_MinGRU"]).skips("pipeline-mingru", "mingru")
    """

    only: frozenset[str] | None = attrs.field(default=None, converter=_only)
    block: frozenset[str] = attrs.field(default=frozenset[str](), converter=_block)
    strict: bool = False
    origin: str = attrs.field(default="", eq=False, kw_only=True)

    def __attrs_post_init__(self) -> None:
        if self.only is not None and self.block:
            msg = (
                f"only={sorted(self.only)} and block={sorted(self.block)} exclude each other: what is not among "
                "`only` is not loaded anyway; give one of them."
            )
            raise OptionError(msg, only=self.only, block=self.block)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """What the variables `PIPELINE_PLUGINS` and `PIPELINE_PLUGINS_STRICT` say; all plugins if they are not set.

        Raises:
            OptionError: if one of them says nothing that can be understood.

        Example:
            >>> Choice.from_environment({"PIPELINE_PLUGINS": "none"}).only
            frozenset()
            >>> Choice.from_environment({"PIPELINE_PLUGINS": "-mingru, -other"}).block == {"mingru", "other"}
            True
        """
        strict = environment.get(STRICT, "").strip()
        if strict not in {"", "0", "1"}:
            msg = f"the environment variable {STRICT} must be 0 or 1, but {strict!r} arrived; unset it for the default."
            raise OptionError(msg, variable=STRICT, value=strict)
        said = environment.get(PLUGINS, "")
        names = [name.strip() for name in said.split(",") if name.strip()]
        if not names:
            return cls(strict=strict == "1")
        if names == ["none"]:
            return cls(only=(), strict=strict == "1", origin=PLUGINS)
        blocked = [name[1:].strip() for name in names if name.startswith("-")]
        if len(blocked) not in {0, len(names)} or "none" in names or "" in blocked:
            msg = (
                f"the environment variable {PLUGINS} must be plugins to load (a,b), or plugins to block (-a,-b), or "
                f"the one word none, but {said!r} arrived; where some are to be loaded, no other need be blocked."
            )
            raise OptionError(msg, variable=PLUGINS, value=said)
        if blocked:
            return cls(block=blocked, strict=strict == "1", origin=PLUGINS)
        return cls(only=names, strict=strict == "1", origin=PLUGINS)

    def __str__(self) -> str:
        if self.only is None:
            which = f"all but {', '.join(sorted(self.block))}" if self.block else "all"
        else:
            which = f"only {', '.join(sorted(self.only))}" if self.only else "none"
        return f"{which}, strictly" if self.strict else which

    def skips(self, package: str, entry: str) -> Skip | None:
        """Why a plugin, by its package and its entry point, is not loaded; None if it is."""
        if self.only is not None and not any(_means(name, package, entry) for name in self.only):
            return "not chosen"
        return "blocked" if any(_means(name, package, entry) for name in self.block) else None

    def check(self, installed: Iterable[tuple[str, str]]) -> None:
        """Refuse names that mean none of the plugins that are installed, given by package and entry point.

        A name that is blocked must be there too: misspelt, it would keep nothing out.

        Raises:
            OptionError: if there is such a name.

        Example:
            >>> Choice(block=["mingro"]).check([("pipeline-mingru", "mingru")])
            Traceback (most recent call last):
            pipeline.errors.OptionError: block names 'mingro', but no plugin of that name is installed; ...
        """
        known = list(installed)
        argument = "block" if self.only is None else "only"
        for name in sorted(self.block if self.only is None else self.only):
            if not any(_means(name, package, entry) for package, entry in known):
                there = ", ".join(f"{entry} (of {package})" for package, entry in known) or "none"
                msg = (
                    f"{self.origin or argument} names {name!r}, but no plugin of that name is installed; there are: "
                    f"{there}."
                )
                raise OptionError(msg, name=name, installed=known)


def _means(name: str, package: str, entry: str) -> bool:
    return name == entry or normalised(name) == normalised(package)
