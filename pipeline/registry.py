"""Finding plugins, and the parts that they offer, by name."""

import functools
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import Distribution, EntryPoint, distributions
from operator import attrgetter
from typing import TypeAlias, cast, final

import attrs
import pluggy

from pipeline import hooks
from pipeline.catalogue import Catalogue, Offer, Plugin
from pipeline.errors import PluginError
from pipeline.parts.attention import Attention
from pipeline.parts.encoder import Encoder
from pipeline.parts.pooling import Pooling
from pipeline.parts.tokenizer import Tokenizer
from pipeline.sequences.states import Sight

_Catalogues: TypeAlias = tuple[
    Catalogue[Encoder[Sight]], Catalogue[Attention], Catalogue[Pooling], Catalogue[Tokenizer]
]
_Factories: TypeAlias = Mapping[str, Callable[..., object]]


class PluginWarning(UserWarning):
    """A plugin could not be loaded; everything else goes on without it."""


@final
class Registry:
    """Every plugin that was found, and what they offer.

    Attributes:
        plugins: all that were found, those that failed to load included.
        encoders, attentions, pools, tokenizers: what they offer.

    Example:
        >>> "bilstm" in registry().encoders.names()
        True
    """

    def __init__(self) -> None:
        self.plugins: list[Plugin] = []
        self.encoders: Catalogue[Encoder[Sight]] = Catalogue("encoder", "pipeline_encoders", Encoder)
        self.attentions: Catalogue[Attention] = Catalogue("attention", "pipeline_attentions", Attention)
        self.pools: Catalogue[Pooling] = Catalogue("pool", "pipeline_pools", Pooling, always=False)
        self.tokenizers: Catalogue[Tokenizer] = Catalogue("tokenizer", "pipeline_tokenizers", Tokenizer, given="texts")

    def catalogues(self) -> _Catalogues:
        """Each kind's parts."""
        return self.encoders, self.attentions, self.pools, self.tokenizers

    def load(self, entry: EntryPoint, plugin: Plugin) -> None:
        """Load one plugin; if it fails, write down why, warn, and go on."""
        try:
            self._take(entry.load(), plugin)
        # A module may raise anything while it is imported, and one that exits must not take the program with it.
        except (Exception, SystemExit) as error:  # noqa: BLE001
            failed = attrs.evolve(plugin, failure=str(error) if isinstance(error, PluginError) else _told(error))
            self.plugins.append(failed)
            for catalogue in self.catalogues():
                catalogue.failed.append(failed)
            warnings.warn(f"plugin {plugin} could not be loaded: {failed.failure}.", PluginWarning, stacklevel=2)

    def register(self, module: object, plugin: Plugin) -> None:
        """Take a plugin's offers: all of them, or none if one is wrong.

        Args:
            module: what implements the hooks.
            plugin: what it is called in messages and lists.

        Raises:
            PluginError: if it implements a hook that does not exist, or one gives no mapping of names to factories.
        """
        try:
            self._take(module, plugin)
        except PluginError as error:
            msg = f"plugin {plugin}: {error}."
            raise PluginError(msg, package=plugin.package) from error

    def _take(self, module: object, plugin: Plugin) -> None:
        offered = _offered(module, [catalogue.hook for catalogue in self.catalogues()])
        for catalogue, factories in zip(self.catalogues(), offered, strict=True):
            for name, factory in factories.items():
                cast("Catalogue[object]", catalogue).offers.append(Offer(name, plugin, factory))
        self.plugins.append(plugin)


def _offered(module: object, names: Sequence[str]) -> list[_Factories]:
    """What a module offers through each hook.

    Raises:
        PluginError: if it breaks a rule. The message begins behind the plugin's name, and ends without a full stop.
    """
    # A manager for each plugin: a shared one would call all of them at once, and could not tell whose an offer is.
    manager = pluggy.PluginManager(hooks.PROJECT)
    manager.add_hookspecs(hooks)
    try:
        manager.register(module)
    except pluggy.PluginValidationError as error:
        msg = f"a hook of it does not fit its specification, which takes no arguments: {' '.join(str(error).split())}"
        raise PluginError(msg) from error
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        unknown = [caller.name for caller in manager.get_hookcallers(module) or () if not caller.has_spec()]
        msg = f"it implements {', '.join(unknown)}, and there is no such hook; there are: {', '.join(names)}"
        raise PluginError(msg) from error
    offered = [_factories(manager, hook) for hook in names]
    for hook, factories in zip(names, offered, strict=True):
        if factories is None and hasattr(module, hook):
            msg = f"its {hook} is not marked as a hook; write @hookimpl above it, from pipeline.hooks"
            raise PluginError(msg, hook=hook)
    return [factories or {} for factories in offered]


def _factories(manager: pluggy.PluginManager, hook: str) -> _Factories | None:
    """What the one plugin of a manager offers through one hook; None if it does not implement it."""
    found: dict[str, Callable[..., object]] = {}
    caller = cast("pluggy.HookCaller", getattr(manager.hook, hook))
    # Each by itself, not by the hook's call, which would leave out in silence one that gives None.
    for implementation in caller.get_hookimpls():
        try:
            given: object = implementation.function()
        except Exception as error:
            msg = f"hook {hook} failed: {_told(error)}"
            raise PluginError(msg, hook=hook) from error
        if not isinstance(given, Mapping):
            msg = f"hook {hook} must give a mapping of names to factories, but gave {given!r}"
            raise PluginError(msg, hook=hook)
        for name, factory in cast("Mapping[object, object]", given).items():
            if not isinstance(name, str) or not callable(factory):
                msg = f"hook {hook} must map names to factories, but maps {name!r} to {factory!r}"
                raise PluginError(msg, hook=hook)
            found[name] = factory
    return found if caller.get_hookimpls() else None


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(".")


def discovered(found: Iterable[Distribution]) -> Registry:
    """The parts that some distributions offer, loaded in an order that is the same everywhere.

    Args:
        found: the distributions in the order of the path. Of two with one name the first counts, as it
            does for `import`. Metadata that cannot be read stops nothing.
    """
    first: dict[str, Distribution] = {}
    for number, distribution in enumerate(found):
        name = _field(distribution, "name")
        # Case, and the signs between words, mean nothing in a package's name; what has no name is alike to none.
        key = f"?{number}" if name == "?" else re.sub(r"[-_.]+", "-", name).lower()
        first.setdefault(key, distribution)
    loaded = Registry()
    for _, distribution in sorted(first.items()):
        for entry in sorted(_entries(distribution), key=attrgetter("name")):
            plugin = Plugin(_field(distribution, "name"), _field(distribution, "version"), entry.name)
            loaded.load(entry, plugin)
    return loaded


def _field(distribution: Distribution, field: str) -> str:
    """A distribution's name or version; a question mark if its metadata has none, or cannot be read."""
    try:
        return str(getattr(distribution, field) or "?")
    except Exception:  # noqa: BLE001 - which error it is differs between versions of Python
        return "?"


def _entries(distribution: Distribution) -> list[EntryPoint]:
    """A distribution's entry points in our group; none if they cannot be read."""
    try:
        return [entry for entry in distribution.entry_points if entry.group == hooks.PROJECT]
    except Exception:  # noqa: BLE001 - a broken file of a package that need have nothing to do with us
        return []


@functools.cache
def registry() -> Registry:
    """The parts of all installed plugins, loaded at the first call."""
    return discovered(distributions())
