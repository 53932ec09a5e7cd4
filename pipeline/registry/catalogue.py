"""Catalogue of the parts of one kind: their names, the plugins that offer them, their options, and their creation."""

import inspect
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final, Generic, TypeVar, cast, final

import attrs

from pipeline.checks.options import check_bool
from pipeline.errors import PipelineError, PluginError, UnknownNameError, UnknownOptionError
from pipeline.parts.deferred import Deferred
from pipeline.registry.choice import PLUGINS, Skip, normalize_name
from pipeline.registry.options import list_options
from pipeline.text import format_error, suggest_name

P = TypeVar("P")

OWN_DISTRIBUTION: Final = "ragged-pipeline"
"""This library's distribution. Its parts are tested against all laws here, so users never wait for a trial of them."""


# Names and options of other libraries and of papers, for suggestions in errors.
_ALIASES: Final = {
    "average": "mean",
    "avg": "mean",
    "avgpool": "mean",
    "bahdanau": "additive",
    "bidirectionalgru": "bigru",
    "bidirectionallstm": "bilstm",
    "char": "characters",
    "concat": "additive",
    "dotproduct": "dot",
    "lasthidden": "final",
    "luong": "general",
    "maxpool": "max",
    "meanpool": "mean",
    "multiplicative": "general",
    "word": "words",
}
_OPTION_ALIASES: Final = {
    "hiddendim": "hidden_size",
    "hiddenunits": "hidden_size",
    "layers": "num_layers",
    "nlayers": "num_layers",
    "units": "hidden_size",
}


class PluginWarning(UserWarning):
    """A plugin failed to load, or one of its parts could not be tried completely; everything else still works."""


@attrs.frozen
class Plugin:
    """An installed plugin.

    Attributes:
        package: the distribution that contains it.
        version: the distribution's version.
        entry: the name of its entry point.
        failure: the reason why it failed to load, or None.
        skipped: the reason why it was not loaded on purpose, or None.

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

    @property
    def ships_with_library(self) -> bool:
        """Return whether the plugin is part of this library's own distribution."""
        return normalize_name(self.package) == OWN_DISTRIBUTION


@attrs.frozen
class Offer(Generic[P]):
    """A part that a plugin offers by name.

    Attributes:
        name: the name that users write.
        plugin: the plugin that offers it.
        factory: the class or function that creates it.
        tried: whether the part needs no trial, or has passed it. A trial runs some laws when the part is first created.
    """

    name: str
    plugin: Plugin
    factory: Callable[..., P]
    tried: bool = True


