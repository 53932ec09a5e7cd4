"""The plugins that are installed, which of them are loaded, and the parts that they offer, by name."""

from pipeline.registry.catalogue import Catalogue as Catalogue
from pipeline.registry.catalogue import Offer as Offer
from pipeline.registry.catalogue import Plugin as Plugin
from pipeline.registry.choice import Choice as Choice
from pipeline.registry.installed import PluginWarning as PluginWarning
from pipeline.registry.installed import Registry as Registry
from pipeline.registry.installed import discovered as discovered
from pipeline.registry.shared import choose_plugins as choose_plugins
from pipeline.registry.shared import chosen as chosen
from pipeline.registry.shared import registry as registry
from pipeline.registry.shared import surveyed as surveyed
