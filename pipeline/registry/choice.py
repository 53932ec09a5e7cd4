"""Choose which plugins to load: all, some, all but some, or none."""

import os
import re
from collections.abc import Iterable, Mapping
from typing import Final, Literal, Self, TypeAlias

import attrs

from pipeline.errors import OptionError

PLUGINS: Final = "PIPELINE_PLUGINS"
"""The environment variable that lists the plugins to load or, each with a leading dash, the plugins to block."""

STRICT: Final = "PIPELINE_PLUGINS_STRICT"
"""The environment variable that turns a plugin that fails to load into an error."""

Skip: TypeAlias = Literal["blocked", "not chosen"]
"""The reason why a plugin that may work is not loaded."""


def normalize_name(package: str) -> str:
    """Return a distribution's name in normal form: lower case, with single dashes. Names are compared in this form.

    Source: PEP 503, "Simple Repository API", section "Normalized Names".

    Example:
        >>> normalize_name("Two_Words.more")
        'two-words-more'
    """
    return re.sub(r"[-_.]+", "-", package).lower()


def _to_names(argument: str, names: Iterable[str]) -> frozenset[str]:
    # A string is an iterable of its letters: "lstm" would become the plugins l, s, t and m.
    if isinstance(names, str):
        msg = f"{argument} must be a list of plugin names, got the string {names!r}; write {argument}=[{names!r}]."
        raise OptionError(msg, **{argument: names})
    return frozenset(names)


def _convert_only(names: Iterable[str] | None) -> frozenset[str] | None:
    return None if names is None else _to_names("only", names)


def _convert_block(names: Iterable[str]) -> frozenset[str]:
    return _to_names("block", names)


@attrs.frozen
class Choice:
    """Plugins to load. A name matches entry points and distributions of that name.

    Attributes:
        only: load only these; an empty set loads none, None loads all.
        block: load all but these.
        strict: raise an error, instead of a warning, if a plugin fails to load.
        origin: source of the names, for messages.

    Raises:
        OptionError: if both `only` and `block` name plugins, or one of them is a string instead of a list.

    Example:
        >>> Choice(block=["mingru"]).skip_reason("pipeline-mingru", "mingru")
        'blocked'
        >>> Choice(only=["Pipeline_MinGRU"]).skip_reason("pipeline-mingru", "mingru")
    """

    only: frozenset[str] | None = attrs.field(default=None, converter=_convert_only)
    block: frozenset[str] = attrs.field(default=frozenset[str](), converter=_convert_block)
    strict: bool = False
    origin: str = attrs.field(default="", eq=False, kw_only=True)

    def __attrs_post_init__(self) -> None:
        if self.only is not None and self.block:
            msg = (
                f"only and block exclude each other, got only={sorted(self.only)} and block={sorted(self.block)}; "
                "plugins that are not in `only` are not loaded anyway, so leave `block` out."
            )
            raise OptionError(msg, only=self.only, block=self.block)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Read the variables `PIPELINE_PLUGINS` and `PIPELINE_PLUGINS_STRICT`; load all plugins if they are not set.

        Raises:
            OptionError: if a variable has none of the allowed forms.

        Example:
            >>> Choice.from_environment({"PIPELINE_PLUGINS": "none"}).only
            frozenset()
            >>> Choice.from_environment({"PIPELINE_PLUGINS": "-mingru, -other"}).block == {"mingru", "other"}
            True
        """
        flag = environment.get(STRICT, "").strip()
        if flag not in {"", "0", "1"}:
            msg = f"the environment variable {STRICT} must be 0 or 1, got {flag!r}; unset it for the default."
            raise OptionError(msg, variable=STRICT, value=flag)
        strict = flag == "1"
        value = environment.get(PLUGINS, "")
        names = [name.strip() for name in value.split(",") if name.strip()]
        if not names:
            return cls(strict=strict)
        if names == ["none"]:
            return cls(only=(), strict=strict, origin=PLUGINS)
        blocked = [name[1:].strip() for name in names if name.startswith("-")]
        if len(blocked) not in {0, len(names)} or "none" in names or "" in blocked:
            msg = (
                f"the environment variable {PLUGINS} must be a list of plugins to load (a,b), a list of plugins to "
                f"block (-a,-b), or the word none, got {value!r}; use one of these forms."
            )
            raise OptionError(msg, variable=PLUGINS, value=value)
        if blocked:
            return cls(block=blocked, strict=strict, origin=PLUGINS)
        return cls(only=names, strict=strict, origin=PLUGINS)

    def __str__(self) -> str:
        if self.only is None:
            which = f"all but {', '.join(sorted(self.block))}" if self.block else "all"
        else:
            which = f"only {', '.join(sorted(self.only))}" if self.only else "none"
        return f"{which}, strict" if self.strict else which

    def skip_reason(self, package: str, entry: str) -> Skip | None:
        """Return why a plugin is not loaded, or None if it is loaded."""
        if self.only is not None and not any(_matches(name, package, entry) for name in self.only):
            return "not chosen"
        return "blocked" if any(_matches(name, package, entry) for name in self.block) else None

    def check(self, installed: Iterable[tuple[str, str]]) -> None:
        """Reject names that match none of the installed plugins, given as pairs of distribution and entry point.

        Names in `block` are checked too: a misspelled one would block nothing.

        Raises:
            OptionError: if a name matches no plugin.

        Example:
            >>> Choice(block=["mingro"]).check([("pipeline-mingru", "mingru")])
            Traceback (most recent call last):
            pipeline.errors.OptionError: block names 'mingro', but no plugin of that name is installed; ...
        """
        known = list(installed)
        argument = "block" if self.only is None else "only"
        for name in sorted(self.block if self.only is None else self.only):
            if not any(_matches(name, package, entry) for package, entry in known):
                listed = ", ".join(f"{entry} (of {package})" for package, entry in known) or "none"
                msg = (
                    f"{self.origin or argument} names {name!r}, but no plugin of that name is installed; installed "
                    f"plugins: {listed}."
                )
                raise OptionError(msg, name=name, installed=known)


def _matches(name: str, package: str, entry: str) -> bool:
    return name == entry or normalize_name(name) == normalize_name(package)
