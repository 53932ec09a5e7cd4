"""The registry of the process, in which every stage looks up names, and the choice of its plugins."""

import threading
from collections.abc import Generator, Iterable
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import distributions
from typing import Final, final

import attrs

from pipeline.errors import OptionError, PluginError
from pipeline.registry.choice import Choice
from pipeline.registry.discovery import Registry, discover_plugins, list_plugins


@final
class SharedRegistry:
    """A registry that is loaded at first use, with the plugins that were chosen until then."""

    def __init__(self) -> None:
        self._choice: Choice | None = None
        self._loaded: Registry | None = None
        self._loading = False
        self._lock = threading.RLock()

    @property
    def choice(self) -> Choice:
        """Return the choice of plugins: the environment's, unless `choose` was called."""
        return Choice.from_environment() if self._choice is None else self._choice

    def choose(self, choice: Choice) -> None:
        """Load these plugins and no others.

        Raises:
            OptionError: if a name is not installed, or other plugins are already loaded.
        """
        list_plugins(distributions(), choice)
        with self._lock:
            if self._loading or (self._loaded is not None and choice != self.choice):
                msg = (
                    f"plugins must be chosen before they are loaded, got {choice} after {self.choice} was loaded; "
                    "call choose_plugins before anything looks up a part by name, as Encode('lstm') does."
                )
                raise OptionError(msg, loaded=self.choice, chosen=choice)
            self._choice = choice

    def registry(self) -> Registry:
        """Return the registry; load it at the first call.

        Raises:
            OptionError: if the choice names a plugin that is not installed, or the environment is invalid.
            PluginError: if a plugin fails to load and the choice is strict, or if a plugin calls this during its
                import.
        """
        # The lock serializes threads. It is reentrant, so a plugin that is being imported reaches the check below
        # instead of a deadlock.
        with self._lock:
            if self._loaded is None:
                if self._loading:
                    msg = (
                        "a plugin looked up a part by name during its import, before all names are known; "
                        "do it inside a function, or import the part."
                    )
                    raise PluginError(msg)
                self._loading = True
                try:
                    # Stored, so that a later change of the environment does not look like another choice.
                    self._choice = self.choice
                    self._loaded = discover_plugins(distributions(), self._choice)
                finally:
                    self._loading = False
            return self._loaded

    @contextmanager
    def replace(self, registry: Registry) -> Generator[None]:
        """Look up names in another registry inside the block. The plugins of the process are not loaded for it."""
        with self._lock:
            before, self._loaded = self._loaded, registry
            choice = self._choice
            try:
                yield
            finally:
                self._loaded, self._choice = before, choice


_shared: Final = SharedRegistry()


def registry() -> Registry:
    """Return the parts of all installed or chosen plugins. The first call loads them.

    Raises:
        OptionError: if the choice names a plugin that is not installed.
        PluginError: if a plugin fails to load, and the choice is strict.
    """
    return _shared.registry()


def load_for_listing() -> Registry:
    """Load the chosen plugins into a new registry that records every failure, strict or not.

    Raises:
        OptionError: if the choice names a plugin that is not installed.
    """
    return discover_plugins(distributions(), attrs.evolve(current_choice(), strict=False))


def look_up_in(listed: Registry) -> AbstractContextManager[None]:
    """Let parts that are made inside the block look up other parts in this registry, instead of that of the process."""
    return _shared.replace(listed)


def current_choice() -> Choice:
    """Return the plugins that `registry` loads, or has loaded."""
    return _shared.choice


def choose_plugins(
    *, only: Iterable[str] | None = None, block: Iterable[str] | None = None, strict: bool | None = None
) -> None:
    """Choose the plugins to load, before the first of them is loaded. The others are never imported.

    A name is a plugin's entry point or its distribution. The library's own plugins are `recurrent`, `attention` and
    `builtin` of distribution `ragged-pipeline`. Call this before anything looks up a part by name; the last call
    counts. Arguments that are left out come from the environment: `PIPELINE_PLUGINS` is a list of plugins to load
    (`a,b`) or to block (`-a,-b`), or the word `none`; `PIPELINE_PLUGINS_STRICT=1` means `strict`.

    Args:
        only: load only these; an empty list loads none.
        block: load all but these; an empty list loads all, whatever the environment says.
        strict: raise an error, instead of a warning, if a plugin fails to load.

    Raises:
        OptionError: if a name is not installed, both lists name plugins, or other plugins are already loaded.

    Example:
        >>> choose_plugins(only=["mingro"])
        Traceback (most recent call last):
        pipeline.errors.OptionError: only names 'mingro', but no plugin of that name is installed; ...
    """
    choice = Choice.from_environment()
    if only is not None or block is not None:
        choice = Choice(only, block or (), choice.strict)
    _shared.choose(choice if strict is None else attrs.evolve(choice, strict=strict))
