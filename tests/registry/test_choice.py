"""Test that plugins are chosen before any of them is imported, and that the others are never imported."""

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
from support.untyped import untyped

TRACE = "import pathlib\npathlib.Path(__file__).with_suffix('.trace').touch()\nraise ValueError('it was imported')\n"
"""A module that creates a file when it is imported, and fails."""


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fakes:
    """Create two plugins that load, and one that must not be imported."""
    fakes = Fakes(tmp_path / "site", monkeypatch)
    fakes.add("pipeline-one", offering("first"))
    fakes.add("pipeline-two", offering("second"))
    fakes.add("pipeline-trap", TRACE)
    return fakes


def states(found: Registry) -> dict[str, str | None]:
    """Return each plugin's distribution with the reason why it was skipped."""
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
    "only two, other spellings": (
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
def test_plugin_that_is_not_chosen_is_not_imported(fakes: Fakes, case: str) -> None:
    """No line of it runs, but it is in the list of plugins, in its place."""
    choice, wanted, names = CHOICES[case]
    found = fakes.registry(choice)
    assert states(found) == wanted
    assert list(states(found)) == sorted(wanted)
    assert found.encoders.names() == names
    assert not (fakes.folder / "pipeline_trap.trace").exists()
    assert "pipeline_trap" not in sys.modules


def test_trap_is_triggered_by_an_import(fakes: Fakes) -> None:
    """Without this, the test above would prove nothing."""
    with pytest.warns(PluginWarning, match="it was imported"):
        fakes.registry()
    assert (fakes.folder / "pipeline_trap.trace").exists()


def test_own_plugins_are_chosen_like_others() -> None:
    """They are chosen by entry point or by distribution; without `builtin` there are no tokenizers."""
    ours = [distribution("ragged-pipeline")]
    assert discover_plugins(ours, Choice(only=["recurrent"])).encoders.names() == [
        "bigru",
        "bilstm",
        "gru",
        "lru",
        "lstm",
        "min_gru",
        "min_lstm",
        "restarting",
        "rnn",
    ]
    assert discover_plugins(ours, Choice(only=["recurrent"])).pools.names() == []
    assert discover_plugins(ours, Choice(only=["Ragged_Pipeline"])).pools.names()
    assert discover_plugins(ours, Choice(block=["builtin"])).tokenizers.names() == []
    nothing = discover_plugins(ours, Choice(only=()))
    assert not list(nothing.parts())
    assert {plugin.skipped for plugin in nothing.plugins} == {"not chosen"}
    assert len(nothing.plugins) == len(discover_plugins(ours).plugins)


@pytest.mark.parametrize("argument", ["only", "block"])
def test_name_that_is_not_installed_raises(fakes: Fakes, argument: str) -> None:
    """The error lists the installed plugins, and nothing is imported: a typo must not load a blocked plugin."""
    choice = Choice(only=["trap"]) if argument == "only" else Choice(block=["trap"])
    with pytest.raises(OptionError) as caught:
        fakes.registry(choice)
    assert str(caught.value) == (
        f"{argument} names 'trap', but no plugin of that name is installed; installed plugins: pipeline_one (of pipeline-one), "
        "pipeline_trap (of pipeline-trap), pipeline_two (of pipeline-two)."
    )
    assert not (fakes.folder / "pipeline_trap.trace").exists()
    with pytest.raises(OptionError, match=r"installed plugins: none\.$"):
        discover_plugins([], choice)


def test_error_about_an_unknown_name_lists_skipped_plugins(fakes: Fakes) -> None:
    """A skipped plugin may offer the name, which only its import could tell."""
    found = fakes.registry(Choice(block=["pipeline-trap", "pipeline-two"]))
    with pytest.raises(UnknownNameError) as caught:
        found.encoders.offer("second")
    assert str(caught.value) == (
        "'second' is not the name of an installed encoder; installed: first. These plugins were not loaded on purpose, and "
        "may offer it: pipeline-trap 1.0 (entry point 'pipeline_trap') (blocked), "
        "pipeline-two 1.0 (entry point 'pipeline_two') (blocked)."
    )
    with pytest.raises(UnknownNameError, match=r"\(entry point 'pipeline_two'\) \(not chosen\)\.$"):
        fakes.registry(Choice(only=["pipeline-one"])).pools.offer("max")


def test_broken_plugin_is_an_error_if_strict(fakes: Fakes) -> None:
    """The error has the original one as its cause; a blocked plugin causes none."""
    output = r"^plugin pipeline-trap 1\.0 \(entry point 'pipeline_trap'\) failed to load: ValueError: it was imported; "
    with pytest.raises(PluginError, match=output) as caught:
        fakes.registry(Choice(strict=True))
    assert isinstance(caught.value.__cause__, ValueError)
    assert caught.value.details == {"package": "pipeline-trap"}
    assert fakes.registry(Choice(block=["pipeline-trap"], strict=True)).encoders.names() == ["first", "second"]


def test_only_and_block_exclude_each_other() -> None:
    """Both together are rejected, and so is a string instead of a list."""
    with pytest.raises(
        OptionError,
        match=r"^only and block exclude each other, got only=\['a'\] and block=\['b'\]; .* leave `block` out\.$",
    ):
        Choice(only=["a"], block=["b"])
    with pytest.raises(OptionError, match=r"^only and block exclude each other, got only=\[\] and block=\['b'\]"):
        Choice(only=[], block=["b"])
    assert Choice(only=["a"], block=[]) == Choice(only=["a"])
    for argument in ("only", "block"):
        with pytest.raises(
            OptionError, match=rf"^{argument} must be a list of plugin names, got .*; write {argument}=\['lstm'\]\.$"
        ):
            untyped(Choice)(**{argument: "lstm"})


CASES = {
    "": Choice(),
    " , ": Choice(),
    "mingru": Choice(only=["mingru"]),
    " mingru , other,": Choice(only=["mingru", "other"]),
    "-mingru": Choice(block=["mingru"]),
    "-mingru, - other": Choice(block=["mingru", "other"]),
    "none": Choice(only=[]),
    "two-words": Choice(only=["two-words"]),
}


@pytest.mark.parametrize("text", CASES)
def test_environment_is_read(text: str) -> None:
    """The value is a list of names, a list of names with dashes, or the word none."""
    assert Choice.from_environment({PLUGINS: text}) == CASES[text]
    assert Choice.from_environment({PLUGINS: text, STRICT: "0"}) == CASES[text]
    assert Choice.from_environment({PLUGINS: text, STRICT: " 1"}).strict
    assert Choice.from_environment({}) == Choice()


@pytest.mark.parametrize("text", ["mingru,-other", "none,mingru", "-", "-mingru,-", "mingru,none"])
def test_invalid_environment_raises(text: str) -> None:
    """The error lists the allowed forms."""
    output = r"PIPELINE_PLUGINS must be a list of plugins to load \(a,b\), a list of plugins to block \(-a,-b\), or the word none, got "
    with pytest.raises(OptionError, match=output + re.escape(repr(text))):
        Choice.from_environment({PLUGINS: text})
    with pytest.raises(OptionError, match=r"PIPELINE_PLUGINS_STRICT must be 0 or 1, got 'yes'"):
        Choice.from_environment({STRICT: "yes"})


def test_choice_as_text() -> None:
    """Error messages contain the choice in words."""
    choices = Choice(), Choice(only=["b", "a"]), Choice(only=[]), Choice(block=["a"], strict=True)
    assert [str(choice) for choice in choices] == ["all", "only a, b", "none", "all but a, strict"]


def test_program_chooses_before_the_first_part(fakes: Fakes) -> None:
    """The last choice counts; another choice after loading is an error."""
    choose_plugins(only=["pipeline-two"])
    choose_plugins(block=["pipeline-trap"], strict=True)
    assert Encode("first", hidden_size=4).is_lazy
    assert registry().plugins == load_for_listing().plugins
    assert not (fakes.folder / "pipeline_trap.trace").exists()
    loaded = registry()
    choose_plugins(block=["pipeline-trap"], strict=True)
    assert registry() is loaded
    with pytest.raises(OptionError) as caught:
        choose_plugins(only=["pipeline-two"])
    assert str(caught.value) == (
        "plugins must be chosen before they are loaded, got only pipeline-two after all but pipeline-trap, strict was loaded; "
        "call choose_plugins before anything looks up a part by name, as Encode('lstm') does."
    )
    assert registry() is loaded


def test_choice_of_the_environment_is_stored_when_plugins_are_loaded(
    fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later change of the environment does not look like another choice."""
    monkeypatch.setenv(PLUGINS, "-pipeline-trap")
    loaded = registry()
    assert loaded.encoders.names() == load_for_listing().encoders.names()
    monkeypatch.delenv(PLUGINS)
    choose_plugins(block=["pipeline-trap"])
    assert registry() is loaded
    with pytest.raises(
        OptionError,
        match=r"^plugins must be chosen before they are loaded, got all after all but pipeline-trap was loaded; ",
    ):
        choose_plugins()
    assert not (fakes.folder / "pipeline_trap.trace").exists()


def test_arguments_override_the_environment(fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names and strictness are overridden separately."""
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
def test_wrong_name_raises_where_it_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is not delayed, the earlier choice stays, and the environment is named by its variable."""
    choose_plugins(only=["pipeline-one"])
    with pytest.raises(OptionError, match="^block names 'mine', but no plugin of that name"):
        choose_plugins(block=["mine"])
    assert current_choice() == Choice(only=["pipeline-one"])
    monkeypatch.setenv(PLUGINS, "mine")
    with pytest.raises(OptionError, match="^PIPELINE_PLUGINS names 'mine', but no plugin of that name"):
        SharedRegistry().registry()


def test_plugin_must_not_look_up_parts_during_its_import(fakes: Fakes) -> None:
    """Not all names are known yet, and it must not choose plugins either; it fails like any broken plugin."""
    fakes.add("pipeline-early", "from pipeline import Encode\nENCODE = Encode('lstm', hidden_size=4)\n")
    fakes.add("pipeline-greedy", "from pipeline import choose_plugins\nchoose_plugins(only=['pipeline-greedy'])\n")
    choose_plugins(only=["pipeline-early", "pipeline-greedy", "recurrent"])
    with pytest.warns(PluginWarning) as warned:
        found = registry()
    early, greedy = (str(warning.message) for warning in warned)
    assert "failed to load: a plugin looked up a part by name during its import" in early
    assert early.endswith("or import the part.")
    assert (
        "failed to load: OptionError: plugins must be chosen before they are loaded, got only pipeline-greedy" in greedy
    )
    assert registry() is found
    assert {"bigru", "bilstm", "gru", "lstm", "rnn"} <= set(found.encoders.names())


def test_threads_share_one_registry(fakes: Fakes) -> None:
    """The second thread waits for the first, and gets the same registry."""
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


def test_list_shows_skipped_plugins(
    fakes: Fakes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The list contains their state, and they are not imported."""
    monkeypatch.setenv(PLUGINS, "-pipeline-trap")
    assert command_line.main(["plugins"]) == 0
    output = capsys.readouterr()
    assert re.search(
        r"^- +- +pipeline-trap +1\.0 +- +blocked: entry point 'pipeline_trap' *$", output.out, re.MULTILINE
    )
    assert re.search(
        r"^second +encoder +pipeline-two +1\.0 +causal stateful( exportable)? +ok *$", output.out, re.MULTILINE
    )
    monkeypatch.setenv(PLUGINS, "pipeline-one")
    assert command_line.main(["plugins"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^- +- +pipeline-two +1\.0 +- +not chosen: entry point 'pipeline_two' *$", out, re.MULTILINE)
    assert not (fakes.folder / "pipeline_trap.trace").exists()
    monkeypatch.setenv(PLUGINS, "mine")
    assert command_line.main(["plugins"]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: PIPELINE_PLUGINS names 'mine', but no plugin of that name is installed; ")


@pytest.mark.usefixtures("fakes")
def test_list_exits_with_1_if_strict_and_a_plugin_failed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The list is printed completely before."""
    monkeypatch.setenv(STRICT, "1")
    assert command_line.main(["plugins"]) == 1
    output = capsys.readouterr()
    assert "failed: entry point 'pipeline_trap': ValueError: it was imported" in output.out
    assert "second " in output.out
    assert output.err == (
        "error: with PIPELINE_PLUGINS_STRICT, all plugins must load, but these failed: "
        "pipeline-trap 1.0 (entry point 'pipeline_trap').\n"
    )


def test_environment_works_in_a_program(fakes: Fakes) -> None:
    """In a process of its own, a blocked plugin is not imported, and its part is unknown."""
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
    assert "UnknownNameError: 'second' is not the name of an installed encoder; installed: " in run.stderr
    assert "pipeline-two 1.0 (entry point 'pipeline_two') (blocked)." in run.stderr
    assert not (fakes.folder / "pipeline_trap.trace").exists()


def test_plugin_records_why_it_was_skipped(fakes: Fakes) -> None:
    """The reason is an attribute, which programs can read."""
    assert fakes.registry(Choice(only=["pipeline-one"])).plugins == [
        Plugin("pipeline-one", "1.0", "pipeline_one"),
        Plugin("pipeline-trap", "1.0", "pipeline_trap", skipped="not chosen"),
        Plugin("pipeline-two", "1.0", "pipeline_two", skipped="not chosen"),
    ]
