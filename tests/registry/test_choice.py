"""Which plugins are loaded is chosen before any of them is imported; the others are never imported at all."""

import os
import re
import subprocess
import sys
import threading
from importlib.metadata import distribution
from pathlib import Path

import pytest

import pipeline.__main__ as command_line
from pipeline import Encode, choose_plugins
from pipeline.errors import OptionError, PluginError, UnknownNameError
from pipeline.registry import PluginWarning, Registry, current_choice, discover_plugins, load_for_listing, registry
from pipeline.registry.catalogue import Plugin
from pipeline.registry.choice import PLUGINS, STRICT, Choice
from pipeline.registry.shared import SharedRegistry
from support.fakes import Fakes, offering
from support.untyped import loosely

TRACE = "import pathlib\npathlib.Path(__file__).with_suffix('.trace').touch()\nraise ValueError('it was imported')\n"
"""A module that leaves a file behind when it is imported, and fails."""


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fakes:
    """Two plugins that load, and one that must not be imported."""
    fakes = Fakes(tmp_path / "site", monkeypatch)
    fakes.add("pipeline-one", offering("first"))
    fakes.add("pipeline-two", offering("second"))
    fakes.add("pipeline-trap", TRACE)
    return fakes


def states(found: Registry) -> dict[str, str | None]:
    """Each plugin's package, and why it was left out."""
    return {plugin.package: plugin.skipped for plugin in found.plugins}


CHOICES: dict[str, tuple[Choice, dict[str, str | None], list[str]]] = {
    "a package blocked": (
        Choice(block=["pipeline-trap"]),
        {"pipeline-one": None, "pipeline-trap": "blocked", "pipeline-two": None},
        ["first", "second"],
    ),
    "an entry point blocked": (
        Choice(block={"pipeline_trap"}),
        {"pipeline-one": None, "pipeline-trap": "blocked", "pipeline-two": None},
        ["first", "second"],
    ),
    "only one": (
        Choice(only=["pipeline-two"]),
        {"pipeline-one": "not chosen", "pipeline-trap": "not chosen", "pipeline-two": None},
        ["second"],
    ),
    "only two, spelt otherwise": (
        Choice(only=["Pipeline.One", "PIPELINE__two"]),
        {"pipeline-one": None, "pipeline-trap": "not chosen", "pipeline-two": None},
        ["first", "second"],
    ),
    "none": (
        Choice(only=[]),
        {"pipeline-one": "not chosen", "pipeline-trap": "not chosen", "pipeline-two": "not chosen"},
        [],
    ),
}


@pytest.mark.parametrize("case", CHOICES)
def test_what_is_not_chosen_is_not_imported(fakes: Fakes, case: str) -> None:
    """Not a line of it runs; it is in the list of plugins all the same, in its place."""
    choice, wanted, names = CHOICES[case]
    found = fakes.registry(choice)
    assert states(found) == wanted
    assert list(states(found)) == sorted(wanted)
    assert found.encoders.names() == names
    assert not (fakes.folder / "pipeline_trap.trace").exists()
    assert "pipeline_trap" not in sys.modules


def test_the_trap_is_sprung_by_an_import(fakes: Fakes) -> None:
    """Or the test above would prove nothing."""
    with pytest.warns(PluginWarning, match="it was imported"):
        fakes.registry()
    assert (fakes.folder / "pipeline_trap.trace").exists()


def test_ours_are_chosen_like_anyones() -> None:
    """By entry point or by package; without them there is no pool."""
    ours = [distribution("ragged-pipeline")]
    assert discover_plugins(ours, Choice(only=["recurrent"])).encoders.names() == ["bigru", "bilstm", "gru", "lstm", "rnn"]
    assert discover_plugins(ours, Choice(only=["recurrent"])).pools.names() == []
    assert discover_plugins(ours, Choice(only=["Ragged_Pipeline"])).pools.names()
    assert discover_plugins(ours, Choice(block=["builtin"])).tokenizers.names() == []
    nothing = discover_plugins(ours, Choice(only=()))
    assert [catalogue.names() for catalogue in nothing.catalogues()] == [[], [], [], []]
    assert [plugin.skipped for plugin in nothing.plugins] == ["not chosen"] * 3


