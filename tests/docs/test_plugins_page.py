"""What the page for plugin authors shows beside Python that runs from top to bottom: commands, programs, listings."""

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

from pipeline import Encoder, MaybeCausal
from pipeline.errors import UnknownOptionError
from pipeline.hooks import hookimpl
from pipeline.registry import PluginWarning, Registry
from pipeline.registry.catalogue import Catalogue, Offer, Plugin
from pipeline.registry.choice import Choice
from pipeline_recurrent import LSTM

PAGE = Path(__file__).parents[2] / "docs" / "plugins.md"
SOURCE = Path(__file__).parents[1] / "outside" / "pipeline-mingru"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def blocks(kind: str, *, having: str = "") -> list[str]:
    """The blocks of a kind, as they stand there."""
    return [text for label, text in BLOCKS if label == kind and having in text]


def ran(*arguments: str, folder: Path) -> str:
    """What Python prints, in a folder and in a terminal of 100 columns."""
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


def test_a_new_plugin_is_written_as_shown(tmp_path: Path) -> None:
    """The command's own words, and the files that it leaves."""
    (session,) = blocks("console", having="new-plugin")
    command, _, told = session.partition("\n")
    assert ran(*command.removeprefix("$ python ").split(), folder=tmp_path) == told
    (listing,) = blocks("text", having="pipeline-leaky-mean/")
    assert shown(listing) == {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}


def test_the_package_is_listed_as_shown() -> None:
    """All of its files but what tools leave behind."""
    (listing,) = blocks("text", having="pipeline-mingru/")
    kept = [
        path for path in SOURCE.rglob("*") if path.is_file() and not re.search(r"/\.|__pycache__|/dist/", str(path))
    ]
    assert shown(listing) == {str(path.relative_to(SOURCE.parent)) for path in kept}


def shown(listing: str) -> set[str]:
    """The files of a listing whose folders end in a slash and are indented by two blanks each."""
    files: set[str] = set()
    path: list[str] = []
    for line in listing.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        path[depth:] = [line.strip()]
        if not line.endswith("/"):
            files.add("".join(path))
    return files


@pytest.mark.skipif(
    find_spec("pipeline_mingru") is None, reason="the plugin is not installed; the tests session has it"
)
def test_the_list_is_as_shown(tmp_path: Path) -> None:
    """The first lines of it, up to where the page leaves off."""
    (session,) = blocks("console", having="pipeline plugins\nname")
    wanted = session[session.index("name ") : session.index("...")].splitlines()
    found = ran("-m", "pipeline", "plugins", folder=tmp_path).splitlines()
    assert [line.rstrip() for line in found[: len(wanted)]] == wanted


def test_programs_run(tmp_path: Path) -> None:
    """Each by itself, as the page says."""
    programs = blocks("py")
    assert programs
    for program in programs:
        if "import pipeline_mingru" in program and find_spec("pipeline_mingru") is None:
            continue
        ran("-c", program + "\nfrom pipeline.registry import registry\nassert registry().plugins\n", folder=tmp_path)


def test_the_environment_is_understood_as_said() -> None:
    """Every line that sets a variable."""
    (lines,) = blocks("shell", having="PIPELINE_PLUGINS=")
    told = {
        "-mingru": Choice(block=["mingru"]),
        "-mingru,-other": Choice(block=["mingru", "other"]),
        "recurrent,builtin": Choice(only=["recurrent", "builtin"]),
        "none": Choice(only=[]),
        "1": Choice(strict=True),
    }
    said = [shlex.split(line)[0].partition("=") for line in lines.splitlines()]
    assert {value: Choice.from_environment({name: value}) for name, _, value in said} == told


def warned(module: ModuleType) -> str:
    """What is said of a module that is loaded as the page's plugin."""

    def load(_: EntryPoint) -> ModuleType:
        return module

    entry = EntryPoint("mingru", "pipeline_mingru", "pipeline")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EntryPoint, "load", load)
        with pytest.warns(PluginWarning) as caught:
            Registry().load(entry, Plugin("pipeline-mingru", "1.0", "mingru"))
    return f"PluginWarning: {caught[0].message}"


def test_messages_are_as_shown() -> None:
    """Of a misspelt hook, of a part that does not say what it is, and of an option that there is not."""
    misspelt, silent = ModuleType("misspelt"), ModuleType("silent")

    def unsaid(input_size: int) -> Encoder[MaybeCausal]:
        encoder = LSTM(input_size, 3)
        del encoder.output_size
        return encoder

    vars(misspelt)["pipeline_encoder"] = hookimpl(lambda: {"mingru": LSTM})
    vars(silent)["pipeline_encoders"] = hookimpl(lambda: {"mingru": unsaid})
    said = {" ".join(text.split()) for text in blocks("text") if not text.startswith("pipeline-")}
    catalogue: Catalogue[Encoder[MaybeCausal]] = Catalogue("encoder", "pipeline_encoders", Encoder)

    def mingru(input_size: int, hidden_size: int) -> Encoder[MaybeCausal]:
        return LSTM(input_size, hidden_size)

    catalogue.offers.append(Offer("mingru", Plugin("pipeline-mingru", "1.0", "mingru"), mingru))
    with pytest.raises(UnknownOptionError) as refused:
        catalogue.make("mingru", input_size=3, hidden=4)
    assert {warned(misspelt), warned(silent), str(refused.value)} <= said


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    """Python and TOML are, elsewhere: the one runs, the other is that of the package."""
    assert {kind for kind, _ in BLOCKS} == {"python", "py", "toml", "text", "console", "shell"}
    assert len(blocks("shell")) == len(blocks("toml")) == 1
    assert len(blocks("console")) == 2
