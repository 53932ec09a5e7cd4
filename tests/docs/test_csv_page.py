"""The commands of docs/from-csv-to-service.md run; test_documents.py runs its Python blocks."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

from pipeline import load
from pipeline.__main__ import main
from support.needs import needs

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "from-csv-to-service.md"
COMMANDS = re.findall(r"^\$ (.+)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)


def find_command(start: str) -> list[str]:
    """Return the arguments of the page's only command that begins like this."""
    (command,) = (command for command in COMMANDS if command.startswith(start))
    return shlex.split(command)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the file of the page, and the model that its command trains."""
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        first, *_ = Sybil([PythonCodeBlockParser()], path=str(ROOT)).parse(PAGE).examples()
        first.evaluate()
        assert main([*find_command("python -m pipeline train")[3:], "--quiet"]) == 0
    return folder


def test_files_are_evaluated_and_predicted(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model is good, and the new file has all columns and two more."""
    monkeypatch.chdir(folder)
    assert main([*find_command("python -m pipeline evaluate")[3:], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["accuracy"] > 0.9
    assert main([*find_command("python -m pipeline predict")[3:], "--quiet"]) == 0
    header, *lines = (folder / "predicted.csv").read_text(encoding="utf-8").splitlines()
    assert header == "id,text,label,prediction,probability"
    assert len(lines) == len((folder / "reviews.csv").read_text(encoding="utf-8").splitlines()) - 1


@needs("starlette", "uvicorn")
def test_a_service_answers_the_request_of_the_page(folder: Path) -> None:
    """At the address that it prints."""
    command = find_command("python -m pipeline serve")
    body = find_command("curl")[-1]
    free = ["0" if argument == "8000" else argument for argument in command[1:]]
    server = subprocess.Popen(
        [sys.executable, *free], cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    try:
        assert server.stderr is not None
        address = re.search(r"http://[\d.:]+", server.stderr.readline())
        assert address is not None
        request = Request(f"{address[0]}/predict", body.encode(), {"Content-Type": "application/json"})  # noqa: S310
        with urlopen(request, timeout=60) as answer:  # noqa: S310 - the address is our own
            found = json.loads(answer.read())
    finally:
        server.terminate()
        server.communicate(timeout=60)
    assert found["predictions"][0]["label"] == "good"


@needs("onnx", "onnxruntime", "onnxscript")
def test_the_exported_script_predicts(folder: Path) -> None:
    """Without this library."""
    load(folder / "sentiment", takes=str, gives=str).export(folder / "sentiment.onnx", batches=2)
    run = subprocess.run(
        [sys.executable, *find_command("python sentiment.py")[1:]],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(run.stdout)["label"] == "good"


def test_commands_are_known() -> None:
    """Every command of the page is tested here, but for the installation."""
    starts = ("pip install", "python -m pipeline", "curl", "python sentiment.py")
    assert all(command.startswith(starts) for command in COMMANDS)
    assert len(COMMANDS) == 7
