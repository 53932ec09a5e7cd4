"""Test that plugins are found by their entry points only, and that a broken one stops no other."""

import ast
import importlib
import re
from collections.abc import Callable
from importlib.metadata import distribution, distributions
from pathlib import Path

import pytest
import torch

import pipeline
from pipeline import Attend, AttendEarlier, Attention, States
from pipeline.errors import PluginError, UnknownNameError
from pipeline.registry import PluginWarning, Registry, discover_plugins, registry
from pipeline.registry.catalogue import Plugin
from pipeline.registry.choice import Choice
from pipeline.testing import LawBrokenError, check_attention
from support.fakes import Fakes, offering, returning

HOOKS = (
    "pipeline_encoders, pipeline_attentions, pipeline_pools, pipeline_tokenizers, pipeline_stages, pipeline_heads, "
    "pipeline_embedders, pipeline_policies, pipeline_sources, pipeline_metrics, pipeline_engines, pipeline_status"
)


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fakes:
    """An empty folder of distributions."""
    return Fakes(tmp_path / "site", monkeypatch)


def failures(found: Registry) -> list[tuple[str, str | None]]:
    """Return each plugin with the reason of its failure."""
    return [(plugin.package, plugin.failure) for plugin in found.plugins]


def test_own_plugins_are_found_by_entry_points_only() -> None:
    """Without the library's own distribution there are no parts; with it, all of its parts."""
    assert not list(discover_plugins([]).parts())
    ours = discover_plugins([distribution("ragged-pipeline")])
    assert {"bigru", "bilstm", "causal_transformer", "gru", "lstm", "rnn", "transformer"} <= set(ours.encoders.names())
    assert {"additive", "dot", "general", "scaled_dot"} <= set(ours.attentions.names())
    assert {"attention", "final", "first", "last", "max", "mean", "sum"} <= set(ours.pools.names())
    assert {"kmax", "logsumexp", "mean_sqrt", "mean_std", "min", "quantiles"} < set(ours.pools.names())
    assert {"structured_attention", "vector_attention"} < set(ours.pools.names())
    assert {"causal_cnn", "causal_gated_cnn", "cnn", "gated_cnn"} < set(ours.encoders.names())
    assert {"bpe", "bytes", "characters", "whole", "words"} <= set(ours.tokenizers.names())
    assert {"bucket", "pack", "pad", "pool"} < set(ours.stages.names())
    assert {"classify", "classify_multi_label", "heads", "next_token", "regress", "tag"} <= set(ours.heads.names())
    assert {"embed", "embed_fields"} <= set(ours.embedders.names())
    assert ours.policies.names() == ["boundaries", "budget", "rows", "shapes"]
    assert {"csv", "json_lines", "parquet", "records"} < set(ours.sources.names())
    assert {"accuracy", "macro_f1", "mae", "multi_label_f1", "perplexity", "span_f1"} <= set(ours.metrics.names())
    assert ours.engines.names() == ["cudnn", "dense", "native", "packed", "plain"]
    assert [plugin.entry for plugin in ours.plugins] == [
        "attention",
        "builtin",
        "convolutional",
        "decoders",
        "embeddings",
        "heads",
        "recurrent",
        "transformer",
    ]


def test_library_imports_no_plugin() -> None:
    """No file of the library contains the name of one of its own plugins."""
    assert pipeline.__file__ is not None
    plugins = {folder.name for folder in (Path(__file__).parents[2] / "plugins").glob("pipeline_*")}
    assert "pipeline_recurrent" in plugins
    files = sorted(Path(pipeline.__file__).parent.rglob("*.py"))
    assert len(files) > 20
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value not in HOOKS.split(", "):
                names = [node.value]  # the plugin `pipeline_heads` has the name of a hook
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
    "cancelling": ("raise BaseException('no')\n", "BaseException: no"),
    "generating": ("raise GeneratorExit\n", "GeneratorExit"),
    "exiting": (returning("exit(3)"), "hook pipeline_encoders failed: SystemExit: 3"),
    "empty": (returning("{'': print}"), "hook pipeline_encoders must map names to factories, got '': "),
    "blank": (returning("{' ': print}"), "hook pipeline_encoders must map names to factories, got ' ': "),
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
            "through hook pipeline_encoders; uninstall one of them, block it with choose_plugins(block=['beta']) or the "
            "environment variable PIPELINE_PLUGINS=-beta, or import the part that you mean and pass the object."
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


