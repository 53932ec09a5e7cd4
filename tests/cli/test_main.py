"""`python -m pipeline` tells a newcomer what to do, and shows what is installed, broken or not."""

import io
import os
import re
import subprocess
import sys
import warnings
from collections import Counter
from importlib.metadata import distribution, distributions, version
from pathlib import Path

import pytest
import torch
from rich.console import Console

import pipeline.__main__ as command_line
from pipeline.cli.plugins import Line, lines, listing
from pipeline.cli.welcome import PIPE, status
from pipeline.errors import OptionError
from pipeline.registry import PluginWarning, Registry, discover_plugins, load_for_listing
from pipeline_recurrent.native import available, instructions
from support.fakes import Fakes, offering

MARKUP = "[bold]n\x1b[31m\nö"
"""A stranger's name: markup, a colour, a line end, and a letter that not every terminal has."""


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """What ships, and plugins that collide with it, fail, offer nothing, and have strange names."""
    fakes = Fakes(tmp_path / "site", monkeypatch)
    fakes.add("alpha", offering("lstm", MARKUP))
    fakes.add("beta", "raise ValueError('[red]why[/red]')\n")
    fakes.add("idle", "")
    with pytest.warns(PluginWarning, match="beta"):
        return discover_plugins([distribution("ragged-pipeline"), *distributions(path=[str(fakes.folder)])])


def printed(found: Registry, *, width: int = 200, encoding: str = "utf-8") -> str:
    """The list as it is printed on a terminal of some width."""
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, errors="backslashreplace")
    listing(Console(file=file, width=width, legacy_windows=False), found)
    file.flush()
    return raw.getvalue().decode(encoding)


def cells_of(found: Registry) -> list[list[str]]:
    """The cells of the list, line by line."""
    return [re.split(r" {2,}", line.rstrip()) for line in printed(found).splitlines()]


def test_alone_it_says_what_to_do_next(capsys: pytest.CaptureFixture[str]) -> None:
    """What this is, a pipe, the commands, the documents, the versions."""
    assert command_line.main([]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"pipeline {version('ragged-pipeline')}: models over sequences of unequal length")
    assert f"\n{PIPE}" in out
    for wanted in ("plugins ", "new-plugin NAME ", "plan FILE "):
        assert f"python -m pipeline {wanted}" in out
    for wanted in ("docs/", f"torch {version('torch')[:4]}"):
        assert wanted in out
    assert f"Python {sys.version_info.major}.{sys.version_info.minor}." in out


def test_it_says_how_things_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What plugins say, sorted by subject; one that fails is named with its error, and nothing it prints gets out."""
    fakes = Fakes(tmp_path / "site", monkeypatch)
    source = """
        from pipeline.hooks import hookimpl

        def failing():
            print("noise")
            raise ValueError("no wire")

        @hookimpl
        def pipeline_status():
            return {"wires": failing, "bolts": lambda: "tight\\x1b[31m"}
    """
    fakes.add("alpha", source)
    found = fakes.registry()
    assert list(status(found)) == [
        r"bolts: tight\x1b[31m",
        "wires: alpha 1.0 (entry point 'alpha') failed to say: ValueError: no wire",
    ]
    assert list(lines(found)) == [
        Line("-", "-", found.plugins[0], "ok: entry point 'alpha' offers no part, but says how things stand")
    ]


def test_it_says_which_engine_computes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Native with its instructions, or why not; and with how many threads."""

    def said() -> str:
        assert command_line.main([]) == 0
        return next(line for line in capsys.readouterr().out.splitlines() if line.startswith("recurrent engines: "))

    threads = torch.get_num_threads()
    if available() is None:
        assert f"native (compiled, {instructions()})" in said()
    assert f"; {threads} thread" in said()
    monkeypatch.setenv("PIPELINE_NATIVE", "0")
    assert (
        "plain torch operations, or torch's kernels where they are faster; not native, because it is switched off by PIPELINE_NATIVE=0; "
        in said()
    )


