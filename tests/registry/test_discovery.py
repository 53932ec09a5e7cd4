"""Test that plugins are found by their entry points only, and that a broken one stops no other."""

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
    """Return each plugin with the reason of its failure."""
    return [(plugin.package, plugin.failure) for plugin in found.plugins]


def test_own_plugins_are_found_by_entry_points_only() -> None:
    """Without the library's own distribution there are no parts; with it, all of its parts."""
    assert [catalogue.names() for catalogue in discover_plugins([]).catalogues()] == [[], [], [], []]
    ours = discover_plugins([distribution("ragged-pipeline")])
    assert ours.encoders.names() == ["bigru", "bilstm", "gru", "lstm", "rnn"]
    assert ours.attentions.names() == ["additive", "dot", "general", "scaled_dot"]
    assert ours.pools.names() == ["attention", "final", "first", "last", "max", "mean", "sum"]
    assert ours.tokenizers.names() == ["bpe", "bytes", "characters", "whole", "words"]
    assert [plugin.entry for plugin in ours.plugins] == ["attention", "builtin", "recurrent"]


def test_library_imports_no_plugin() -> None:
    """No file of the library contains the name of one of its own plugins."""
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


def test_registry_is_created_once() -> None:
    """All callers get the same registry."""
    assert registry() is registry()
    assert set(discover_plugins([distribution("ragged-pipeline")]).encoders.names()) <= set(registry().encoders.names())


def test_plugins_load_in_one_order(fakes: Fakes) -> None:
    """The order is by distribution, whatever the order of the file system."""
    for package in ("zeta", "Beta", "alpha"):
        fakes.add(package, offering(package))
    for found in (fakes.found(), fakes.found()[::-1]):
        assert [plugin.package for plugin in discover_plugins(found).plugins] == ["alpha", "Beta", "zeta"]
        assert discover_plugins(found).encoders.names() == ["Beta", "alpha", "zeta"]


def test_entry_points_load_in_one_order(fakes: Fakes) -> None:
    """The order is by name, and by module among distributions without a name."""
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


