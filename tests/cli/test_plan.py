"""Test `python -m pipeline plan FILE`: files of every format, the table, JSON, the picture, and errors."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import pipeline.__main__ as command_line
from pipeline import Tokenize, plan
from pipeline.batching import Budget
from pipeline.builtin.tokenizers import HuggingFaceTokenizer
from support.needs import SLOW, needs

Run = Callable[..., str]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs the command and returns its output."""

    def ran(*arguments: object) -> str:
        assert command_line.main(["plan", *map(str, arguments)]) == 0
        output = capsys.readouterr()
        assert output.err == ""
        return output.out

    return ran


@pytest.fixture
def run_failing(capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs the command and returns its one-line error."""

    def ran(*arguments: object) -> str:
        assert command_line.main(["plan", *map(str, arguments)]) == 1
        output = capsys.readouterr()
        assert output.out == ""
        assert output.err.startswith("error: ")
        assert output.err.count("\n") == 1
        return output.err

    return ran


def write_file(path: Path, text: str) -> Path:
    """Write a text file and return its path."""
    path.write_bytes(text.encode())
    return path


def test_table_is_that_of_the_library(run: Run, tmp_path: Path) -> None:
    """For an array of lengths, the command prints the table of `pipeline.plan`."""
    lengths = np.arange(50, dtype=np.int32)
    np.save(tmp_path / "lengths.npy", lengths)
    out = run(tmp_path / "lengths.npy", "--max-padded-steps", 100, "--world-size", 2, "--rows", 9, "--seed", 3)
    wanted = str(plan(lengths, 100, world_size=2, rows=9, seed=3))
    assert [line.split() for line in out.splitlines()] == [line.split() for line in wanted.splitlines()]


@pytest.mark.parametrize(
    ("text", "rows", "steps"), [("3\n5\r\n0\n", 3, 8), ("3 4\n5 1", 2, 13), ("", 0, 0), ("\n7\n\n", 1, 7)]
)
def test_text_files_may_contain_lengths(run: Run, tmp_path: Path, text: str, rows: int, steps: int) -> None:
    """Each line has one or two numbers; blank lines are skipped."""
    record = json.loads(run(write_file(tmp_path / "lengths.txt", text), "--json"))
    assert (record["rows"], record["steps"]) == (rows, steps)


def test_text_files_may_contain_a_histogram(run: Run, tmp_path: Path) -> None:
    """The histogram has a hundred million rows, and one length twice."""
    file = write_file(tmp_path / "counts.txt", "20 60000000\n400 1000000\n20 39000000\n")
    record = json.loads(run(file, "--histogram", "--json"))
    assert (record["rows"], record["longest"]) == (100_000_000, 400)
    assert not record["policies"][0]["exact"]


TEXTS = {
    "a.txt": "to be or\nnot\n",
    "a.jsonl": '{"text": "to be or"}\n{"text": "not"}\n',
    "a.ndjson": '{"text": "to be or"}\n{"text": "not"}\n',
    "a.csv": "text,kind\nto be or,1\nnot,2\n",
    "a.tsv": "text\tkind\nto be or\t1\nnot\t2\n",
    "a.conllu": "".join(
        "".join(f"{place}\t{word}" + "\t_" * 8 + "\n" for place, word in enumerate(line.split(), 1)) + "\n"
        for line in ("to be or", "not")
    ),
}


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("unit", ["words", "characters"])
def test_records_are_measured_in_a_unit(run: Run, tmp_path: Path, name: str, unit: str) -> None:
    """Words are separated by blanks or already split; characters of text include blanks."""
    record = json.loads(run(write_file(tmp_path / name, TEXTS[name]), "--unit", unit, "--json"))
    characters = 9 if name == "a.conllu" else 11
    assert (record["rows"], record["steps"]) == (2, 4 if unit == "words" else characters)


def test_words_are_the_default_unit_of_records(run: Run, tmp_path: Path) -> None:
    """Fields may have any name, and contain lists of words."""
    file = write_file(tmp_path / "a.jsonl", '{"body": "to be", "split": ["or not", "to"]}\n')
    assert json.loads(run(file, "--text", "body", "--json"))["steps"] == 2
    assert json.loads(run(file, "--words", "split", "--unit", "characters", "--json"))["steps"] == 8


def test_each_file_of_a_folder_is_a_record(run: Run, tmp_path: Path) -> None:
    """A folder of .txt files gives one row per file."""
    write_file(tmp_path / "a.txt", "to be\nor not")
    write_file(tmp_path / "b.txt", "")
    record = json.loads(run(tmp_path, "--json"))
    assert (record["rows"], record["steps"]) == (2, 4)


@needs("pyarrow")
@pytest.mark.parametrize("ending", [".parquet", ".arrow", ".feather"])
def test_tables_are_read(run: Run, tmp_path: Path, ending: str) -> None:
    """Tables of every format are read; the text is in a column."""
    arrow = import_module("pyarrow")
    table, path = arrow.table({"text": ["to be or", "not"]}), tmp_path / f"a{ending}"
    if ending == ".parquet":
        import_module("pyarrow.parquet").write_table(table, path)
    else:
        import_module("pyarrow.feather").write_feather(table, path, compression="uncompressed")
    assert json.loads(run(path, "--json"))["steps"] == 4


@pytest.mark.parametrize("name", ["a.txt", "a.conllu"])
def test_tokens_are_counted_by_a_tokenizer(run: Run, tmp_path: Path, name: str) -> None:
    """The tokenizer comes from a file; records contain text or words."""
    tokenizer = tmp_path / "tokenizer.json"
    saved = Tokenize.train(["to be or not"], "characters").tokenizer
    assert isinstance(saved, HuggingFaceTokenizer)
    saved.save(tokenizer)
    file = write_file(tmp_path / name, TEXTS[name])
    record = json.loads(run(file, "--unit", "tokens", "--tokenizer", tokenizer, "--json"))
    assert record["steps"] == (9 if name == "a.conllu" else 11)


@pytest.mark.parametrize("name", ["-", pytest.param("/dev/stdin", marks=SLOW), pytest.param("pipe", marks=SLOW)])
@pytest.mark.parametrize(
    ("text", "options", "steps"), [("to be\nor not to be\n", ["--unit", "words"], 6), ("3\n5\n", [], 8)]
)
def test_standard_input_is_read_like_a_text_file(
    tmp_path: Path, name: str, text: str, options: list[str], steps: int
) -> None:
    """It has lengths, or texts if --unit says so, whether it is a pipe or a file."""
    run = [sys.executable, "-P", "-m", "pipeline", "plan", name, *options, "--json"]
    if name == "pipe":
        os.mkfifo(tmp_path / "pipe")
        thread = threading.Thread(target=lambda: (tmp_path / "pipe").write_text(text))
        thread.start()
        ran = subprocess.run(run, capture_output=True, check=True, cwd=tmp_path)
        thread.join()
        assert json.loads(ran.stdout)["steps"] == steps
        return
    with write_file(tmp_path / "a", text).open("rb") as file:
        for ran in (
            subprocess.run(run, input=text.encode(), capture_output=True, check=True),
            subprocess.run(run, stdin=file, capture_output=True, check=True),
        ):
            assert json.loads(ran.stdout)["steps"] == steps


def test_pipe_gets_plain_text(tmp_path: Path) -> None:
    """There is one line per policy, without colors, of any length."""
    file = write_file(tmp_path / "lengths.txt", "\n".join(map(str, range(1, 300))))
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    ran = subprocess.run(
        [sys.executable, "-P", "-m", "pipeline", "plan", file, "--world-size", "2"],
        capture_output=True,
        check=True,
        env=environment,
    )
    assert ran.stderr == b""
    out = ran.stdout.decode()
    assert "\x1b" not in out
    lines = out.splitlines()
    assert lines[0] == "299 rows of 1 to 299 steps, 44,850 in total; 2 ranks"
    assert lines[1].split()[0] == "policy"
    assert len(lines) == 2 + 5 + 3


@needs("matplotlib")
def test_picture_is_drawn_on_request(run: Run, tmp_path: Path) -> None:
    """Its path is printed below the table."""
    file = write_file(tmp_path / "lengths.txt", "3\n4\n")
    picture = tmp_path / "plan.png"
    assert run(file, "--picture", picture).endswith(f"\nwrote {picture}\n")
    assert picture.stat().st_size > 1_000


ERRORS: list[tuple[str, str | None, list[str], str]] = [
    ("a.npy", None, [], "a.npy cannot be read: No such file or directory."),
    ("a.npy", "no array", [], "a.npy must be an array of numbers saved by numpy, got something else: "),
    ("a.txt", None, [], "a.txt' cannot be read: "),
    (
        "a.txt",
        "3\nfour\n",
        [],
        "a.txt, line 2: each line must be a whole number, 0 or more, got 'four'; for a file",
    ),
    ("a.txt", "3\n\n-4\n", [], "a.txt, line 3: each line must be a whole number, 0 or more, got '-4'"),
    ("a.txt", "3 4\n5\n", [], "a.txt, line 2: each line must be two whole numbers, 0 or more, got '5'"),
    ("a.txt", "3\n", ["--histogram"], "a.txt, line 1: each line must be two whole numbers, 0 or more, got '3'"),
    ("a.txt", f"{'9' * 5_000}\n", [], "a.txt, line 1: each line must be a whole number, 0 or more, got '999"),
    ("a.txt", "99999999999999\n", [], "lengths[0] must be at most 1,099,511,627,776, got 99999999999999."),
    (
        "a.txt",
        "3\n",
        ["--unit", "words", "--histogram"],
        "--histogram needs a file of lengths, got --unit words",
    ),
    ("a.txt", "3\n", ["--unit", "tokens"], "--unit tokens and --tokenizer PATH need each other, got only one of them"),
    ("a.txt", "3\n", ["--tokenizer", "x"], "--unit tokens and --tokenizer PATH need each other, got only one of them"),
    ("a.txt", "30\n", ["--max-padded-steps", "20"], "row 0 must have at most 20 steps for Rows("),
    (
        "a.txt",
        "30\n",
        ["--max-padded-steps", "0"],
        "--max-padded-steps must be an integer of at least 1, got 0.",
    ),
    (
        "a.txt",
        "30\n",
        ["--picture", "a.jpg"],
        "file must end in .svg, .png, .pdf, got 'a.jpg'; its suffix determines the format.",
    ),
    ("a.jsonl", '{"text": "a"}\n{"no": 1}\n', [], "a.jsonl, line 2: "),
    ("a.jsonl", "", ["--text", "a", "--words", "b"], "--text and --words exclude each other, got both"),
    (
        "a.docx",
        "",
        [],
        "a.docx must end in .npy, .txt, .jsonl, .csv, .tsv, .conllu, .conllup, .parquet or .arrow, or be a folder",
    ),
]


@pytest.mark.parametrize(("name", "text", "options", "message"), ERRORS)
def test_errors_are_printed_on_one_line(
    run_failing: Run, tmp_path: Path, name: str, text: str | None, options: list[str], message: str
) -> None:
    """They name the file and the line, without a traceback."""
    if text is not None:
        write_file(tmp_path / name, text)
    assert message in run_failing(tmp_path / name, *options)


def test_pickled_array_raises(run_failing: Run, tmp_path: Path) -> None:
    """Nothing is unpickled, since that could run code."""
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert "must be an array of numbers saved by numpy, got something else: " in run_failing(tmp_path / "a.npy")


def test_long_rows_can_be_split(run: Run, tmp_path: Path) -> None:
    """With `--too-long split`, the command prints what `pipeline.plan` returns."""
    record = json.loads(
        run(write_file(tmp_path / "a.txt", "30\n"), "--max-padded-steps", 20, "--too-long", "split", "--json")
    )
    wanted = plan([30], Budget(20, too_long="split")).to_dict()["policies"][0]
    assert {**wanted, "name": "Budget(20, too_long='split')"} in record["policies"]
