"""Test `python -m pipeline plugins`: the table, and the JSON for programs."""

import json
import os
import subprocess
import sys
from importlib.metadata import distribution, distributions, version
from pathlib import Path
from typing import Any

import pytest
import torch

import pipeline.__main__ as command_line
from pipeline.cli.plugins import Inventory, OptionRecord, PartRecord, PluginRecord, dump_inventory, make_inventory
from pipeline.registry import PluginWarning, Registry, discover_plugins
from pipeline.registry.choice import Choice
from support.fakes import Fakes
from support.needs import SLOW

OURS = discover_plugins([distribution("ragged-pipeline")])

ODD = """
from typing import Literal
from pipeline import Attention
from pipeline.hooks import hookimpl
from pipeline_recurrent import LSTM

class Unshown:
    def __repr__(self):
        raise ValueError

def shown(input_size: "int", mode: Literal["b", "a"], no_hint, sizes=(1, 2), rate=float("inf"), part=LSTM,
          unshown=Unshown(), text="\\ud800", *, hint: Unshown() = None):
    return None

def other(input_size):
    print("made")
    return 3

def needy(input_size: int, name: str):
    return LSTM(input_size, 3)

class Lying(LSTM):
    causal = property(lambda self: 1 / 0, lambda self, value: None)

class Declares(Attention):
    exportable = {1}
    def __init__(self, input_size):
        super().__init__()
    def score(self, query, key):
        return query

@hookimpl
def pipeline_encoders():
    print("a plugin's words")
    return {"\\ud800\\n\\x1b": shown, "needy": needy, "lying": Lying, "shapeless": lambda **options: None,
            "other": other, "lstm": LSTM}

@hookimpl
def pipeline_attentions():
    return {"declares": Declares}
"""


LOUD = """
from pipeline.hooks import hookimpl
from pipeline_recurrent import LSTM

def loud(input_size):
    print("made")
    return LSTM(input_size, 3)

@hookimpl
def pipeline_encoders():
    print("a plugin's words")
    return {"loud": loud}
"""


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Return the library's parts, and a plugin whose parts are hard to show."""
    fakes = Fakes(tmp_path / "site", monkeypatch)
    fakes.add("odd", ODD)
    fakes.add("beta", "raise ValueError('why')\n")
    fakes.add("idle", "")
    fakes.add("gone", "raise ValueError('it was imported')\n")
    with pytest.warns(PluginWarning, match="beta"):
        return discover_plugins(
            [distribution("ragged-pipeline"), *distributions(path=[str(fakes.folder)])], Choice(block=["gone"])
        )


def part(found: Inventory, kind: str, name: str, package: str) -> PartRecord:
    """Return the only record of a part."""
    (record,) = (
        each for each in found["parts"] if (each["kind"], each["name"], each["package"]) == (kind, name, package)
    )
    return record


def option(record: PartRecord, name: str) -> OptionRecord:
    """Return the only record of an option."""
    assert record["options"] is not None
    (found,) = (each for each in record["options"] if each["name"] == name)
    return found


def test_schema() -> None:
    """Programs rely on these fields and their order."""
    found = make_inventory(OURS)
    assert list(found) == ["schema", "versions", "plugins", "parts"]
    assert found["schema"] == 1
    assert {plugin["entry"]: plugin for plugin in found["plugins"]}["recurrent"] == {
        "package": "ragged-pipeline",
        "version": version("ragged-pipeline"),
        "entry": "recurrent",
        "state": "ok",
        "failure": None,
    }
    lstm = part(found, "encoder", "lstm", "ragged-pipeline")
    assert list(lstm) == ["kind", "name", "hook", "package", "entry", "state", "options", "capabilities"]
    assert (lstm["hook"], lstm["entry"], lstm["state"]) == ("pipeline_encoders", "recurrent", "ok")
    assert option(lstm, "input_size") == {
        "name": "input_size",
        "required": True,
        "filled_in": True,
        "default": None,
        "annotation": "int",
    }
    assert option(lstm, "dropout") == {
        "name": "dropout",
        "required": False,
        "filled_in": False,
        "default": 0.0,
        "annotation": "float",
    }
    assert option(lstm, "merge")["annotation"] == "Literal['concat', 'mean', 'sum', 'max', 'mul']"
    for record, kind in ((found, Inventory), (found["plugins"][0], PluginRecord), (lstm, PartRecord)):
        assert list(record) == list(kind.__annotations__)


def test_inventory_is_complete() -> None:
    """Each plugin and each part is listed once, by kind and name."""
    found = make_inventory(OURS)
    assert [plugin["entry"] for plugin in found["plugins"]] == [plugin.entry for plugin in OURS.plugins]
    assert {"attention", "builtin", "recurrent"} < {plugin["entry"] for plugin in found["plugins"]}
    wanted = [(catalogue.kind, name) for catalogue in OURS.catalogues() for name in catalogue.names()]
    assert [(record["kind"], record["name"]) for record in found["parts"]] == wanted