def test_first_of_two_versions_on_the_path_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule is that of `import`, and names are compared in their normalized form."""
    later, first = Fakes(tmp_path / "later", monkeypatch), Fakes(tmp_path / "first", monkeypatch)
    later.add("two-words", offering("old"), version="1.0")
    first.add("Two_Words", offering("new"), version="2.0")
    found = discover_plugins(distributions(path=[str(first.folder), str(later.folder)]))
    assert found.plugins == [Plugin("Two_Words", "2.0", "two_words")]
    assert found.encoders.names() == ["new"]
    assert found.encoders.offer("new").plugin.version == "2.0"


def test_broken_metadata_is_skipped(fakes: Fakes) -> None:
    """An empty folder, a file that does not parse, and a binary file do not stop other plugins."""
    fakes.add("good", offering("good"))
    fakes.metadata("empty-1.0")
    fakes.metadata(
        "malformed-1.0", METADATA="Name: malformed\n", **{"entry_points.txt": "[pipeline]\nno equals sign\n"}
    )
    fakes.metadata("binary-1.0", METADATA="Name: binary\nVersion: 1\n")
    (fakes.folder / "binary-1.0.dist-info" / "entry_points.txt").write_bytes(b"\xff\xfe[pipeline]")
    assert fakes.registry().plugins == [Plugin("good", "1.0", "good")]


def test_plugins_without_a_name_load(fakes: Fakes) -> None:
    """Two distributions without metadata are not the same distribution."""
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
    "nothing": (returning("None"), "hook pipeline_encoders must return a mapping of names to factories, got None"),
    "sequence": (
        returning("['lstm']"),
        "hook pipeline_encoders must return a mapping of names to factories, got ['lstm']",
    ),
    "uncallable": (
        returning("{'mine': 3}"),
        "hook pipeline_encoders must map names to factories, got 'mine': 3",
    ),
    "nameless": (returning("{3: print}"), "hook pipeline_encoders must map names to factories, got 3: "),
    "failing": (returning("1 / 0"), "hook pipeline_encoders failed: ZeroDivisionError: division by zero"),
    "misspelled": (
        returning("{}", hook="pipeline_encoder"),
        f"it implements pipeline_encoder, which is not a hook; the hooks are: {HOOKS}",
    ),
    "unmarked": (
        "def pipeline_pools():\n    return {}\n",
        "its function pipeline_pools is not marked as a hook; write @hookimpl above it, from pipeline.extend",
    ),
    "asking": (
        returning("{}", takes="config"),
        "one of its hooks must take no arguments: "
        "Plugin 'asking' for hook 'pipeline_encoders' hookimpl definition: pipeline_encoders(config)",
    ),
}


@pytest.mark.parametrize("package", BROKEN)
def test_failed_plugin_is_reported_and_stops_no_other(fakes: Fakes, package: str) -> None:
    """The failure is in a warning, in the list, and in the error about an unknown name; plugins around it load."""
    source, reason = BROKEN[package]
    fakes.add(package, source)
    fakes.add("aaa", offering("before"))
    fakes.add("zzz", offering("after"))
    failure_text = f"{package} 1.0 (entry point '{package}') failed to load: {reason}"
    with pytest.warns(PluginWarning, match=rf"^plugin {re.escape(failure_text)}.*\.$") as warned:
        found = fakes.registry()
    assert len(warned) == 1
    assert [name for name, _ in failures(found)] == ["aaa", package, "zzz"]
    failure = failures(found)[1][1] or ""
    assert failure.startswith(reason)
    assert not failure.endswith(".")
    assert found.encoders.names() == ["after", "before"]
    for catalogue in found.catalogues():
        with pytest.raises(UnknownNameError, match=re.escape(f". Plugin {failure_text}")):
            catalogue.offer("mine")


def test_plugin_is_registered_completely_or_not_at_all(fakes: Fakes) -> None:
    """One invalid hook drops the valid ones too."""
    fakes.add("half", offering("half") + "@hookimpl\ndef pipeline_pools():\n    return 3\n")
    with pytest.warns(PluginWarning, match="hook pipeline_pools must return a mapping"):
        found = fakes.registry()
    assert found.encoders.names() == []


def test_module_can_be_registered_by_hand(fakes: Fakes) -> None:
    """The same rules hold, with an error instead of a warning."""
    found = Registry()
    plugin = Plugin("mine", "1.0", "mine")
    fakes.add("mine", returning("None"))
    module = fakes.found()[0].entry_points["mine"].load()
    with pytest.raises(PluginError, match=r"^plugin mine 1\.0 \(entry point 'mine'\): hook .*, got None\.$"):
        found.register(module, plugin)
    assert found.plugins == []


def test_plugin_may_offer_nothing(fakes: Fakes) -> None:
    """A module without hooks is a plugin that has not failed."""
    fakes.add("idle", "")
    assert fakes.registry().plugins == [Plugin("idle", "1.0", "idle")]


def test_using_a_name_that_two_plugins_offer_raises(fakes: Fakes) -> None:
    """The error names both distributions; other names of the plugins work."""
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
        with pytest.raises(PluginError) as caught:
            use()
        assert str(caught.value) == (
            "encoder 'mine' is offered by alpha 1.0 (entry point 'alpha') and beta 1.0 (entry point 'beta'), "
            "through hook pipeline_encoders; uninstall one of them, or import the part that you mean and pass the object."
        )
        assert caught.value.details["packages"] == ["alpha", "beta"]


def test_module_with_two_entry_points_collides(fakes: Fakes) -> None:
    """A copy of a distribution under another name collides like any other plugin."""
    fakes.add("alpha", offering("mine"))
    fakes.metadata(
        "beta-1.0", METADATA="Name: beta\nVersion: 1.0\n", **{"entry_points.txt": "[pipeline]\nbeta = alpha\n"}
    )
    with pytest.raises(PluginError, match=r"alpha 1\.0 .* and beta 1\.0 "):
        fakes.registry().encoders.offer("mine")
