"""Compare the tables of docs/budget.md with the output of its blocks."""

import re
from pathlib import Path

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "budget.md"


def test_tables_are_as_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every line that a block prints for a budget or a pool size is a line of a table."""
    monkeypatch.chdir(tmp_path)
    for example in Sybil([PythonCodeBlockParser()], path=str(ROOT)).parse(PAGE).examples():
        example.evaluate()
    printed = [line.partition(" ") for line in capsys.readouterr().out.splitlines() if re.match(r"\w+ \[", line)]
    computed = [[name, *re.findall(r"'([^']+)'", cells)] for name, _, cells in printed]
    lines = re.findall(
        r"^\| ([\d,]+|`None`)(?: \([^|]*\))? \| (.*) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE
    )
    written = [
        [name.replace(",", "").strip("`"), *re.sub(r"(?<=\d),(?=\d{3})", "", cells).split(" | ")]
        for name, cells in lines
    ]
    assert computed
    assert written == computed