def test_capabilities_are_declared_attributes() -> None:
    """They are read from a sample; a kind that declares nothing has none."""
    found = make_inventory(OURS)
    bilstm, gru = (part(found, "encoder", name, "ragged-pipeline")["capabilities"] for name in ("bilstm", "gru"))
    assert bilstm is not None
    assert gru is not None
    assert (bilstm["causal"], bilstm["bidirectional"], bilstm["stateful"]) == (False, True, True)
    assert (gru["causal"], gru["bidirectional"], gru["layouts"]) == (True, False, ("packed",))
    assert part(found, "attention", "dot", "ragged-pipeline")["capabilities"] == {
        "exportable": True,
        "inner_product": True,
    }
    assert part(found, "tokenizer", "bpe", "ragged-pipeline")["capabilities"] == {}
    assert all(record["capabilities"] is not None for record in found["parts"])


def test_states(odd: Registry) -> None:
    """Each state of a plugin or part is reported: ok, failed, conflict, empty and blocked."""
    found = make_inventory(odd)
    assert [(plugin["package"], plugin["state"], plugin["failure"]) for plugin in found["plugins"]] == [
        ("beta", "failed", "ValueError: why"),
        ("gone", "blocked", None),
        ("idle", "empty", None),
        ("odd", "ok", None),
        *[("ragged-pipeline", "ok", None)] * len(OURS.plugins),
    ]
    for package in ("ragged-pipeline", "odd"):
        assert part(found, "encoder", "lstm", package)["state"] == "conflict"
    assert part(found, "encoder", "gru", "ragged-pipeline")["state"] == "ok"
    assert make_inventory(discover_plugins([distribution("ragged-pipeline")], Choice(only=[])))["parts"] == []


def test_values_without_json_form_are_given_as_repr(odd: Registry) -> None:
    """A failing repr is replaced by the type; a missing annotation is null."""
    shown = part(make_inventory(odd), "encoder", "\ud800\n\x1b", "odd")
    assert [each["name"] for each in shown["options"] or ()] == [
        "input_size", "mode", "no_hint", "sizes", "rate", "part", "unshown", "text", "hint",
    ]  # fmt: skip
    assert option(shown, "input_size")["annotation"] == "int"
    assert option(shown, "mode")["annotation"] == "Literal['b', 'a']"
    assert option(shown, "no_hint") == {
        "name": "no_hint",
        "required": True,
        "filled_in": False,
        "default": None,
        "annotation": None,
    }
    assert option(shown, "sizes")["default"] == (1, 2)
    assert option(shown, "rate")["default"] == "inf"
    assert option(shown, "part")["default"] == "<class 'pipeline_recurrent.encoders.LSTM'>"
    assert option(shown, "unshown")["default"] == "<Unshown>"
    assert option(shown, "hint")["annotation"] == "<Unshown>"
    assert option(shown, "hint")["required"] is False


@pytest.mark.parametrize("name", ["needy", "lying", "shapeless", "other", "\ud800\n\x1b"])
def test_part_that_cannot_be_created_has_unknown_capabilities(odd: Registry, name: str) -> None:
    """The reasons are a string option, a failing property, and an object of another class."""
    record = part(make_inventory(odd), "encoder", name, "odd")
    assert record["capabilities"] is None
    assert (record["options"] is None) == (name == "shapeless")


def test_output_is_valid_ascii_json(odd: Registry) -> None:
    """Parsing gives the inventory, with tuples as lists, also for odd names and values."""
    written = dump_inventory(odd)
    assert written.isascii()

    def refuse(constant: str) -> object:
        raise AssertionError(constant)

    read = json.loads(written, parse_constant=refuse)
    assert [each["name"] for each in read["parts"]] == [each["name"] for each in make_inventory(odd)["parts"]]
    (record,) = (each for each in read["parts"] if each["name"] == "declares")
    assert record["capabilities"] == {"exportable": "{1}", "inner_product": False}


def test_random_generator_is_restored(odd: Registry) -> None:
    """Samples draw random weights, but leave the generator unchanged."""
    before = torch.get_rng_state()
    dump_inventory(odd)
    assert torch.equal(torch.get_rng_state(), before)


def run(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the command in a process of its own, with a folder of distributions on its path."""
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return subprocess.run(
        [sys.executable, "-P", "-m", "pipeline", "plugins", *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": path, "PIPELINE_PLUGINS": "-beta,-gone"},
    )


@SLOW
def test_only_json_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Output of a plugin, during import or creation, goes to stderr."""
    fakes = Fakes(tmp_path / "site", monkeypatch)
    for package, source in (("odd", LOUD), ("beta", ""), ("gone", "")):
        fakes.add(package, source)
    output = run(fakes.folder, "--json")
    found: dict[str, Any] = json.loads(output.stdout)
    assert {plugin["package"]: plugin["state"] for plugin in found["plugins"]}["gone"] == "blocked"
    assert "a plugin's words" in output.stderr
    assert "made" in output.stderr
    assert "plugin's words" not in run(fakes.folder).stdout


def test_command_prints_the_inventory(capsys: pytest.CaptureFixture[str]) -> None:
    """The option is `--json`."""
    assert command_line.main(["plugins", "--json"]) == 0
    read = json.loads(capsys.readouterr().out)
    assert {each["name"] for each in read["parts"]} >= {"lstm", "mean", "dot", "words"}
