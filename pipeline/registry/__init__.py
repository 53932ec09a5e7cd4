"""Installed plugins, the choice of those that are loaded, and the parts that they offer, by name."""

from pipeline.registry.catalogue import Catalogue, Offer, Plugin, PluginWarning
from pipeline.registry.choice import Choice
from pipeline.registry.discovery import Registry, discover_plugins
from pipeline.registry.shared import choose_plugins, current_choice, load_for_listing, look_up_in, registry

__all__ = [
    "Catalogue",
    "Choice",
    "Offer",
    "Plugin",
    "PluginWarning",
    "Registry",
    "choose_plugins",
    "current_choice",
    "discover_plugins",
    "load_for_listing",
    "look_up_in",
    "registry",
]
