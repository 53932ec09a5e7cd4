"""Find installed plugins, load them, and read the parts that they offer through each hook."""

import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import Distribution, EntryPoint, PackageNotFoundError, version
from types import ModuleType
from typing import TYPE_CHECKING, Final, TypeAlias, cast, final

import attrs
import pluggy

from pipeline import hooks
from pipeline.batching.policies import Policy
from pipeline.core.stage import ModuleStage, StageBase
from pipeline.data.states import MaybeCausal
from pipeline.errors import PluginError
from pipeline.parts.attention import Attention
from pipeline.parts.deferred import Deferred
from pipeline.parts.encoder import Encoder
from pipeline.parts.engine import Engine
from pipeline.parts.metric import Metric
from pipeline.parts.pooling import Pooling
from pipeline.parts.tokenizer import Tokenizer
from pipeline.registry.catalogue import Catalogue, Offer, Plugin, PluginWarning
from pipeline.registry.choice import STRICT, Choice, normalize_name
from pipeline.text import format_error, to_one_line

if TYPE_CHECKING:
    from pipeline.sources.source import Source

# The factories that a plugin returns from one hook, by name.
_Factories: TypeAlias = Mapping[str, Callable[..., object]]

_STATUS: Final = "pipeline_status"


@final
class Registry:
    """All plugins that were found, and the parts that they offer.

    Attributes:
        plugins: all plugins, including those that failed to load or were not loaded on purpose.
        encoders, attentions, pools, tokenizers, stages: the parts that they offer, by kind.
        heads, embedders, policies, sources, metrics, engines: the same.
        status: their status functions, by subject.

    Example:
        >>> from importlib.metadata import distributions
        >>> "bilstm" in discover_plugins(distributions()).encoders.names()
        True
    """

    def __init__(self) -> None:
        self.plugins: list[Plugin] = []
        self.encoders: Catalogue[Encoder[MaybeCausal]] = Catalogue("encoder", "pipeline_encoders", Encoder)
        self.attentions: Catalogue[Attention] = Catalogue("attention", "pipeline_attentions", Attention)
        self.pools: Catalogue[Pooling] = Catalogue("pool", "pipeline_pools", Pooling, required=False)
        self.tokenizers: Catalogue[Tokenizer] = Catalogue(
            "tokenizer", "pipeline_tokenizers", Tokenizer, stage_option="texts"
        )
        self.stages: Catalogue[StageBase] = Catalogue("stage", "pipeline_stages", StageBase, required=False)
        self.heads: Catalogue[hooks.Head] = Catalogue("head", "pipeline_heads", ModuleStage, required=False)
        self.embedders: Catalogue[hooks.Embedder] = Catalogue(
            "embedder", "pipeline_embedders", ModuleStage, required=False
        )
        self.policies: Catalogue[Policy] = Catalogue("policy", "pipeline_policies", Policy, stage_option=None)
        self.sources: Catalogue[Source[object]] = Catalogue(
            "source", "pipeline_sources", Deferred("pipeline.sources.source:Source"), stage_option=None
        )
        self.metrics: Catalogue[Metric] = Catalogue("metric", "pipeline_metrics", Metric, stage_option=None)
        self.engines: Catalogue[Engine] = Catalogue("engine", "pipeline_engines", Engine, stage_option=None)
        self.status: list[Offer[str]] = []

    def catalogues(self) -> Sequence[Catalogue[object]]:
        """Return the parts of each kind."""
        found: Iterable[object] = vars(self).values()
        return [cast("Catalogue[object]", each) for each in found if isinstance(each, Catalogue)]

    def parts(self) -> Iterator[tuple[Catalogue[object], Offer[object]]]:
        """Yield every offered part with its catalogue, sorted by kind and name."""
        for catalogue in self.catalogues():
            for name in catalogue.names():
                for offer in catalogue.offers_of(name):
                    yield catalogue, offer

    def load(self, entry: EntryPoint, plugin: Plugin, *, strict: bool = False) -> None:
        """Import a plugin and register it. If that fails, record the reason and warn.

        Args:
            entry: the entry point that names its module.
            plugin: its name in messages and lists.
            strict: raise an error instead of the warning.

        Raises:
            PluginError: if it fails, and `strict` is True.
        """
        try:
            _check_requirements(entry.dist, plugin)
            self._add(_import_plugin(entry), plugin)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - a module may raise anything, and call sys.exit()
            reason = str(error).rstrip(".") if isinstance(error, PluginError) else format_error(error).rstrip(".")
            self._fail(plugin, reason, error, strict=strict)

    def reject(self, plugin: Plugin, reason: str, *, strict: bool = False) -> None:
        """Record and report a plugin that is not imported because of its metadata.

        Raises:
            PluginError: if `strict` is True.
        """
        self._fail(plugin, reason, None, strict=strict)

    def _fail(self, plugin: Plugin, reason: str, cause: BaseException | None, *, strict: bool) -> None:
        failed = attrs.evolve(plugin, failure=reason)
        summary = f"plugin {plugin} failed to load: {reason}"
        if strict:
            msg = f"{summary}; fix or block it, or load without `strict` ({STRICT}), which makes this a warning."
            raise PluginError(msg, package=plugin.package) from cause
        self.plugins.append(failed)
        for catalogue in self.catalogues():
            catalogue.failed.append(failed)
        warnings.warn(f"{summary}.", PluginWarning, stacklevel=3)

    def skip(self, plugin: Plugin) -> None:
        """Record a plugin that is not loaded on purpose."""
        self.plugins.append(plugin)
        for catalogue in self.catalogues():
            catalogue.skipped.append(plugin)

    def register(self, module: object, plugin: Plugin) -> None:
        """Add all offers of a module, or none of them if one breaks a rule. Tests of a plugin call it by hand.

        Args:
            module: the object that implements the hooks.
            plugin: its name in messages and lists.

        Raises:
            PluginError: if it implements an unknown hook, or a hook fails or returns no mapping of names to factories.
        """
        try:
            self._add(module, plugin)
        except PluginError as error:
            msg = f"plugin {plugin}: {error}."
            raise PluginError(msg, package=plugin.package) from error

    def _add(self, module: object, plugin: Plugin) -> None:
        # Everything is read before anything is added, so that a broken hook leaves no half of a plugin.
        *found, status = read_hooks(module, [*(catalogue.hook for catalogue in self.catalogues()), _STATUS])
        for catalogue, factories in zip(self.catalogues(), found, strict=True):
            for name, factory in factories.items():
                catalogue.offers.append(Offer(name, plugin, factory, tried=plugin.ships_with_library))
        self.status += [Offer(subject, plugin, cast("hooks.Status", line)) for subject, line in status.items()]
        self.plugins.append(plugin)


