"""Test `python -m pipeline`: the welcome, and the table of installed parts, broken or not."""

import io
import os
import re
import subprocess
import sys
import tomllib
import warnings
from collections import Counter
from importlib.metadata import distribution, distributions, version
from pathlib import Path

import pytest
import torch
from rich.console import Console

import pipeline.__main__ as command_line
from pipeline.cli.plugins import make_table
from pipeline.cli.welcome import PIPE, format_status
from pipeline.errors import OptionError
from pipeline.registry import PluginWarning, Registry, discover_plugins, load_for_listing
from pipeline.text import escape_control_characters
from pipeline_recurrent.native import available, instructions
from support.fakes import Fakes, offering

MARKUP = "[bold]n\x1b[31m\nö"
"""A plugin's name with markup, a color, a line end, and a letter that some terminals lack."""


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Return the library's parts, and plugins that collide with them, fail, offer nothing, or have odd names."""
    fakes = Fakes(tmp_path / "site", monkeypatch)
    fakes.add("alpha", offering("lstm", MARKUP))
    fakes.add("beta", "raise ValueError('[red]why[/red]')\n")
    fakes.add("idle", "")
    with pytest.warns(PluginWarning, match="beta"):
        return discover_plugins([distribution("ragged-pipeline"), *distributions(path=[str(fakes.folder)])])


def printed(found: Registry, *, width: int = 200, encoding: str = "utf-8") -> str:
    """Return the table as a terminal of some width shows it."""
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, errors="backslashreplace")
    Console(file=file, width=width, legacy_windows=False).print(*make_table(found).rich())
    file.flush()
    return raw.getvalue().decode(encoding)


def cells_of(found: Registry) -> list[list[str]]:
    """Return the cells of the table, line by line."""
    return [re.split(r" {2,}", line.rstrip()) for line in printed(found).splitlines()]


def test_welcome(capsys: pytest.CaptureFixture[str]) -> None:
    """The welcome has a summary, a pipe, the commands, the documentation and the versions."""
    assert command_line.main([]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"pipeline {version('ragged-pipeline')}: models over sequences of unequal length")
    assert f"\n{PIPE}" in out
    for wanted in (
        "train FILE ",
        "evaluate ",
        "predict ",
        "generate FOLDER ",
        "export FOLDER ",
        "serve FOLDER ",
        "plugins ",
        "new-plugin NAME ",
        "plan FILE ",
    ):
        assert f"python -m pipeline {wanted}" in out
    for wanted in ("docs/", f"torch {version('torch')[:4]}"):
        assert wanted in out
    assert f"Python {sys.version_info.major}.{sys.version_info.minor}." in out


def test_status_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines are sorted by subject; a failing function is reported, and its output is dropped."""
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
    assert list(format_status(found)) == [
        r"bolts: tight\x1b[31m",
        "wires: the status function of alpha 1.0 (entry point 'alpha') failed: ValueError: no wire",
    ]
    state = "ok: entry point 'alpha' offers no parts, but reports status lines"
    assert make_table(found).rows == [["-", "-", "alpha", "1.0", "-", state]]


def test_welcome_shows_the_engine(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The line has the native engine with its instructions, or the reason against it, and the threads."""

    def read_line() -> str:
        assert command_line.main([]) == 0
        return next(line for line in capsys.readouterr().out.splitlines() if line.startswith("recurrent engines: "))

    threads = torch.get_num_threads()
    if available() is None:
        assert f"native (compiled, {instructions()}" in read_line()
    assert f"; {threads} thread" in read_line()
    monkeypatch.setenv("PIPELINE_NATIVE", "0")
    assert (
        "plain torch operations, or torch's kernels where they are faster; not native, because it is switched off by PIPELINE_NATIVE=0; "
        in read_line()
    )