def test_its_pipe_runs_as_pasted() -> None:
    """Copied from the output of a narrow terminal into Python."""
    told = subprocess.run(
        [sys.executable, "-P", "-m", "pipeline"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "30"},
    )
    pasted = told.stdout[told.stdout.index("from pipeline import") : told.stdout.index("The commands:")]
    run = subprocess.run(
        [sys.executable, "-P", "-W", "error", "-"], input=pasted, capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert re.fullmatch(r"\[[01], [01], [01]\]\n", run.stdout)


def test_plugins_lists_what_ships(capsys: pytest.CaptureFixture[str]) -> None:
    """Every part with its kind, package, version and state."""
    assert command_line.main(["plugins"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].split() == ["name", "kind", "package", "version", "can", "state"]
    ours = discover_plugins([distribution("ragged-pipeline")])
    for catalogue in ours.catalogues():
        for name in catalogue.names():
            wanted = rf"^{name} +{catalogue.kind} +ragged-pipeline +{re.escape(version('ragged-pipeline'))} +[a-z -]+ +ok *$"
            assert re.search(wanted, out, flags=re.MULTILINE), wanted


def test_plugins_shows_what_is_wrong(broken: Registry) -> None:
    """Names that collide, plugins that failed, with their reason, and one that offers nothing."""
    ours = f"ragged-pipeline {version('ragged-pipeline')} (entry point 'recurrent')"
    cells = cells_of(broken)
    theirs = "conflict: also offered by alpha 1.0 (entry point 'alpha')"
    can = "causal stateful"
    assert ["lstm", "encoder", "ragged-pipeline", version("ragged-pipeline"), can, theirs] in cells
    assert ["lstm", "encoder", "alpha", "1.0", can, f"conflict: also offered by {ours}"] in cells
    assert ["gru", "encoder", "ragged-pipeline", version("ragged-pipeline"), can, "ok"] in cells
    assert ["-", "-", "beta", "1.0", "-", "failed: entry point 'beta': ValueError: [red]why[/red]"] in cells
    assert ["-", "-", "idle", "1.0", "-", "empty: entry point 'idle' offers nothing; it implements no hook"] in cells


def test_plugins_exits_with_0_whatever_it_found(
    broken: Registry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A list is information, not a verdict; and it is not warned of what is listed."""

    def found() -> Registry:
        warnings.warn("as when it is loaded", PluginWarning, stacklevel=1)
        return broken

    monkeypatch.setattr(command_line, "load_for_listing", found)
    assert command_line.main(["plugins"]) == 0
    told = capsys.readouterr()
    assert "failed: entry point 'beta'" in told.out
    assert told.err == ""


def test_strange_names_are_printed_as_they_are(broken: Registry) -> None:
    """Markup is not obeyed, and no control character reaches the terminal."""
    assert [r"[bold]n\x1b[31m\nö", "encoder", "alpha", "1.0", "causal stateful", "ok"] in cells_of(broken)
    assert "\x1b" not in printed(broken)
    assert r"[bold]n\x1b[31m\n\xf6" in printed(broken, encoding="ascii")


@pytest.mark.parametrize("width", [24, 40, 60])
def test_narrow_terminals_cut_nothing_off(broken: Registry, width: int) -> None:
    """Cells are folded: every letter is still there."""
    out = printed(broken, width=width)
    assert max(map(len, out.splitlines())) <= width
    assert Counter("".join(out.split())) == Counter("".join(printed(broken, width=500).split()))


def test_a_pipe_gets_one_line_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long, so that grep finds what belongs together; and in whatever letters the pipe can take."""
    parts = len(list(lines(load_for_listing())))
    fakes = Fakes(tmp_path / "site", monkeypatch)
    fakes.add("alpha", f"raise ValueError({'ö' * 300!r})\n")
    path = os.pathsep.join([str(fakes.folder), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONIOENCODING": "ascii"}
    environment.pop("COLUMNS", None)
    run = subprocess.run(
        [sys.executable, "-P", "-m", "pipeline", "plugins"], capture_output=True, text=True, check=True, env=environment
    )
    assert run.stderr == ""
    assert len(run.stdout.splitlines()) == 2 + parts
    assert re.search(r"^- +- +alpha +1\.0 +- +failed: .*(\\xf6){300} *$", run.stdout, flags=re.MULTILINE)


def test_lines_come_by_kind_and_name(broken: Registry) -> None:
    """Parts first, and below them the plugins that have none."""
    found = list(lines(broken))
    assert [line.name for line in found[:3]] == [MARKUP, "bigru", "bilstm"]
    assert found[-2] == Line("-", "-", broken.plugins[1], "failed: entry point 'beta': ValueError: [red]why[/red]")
    assert {line.name: line.can for line in found if line.name in {"bigru", "dot", "bpe"}} == {
        "bigru": "bidirectional stateful",
        "dot": "exportable",
        "bpe": "-",
    }
    kinds = list(dict.fromkeys(line.kind for line in found))
    assert kinds == ["encoder", "attention", "pool", "tokenizer", "-"]


@pytest.mark.parametrize("arguments", [["plugin"], ["--plugins"], ["plugins", "extra"]])
def test_an_unknown_command_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """With status 2, and the argument that was meant in the message."""
    with pytest.raises(SystemExit) as left:
        command_line.main(arguments)
    assert left.value.code == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "usage: python -m pipeline" in told.err
    assert arguments[-1] in told.err


def test_an_unknown_command_lists_those_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    """So that a slip of a key is mended at once."""
    with pytest.raises(SystemExit):
        command_line.main(["plugin"])
    assert re.search(
        r"invalid choice: 'plugin' \(choose from '?plugins'?, '?new-plugin'?, '?plan'?\)",
        capsys.readouterr().err,
    )


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    """Both leave with status 0."""
    for arguments, wanted in (
        (["--help"], "plugins"),
        (["--version"], f"pipeline {version('ragged-pipeline')}, torch "),
    ):
        with pytest.raises(SystemExit) as left:
            command_line.main(arguments)
        assert left.value.code == 0
        assert wanted in capsys.readouterr().out


def test_what_the_library_refuses_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On stderr, without a traceback or control characters, and with status 1; a fault of ours keeps its traceback."""

    def refuse() -> Registry:
        raise OptionError("lines must be 1 or more,\nbut \x1b[31m0 arrived.")

    monkeypatch.setattr(command_line, "load_for_listing", refuse)
    assert command_line.main(["plugins"]) == 1
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "error: lines must be 1 or more,\\nbut \\x1b[31m0 arrived.\n")

    def fail() -> Registry:
        raise ZeroDivisionError

    monkeypatch.setattr(command_line, "load_for_listing", fail)
    with pytest.raises(ZeroDivisionError):
        command_line.main(["plugins"])