@pytest.mark.parametrize("argument", ["only", "block"])
def test_a_name_that_is_not_installed_is_refused(fakes: Fakes, argument: str) -> None:
    """Before anything is imported, and with those that are: a slip of a key must not load what was to be kept out."""
    choice = Choice(only=["trap"]) if argument == "only" else Choice(block=["trap"])
    with pytest.raises(OptionError) as refused:
        fakes.registry(choice)
    assert str(refused.value) == (
        f"{argument} names 'trap', but no plugin of that name is installed; there are: pipeline_one (of pipeline-one), "
        "pipeline_trap (of pipeline-trap), pipeline_two (of pipeline-two)."
    )
    assert not (fakes.folder / "pipeline_trap.trace").exists()
    with pytest.raises(OptionError, match=r"there are: none\.$"):
        discover_plugins([], choice)


def test_a_part_that_is_not_found_may_be_in_a_plugin_that_was_left_out(fakes: Fakes) -> None:
    """Nobody can know without an import, so the message names it."""
    found = fakes.registry(Choice(block=["pipeline-trap", "pipeline-two"]))
    with pytest.raises(UnknownNameError) as refused:
        found.encoders.offer("second")
    assert str(refused.value) == (
        "'second' is no encoder that is installed; there are: first. Not loaded, by choice, so that nobody knows what "
        "they offer: pipeline-trap 1.0 (entry point 'pipeline_trap') (blocked), "
        "pipeline-two 1.0 (entry point 'pipeline_two') (blocked)."
    )
    with pytest.raises(UnknownNameError, match=r"\(entry point 'pipeline_two'\) \(not chosen\)\.$"):
        fakes.registry(Choice(only=["pipeline-one"])).pools.offer("max")


def test_strictly_a_broken_plugin_is_an_error(fakes: Fakes) -> None:
    """In place of the warning, and with its cause; one that is blocked breaks nothing."""
    told = (
        r"^plugin pipeline-trap 1\.0 \(entry point 'pipeline_trap'\) could not be loaded: ValueError: it was imported; "
    )
    with pytest.raises(PluginError, match=told) as refused:
        fakes.registry(Choice(strict=True))
    assert isinstance(refused.value.__cause__, ValueError)
    assert refused.value.details == {"package": "pipeline-trap"}
    assert fakes.registry(Choice(block=["pipeline-trap"], strict=True)).encoders.names() == ["first", "second"]


def test_only_and_block_exclude_each_other() -> None:
    """One says all that is said; and a single name is no list of its letters."""
    with pytest.raises(
        OptionError, match=r"^only=\['a'\] and block=\['b'\] exclude each other: .*; give one of them\.$"
    ):
        Choice(only=["a"], block=["b"])
    with pytest.raises(OptionError, match=r"^only=\[\] and block=\['b'\] exclude each other"):
        Choice(only=[], block=["b"])
    assert Choice(only=["a"], block=[]) == Choice(only=["a"])
    for argument in ("only", "block"):
        with pytest.raises(
            OptionError, match=rf"^{argument} must be names in a list, .*; write {argument}=\['lstm'\]\.$"
        ):
            loosely(Choice)(**{argument: "lstm"})


SAID = {
    "": Choice(),
    " , ": Choice(),
    "mingru": Choice(only=["mingru"]),
    " mingru , other,": Choice(only=["mingru", "other"]),
    "-mingru": Choice(block=["mingru"]),
    "-mingru, - other": Choice(block=["mingru", "other"]),
    "none": Choice(only=[]),
    "two-words": Choice(only=["two-words"]),
}


@pytest.mark.parametrize("said", SAID)
def test_the_environment_is_read(said: str) -> None:
    """A list of names, a list of names behind dashes, or one word."""
    assert Choice.from_environment({PLUGINS: said}) == SAID[said]
    assert Choice.from_environment({PLUGINS: said, STRICT: "0"}) == SAID[said]
    assert Choice.from_environment({PLUGINS: said, STRICT: " 1"}).strict
    assert Choice.from_environment({}) == Choice()