def _import_plugin(entry: EntryPoint) -> object:
    """Import the object that an entry point names.

    Raises:
        PluginError: if the entry point is malformed, or names something that cannot implement hooks.
    """
    if not entry.name or not entry.value:
        msg = f'its entry point must be written as name = "module", got {entry.name!r} = {entry.value!r}'
        raise PluginError(msg)
    found: object = entry.load()
    spec: object = getattr(found, "__spec__", None)
    # The user imports the module, which looks up a part by name, which loads all plugins. The module is incomplete.
    if getattr(spec, "_initializing", False):
        msg = (
            "its module looked up a part by name during its import, before all names are known; do it inside a "
            "function, or import the part"
        )
        raise PluginError(msg)
    is_object = not isinstance(found, type) and any(hasattr(found, hook) for hook in _HOOKS)
    if not isinstance(found, ModuleType) and not is_object:
        msg = (
            f"its entry point must name a module, got {entry.value!r}, which is {found!r}; write {entry.name} = "
            f'"{entry.value.partition(":")[0]}"'
        )
        raise PluginError(msg)
    return found


_HOOKS: Final = [name for name in vars(hooks) if name.startswith("pipeline_")]


def _check_requirements(found: Distribution | None, plugin: Plugin) -> None:
    """Reject a plugin that requires distributions that are not installed, or other versions of them.

    Raises:
        PluginError: naming the first such requirement.
    """
    if found is None or plugin.ships_with_library:
        return
    with suppress(ImportError):  # packaging is usually installed, but no requirement of this library
        from packaging.requirements import InvalidRequirement, Requirement  # noqa: PLC0415 - see above

        for text in found.requires or ():
            with suppress(InvalidRequirement):
                requirement = Requirement(text)
                if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
                    continue
                try:
                    installed = version(requirement.name)
                except PackageNotFoundError:
                    msg = f"it requires {requirement}, which is not installed"
                    raise PluginError(msg, requirement=text) from None
                if not requirement.specifier.contains(installed, prereleases=True):
                    msg = f"it requires {requirement}, but version {installed} is installed"
                    raise PluginError(msg, requirement=text)


def read_hooks(module: object, names: Sequence[str]) -> list[_Factories]:
    """Call the hooks that a module implements.

    Args:
        module: the object that implements the hooks.
        names: the hooks' names.

    Returns:
        The factories of each hook; an empty mapping if the module does not implement it.

    Raises:
        PluginError: if the module breaks a rule. The message has no full stop, so that callers can continue it.
    """
    # One manager per plugin: a shared one would call the hooks of all plugins at once, without saying which is whose.
    manager = pluggy.PluginManager(hooks.PROJECT)
    manager.add_hookspecs(hooks)
    try:
        manager.register(module)
    except pluggy.PluginValidationError as error:
        msg = f"one of its hooks must take no arguments: {to_one_line(error)}"
        raise PluginError(msg) from error
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        unknown = [caller.name for caller in manager.get_hookcallers(module) or () if not caller.has_spec()]
        msg = f"it implements {', '.join(unknown)}, which is not a hook; the hooks are: {', '.join(names)}"
        raise PluginError(msg) from error
    found = [_call_hook(manager, hook) for hook in names]
    for hook, factories in zip(names, found, strict=True):
        # Not the specification itself, which `from pipeline.hooks import *` imports.
        if factories is None and getattr(module, hook, None) not in {None, getattr(hooks, hook)}:
            msg = f"its function {hook} is not marked as a hook; write @hookimpl above it, from pipeline.extend"
            raise PluginError(msg, hook=hook)
    return [factories or {} for factories in found]


