"""Plugins are found by their entry points alone, and what is wrong with one stops no other."""

import ast
import re
from collections.abc import Callable
from importlib.metadata import distribution, distributions
from pathlib import Path

import pytest

import pipeline
from pipeline.errors import PluginError, UnknownNameError
from pipeline.registry import PluginWarning, Registry, discover_plugins, registry
from pipeline.registry.catalogue import Plugin
from support.fakes import Fakes, offering, returning

HOOKS = "pipeline_encoders, pipeline_attentions, pipeline_pools, pipeline_tokenizers, pipeline_status"


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fakes:
    """An empty folder of distributions."""
    return Fakes(tmp_path / "site", monkeypatch)


def failures(found: Registry) -> list[tuple[str, str | None]]:
    """Each plugin, and why it failed."""
    return [(plugin.package, plugin.failure) for plugin in found.plugins]


def test_our_own_are_found_by_entry_points_alone() -> None:
    """Without the library's own distribution there is nothing; with it, all that it ships."""
    assert [catalogue.names() for catalogue in discover_plugins([]).catalogues()] == [[], [], [], []]
    ours = discover_plugins([distribution("ragged-pipeline")])
    assert ours.encoders.names() == ["bigru", "bilstm", "gru", "lstm", "rnn"]
    assert ours.attentions.names() == ["additive", "dot", "general", "scaled_dot"]
    assert ours.pools.names() == ["attention", "final", "first", "last", "max", "mean", "sum"]
    assert ours.tokenizers.names() == ["bpe", "bytes", "characters", "whole", "words"]
    assert [plugin.entry for plugin in ours.plugins] == ["attention", "builtin", "recurrent"]


def test_the_library_names_no_plugin() -> None:
    """No file of it imports what it ships as a plugin."""
    assert pipeline.__file__ is not None
    plugins = {"pipeline_recurrent", "pipeline_attention"}
    files = sorted(Path(pipeline.__file__).parent.rglob("*.py"))
    assert len(files) > 20
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                names = [node.value]
            assert plugins.isdisjoint(name.partition(".")[0] for name in names), f"{file}: {names}"


def test_the_registry_of_all_is_made_once() -> None:
    """Everyone looks names up in the same one."""
    assert registry() is registry()
    assert set(discover_plugins([distribution("ragged-pipeline")]).encoders.names()) <= set(registry().encoders.names())


def test_plugins_load_in_one_order(fakes: Fakes) -> None:
    """Sorted by package, in whatever order a file system lists them."""
    for package in ("zeta", "Beta", "alpha"):
        fakes.add(package, offering(package))
    for found in (fakes.found(), fakes.found()[::-1]):
        assert [plugin.package for plugin in discover_plugins(found).plugins] == ["alpha", "Beta", "zeta"]
        assert discover_plugins(found).encoders.names() == ["Beta", "alpha", "zeta"]


def test_entry_points_load_in_one_order(fakes: Fakes) -> None:
    """Within a package by name, and by what they name where a package has lost its own."""
    for package in ("one", "two"):
        fakes.add(package, offering(package))
    points = "[pipeline]\nlater = one\nearlier = two\n"
    fakes.metadata("several-1.0", METADATA="Name: several\nVersion: 1.0\n", **{"entry_points.txt": points})
    for folder, module in (("lost-1.0", "two"), ("mislaid-1.0", "one")):
        fakes.metadata(folder, **{"entry_points.txt": f"[pipeline]\nmine = {module}\n"})
    wanted = [
        ("?", "mine"),
        ("?", "mine"),
        ("one", "one"),
        ("several", "earlier"),
        ("several", "later"),
        ("two", "two"),
    ]
    for found in (fakes.found(), fakes.found()[::-1]):
        loaded = discover_plugins(found)
        assert [(plugin.package, plugin.entry) for plugin in loaded.plugins] == wanted
        assert [offer.name for offer in loaded.encoders.offers] == ["one", "two", "one", "two", "one", "two"]