@final
class Catalogue(Generic[P]):
    """The parts of one kind, by name.

    Args:
        kind: the word for such a part in messages.
        hook: the hook through which plugins offer them.
        base: the class that every part must derive from; deferred if most programs do not need it.
        stage_option: the option that the stage passes when it creates the part, so that users may leave it out; None if
            no stage creates such parts.
        required: whether every factory must take that option.

    Attributes:
        offers: all offers, in the order in which the plugins were loaded.
        failed: plugins that failed to load, and might have offered more.
        skipped: plugins that were not loaded on purpose, and might offer more.
    """

    def __init__(
        self,
        kind: str,
        hook: str,
        base: type | Deferred,
        *,
        stage_option: str | None = "input_size",
        required: bool = True,
    ) -> None:
        self.kind: Final = kind
        self.hook: Final = hook
        self._base: Final = base
        self.stage_option: Final = stage_option
        self.required: Final = required and stage_option is not None
        self.offers: list[Offer[P]] = []
        self.failed: list[Plugin] = []
        self.skipped: list[Plugin] = []

    @property
    def base(self) -> type:
        """The class that every part must derive from."""
        return cast("type", self._base.resolve()) if isinstance(self._base, Deferred) else self._base

    def names(self) -> list[str]:
        """Return every name, sorted."""
        return sorted({offer.name for offer in self.offers})

    def offers_of(self, name: str) -> list[Offer[P]]:
        """Return every offer of a name: an empty list if it is unknown, several offers if plugins collide."""
        return [offer for offer in self.offers if offer.name == name]

    def offer(self, name: str) -> Offer[P]:
        """Return the only offer of a name.

        Raises:
            UnknownNameError: if no plugin offers the name.
            PluginError: if two plugins offer it.
        """
        found = self.offers_of(name)
        if not found:
            failed = "".join(f" Plugin {plugin} failed to load: {plugin.failure}." for plugin in self.failed)
            skipped = ""
            if self.skipped:
                listed = ", ".join(f"{plugin} ({plugin.skipped})" for plugin in self.skipped)
                skipped = f" These plugins were not loaded on purpose, and may offer it: {listed}."
            msg = (
                f"{name!r} is not the name of an installed {self.kind}; installed: "
                f"{_join_names(self.names())}.{suggest_name(name, self.names(), _ALIASES)}{failed}{skipped}"
            )
            raise UnknownNameError(msg, name=name, known=self.names())
        if len(found) > 1:
            both = " and ".join(str(offer.plugin) for offer in found)
            # Of one of this library's plugins and another one, users probably want to get rid of the other.
            other = next(
                (offer.plugin for offer in found[::-1] if not offer.plugin.ships_with_library), found[-1].plugin
            )
            msg = (
                f"{self.kind} {name!r} is offered by {both}, through hook {self.hook}; uninstall one of them, "
                f"block it with choose_plugins(block=[{other.entry!r}]) or the environment variable "
                f"{PLUGINS}=-{other.entry}, or import the part that you mean and pass the object."
            )
            raise PluginError(msg, name=name, packages=[offer.plugin.package for offer in found])
        return found[0]

    def check(self, name: str, options: Iterable[str]) -> None:
        """Reject unknown options, and missing options that no stage fills in.

        Raises:
            UnknownNameError: if no plugin offers the name.
            UnknownOptionError: if an option is unknown, or a required one is missing.
            PluginError: if two plugins offer the name, or the factory's signature cannot be read.
        """
        given, takes = list(options), self._get_parameters(name)
        for option in given:
            if option not in takes:
                raise self._make_option_error(name, f"does not take option {option!r}", option, takes)
        for option, parameter in takes.items():
            if parameter.default is parameter.empty and option not in {*given, self.stage_option}:
                raise self._make_option_error(name, f"requires option {option!r}", option, takes)

    def is_lazy(self, name: str) -> bool:
        """Return whether a part cannot be created before the stage's option (its input size) is known."""
        parameter = self._get_parameters(name).get(self.stage_option or "")
        if parameter is None:
            return False
        # An encoder with None as its default may need it in one form, and not in another.
        return parameter.default is parameter.empty or (self.required and parameter.default is None)

    def make(self, name: str, /, **options: object) -> P:
        """Create a part. When a plugin's part is first created, try it: run the laws about its declared attributes.

        Raises:
            UnknownNameError: if no plugin offers the name.
            UnknownOptionError: if an option is unknown, or a required one is missing.
            OptionError: if an option that is annotated as a bool is neither True nor False.
            PluginError: if two plugins offer the name, or the factory fails, creates something else than a part of
                this kind, returns one object twice, or creates a part that breaks a law.
        """
        self.check(name, options)
        if self.stage_option is not None and self.stage_option not in options and self.is_lazy(name):
            raise self._make_option_error(
                name, f"requires option {self.stage_option!r}", self.stage_option, self._get_parameters(name)
            )
        offer = self.offer(name)
        for option, parameter in self.parameters(offer).items():
            # No type checker reads the options of a name, and factories take "no" as True.
            if option in options and parameter.annotation in (bool, "bool"):
                check_bool(option, options[option])
        try:
            part = offer.factory(**options)
        except PipelineError:
            raise
        except Exception as error:
            raise self._make_error(offer, f"failed: {format_error(error)}") from error
        if not isinstance(part, self.base):
            raise self._make_error(
                offer, f"created a {type(part).__name__} instead of an object of class {self.base.__name__}"
            )
        # The annotations of the base class are the attributes that every part must set. A missing one would otherwise
        # show up as an AttributeError in some stage.
        unset = [attribute for attribute in inspect.get_annotations(self.base) if not hasattr(part, attribute)]
        if unset:
            raise self._make_error(offer, f"created a {type(part).__name__} that does not set {_join_names(unset)}")
        if not offer.tried:
            self._try(offer, options)
        return part

    def _try(self, offer: Offer[P], options: Mapping[str, object]) -> None:
        # The laws are imported here: most programs use only the library's own parts, and never need them.
        from pipeline.registry.trial import try_part  # noqa: PLC0415 - see above

        outcome = try_part(self.hook, offer.factory, options)
        if outcome.problem is not None:
            raise self._make_error(offer, outcome.problem) from outcome.cause
        if outcome.not_run:
            msg = (
                f"{self.kind} {offer.name!r} of {offer.plugin} is slow to try; these laws were not run: "
                f"{_join_names(outcome.not_run)}. Run them in the plugin's tests, with pipeline.testing."
            )
            warnings.warn(msg, PluginWarning, stacklevel=3)
        # A new list instead of a change in place, so that other threads can iterate over the old one. By identity,
        # because another thread may have replaced the offer meanwhile.
        self.offers = [attrs.evolve(each, tried=True) if each is offer else each for each in self.offers]

    def parameters(self, offer: Offer[P]) -> dict[str, inspect.Parameter]:
        """Return the options of an offered part, by name.

        Raises:
            PluginError: if they cannot be read, or the stage's option is missing where it is required.
        """
        try:
            takes = list_options(offer.factory)
        except PluginError as error:
            raise self._make_error(offer, str(error)) from error
        except (TypeError, ValueError) as error:
            raise self._make_error(offer, "has a factory without a readable signature; offer a function") from error
        if self.required and self.stage_option not in takes:
            raise self._make_error(
                offer, f"does not take option {self.stage_option!r}, which every {self.kind} must take"
            )
        return takes

    def _get_parameters(self, name: str) -> dict[str, inspect.Parameter]:
        return self.parameters(self.offer(name))

    def _make_option_error(self, name: str, rule: str, option: str, takes: Collection[str]) -> UnknownOptionError:
        hint = "" if option in takes else suggest_name(option, takes, _OPTION_ALIASES)
        msg = f"{self.kind} {name!r} of {self.offer(name).plugin} {rule}; its options: {_join_names(takes)}.{hint}"
        return UnknownOptionError(msg, option=option, known=list(takes))

    def _make_error(self, offer: Offer[P], rule: str) -> PluginError:
        msg = f"{self.kind} {offer.name!r} of {offer.plugin}, from hook {self.hook}, {rule}."
        return PluginError(msg, name=offer.name, package=offer.plugin.package, hook=self.hook)


def _join_names(names: Collection[str]) -> str:
    return ", ".join(names) or "none"
