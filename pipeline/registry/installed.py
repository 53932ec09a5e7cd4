"""Finding plugins, and the parts that they offer, by name."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import Distribution, EntryPoint
from typing import Final, TypeAlias, cast, final

import attrs

from pipeline import hooks
from pipeline.data.states import MaybeCausal
from pipeline.errors import PluginError
from pipeline.laws.law import LawBrokenError
from pipeline.parts.attention import Attention
from pipeline.parts.encoder import Encoder
from pipeline.parts.pooling import Pooling
from pipeline.parts.tokenizer import Tokenizer
from pipeline.registry.catalogue import Catalogue, Offer, Plugin
from pipeline.registry.choice import STRICT, Choice, normalised
from pipeline.registry.offers import offered, told
from pipeline.registry.probing import fault, probed

_Catalogues: TypeAlias = tuple[
    Catalogue[Encoder[MaybeCausal]], Catalogue[Attention], Catalogue[Pooling], Catalogue[Tokenizer]
]


_STATUS: Final = "pipeline_status"


class PluginWarning(UserWarning):
    """A plugin could not be loaded; everything else goes on without it."""


@final
class Registry:
    """Every plugin that was found, and what they offer.

    Attributes:
        plugins: all that were found, those that failed to load or were not to be loaded included.
        encoders, attentions, pools, tokenizers: what they offer.
        status: what they have to say of how things stand, by subject.

    Example:
        >>> from importlib.metadata import distributions
        >>> "bilstm" in discovered(distributions()).encoders.names()
        True
    """

    def __init__(self) -> None:
        self.plugins: list[Plugin] = []
        self.encoders: Catalogue[Encoder[MaybeCausal]] = Catalogue("encoder", "pipeline_encoders", Encoder)
        self.attentions: Catalogue[Attention] = Catalogue("attention", "pipeline_attentions", Attention)
        self.pools: Catalogue[Pooling] = Catalogue("pool", "pipeline_pools", Pooling, always=False)
        self.tokenizers: Catalogue[Tokenizer] = Catalogue("tokenizer", "pipeline_tokenizers", Tokenizer, given="texts")

        self.status: list[Offer[str]] = []

    def catalogues(self) -> _Catalogues:
        """Each kind's parts."""
        return self.encoders, self.attentions, self.pools, self.tokenizers

    def parts(self) -> Iterator[tuple[Catalogue[object], Offer[object]]]:
        """Every part that is offered, and the catalogue that it is in: by kind, and by name within it."""
        for catalogue in cast("tuple[Catalogue[object], ...]", self.catalogues()):
            for name in catalogue.names():
                for offer in catalogue.rivals(name):
                    yield catalogue, offer

    def load(self, entry: EntryPoint, plugin: Plugin, *, strict: bool = False) -> None:
        """Load one plugin; if it fails, write down why, warn, and go on.

        Args:
            entry: what names its module.
            plugin: what it is called in messages and lists.
            strict: raise an error instead of the warning.

        Raises:
            PluginError: if it fails, and `strict` says so.
        """
        try:
            self._take(entry.load(), plugin)
        # A module may raise anything while it is imported, and one that exits must not take the program with it.
        except (Exception, SystemExit) as error:
            failed = attrs.evolve(plugin, failure=_reason(error))
            said = f"plugin {plugin} could not be loaded: {failed.failure}"
            if strict:
                msg = f"{said}; mend or block it, or load without `strict` ({STRICT}), which makes this a warning."
                raise PluginError(msg, package=plugin.package) from error
            self.plugins.append(failed)
            for catalogue in self.catalogues():
                catalogue.failed.append(failed)
            warnings.warn(f"{said}.", PluginWarning, stacklevel=2)

    def skip(self, plugin: Plugin) -> None:
        """Write down a plugin that is not to be loaded."""
        self.plugins.append(plugin)
        for catalogue in self.catalogues():
            catalogue.skipped.append(plugin)

    def register(self, module: object, plugin: Plugin) -> None:
        """Take a plugin's offers: all of them, or none if one is wrong.

        Args:
            module: what implements the hooks.
            plugin: what it is called in messages and lists.

        Raises:
            PluginError: if it implements a hook that does not exist, one gives no mapping of names to factories, or
                a part is not what it declares.
        """
        try:
            self._take(module, plugin)
        except PluginError as error:
            msg = f"plugin {plugin}: {error}."
            raise PluginError(msg, package=plugin.package) from error

    def _take(self, module: object, plugin: Plugin) -> None:
        *found, status = offered(module, [*(catalogue.hook for catalogue in self.catalogues()), _STATUS])
        offers: list[tuple[Catalogue[object], Offer[object]]] = []
        for each, factories in zip(self.catalogues(), found, strict=True):
            catalogue = cast("Catalogue[object]", each)
            for name, factory in factories.items():
                offers.append((catalogue, Offer(name, plugin, factory, _tried(catalogue, name, factory))))
        # Not before all of them are known to be sound.
        for catalogue, offer in offers:
            catalogue.offers.append(offer)
        self.status += [Offer(subject, plugin, cast("hooks.Status", says)) for subject, says in status.items()]
        self.plugins.append(plugin)


def _tried(catalogue: Catalogue[object], name: str, factory: Callable[..., object]) -> bool:
    """Whether a new part could be held against what it declares.

    Raises:
        PluginError: if something of that is not true.
    """
    try:
        return probed(catalogue.hook, factory)
    except LawBrokenError as error:
        msg = f"{catalogue.kind} {name!r}, from hook {catalogue.hook}, breaks a law: {fault(error)}"
        raise PluginError(msg, name=name, hook=catalogue.hook) from error


def _reason(error: BaseException) -> str:
    return str(error).rstrip(".") if isinstance(error, PluginError) else told(error)


def discovered(found: Iterable[Distribution], choice: Choice | None = None) -> Registry:
    """The parts that some distributions offer, loaded in an order that is the same everywhere.

    Args:
        found: the distributions in the order of the path. Of two with one name the first counts, as it
            does for `import`. Metadata that cannot be read stops nothing.
        choice: which plugins to load; all if it is left out. Of the others nothing is imported.

    Raises:
        OptionError: if `choice` names a plugin that is not installed.
        PluginError: if a plugin cannot be loaded, and `choice` is strict.
    """
    choice = choice or Choice()
    loaded = Registry()
    for entry, plugin in planned(found, choice):
        if plugin.skipped is None:
            loaded.load(entry, plugin, strict=choice.strict)
        else:
            loaded.skip(plugin)
    return loaded


def planned(found: Iterable[Distribution], choice: Choice) -> list[tuple[EntryPoint, Plugin]]:
    """Every plugin in the order in which they are loaded, and whether it is to be; nothing is imported."""
    first: dict[str, Distribution] = {}
    for number, distribution in enumerate(found):
        name = _field(distribution, "name")
        # What has no name is alike to none.
        first.setdefault(f"?{number}" if name == "?" else normalised(name), distribution)
    planned = [
        (entry, Plugin(_field(distribution, "name"), _field(distribution, "version"), entry.name))
        for distribution in first.values()
        for entry in _entries(distribution)
    ]
    planned.sort(key=lambda each: (normalised(each[1].package), each[0].name, each[0].value))
    choice.check((plugin.package, plugin.entry) for _, plugin in planned)
    return [
        (entry, attrs.evolve(plugin, skipped=choice.skips(plugin.package, plugin.entry))) for entry, plugin in planned
    ]


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
