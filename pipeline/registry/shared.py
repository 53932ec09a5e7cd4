"""The one registry of a process, in which every stage looks names up; and the choice of what it holds."""

import threading
from collections.abc import Iterable
from importlib.metadata import distributions
from typing import Final, final

import attrs

from pipeline.errors import OptionError, PluginError
from pipeline.registry.choice import Choice
from pipeline.registry.installed import Registry, discovered, planned


@final
class Shared:
    """The registry in which every stage looks names up: loaded when it is first used, as was chosen until then."""

    def __init__(self) -> None:
        self._choice: Choice | None = None
        self._loaded: Registry | None = None
        self._loading = False
        self._lock = threading.RLock()

    @property
    def choice(self) -> Choice:
        """Which plugins it loads, or has loaded: those of the environment, unless others were chosen."""
        return Choice.from_environment() if self._choice is None else self._choice

    def choose(self, choice: Choice) -> None:
        """Load these plugins and no others.

        Raises:
            OptionError: if one is named that is not installed, or others were loaded before.
        """
        planned(distributions(), choice)
        with self._lock:
            if self._loading or (self._loaded is not None and choice != self.choice):
                msg = (
                    f"plugins were loaded already ({self.choice}), so these cannot be chosen any more: {choice}; "
                    "choose before anything looks a part up by name, as Encode('lstm') does."
                )
                raise OptionError(msg, loaded=self.choice, chosen=choice)
            self._choice = choice

    def registry(self) -> Registry:
        """The parts of the plugins that were chosen, loaded at the first call.

        Raises:
            OptionError: if one is named that is not installed, or the environment cannot be understood.
            PluginError: if one cannot be loaded, and the choice is strict; or if one asks for this while it is loaded.
        """
        # The lock is for threads; in the one that loads, a plugin that is being imported can still come back here.
        with self._lock:
            if self._loaded is None:
                if self._loading:
                    msg = (
                        "a plugin looked a part up by name while it was imported, when not all names are known yet; "
                        "do it inside a function, or import the part."
                    )
                    raise PluginError(msg)
                self._loading = True
                try:
                    # What the environment says now is kept, so that a later change of it is no other choice.
                    self._choice = self.choice
                    self._loaded = discovered(distributions(), self._choice)
                finally:
                    self._loading = False
            return self._loaded


_shared: Final = Shared()


def registry() -> Registry:
    """The parts of all installed plugins, or of those that were chosen, loaded at the first call.

    Raises:
        OptionError: if a plugin was chosen that is not installed.
        PluginError: if a plugin cannot be loaded, and the choice is strict.
    """
    return _shared.registry()


def surveyed() -> Registry:
    """What `registry` gives, looked up anew and to the end: what fails is written down, strict or not.

    Raises:
        OptionError: if a plugin was chosen that is not installed.
    """
    return discovered(distributions(), attrs.evolve(chosen(), strict=False))


def chosen() -> Choice:
    """Which plugins `registry` loads, or has loaded."""
    return _shared.choice


def choose_plugins(
    *, only: Iterable[str] | None = None, block: Iterable[str] | None = None, strict: bool | None = None
) -> None:
    """Choose which plugins are loaded, before the first of them is; the others are never imported.

    A name means a plugin's entry point or its package, ours among them: `recurrent`, `attention` and `builtin`
    of package `pipeline`. Call it once, before anything looks a part up by name; of several calls until then
    the last one counts. What is left out here is taken from the environment: `PIPELINE_PLUGINS` is a list of
    plugins to load (`a,b`) or to block (`-a,-b`), or the word `none`; `PIPELINE_PLUGINS_STRICT=1` is `strict`.

    Args:
        only: load these alone; an empty list loads none.
        block: load all but these; an empty list loads all, whatever the environment says.
        strict: make a plugin that cannot be loaded an error instead of a warning.

    Raises:
        OptionError: if a name is not installed, both lists name plugins, or others were loaded already.

    Example:
        >>> choose_plugins(only=["mingro"])
        Traceback (most recent call last):
        pipeline.errors.OptionError: only names 'mingro', but no plugin of that name is installed; ...
    """
    choice = Choice.from_environment()
    if only is not None or block is not None:
        choice = Choice(only, block or (), choice.strict)
    _shared.choose(choice if strict is None else attrs.evolve(choice, strict=strict))
