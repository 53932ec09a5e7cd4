"""The parts of one kind, by name: which plugin offers each, and which options it takes."""

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final, Generic, TypeVar, final

import attrs

from pipeline.errors import PipelineError, PluginError, UnknownNameError, UnknownOptionError
from pipeline.laws.law import LawBrokenError
from pipeline.registry.choice import Skip
from pipeline.registry.probing import fault, probed

P = TypeVar("P")


@attrs.frozen
class Plugin:
    """An installed plugin.

    Attributes:
        package: the distribution that it came with.
        version: of that distribution.
        entry: the name of its entry point.
        failure: why it could not be loaded; None if it was.
        skipped: why it was not to be loaded; None if it was.

    Example:
        >>> print(Plugin("pipeline-mingru", "1.0", "mingru"))
        pipeline-mingru 1.0 (entry point 'mingru')
    """

    package: str
    version: str
    entry: str
    failure: str | None = None
    skipped: Skip | None = None

    def __str__(self) -> str:
        return f"{self.package} {self.version} (entry point {self.entry!r})"


@attrs.frozen
class Offer(Generic[P]):
    """A part that a plugin offers by name.

    Attributes:
        name: what users call it.
        plugin: where it comes from.
        factory: makes it.
        tried: whether what it declares was found to be true; False until it is made if it could not be tried before.
    """

    name: str
    plugin: Plugin
    factory: Callable[..., P]
    tried: bool = True


@final
class Catalogue(Generic[P]):
    """The parts of one kind, by name.

    Args:
        kind: what they are called in messages.
        hook: the hook by which plugins offer them.
        base: the class that every part must derive from.
        given: the option that a stage fills in, so that it may be missing until a part is made.
        always: whether every factory must take that option.

    Attributes:
        offers: all of them, in the order in which the plugins were loaded.
        failed: the plugins that could not be loaded: they might have offered more.
        skipped: the plugins that were not to be loaded: so might they.
    """

    def __init__(self, kind: str, hook: str, base: type, *, given: str = "input_size", always: bool = True) -> None:
        self.kind: Final = kind
        self.hook: Final = hook
        self.base: Final = base
        self.given: Final = given
        self.always: Final = always
        self.offers: list[Offer[P]] = []
        self.failed: list[Plugin] = []
        self.skipped: list[Plugin] = []

    def names(self) -> list[str]:
        """Every name, sorted."""
        return sorted({offer.name for offer in self.offers})

    def rivals(self, name: str) -> list[Offer[P]]:
        """Every offer of a name: none if it is unknown, several if plugins collide."""
        return [offer for offer in self.offers if offer.name == name]

    def offer(self, name: str) -> Offer[P]:
        """The one offer of a name.

        Raises:
            UnknownNameError: if there is none.
            PluginError: if there are two.
        """
        found = self.rivals(name)
        if not found:
            broken = "".join(f" Plugin {plugin} could not be loaded: {plugin.failure}." for plugin in self.failed)
            left = ""
            if self.skipped:
                unknown = ", ".join(f"{plugin} ({plugin.skipped})" for plugin in self.skipped)
                left = f" Not loaded, by choice, so that nobody knows what they offer: {unknown}."
            msg = f"{name!r} is no {self.kind} that is installed; there are: {_listed(self.names())}.{broken}{left}"
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
        """Refuse options that a part does not take, and a lack of those that it needs and no stage fills in.

        Raises:
            UnknownNameError: if there is no such part.
            UnknownOptionError: if an option is not its own, or a needed one is missing.
            PluginError: if two plugins offer the name, or its factory takes no options that can be read.
        """
        chosen, takes = list(options), self._takes(name)
        for option in chosen:
            if option not in takes:
                raise self._refused(name, f"takes no option {option!r}", option, takes)
        for option, parameter in takes.items():
            if parameter.default is parameter.empty and option not in {*chosen, self.given}:
                raise self._refused(name, f"needs option {option!r}", option, takes)

    def is_lazy(self, name: str) -> bool:
        """Whether a part must be told what a stage fills in (its input size) before it can be made."""
        given = self._takes(name).get(self.given)
        return given is not None and given.default is given.empty

    def make(self, name: str, **options: object) -> P:
        """A new part of that name.

        Raises:
            UnknownNameError: if there is no such part.
            UnknownOptionError: if an option is not its own, or a needed one is missing.
            PluginError: if two plugins offer the name, or what the factory makes is no such part or not what it
                declares, or it fails.
        """
        self.check(name, options)
        if self.given not in options and self.is_lazy(name):
            raise self._refused(name, f"needs option {self.given!r}", self.given, self._takes(name))
        offer = self.offer(name)
        try:
            part = offer.factory(**options)
        except PipelineError:
            raise
        except Exception as error:
            raise self._broken(offer, f"failed: {type(error).__name__}: {error}") from error
        if not isinstance(part, self.base):
            raise self._broken(offer, f"made a {type(part).__name__}, which is no {self.base.__name__}")
        unsaid = [said for said in inspect.get_annotations(self.base) if not hasattr(part, said)]
        if unsaid:
            raise self._broken(offer, f"made a {type(part).__name__} that does not say its {_listed(unsaid)}")
        if not offer.tried:
            self._try(offer, options)
        return part

    def _try(self, offer: Offer[P], options: Mapping[str, object]) -> None:
        """Hold what could not be tried when it was registered against what it declares, with a user's options."""
        # Texts may come once only, and have been read by now.
        if self.given == "input_size":
            try:
                probed(self.hook, offer.factory, options)
            except LawBrokenError as error:
                raise self._broken(offer, f"breaks a law: {fault(error)}") from error
        self.offers[self.offers.index(offer)] = attrs.evolve(offer, tried=True)

    def takes(self, offer: Offer[P]) -> dict[str, inspect.Parameter]:
        """The options of a part that is offered, by name.

        Raises:
            PluginError: if they cannot be read, or the one that every part of this kind is given is not among them.
        """
        try:
            signature = inspect.signature(offer.factory)
        except (TypeError, ValueError) as error:
            raise self._broken(offer, "has a factory whose options cannot be read; offer a function") from error
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        takes = {option: parameter for option, parameter in signature.parameters.items() if parameter.kind in named}
        if self.always and self.given not in takes:
            raise self._broken(offer, f"does not take {self.given!r}, which every {self.kind} is given")
        return takes

    def _takes(self, name: str) -> dict[str, inspect.Parameter]:
        return self.takes(self.offer(name))

    def _refused(self, name: str, rule: str, option: str, takes: Collection[str]) -> UnknownOptionError:
        msg = f"{self.kind} {name!r} of {self.offer(name).plugin} {rule}; it takes: {_listed(takes)}."
        return UnknownOptionError(msg, option=option, known=list(takes))

    def _broken(self, offer: Offer[P], what: str) -> PluginError:
        msg = f"{self.kind} {offer.name!r} of {offer.plugin}, from hook {self.hook}, {what}."
        return PluginError(msg, name=offer.name, package=offer.plugin.package)


def _listed(names: Collection[str]) -> str:
    return ", ".join(names) or "none"