def _call_hook(manager: pluggy.PluginManager, hook: str) -> _Factories | None:
    """Return the factories of one hook, or None if the manager's only plugin does not implement it."""
    found: dict[str, Callable[..., object]] = {}
    caller = cast("pluggy.HookCaller", getattr(manager.hook, hook))
    # Not through the caller itself: it would silently drop an implementation that returns None.
    for implementation in caller.get_hookimpls():
        try:
            returned: object = implementation.function()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            msg = f"hook {hook} failed: {format_error(error).rstrip('.')}"
            raise PluginError(msg, hook=hook) from error
        if not isinstance(returned, Mapping):
            msg = f"hook {hook} must return a mapping of names to factories, got {returned!r}"
            raise PluginError(msg, hook=hook)
        for name, factory in cast("Mapping[object, object]", returned).items():
            if not isinstance(name, str) or not name or name != name.strip() or not callable(factory):
                msg = f"hook {hook} must map names to factories, got {name!r}: {factory!r}"
                raise PluginError(msg, hook=hook)
            found[name] = factory
    return found if caller.get_hookimpls() else None


def discover_plugins(found: Iterable[Distribution], choice: Choice | None = None) -> Registry:
    """Load the plugins of some distributions, in an order that is the same on every machine.

    Args:
        found: the distributions in the order of the path. Of two with the same name the first counts, as it
            does for `import`. Unreadable metadata is skipped.
        choice: the plugins to load; all if it is left out. The others are not imported.

    Raises:
        OptionError: if `choice` names a plugin that is not installed.
        PluginError: if a plugin fails to load, and `choice` is strict.
    """
    choice = choice or Choice()
    loaded = Registry()
    first: dict[tuple[str, str], str] = {}
    for entry, plugin in list_plugins(found, choice):
        # Two distributions collide, and have to be told apart. Two entry points of one are a slip in its metadata.
        earlier = first.setdefault((plugin.package, entry.value), entry.name)
        if plugin.skipped is None and plugin.package != "?" and earlier != entry.name:
            reason = f"its entry point {earlier!r} names {entry.value!r} too; delete one of them"
            loaded.reject(plugin, reason, strict=choice.strict)
        elif plugin.skipped is None:
            loaded.load(entry, plugin, strict=choice.strict)
        else:
            loaded.skip(plugin)
    return loaded


def list_plugins(found: Iterable[Distribution], choice: Choice) -> list[tuple[EntryPoint, Plugin]]:
    """List every plugin in loading order, and whether it is to be loaded. Nothing is imported."""
    first: dict[str, Distribution] = {}
    for number, distribution in enumerate(found):
        name = _read_field(distribution, "Name")
        # A distribution without a name is never the same as another one.
        # The path may contain two versions of a distribution. `import` takes the first, so its metadata counts.
        first.setdefault(f"?{number}" if name == "?" else normalize_name(name), distribution)
    plugins = [
        (entry, Plugin(_read_field(distribution, "Name"), _read_field(distribution, "Version"), entry.name))
        for distribution in first.values()
        for entry in _read_entries(distribution)
    ]
    plugins.sort(key=lambda each: (normalize_name(each[1].package), each[0].name, each[0].value))
    choice.check((plugin.package, plugin.entry) for _, plugin in plugins)
    return [
        (entry, attrs.evolve(plugin, skipped=choice.skip_reason(plugin.package, plugin.entry)))
        for entry, plugin in plugins
    ]


def _read_field(distribution: Distribution, field: str) -> str:
    """Return a field of a distribution's metadata, or a question mark if it is missing or unreadable."""
    # Not `distribution.name`: it parses the whole file, long descriptions included, and takes ten times as long. This
    # runs for every installed distribution at the first look-up.
    try:
        text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
    except Exception:  # noqa: BLE001 - the error depends on the version of Python, and the file is someone else's
        return "?"
    header = re.split(r"\r?\n\r?\n", text, maxsplit=1)[0]
    found = re.search(rf"^{field}:[ \t]*(\S.*?)\s*$", header, flags=re.MULTILINE | re.IGNORECASE)
    return "?" if found is None else found[1]


def _read_entries(distribution: Distribution) -> list[EntryPoint]:
    """Return a distribution's entry points in our group; an empty list if they are unreadable."""
    try:
        return [entry for entry in distribution.entry_points if entry.group == hooks.PROJECT]
    except Exception:  # noqa: BLE001 - a broken file of a distribution that may not be a plugin at all
        return []