def add_entries(fakes: Fakes, points: str, *, requires: str = "") -> None:
    """Install distribution `other` 1.0 with some entry points, and without a module of its own."""
    metadata = f"Metadata-Version: 2.1\nName: other\nVersion: 1.0\n{requires}"
    fakes.metadata("other-1.0", METADATA=metadata, **{"entry_points.txt": f"[pipeline]\n{points}\n"})


@pytest.mark.parametrize(
    ("points", "reason"),
    [
        (
            "mine = good:pipeline_encoders",
            "its entry point must name a module, got 'good:pipeline_encoders', which is <",
        ),
        (
            "mine = good:nothing",
            "its entry point must name a module, got 'good:nothing', which is None; write mine = \"good\"",
        ),
        ("mine = good:LSTM", "its entry point must name a module, got 'good:LSTM', which is <class "),
        ("mine = good:absent", "AttributeError: module 'good' has no attribute 'absent'"),
        ("mine =", "its entry point must be written as name = \"module\", got 'mine' = ''"),
        (" = good", "its entry point must be written as name = \"module\", got '' = 'good'"),
    ],
)
def test_entry_point_that_is_not_a_module_is_reported(fakes: Fakes, points: str, reason: str) -> None:
    """The failure names the distribution, and another plugin loads."""
    fakes.add("good", offering("good") + "nothing = None\n")
    add_entries(fakes, points)
    with pytest.warns(PluginWarning, match=rf"^plugin other 1\.0 .*: {re.escape(reason)}"):
        found = fakes.registry()
    assert found.encoders.names() == ["good"]


def test_second_entry_point_to_one_module_is_reported(fakes: Fakes) -> None:
    """The parts stay usable through the first entry point of the distribution."""
    fakes.add("good", offering("good"))
    (fakes.folder / "good-1.0.dist-info" / "entry_points.txt").write_text("[pipeline]\nlast = good\nfirst = good\n")
    with pytest.warns(
        PluginWarning, match=r"good 1\.0 .*'last'.*: its entry point 'first' names 'good' too; delete one"
    ):
        found = fakes.registry()
    assert found.encoders.offer("good").plugin.entry == "first"
    with pytest.raises(PluginError, match="names 'good' too; delete one of them; fix or block it"):
        fakes.registry(Choice(strict=True))


@pytest.mark.parametrize(
    ("requirement", "reason"),
    [
        ("no-such-thing>=2", "it requires no-such-thing>=2, which is not installed"),
        ("ragged-pipeline>=99", "it requires ragged-pipeline>=99, but version "),
        ("no-such-thing; extra == 'more'", None),
        ("no-such-thing; python_version < '3'", None),
        ("not a requirement", None),
    ],
)
def test_unmet_requirement_is_reported(fakes: Fakes, requirement: str, reason: str | None) -> None:
    """The plugin is not imported; requirements of extras and of other machines do not count."""
    fakes.add("good", offering("good"))
    add_entries(fakes, "mine = good", requires=f"Requires-Dist: {requirement}\n")
    if reason is None:
        assert failures(fakes.registry()) == [("good", None), ("other", None)]
        return
    with pytest.warns(PluginWarning, match=rf"^plugin other 1\.0 .*: {re.escape(reason)}"):
        found = fakes.registry()
    assert found.encoders.names() == ["good"]