@pytest.mark.parametrize("said", ["mingru,-other", "none,mingru", "-", "-mingru,-", "mingru,none"])
def test_an_environment_that_says_two_things_is_refused(said: str) -> None:
    """With what it may say."""
    told = (
        r"PIPELINE_PLUGINS must be plugins to load \(a,b\), or plugins to block \(-a,-b\), or the one word none, but "
    )
    with pytest.raises(OptionError, match=told + re.escape(repr(said))):
        Choice.from_environment({PLUGINS: said})
    with pytest.raises(OptionError, match=r"PIPELINE_PLUGINS_STRICT must be 0 or 1, but 'yes' arrived"):
        Choice.from_environment({STRICT: "yes"})


def test_a_choice_reads_well() -> None:
    """In messages."""
    choices = Choice(), Choice(only=["b", "a"]), Choice(only=[]), Choice(block=["a"], strict=True)
    assert [str(choice) for choice in choices] == ["all", "only a, b", "none", "all but a, strictly"]


def test_a_program_chooses_before_the_first_part(fakes: Fakes) -> None:
    """Of several choices the last counts; when the plugins are loaded, it is too late for another."""
    choose_plugins(only=["pipeline-two"])
    choose_plugins(block=["pipeline-trap"], strict=True)
    assert Encode("first", hidden_size=4).is_lazy
    assert registry().plugins == load_for_listing().plugins
    assert not (fakes.folder / "pipeline_trap.trace").exists()
    loaded = registry()
    choose_plugins(block=["pipeline-trap"], strict=True)
    assert registry() is loaded
    with pytest.raises(OptionError) as refused:
        choose_plugins(only=["pipeline-two"])
    assert str(refused.value) == (
        "plugins were loaded already (all but pipeline-trap, strictly), so these cannot be chosen any more: only "
        "pipeline-two; choose before anything looks a part up by name, as Encode('lstm') does."
    )
    assert registry() is loaded


