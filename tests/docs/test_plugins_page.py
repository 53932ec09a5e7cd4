"""Test what docs/plugins.md shows besides Python that runs from top to bottom: commands, programs, lists, messages."""

import os
import re
import shlex
import subprocess
import sys
from importlib.metadata import EntryPoint
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

from pipeline.extend import Encoder, MaybeCausal, PluginError, UnknownOptionError, hookimpl
from pipeline.registry import Choice, Plugin, PluginWarning, Registry
from pipeline_recurrent import LSTM

PAGE = Path(__file__).parents[2] / "docs" / "plugins.md"
SOURCE = Path(__file__).parents[1] / "outside" / "pipeline-mingru"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
PLUGIN = Plugin("pipeline-mingru", "1.0", "mingru")


def find_blocks(kind: str, *, containing: str = "") -> list[str]:
    """Return the blocks of a kind that contain a text."""
    return [text for label, text in BLOCKS if label == kind and containing in text]


def run_python(*arguments: str, folder: Path) -> str:
    """Return the output of Python, in a folder and a terminal of 100 columns."""
    run = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_new_plugin_is_written_as_shown(tmp_path: Path) -> None:
    """The page has the command's output and its files."""
    (session,) = find_blocks("console", containing="new-plugin")
    command, _, output = session.partition("\n")
    assert run_python(*command.removeprefix("$ python ").split(), folder=tmp_path) == output
    (listing,) = find_blocks("text", containing="pipeline-leaky-mean/")
    assert read_listing(listing) == {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}


def test_package_is_listed_as_shown() -> None:
    """The page lists all files except those that tools create."""
    (listing,) = find_blocks("text", containing="pipeline-mingru/")
    files = [
        path for path in SOURCE.rglob("*") if path.is_file() and not re.search(r"/\.|__pycache__|/dist/", str(path))
    ]
    assert read_listing(listing) == {str(path.relative_to(SOURCE.parent)) for path in files}


def read_listing(listing: str) -> set[str]:
    """Return the files of a listing whose folders end in a slash and are indented by two blanks per level."""
    files: set[str] = set()
    path: list[str] = []
    for line in listing.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        path[depth:] = [line.strip()]
        if not line.endswith("/"):
            files.add("".join(path))
    return files


@pytest.mark.skipif(
    find_spec("pipeline_mingru") is None, reason="the plugin is not installed; the tests session installs it"
)
def test_list_is_as_shown(tmp_path: Path) -> None:
    """The page has its first lines. Columns may be wider where other plugins are installed."""
    (session,) = find_blocks("console", containing="pipeline plugins\nname")
    wanted = [line.split() for line in session[session.index("name ") :].splitlines() if line != "..."]
    found = [line.split() for line in run_python("-m", "pipeline", "plugins", folder=tmp_path).splitlines()]
    assert found[:4] == wanted[:4]
    assert wanted[4][0] == "mingru"
    assert wanted[4] in found


def test_programs_run(tmp_path: Path) -> None:
    """Each program runs in a process of its own."""
    programs = find_blocks("py")
    assert programs
    for program in programs:
        if "import pipeline_mingru" in program and find_spec("pipeline_mingru") is None:
            continue
        check = "\nfrom pipeline.registry import registry\nassert registry().plugins\n"
        run_python("-c", program + check, folder=tmp_path)


def test_environment_is_parsed_as_described() -> None:
    """Every line that sets a variable has the described effect."""
    (lines,) = find_blocks("shell", containing="PIPELINE_PLUGINS=")
    wanted = {
        "-mingru": Choice(block=["mingru"]),
        "-mingru,-other": Choice(block=["mingru", "other"]),
        "recurrent,builtin": Choice(only=["recurrent", "builtin"]),
        "none": Choice(only=[]),
        "1": Choice(strict=True),
    }
    settings = [shlex.split(line)[0].partition("=") for line in lines.splitlines()]
    assert {value: Choice.from_environment({name: value}) for name, _, value in settings} == wanted


def load_warning(module: ModuleType) -> str:
    """Return the warning about a module that is loaded as the page's plugin."""

    def load(_: EntryPoint) -> ModuleType:
        return module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EntryPoint, "load", load)
        with pytest.warns(PluginWarning) as caught:
            Registry().load(EntryPoint("mingru", "pipeline_mingru", "pipeline"), PLUGIN)
    return f"PluginWarning: {caught[0].message}"


def create_error(factory: object, **options: object) -> str:
    """Return the error about a part that a user creates."""
    module, found = ModuleType("mine"), Registry()
    vars(module)["pipeline_encoders"] = hookimpl(lambda: {"mingru": factory})
    found.register(module, PLUGIN)
    with pytest.raises((PluginError, UnknownOptionError)) as caught:
        found.encoders.make("mingru", **options)
    return str(caught.value)


def test_messages_are_as_shown() -> None:
    """The page has the messages about a hook, a law, a shared object and an option."""
    misspelled = ModuleType("misspelled")
    vars(misspelled)["pipeline_encoder"] = hookimpl(lambda: {"mingru": LSTM})

    def make(input_size: int, hidden_size: int = 4) -> Encoder[MaybeCausal]:
        return LSTM(input_size, hidden_size)

    def declare_wrongly(input_size: int) -> Encoder[MaybeCausal]:
        encoder = LSTM(input_size, 4)
        encoder.output_size = 5
        return encoder

    shared = LSTM(3, 4)

    def share(input_size: int) -> Encoder[MaybeCausal]:
        assert input_size == 3
        return shared

    messages = {
        load_warning(misspelled),
        create_error(declare_wrongly, input_size=3),
        create_error(share, input_size=3),
        create_error(make, input_size=3, hidden=4),
    }
    assert messages <= {" ".join(text.split()) for text in find_blocks("text")}


def test_every_block_is_of_a_tested_kind() -> None:
    """Other tests run the Python blocks, and compare the TOML with the package."""
    assert {kind for kind, _ in BLOCKS} == {"python", "py", "toml", "text", "console", "shell"}
    assert len(find_blocks("shell")) == len(find_blocks("toml")) == 1
    assert len(find_blocks("console")) == 2