def test_plugin_that_is_still_being_imported_is_reported(fakes: Fakes) -> None:
    """A user imports the plugin first, and it looks up a part: its module has no hooks yet, which is no empty plugin."""
    fakes.add("early", "from pipeline.registry import registry\nregistry().encoders.names()\n" + offering("early"))
    with pytest.warns(PluginWarning, match=r"early 1\.0 .*: its module looked up a part by name during its import"):
        importlib.import_module("early")
    assert "early" not in registry().encoders.names()
    assert "lstm" in registry().encoders.names()


def test_interrupt_during_import_passes_through(fakes: Fakes) -> None:
    """Control-C is the user's, not the plugin's."""
    fakes.add("slow", "raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        fakes.registry()


def test_hooks_may_be_imported_with_a_star(fakes: Fakes) -> None:
    """The specifications that the star imports are not taken for hooks that the plugin forgot to mark."""
    source = offering("starred").replace("from pipeline.extend import hookimpl", "from pipeline.hooks import *")
    fakes.add("star", source)
    assert fakes.registry().encoders.names() == ["starred"]


def test_error_about_a_taken_name_says_how_to_block_the_plugin(fakes: Fakes) -> None:
    """Of our own plugin and another one, the other is the one to block."""
    fakes.add("aardvark", offering("lstm"))
    found = [*fakes.found(), distribution("ragged-pipeline")]
    with pytest.raises(PluginError, match=r"block it with choose_plugins\(block=\['aardvark'\]\) or .*=-aardvark, or"):
        discover_plugins(found).encoders.offer("lstm")
    lstm = discover_plugins(found, Choice(block=["aardvark"])).encoders.make("lstm", input_size=3, hidden_size=4)
    assert lstm.output_size == 4


MULTI_HEAD = """
from torch import nn
from pipeline.extend import Attention, hookimpl, masked_softmax

class MultiHead(Attention):
    projects_values = True

    def __init__(self, input_size, heads: int = 2):
        super().__init__()
        self.input_size, self.heads, self.score_size = input_size, heads, heads
        self.query, self.key, self.value, self.output = (nn.Linear(input_size, input_size) for _ in range(4))

    def split(self, steps):
        return steps.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def score_heads(self, query, key):
        query, key = self.split(self.query(query)), self.split(self.key(key))
        return query @ key.mT / query.shape[-1] ** 0.5

    def score(self, query, key):
        return self.score_heads(query, key).mean(1)

    def weigh_heads(self, query, key, mask):
        return masked_softmax(self.score_heads(query, key), mask.unsqueeze(1))

    def weights(self, query, key, mask):
        return self.weigh_heads(query, key, mask).mean(1)

    def forward(self, query, key, mask):
        key = key.masked_fill(~mask.any(1).unsqueeze(-1), 0)
        heads = self.weigh_heads(query, key, mask) @ self.split(self.value(key))
        contexts = self.output(heads.transpose(1, 2).flatten(2))
        return contexts.masked_fill(~mask.any(-1, keepdim=True), 0)

@hookimpl
def pipeline_attentions():
    return {"multi_head": MultiHead}
"""


def test_multi_head_attention_can_be_registered(fakes: Fakes) -> None:
    """It is created by name, passes its trial and all laws, and both stages use it; without its declaration it fails."""
    fakes.add("heads", MULTI_HEAD)
    attentions = fakes.registry().attentions
    check_attention(lambda: attentions.make("multi_head", input_size=4))
    attention = attentions.make("multi_head", input_size=4, heads=1)
    states = States.from_padded(torch.randn(2, 5, 4), torch.tensor([5, 3]))
    for stage in (Attend(attention), AttendEarlier(attention)):
        assert stage(states).padded().values.shape == (2, 5, 4)
    with pytest.raises(
        LawBrokenError, match=r"1 of .*\n- contexts_are_weighted_sums_of_keys: .*projects_values = True"
    ):
        check_attention(lambda: undeclare(attentions.make("multi_head", input_size=4)))


def undeclare(attention: Attention) -> Attention:
    """Return an attention that claims to mix the keys themselves."""
    attention.projects_values = False
    return attention
