"""Finding plugins, and the parts that they offer, by name."""

import functools
import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import Distribution, EntryPoint, distributions
from typing import Final, Generic, TypeVar, cast, final

import attrs
import pluggy

from pipeline import hooks
from pipeline.errors import PipelineError, PluginError, UnknownNameError, UnknownOptionError
from pipeline.parts.attention import Attention
from pipeline.parts.encoder import Encoder
from pipeline.parts.pooling import Pooling
from pipeline.parts.tokenizer import Tokenizer
from pipeline.sequences.states import Sight

P = TypeVar("P")


class PluginWarning(UserWarning):
    """A plugin could not be loaded; everything else goes on without it."""


@attrs.frozen
class Plugin:
    """An installed plugin.

    Attributes:
        package: the distribution that it came with.
        version: of that distribution.
        entry: the name of its entry point.
        failure: why it could not be loaded; None if it was.
    """

    package: str
    version: str
    entry: str
    failure: str | None = None

    def __str__(self) -> str:
        return f"{self.package} {self.version} (entry point {self.entry!r})"


@attrs.frozen
class Offer(Generic[P]):
    """A part that a plugin offers by name."""

    name: str
    plugin: Plugin
    factory: Callable[..., P]


@final
class Catalogue(Generic[P]):
    """The parts of one kind, by name.

    Attributes:
        kind: what they are called in messages.
        hook: the hook by which plugins offer them.
        offers: all of them, in the order in which the plugins were loaded.
    """

    def __init__(self, kind: str, hook: str, base: type) -> None:
        self.kind: Final = kind
        self.hook: Final = hook
        self.base: Final = base
        self.offers: list[Offer[P]] = []
        self.failed: list[Plugin] = []

    def names(self) -> list[str]:
        """Every name, sorted."""
        return sorted({offer.name for offer in self.offers})

    def offer(self, name: str) -> Offer[P]:
        """The one offer of a name.

        Raises:
            UnknownNameError: if there is none.
            PluginError: if there are two.
        """
        found = [offer for offer in self.offers if offer.name == name]
        if not found:
            broken = "".join(f" Plugin {plugin} could not be loaded: {plugin.failure}." for plugin in self.failed)
            msg = f"{name!r} is no {self.kind} that is installed; there are: {', '.join(self.names())}.{broken}"
            raise UnknownNameError(msg, name=name, known=self.names())
        if len(found) > 1:
            both = " and ".join(str(offer.plugin) for offer in found)
            msg = (
                f"{self.kind} {name!r} is offered by {both}, through hook {self.hook}; uninstall one, "
                "or import the part that you mean and pass it as an object."
            )
            raise PluginError(msg, name=name, packages=[offer.plugin.package for offer in found])
        return found[0]

    def check(self, name: str, options: Iterable[str]) -> None:
        """Refuse options that a part does not take, and a lack of those that it needs; `input_size` may be missing.

        Raises:
            UnknownNameError: if there is no such part.
            UnknownOptionError: if an option is not its own, or a needed one is missing.
        """
        takes = self._parameters(name)
        plugin = self.offer(name).plugin
        for option in options:
            if option not in takes:
                known = ", ".join(takes) or "none"
                msg = f"{self.kind} {name!r} of {plugin} takes no option {option!r}; it takes: {known}."
                raise UnknownOptionError(msg, option=option, known=list(takes))
        for option, parameter in takes.items():
            if parameter.default is parameter.empty and option not in {*options, "input_size", "texts"}:
                msg = f"{self.kind} {name!r} of {plugin} needs option {option!r}; it takes: {', '.join(takes)}."
                raise UnknownOptionError(msg, option=option, known=list(takes))

    def waits(self, name: str) -> bool:
        """Whether a part must be told its input size before it can be made."""
        size = self._parameters(name).get("input_size")
        return size is not None and size.default is size.empty

    def make(self, name: str, **options: object) -> P:
        """A new part of that name.

        Raises:
            UnknownNameError: if there is no such part.
            UnknownOptionError: if an option is not its own, or a needed one is missing.
            PluginError: if what the plugin's factory gives is no such part, or it fails.
        """
        self.check(name, options)
        offer = self.offer(name)
        try:
            part = offer.factory(**options)
        except PipelineError:
            raise
        except Exception as error:
            msg = f"{self.kind} {name!r} of {offer.plugin}, from hook {self.hook}, failed: {error!r}."
            raise PluginError(msg, name=name, package=offer.plugin.package) from error
        if not isinstance(part, self.base):
            msg = (
                f"{self.kind} {name!r} of {offer.plugin}, from hook {self.hook}, made a {type(part).__name__}, "
                f"which is no {self.base.__name__}."
            )
            raise PluginError(msg, name=name, package=offer.plugin.package)
        return part

    def _parameters(self, name: str) -> dict[str, inspect.Parameter]:
        signature = inspect.signature(self.offer(name).factory)
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        return {option: parameter for option, parameter in signature.parameters.items() if parameter.kind in named}


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
        self.pools: Catalogue[Pooling] = Catalogue("pool", "pipeline_pools", Pooling)
        self.tokenizers: Catalogue[Tokenizer] = Catalogue("tokenizer", "pipeline_tokenizers", Tokenizer)
        self._manager = pluggy.PluginManager(hooks.PROJECT)
        self._manager.add_hookspecs(hooks)

    def catalogues(self) -> tuple[Catalogue[Encoder[Sight]], Catalogue[Attention], Catalogue[Pooling], Catalogue[Tokenizer]]:
        """Each kind's parts."""
        return self.encoders, self.attentions, self.pools, self.tokenizers

    def load(self, entry: EntryPoint, distribution: Distribution) -> None:
        """Load one plugin; if it fails, write down why, warn, and go on."""
        plugin = Plugin(distribution.name, distribution.version, entry.name)
        try:
            self.register(entry.load(), plugin)
        except Exception as error:  # noqa: BLE001 - a stranger's module may raise anything
            plugin = attrs.evolve(plugin, failure=f"{type(error).__name__}: {error}")
            self.plugins.append(plugin)
            for catalogue in self.catalogues():
                catalogue.failed.append(plugin)
            warnings.warn(f"plugin {plugin} could not be loaded: {plugin.failure}", PluginWarning, stacklevel=2)

    def register(self, module: object, plugin: Plugin) -> None:
        """Take a plugin's offers: all of them, or none if one is wrong.

        Args:
            module: what implements the hooks.
            plugin: what it is called in messages and lists.

        Raises:
            PluginError: if it implements a hook that does not exist, or one gives no mapping of names to factories.
        """
        key = f"{plugin.package}:{plugin.entry}"
        self._manager.register(module, name=key)
        try:
            self._manager.check_pending()
            offers = [self._offers(catalogue.hook, key, plugin) for catalogue in self.catalogues()]
        except Exception as error:
            self._manager.unregister(name=key)
            if isinstance(error, PipelineError):
                raise
            msg = f"plugin {plugin}: {error}"
            raise PluginError(msg, package=plugin.package) from error
        for catalogue, found in zip(self.catalogues(), offers, strict=True):
            for name, factory in found.items():
                cast("Catalogue[object]", catalogue).offers.append(Offer(name, plugin, factory))
        self.plugins.append(plugin)

    def _offers(self, hook: str, key: str, plugin: Plugin) -> Mapping[str, Callable[..., object]]:
        """What one plugin offers through one hook: pluggy's own call could not tell whose it is."""
        caller = cast("pluggy.HookCaller", getattr(self._manager.hook, hook))
        found: dict[str, Callable[..., object]] = {}
        for implementation in caller.get_hookimpls():
            if implementation.plugin_name != key:
                continue
            given: object = implementation.function()
            if not isinstance(given, Mapping):
                msg = f"plugin {plugin}, hook {hook} must give a mapping of names to factories, but gave {given!r}."
                raise PluginError(msg, package=plugin.package, hook=hook)
            for name, factory in cast("Mapping[object, object]", given).items():
                if not isinstance(name, str) or not callable(factory):
                    msg = f"plugin {plugin}, hook {hook} must map names to factories, but maps {name!r} to {factory!r}."
                    raise PluginError(msg, package=plugin.package, hook=hook)
                found[name] = factory
        return found


@functools.cache
def registry() -> Registry:
    """The parts of all installed plugins, loaded at the first call in an order that is the same everywhere."""
    found = Registry()
    entries = {
        (distribution.name, entry.name): (entry, distribution)
        for distribution in distributions()
        for entry in distribution.entry_points
        if entry.group == hooks.PROJECT
    }
    for key in sorted(entries):
        found.load(*entries[key])
    return found