def test_a_program_that_loads_all_may_choose_all(fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the environment said when plugins were loaded is what was chosen, whatever it says later."""
    monkeypatch.setenv(PLUGINS, "-pipeline-trap")
    loaded = registry()
    assert loaded.encoders.names() == load_for_listing().encoders.names()
    monkeypatch.delenv(PLUGINS)
    choose_plugins(block=["pipeline-trap"])
    assert registry() is loaded
    with pytest.raises(
        OptionError, match=r"^plugins were loaded already \(all but pipeline-trap\), so .*: all; choose "
    ):
        choose_plugins()
    assert not (fakes.folder / "pipeline_trap.trace").exists()


def test_arguments_come_before_the_environment(fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names for names and strictness for strictness: what is left out is taken from there."""
    monkeypatch.setenv(PLUGINS, "-pipeline-trap")
    monkeypatch.setenv(STRICT, "1")
    assert current_choice() == Choice(block=["pipeline-trap"], strict=True)
    choose_plugins(only=["pipeline-one"])
    assert current_choice() == Choice(only=["pipeline-one"], strict=True)
    choose_plugins(strict=False)
    assert current_choice() == Choice(block=["pipeline-trap"])
    choose_plugins(block=[])
    assert current_choice() == Choice(strict=True)
    with pytest.raises(PluginError, match="it was imported"):
        registry()
    assert (fakes.folder / "pipeline_trap.trace").exists()


@pytest.mark.usefixtures("fakes")
def test_a_wrong_name_is_refused_where_it_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at the first part; and what was chosen before still is. The environment is named by its variable."""
    choose_plugins(only=["pipeline-one"])
    with pytest.raises(OptionError, match="^block names 'mine', but no plugin of that name"):
        choose_plugins(block=["mine"])
    assert current_choice() == Choice(only=["pipeline-one"])
    monkeypatch.setenv(PLUGINS, "mine")
    with pytest.raises(OptionError, match="^PIPELINE_PLUGINS names 'mine', but no plugin of that name"):
        SharedRegistry().registry()


def test_a_plugin_may_not_look_a_part_up_while_it_is_imported(fakes: Fakes) -> None:
    """Not all names are known yet, nor may it choose among the others; it is told so, and fails like any other."""
    fakes.add("pipeline-early", "from pipeline import Encode\nENCODE = Encode('lstm', hidden_size=4)\n")
    fakes.add("pipeline-greedy", "from pipeline import choose_plugins\nchoose_plugins(only=['pipeline-greedy'])\n")
    choose_plugins(only=["pipeline-early", "pipeline-greedy", "recurrent"])
    with pytest.warns(PluginWarning) as warned:
        found = registry()
    early, greedy = (str(warning.message) for warning in warned)
    assert "could not be loaded: a plugin looked a part up by name while it was imported" in early
    assert early.endswith("or import the part.")
    assert "could not be loaded: OptionError: plugins were loaded already (only pipeline-early, " in greedy
    assert registry() is found
    assert found.encoders.names() == ["bigru", "bilstm", "gru", "lstm", "rnn"]


def test_threads_share_one_registry(fakes: Fakes) -> None:
    """Whoever comes second waits for the first, and gets the same."""
    fakes.add("pipeline-slow", "import time\ntime.sleep(0.2)\n" + offering("slow"))
    choose_plugins(only=["pipeline-slow"])
    got: list[Registry] = []
    threads = [threading.Thread(target=lambda: got.append(registry())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 3
    assert got[0] is got[1] is got[2]
    assert got[0].encoders.names() == ["slow"]


def test_the_list_shows_what_was_left_out(
    fakes: Fakes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With its state, and without an import."""
    monkeypatch.setenv(PLUGINS, "-pipeline-trap")
    assert command_line.main(["plugins"]) == 0
    told = capsys.readouterr()
    assert re.search(r"^- +- +pipeline-trap +1\.0 +- +blocked: entry point 'pipeline_trap' *$", told.out, re.MULTILINE)
    assert re.search(r"^second +encoder +pipeline-two +1\.0 +causal stateful +ok *$", told.out, re.MULTILINE)
    monkeypatch.setenv(PLUGINS, "pipeline-one")
    assert command_line.main(["plugins"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^- +- +pipeline-two +1\.0 +- +not chosen: entry point 'pipeline_two' *$", out, re.MULTILINE)
    assert not (fakes.folder / "pipeline_trap.trace").exists()
    monkeypatch.setenv(PLUGINS, "mine")
    assert command_line.main(["plugins"]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("error: PIPELINE_PLUGINS names 'mine', but no plugin of that name is installed; ")


@pytest.mark.usefixtures("fakes")
def test_strictly_the_list_is_a_verdict(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It is printed to its end, and the exit status says that something in it is broken."""
    monkeypatch.setenv(STRICT, "1")
    assert command_line.main(["plugins"]) == 1
    told = capsys.readouterr()
    assert "failed: entry point 'pipeline_trap': ValueError: it was imported" in told.out
    assert "second " in told.out
    assert told.err == (
        "error: plugins are loaded strictly (PIPELINE_PLUGINS_STRICT), and these could not be: "
        "pipeline-trap 1.0 (entry point 'pipeline_trap').\n"
    )


def test_the_environment_reaches_a_program(fakes: Fakes) -> None:
    """A whole process: what it blocks is never imported, and a part of it is not found."""
    program = "from pipeline import Encode\nEncode('first', hidden_size=4)\nEncode('second', hidden_size=4)\n"
    path = os.pathsep.join([str(fakes.folder), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    run = subprocess.run(
        [sys.executable, "-P", "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path, PLUGINS: "-pipeline-two,-pipeline-trap", STRICT: "1"},
    )
    assert run.returncode == 1
    assert "UnknownNameError: 'second' is no encoder that is installed; there are: " in run.stderr
    assert "pipeline-two 1.0 (entry point 'pipeline_two') (blocked)." in run.stderr
    assert not (fakes.folder / "pipeline_trap.trace").exists()


def test_a_plugin_says_that_it_was_skipped(fakes: Fakes) -> None:
    """As a value, for programs."""
    assert fakes.registry(Choice(only=["pipeline-one"])).plugins == [
        Plugin("pipeline-one", "1.0", "pipeline_one"),
        Plugin("pipeline-trap", "1.0", "pipeline_trap", skipped="not chosen"),
        Plugin("pipeline-two", "1.0", "pipeline_two", skipped="not chosen"),
    ]