def test_welcome_pipe_runs_as_pasted() -> None:
    """The pipe is copied from a narrow terminal into Python."""
    output = subprocess.run(
        [sys.executable, "-P", "-m", "pipeline"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "30"},
    )
    pasted = output.stdout[output.stdout.index("from pipeline import") : output.stdout.index("Commands:")]
    run = subprocess.run(
        [sys.executable, "-P", "-W", "error", "-"], input=pasted, capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert re.fullmatch(r"\[[01], [01], [01]\]\n", run.stdout)


def test_plugins_lists_own_parts(capsys: pytest.CaptureFixture[str]) -> None:
    """Each part has its kind, distribution, version and state."""
    assert command_line.main(["plugins"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].split() == ["name", "kind", "package", "version", "can", "state"]
    ours = discover_plugins([distribution("ragged-pipeline")])
    for catalogue in ours.catalogues():
        for name in catalogue.names():
            wanted = (
                rf"^{name} +{catalogue.kind} +ragged-pipeline +{re.escape(version('ragged-pipeline'))} +[a-z -]+ +ok *$"
            )
            assert re.search(wanted, out, flags=re.MULTILINE), wanted


def test_plugins_shows_problems(broken: Registry) -> None:
    """The table shows collisions, failures with their reason, and a plugin without parts."""
    ours = f"ragged-pipeline {version('ragged-pipeline')} (entry point 'recurrent')"
    cells = cells_of(broken)
    theirs = "conflict: also offered by alpha 1.0 (entry point 'alpha')"
    can = "causal stateful exportable"
    assert ["lstm", "encoder", "ragged-pipeline", version("ragged-pipeline"), can, theirs] in cells
    assert ["lstm", "encoder", "alpha", "1.0", can, f"conflict: also offered by {ours}"] in cells
    assert ["gru", "encoder", "ragged-pipeline", version("ragged-pipeline"), can, "ok"] in cells
    assert ["-", "-", "beta", "1.0", "-", "failed: entry point 'beta': ValueError: [red]why[/red]"] in cells
    assert ["-", "-", "idle", "1.0", "-", "empty: entry point 'idle' offers nothing; it implements no hook"] in cells


def test_plugins_exits_with_0_despite_problems(
    broken: Registry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Problems are in the table, so they cause no warning and no failure."""

    def found() -> Registry:
        warnings.warn("as when it is loaded", PluginWarning, stacklevel=1)
        return broken

    monkeypatch.setattr(command_line, "load_for_listing", found)
    assert command_line.main(["plugins"]) == 0
    output = capsys.readouterr()
    assert "failed: entry point 'beta'" in output.out
    assert output.err == ""


def test_odd_names_are_printed_literally(broken: Registry) -> None:
    """Markup has no effect, and no control character reaches the terminal."""
    assert [r"[bold]n\x1b[31m\nö", "encoder", "alpha", "1.0", "causal stateful exportable", "ok"] in cells_of(broken)
    assert "\x1b" not in printed(broken)
    assert r"[bold]n\x1b[31m\n\xf6" in printed(broken, encoding="ascii")


@pytest.mark.parametrize("width", [24, 40, 60])
def test_narrow_terminals_cut_off_nothing(broken: Registry, width: int) -> None:
    """Cells are folded, and every letter is still printed."""
    out = printed(broken, width=width)
    assert max(map(len, out.splitlines())) <= width
    assert Counter("".join(out.split())) == Counter("".join(printed(broken, width=500).split()))


def test_pipe_gets_one_line_per_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines are not folded, so that grep works, and use the encoding of the pipe."""
    parts = len(make_table(load_for_listing()).rows)
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


def test_rows_are_sorted_by_kind_and_name(broken: Registry) -> None:
    """Plugins without parts are at the end."""
    rows = make_table(broken).rows
    assert [row[0] for row in rows[:3]] == [escape_control_characters(MARKUP), "bigru", "bilstm"]
    assert rows[-2] == ["-", "-", "beta", "1.0", "-", "failed: entry point 'beta': ValueError: [red]why[/red]"]
    assert {row[0]: row[4] for row in rows if row[0] in {"bigru", "dot", "bpe"}} == {
        "bigru": "bidirectional stateful exportable",
        "dot": "exportable",
        "bpe": "-",
    }
    kinds = list(dict.fromkeys(row[1] for row in rows))
    assert kinds[:5] == ["encoder", "attention", "pool", "tokenizer", "stage"]
    assert kinds[5:] == ["head", "embedder", "policy", "source", "metric", "engine", "-"]


@pytest.mark.parametrize("arguments", [["plugin"], ["--plugins"], ["plugins", "extra"]])
def test_unknown_command_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The message contains the wrong argument."""
    with pytest.raises(SystemExit) as left:
        command_line.main(arguments)
    assert left.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert "usage: python -m pipeline" in output.err
    assert arguments[-1] in output.err


def test_unknown_command_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """A typo is easy to fix with the list."""
    with pytest.raises(SystemExit):
        command_line.main(["plugin"])
    assert re.search(
        r"invalid choice: 'plugin' \(choose from '?train'?, '?compare'?, '?evaluate'?, '?predict'?, '?generate'?, '?export'?, '?serve'?, '?plugins'?, '?new-plugin'?, '?plan'?\)",
        capsys.readouterr().err,
    )


def test_unknown_option_names_the_command_whose_help_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    """The options of Python or of other libraries have other names."""
    with pytest.raises(SystemExit) as left:
        command_line.main(["train", "a.csv", "--output", "b", "--batch-size", "3"])
    assert left.value.code == 2
    message = "unrecognized arguments: --batch-size 3; python -m pipeline train --help lists all options\n"
    assert capsys.readouterr().err.endswith(message)


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    """Both exit with status 0."""
    for arguments, wanted in (
        (["--help"], "plugins"),
        (["--version"], f"pipeline {version('ragged-pipeline')}, torch "),
    ):
        with pytest.raises(SystemExit) as left:
            command_line.main(arguments)
        assert left.value.code == 0
        assert wanted in capsys.readouterr().out


def test_library_errors_are_printed_on_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They go to stderr without a traceback and control characters; other errors keep their traceback."""

    def raise_option_error() -> Registry:
        raise OptionError("lines must be 1 or more,\ngot \x1b[31m0.")

    monkeypatch.setattr(command_line, "load_for_listing", raise_option_error)
    assert command_line.main(["plugins"]) == 1
    output = capsys.readouterr()
    assert (output.out, output.err) == ("", "error: lines must be 1 or more,\\ngot \\x1b[31m0.\n")

    def fail() -> Registry:
        raise ZeroDivisionError

    monkeypatch.setattr(command_line, "load_for_listing", fail)
    with pytest.raises(ZeroDivisionError):
        command_line.main(["plugins"])


def test_own_pipeline_module_of_the_user_can_be_bypassed(tmp_path: Path) -> None:
    """With a pipeline.py in the current folder, the console script and -P still run the library."""
    (tmp_path / "pipeline.py").write_text("print('mine')\n", encoding="utf-8")
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"] == {"ragged-pipeline": f"{command_line.main.__module__}:{command_line.main.__name__}"}
    # The body of the script that pip writes; like a script, `-P` does not put the current folder on the path.
    commands = {
        "python -m pipeline": (["-m", "pipeline", "--version"], "mine"),
        "python -P -m pipeline": (["-P", "-m", "pipeline", "--version"], "pipeline "),
        "ragged-pipeline": (
            ["-P", "-c", "from pipeline.__main__ import main; main(['--version'])"],
            "pipeline ",
        ),
    }
    for name, (arguments, wanted) in commands.items():
        run = subprocess.run([sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert run.stdout.startswith(wanted), name


@pytest.mark.parametrize("plugin", ["pipeline_recurrent", "pipeline_attention"])
@pytest.mark.parametrize("file", ["pipeline.py", "pipeline/__init__.py"])
def test_plugins_name_the_file_that_shadows_the_library(tmp_path: Path, plugin: str, file: str) -> None:
    """A user's own module or package named `pipeline` is found before the library."""
    own = tmp_path / file
    own.parent.mkdir(exist_ok=True)
    own.touch()
    run = subprocess.run(
        [sys.executable, "-c", f"import {plugin}"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    wanted = f"ImportError: `pipeline` must be the library ragged-pipeline, got {own}; rename that file or folder."
    assert run.stderr.rstrip().endswith(wanted)
