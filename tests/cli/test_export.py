"""Test `python -m pipeline export`: the saved model is exported as in Python."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.__main__ import main
from support.commands import make_classifier


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """Return the folder of a saved classifier."""
    make_classifier().save(tmp_path / "model")
    return str(tmp_path / "model")


def test_a_model_is_exported(tmp_path: Path, folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The lines on the model are those in Python, and then its files."""
    file = tmp_path / "out" / "film.pt2"
    file.parent.mkdir()
    assert main(["export", folder, str(file), "--batches", "2"]) == 0
    printed = capsys.readouterr().out
    assert f"{file}: ids (batch x time), lengths (batch) -> scores (batch); 2 random batches" in printed
    files = [file, file.with_suffix(".json"), file.with_name("film.tokenizer.json")]
    assert printed.endswith(f"\nwrote {', '.join(map(str, files))}\n")
    assert sorted(file.parent.iterdir()) == sorted(files)
    described = json.loads(files[1].read_text(encoding="utf-8"))
    assert (described["form"], described["outputs"][0]["names"]) == ("rows", ["bad", "good"])


def test_options_are_passed_on(
    folder: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A form, what is compared and how closely, and sizes that no stage states."""
    calls: list[Any] = []

    class Written:
        files = (Path("a"), Path("b\x1b"))

        def __str__(self) -> str:
            return "two\nlines"

    def note(_: object, file: Path, **options: object) -> Written:
        calls.append((file, options))
        return Written()

    monkeypatch.setattr("pipeline.core.chain_base.ChainBase.export", note)
    sizes = ["--size", "amount=2", "--size", "other=3"]
    assert main(["export", folder, "x.onnx", "--form", "step", "--batches", "3", "--tolerance", "0.1", *sizes]) == 0
    wanted = {"form": "step", "batches": 3, "tolerance": 0.1, "sizes": {"amount": 2, "other": 3}}
    assert calls == [(Path("x.onnx"), wanted)]
    assert capsys.readouterr().out == "two\nlines\nwrote a, b\\x1b\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x.txt"], "the suffix of file must be one of .onnx, .pt2, got '.txt'"),
        (
            ["x.pt2", "--form", "step"],
            "cannot run step by step, because its encoder is not causal, or keeps no state; use --form rows",
        ),
        (["x.pt2", "--batches", "0"], "batches must be an integer of at least 1, got 0"),
        (["absent/x.pt2"], "PATH must be in an existing folder, got 'absent/x.pt2'; make 'absent' first"),
        (["x.pt2", "--size", "amount"], "--size must be the name of an input and a number above 0, got 'amount'"),
        (["x.pt2", "--size", "amount=0"], "--size must be the name of an input and a number above 0, got 'amount=0'"),
        (["x.pt2", "--size", "amount=2"], "sizes must be of the inputs ids, got 'amount'"),
    ],
)
def test_mistakes_are_reported_on_one_line(
    tmp_path: Path,
    folder: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    """With the status 1, and without a file."""
    monkeypatch.chdir(tmp_path)
    assert main(["export", folder, *arguments]) == 1
    found = capsys.readouterr()
    assert message in found.err
    assert (found.out, found.err.count("\n")) == ("", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