def test_of_two_versions_the_first_on_the_path_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for an import; and a package is the same however its name is spelt."""
    later, first = Fakes(tmp_path / "later", monkeypatch), Fakes(tmp_path / "first", monkeypatch)
    later.add("two-words", offering("old"), version="1.0")
    first.add("Two_Words", offering("new"), version="2.0")
    found = discover_plugins(distributions(path=[str(first.folder), str(later.folder)]))
    assert found.plugins == [Plugin("Two_Words", "2.0", "two_words")]
    assert found.encoders.names() == ["new"]
    assert found.encoders.offer("new").plugin.version == "2.0"


def test_broken_metadata_stops_nothing(fakes: Fakes) -> None:
    """A folder left behind, a file that does not parse, one that is no text: the others load."""
    fakes.add("good", offering("good"))
    fakes.metadata("empty-1.0")
    fakes.metadata(
        "malformed-1.0", METADATA="Name: malformed\n", **{"entry_points.txt": "[pipeline]\nno equals sign\n"}
    )
    fakes.metadata("binary-1.0", METADATA="Name: binary\nVersion: 1\n")
    (fakes.folder / "binary-1.0.dist-info" / "entry_points.txt").write_bytes(b"\xff\xfe[pipeline]")
    assert fakes.registry().plugins == [Plugin("good", "1.0", "good")]


def test_plugins_without_a_name_load_all_the_same(fakes: Fakes) -> None:
    """Metadata that lost its name is alike to nothing, and another such is not taken for it."""
    for package in ("one", "other"):
        fakes.add(package, offering(package))
        (fakes.folder / f"{package}-1.0.dist-info" / "METADATA").unlink()
    found = fakes.registry()
    assert found.encoders.names() == ["one", "other"]
    assert {str(plugin) for plugin in found.plugins} == {"? ? (entry point 'one')", "? ? (entry point 'other')"}


BROKEN = {
    "absent": ("import no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module'"),
    "raising": ("raise ValueError('a reason.\\nin two lines.')\n", "ValueError: a reason. in two lines"),
    "leaving": ("import sys\nsys.exit('no')\n", "SystemExit: no"),
    "nothing": (returning("None"), "hook pipeline_encoders must give a mapping of names to factories, but gave None"),
    "sequence": (
        returning("['lstm']"),
        "hook pipeline_encoders must give a mapping of names to factories, but gave ['lstm']",
    ),
    "uncallable": (
        returning("{'mine': 3}"),
        "hook pipeline_encoders must map names to factories, but maps 'mine' to 3",
    ),
    "nameless": (returning("{3: print}"), "hook pipeline_encoders must map names to factories, but maps 3 to "),
    "failing": (returning("1 / 0"), "hook pipeline_encoders failed: ZeroDivisionError: division by zero"),
    "misspelt": (
        returning("{}", hook="pipeline_encoder"),
        f"it implements pipeline_encoder, and there is no such hook; there are: {HOOKS}",
    ),
    "unmarked": (
        "def pipeline_pools():\n    return {}\n",
        "its pipeline_pools is not marked as a hook; write @hookimpl above it, from pipeline.hooks",
    ),
    "asking": (
        returning("{}", takes="config"),
        "a hook of it does not fit its specification, which takes no arguments: "
        "Plugin 'asking' for hook 'pipeline_encoders' hookimpl definition: pipeline_encoders(config)",
    ),
}


@pytest.mark.parametrize("package", BROKEN)
def test_what_fails_to_load_is_reported_and_stops_nothing(fakes: Fakes, package: str) -> None:
    """In a warning, in the list of plugins, and where a name is not found; the plugins before and behind it load."""
    source, reason = BROKEN[package]
    fakes.add(package, source)
    fakes.add("aaa", offering("before"))
    fakes.add("zzz", offering("behind"))
    told = f"{package} 1.0 (entry point '{package}') could not be loaded: {reason}"
    with pytest.warns(PluginWarning, match=rf"^plugin {re.escape(told)}.*\.$") as warned:
        found = fakes.registry()
    assert len(warned) == 1
    assert [name for name, _ in failures(found)] == ["aaa", package, "zzz"]
    failure = failures(found)[1][1] or ""
    assert failure.startswith(reason)
    assert not failure.endswith(".")
    assert found.encoders.names() == ["before", "behind"]
    for catalogue in found.catalogues():
        with pytest.raises(UnknownNameError, match=re.escape(f". Plugin {told}")):
            catalogue.offer("mine")


def test_a_plugin_is_taken_whole_or_not_at_all(fakes: Fakes) -> None:
    """One wrong hook, and the right ones are not taken either."""
    fakes.add("half", offering("half") + "@hookimpl\ndef pipeline_pools():\n    return 3\n")
    with pytest.warns(PluginWarning, match="hook pipeline_pools must give a mapping"):
        found = fakes.registry()
    assert found.encoders.names() == []


def test_a_module_may_be_registered_by_hand(fakes: Fakes) -> None:
    """For tests of plugins that are not installed: the same rules, and an error in place of a warning."""
    found = Registry()
    plugin = Plugin("mine", "1.0", "mine")
    fakes.add("mine", returning("None"))
    module = fakes.found()[0].entry_points["mine"].load()
    with pytest.raises(PluginError, match=r"^plugin mine 1\.0 \(entry point 'mine'\): hook .* but gave None\.$"):
        found.register(module, plugin)
    assert found.plugins == []


def test_a_plugin_may_offer_nothing(fakes: Fakes) -> None:
    """A module without hooks is a plugin all the same, and has not failed."""
    fakes.add("idle", "")
    assert fakes.registry().plugins == [Plugin("idle", "1.0", "idle")]


def test_a_name_offered_twice_is_refused_when_it_is_used(fakes: Fakes) -> None:
    """With both packages named; what only one offers is not touched."""
    fakes.add("alpha", offering("mine", "alone"))
    fakes.add("beta", offering("mine"))
    found = fakes.registry()
    assert found.encoders.names() == ["alone", "mine"]
    assert found.encoders.make("alone", input_size=3, hidden_size=4).output_size == 4
    uses: list[Callable[[], object]] = [
        lambda: found.encoders.make("mine", input_size=3, hidden_size=4),
        lambda: found.encoders.check("mine", ["hidden_size"]),
        lambda: found.encoders.is_lazy("mine"),
    ]
    for use in uses:
        with pytest.raises(PluginError) as refused:
            use()
        assert str(refused.value) == (
            "encoder 'mine' is offered by alpha 1.0 (entry point 'alpha') and beta 1.0 (entry point 'beta'), "
            "through hook pipeline_encoders; uninstall one, or import the part that you mean and pass it as an object."
        )
        assert refused.value.details["packages"] == ["alpha", "beta"]


def test_one_module_under_two_names_offers_twice(fakes: Fakes) -> None:
    """A copy of a package under another name collides by name, like any other."""
    fakes.add("alpha", offering("mine"))
    fakes.metadata(
        "beta-1.0", METADATA="Name: beta\nVersion: 1.0\n", **{"entry_points.txt": "[pipeline]\nbeta = alpha\n"}
    )
    with pytest.raises(PluginError, match=r"alpha 1\.0 .* and beta 1\.0 "):
        fakes.registry().encoders.offer("mine")
