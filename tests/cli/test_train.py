"""Test `python -m pipeline train`: the model follows from the file, and the saved pipe is that of the same calls."""

import csv
import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest

from pipeline import Bucket, Labels, Pad, Tokenize, classifier, load
from pipeline.__main__ import main
from pipeline.cli.train import collect_classes
from pipeline.core.contexts import seeded
from pipeline.errors import LabelError
from pipeline.sources import Csv, Records
from support.commands import REVIEWS, SMALL, write_reviews, write_words


def train(file: Path, output: Path, *options: str) -> int:
    """Run the command for a small model."""
    return main(["train", str(file), "--output", str(output), *SMALL, *options])


def test_a_csv_file_trains_a_classifier(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The weights are those of the same calls in Python."""
    file = write_reviews(tmp_path / "train.csv")
    assert train(file, tmp_path / "model", "--seed", "3", "--max-padded-steps", "30") == 0
    output = capsys.readouterr()
    assert re.fullmatch(r"saved the model of epoch [12] to \S+/model: accuracy [\d.]+, macro_f1 [\d.]+\n", output.out)
    assert output.err == ""

    train_part, valid = Csv(file, target="label").split(0.9, seed=3)
    labels = Labels(["bad", "good"])
    with seeded(3):
        tokenize = Tokenize.train(train_part.inputs(), vocab_size=20_000)
        data = tokenize >> Bucket(max_padded_steps=30) >> Pad(labels=labels)
        pipe = data >> classifier(tokenize.vocab_size, labels, embedding_dim=4, hidden_size=4)
    pipe.fit(train_part, valid=valid, epochs=2, seed=3, progress=False)
    loaded = load(tmp_path / "model", takes=str, gives=str)
    texts = [text for text, _ in REVIEWS]
    found = [prediction.probability for prediction in loaded.predict(texts, scores=True)]
    assert found == [prediction.probability for prediction in pipe.predict(texts, scores=True)]


def test_batches_can_be_accumulated(tmp_path: Path) -> None:
    """Then there are fewer optimizer steps."""
    file, small = write_reviews(tmp_path / "train.csv"), ("--max-padded-steps", "30")
    for count in ("1", "2"):
        assert (
            train(file, tmp_path / count, *small, "--accumulate", count, "--log-csv", str(tmp_path / f"{count}.csv"))
            == 0
        )
    steps = [int(read_last(tmp_path / f"{count}.csv")["optimizer_steps"]) for count in ("1", "2")]
    assert steps[1] < steps[0]


def read_last(file: Path) -> dict[str, str]:
    """Return the last line of a CSV file."""
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))[-1]


def test_rows_without_a_target_are_an_error_or_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In both files; the model is then that of the other rows."""
    file, gaps = write_reviews(tmp_path / "train.csv"), tmp_path / "gaps.csv"
    header, *rows = file.read_text().splitlines()
    columns = header.split(",")
    empty = ",".join("" if name == "label" else "1" for name in columns)
    gaps.write_text("\n".join([header, rows[0], empty, *rows[1:], empty]) + "\n")
    for first, options in ((gaps, ()), (file, ("--valid", str(gaps)))):
        assert train(first, tmp_path / "model", *options) == 1
        message = "gaps.csv, line 3: a row must have a target, but 'label' is empty; fill it in, or leave such rows out"
        assert message in capsys.readouterr().err
    assert train(gaps, tmp_path / "gaps", "--missing-target", "skip") == 0
    assert capsys.readouterr().err == f"left out 2 rows of {gaps} without a target\n"
    assert train(file, tmp_path / "whole") == 0
    weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("gaps", "whole")]
    assert weights[0] == weights[1]
    capsys.readouterr()
    gaps.write_text(f"{header}\n{empty}\n")
    assert train(gaps, tmp_path / "model", "--missing-target", "skip") == 1
    assert "gaps.csv' has a target, since 'label' is empty in all 1; check --target" in capsys.readouterr().err


def test_json_lines_may_have_class_numbers(tmp_path: Path) -> None:
    """Predictions are numbers then."""
    lines = [json.dumps({"review": text, "stars": int(label == "good")}) for text, label in REVIEWS]
    (tmp_path / "train.jsonl").write_text("\n".join(lines) + "\n")
    options = ("--text", "review", "--target", "stars", "--split", "0.8", "--tokenizer", "characters")
    assert train(tmp_path / "train.jsonl", tmp_path / "model", *options) == 0
    assert set(load(tmp_path / "model", takes=str, gives=int).predict(["fine"])) <= {0, 1}


def test_a_tokenizer_without_a_size_needs_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """But a size that is given is an error."""
    file = write_reviews(tmp_path / "train.csv")
    assert train(file, tmp_path / "model", "--tokenizer", "bytes", "--epochs", "1") == 0
    assert train(file, tmp_path / "other", "--tokenizer", "bytes", "--vocab-size", "300") == 1
    assert "does not take option 'vocab_size'" in capsys.readouterr().err


def test_conllu_trains_a_tagger(tmp_path: Path) -> None:
    """And a file for validation replaces the split."""
    file = write_words(tmp_path / "train.conllu")
    assert train(file, tmp_path / "model", "--valid", str(file), "--encoder", "gru") == 0
    pipe = load(tmp_path / "model", takes=list[str], gives=list[str])
    assert [len(tags) for tags in pipe.predict([["a", "b"], []])] == [2, 0]


def test_lists_of_words_train_a_tagger(tmp_path: Path) -> None:
    """With one target per word."""
    record = json.dumps({"tokens": ["a", "b"], "tags": ["X", None]})
    (tmp_path / "train.jsonl").write_text(f"{record}\n" * 10)
    assert train(tmp_path / "train.jsonl", tmp_path / "model", "--words", "tokens", "--target", "tags") == 0
    assert list(load(tmp_path / "model", takes=list[str], gives=list[str]).predict([["a"]])) == [["X"]]


def test_lines_of_text_train_a_language_model(tmp_path: Path) -> None:
    """Each token predicts the next one."""
    (tmp_path / "train.txt").write_text("a fine film\nso dull\n" * 10)
    assert train(tmp_path / "train.txt", tmp_path / "model") == 0
    pipe = load(tmp_path / "model", takes=str, gives=list[int])
    assert [len(tokens) for tokens in pipe.predict(["a fine film"])] == [5]


def test_a_training_is_resumed(tmp_path: Path) -> None:
    """With more epochs, from its checkpoints, to the weights of one training."""
    file = write_reviews(tmp_path / "train.csv")
    once = ("--max-padded-steps", "30", "--checkpoints", str(tmp_path / "once"))
    twice = ("--max-padded-steps", "30", "--checkpoints", str(tmp_path / "twice"), "--resume")
    assert train(file, tmp_path / "one", *once, "--epochs", "3") == 0
    assert train(file, tmp_path / "two", *twice, "--epochs", "1") == 0
    assert train(file, tmp_path / "two", *twice, "--epochs", "3") == 0
    assert (tmp_path / "one/weights.safetensors").read_bytes() == (tmp_path / "two/weights.safetensors").read_bytes()


FILES = {
    "zero.csv": "",
    "empty.csv": "text,label\n",
    "one.csv": "text,label\na,good\n",
    "two.csv": "text,label\na,good\nb,bad\n",
    "bad.csv": "text,label\na\n",
}
WRONG = {
    "words for a classifier": (
        ["train.conllu", "--model", "classifier"],
        "a tagger needs words with a target each, from CoNLL-U or --words NAME, got --model classifier for",
    ),
    "no targets": (["train.txt", "--model", "classifier"], "a classifier needs targets, which 'train.txt' has none of"),
    "unknown suffix": (["train.xml"], "must end in .csv, .tsv, .jsonl, "),
    "no such column": (["train.csv", "--target", "lable"], "has no column 'lable'; "),
    "no such file": (["absent.csv"], "cannot be read: "),
    "words in CSV": (["train.csv", "--words", "w"], "--words needs lists of words, which .csv has none of"),
    "no such encoder": (["train.csv", "--encoder", "bilstn"], "Did you mean 'bilstm'?"),
    "pooling of a tagger": (["train.conllu", "--pooling", "mean"], "--pooling is for classifiers, got --model tagger"),
    "head of a classifier": (["train.csv", "--head", "crf"], "--head and --constraints are for taggers, got --model"),
    "no vocabulary": (["train.csv", "--vocab-size", "0"], "must be an integer of at least 5, got 0; raise it, to hold"),
    "tiny vocabulary": (["train.csv", "--vocab-size", "1"], "must be an integer of at least 5, got 1; raise it, to"),
    "no length": (["train.csv", "--max-length", "0"], "must be an integer of at least 1, got 0; leave it out for no"),
    "wrong epochs": (["train.csv", "--epochs", "0"], "epochs must be an integer of at least 1, got 0."),
    "wrong split": (["train.csv", "--split", "2"], "--split must be between 0 and 1, got 2.0"),
    "wrong dropout": (["train.csv", "--dropout", "2"], "--dropout must be a probability, 0 <= P < 1, got 2.0"),
    "resume": (
        ["train.csv", "--resume"],
        "--resume needs a folder of checkpoints, got none; pass --checkpoints FOLDER",
    ),
    "precision": (
        ["absent.csv", "--precision", "bf16"],
        "one of float32, bfloat16, got 'bf16'. Did you mean 'bfloat16'?",
    ),
    "half": (["absent.csv", "--precision", "16-mixed"], "float16 is not offered, but bfloat16 is"),
    "no folder for the log": (["absent.csv", "--log-csv", "no/a.csv"], "--log-csv must be in an existing folder, got"),
    "malformed": (["bad.csv"], "fix it, or leave such records out with --on-bad-record skip."),
    "too long": (["train.csv", "--max-padded-steps", "1"], "raise the limit, cut texts with --max-length, or leave"),
    "no content": (["zero.csv"], "has no records, but must have a header; write one."),
    "no rows": (["empty.csv"], "'empty.csv' has no rows, but one to train on and one to validate with are needed; add"),
    "one row": (
        ["one.csv"],
        "'one.csv' has one row, but one to train on and one to validate with are needed; add rows",
    ),
    "few rows": (["two.csv", "--split", "0.1"], "change --split, add rows, or pass --valid FILE"),
}


@pytest.mark.parametrize("case", WRONG)
def test_mistakes_are_reported_on_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """And nothing is written."""
    monkeypatch.chdir(tmp_path)
    write_reviews(Path("train.csv"))
    write_words(Path("train.conllu"))
    Path("train.txt").write_text("a\n")
    for name, content in FILES.items():
        Path(name).write_text(content)
    arguments, message = WRONG[case]
    assert main(["train", *arguments, "--output", "model", *SMALL[3:]]) == 1
    output = capsys.readouterr()
    assert message in output.err
    assert (output.out, output.err.count("\n")) == ("", 1)
    assert not Path("model").exists()


def test_a_warning_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without the line of the source that `warnings` adds."""
    file = write_reviews(tmp_path / "train.csv")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        shown = warnings.showwarning
        assert train(file, tmp_path / "model", "--pooling", "last") == 0
        assert warnings.showwarning is shown
    error = capsys.readouterr().err
    assert error.startswith("warning: stage 5 `Pool` takes the last step of each row")
    assert error.count("\n") == 1


def test_a_folder_that_cannot_be_written_is_reported_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not after hours."""
    assert train(tmp_path / "absent.csv", tmp_path / "no" / "model") == 1
    assert "--output must be in an existing folder" in capsys.readouterr().err


def test_files_of_the_user_are_reported_before_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The examples are not even read: their file is absent."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine.txt").write_text("mine")
    for name, message in (("file", "must be a folder, but is a file"), ("folder", "has other files")):
        assert train(tmp_path / "absent.csv", tmp_path / name) == 1
        assert message in capsys.readouterr().err
    assert (tmp_path / "folder" / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("targets", "classes"),
    [
        ([["b", "a"], ["c"]], Labels(["a", "b", "c"])),
        ([[3, None], [1]], 4),
        ([[["x", None], ["y"]], [["z"]]], Labels(["x", "y", "z"])),
        ([[[0, 2]], [[1]]], 3),
    ],
)
def test_classes_are_those_of_all_sources(targets: Any, classes: Labels | int) -> None:
    """Names, or numbers up to the largest one."""
    sources = [Records([{"text": "a", "y": each} for each in part], text="text", target="y") for part in targets]
    assert collect_classes(*sources) == classes


def test_targets_that_are_no_classes_are_rejected() -> None:
    """Numbers with a fraction."""
    with pytest.raises(LabelError, match="must be a class name, got 2.5"):
        collect_classes(Records([{"text": "a", "y": 2.5}], text="text", target="y"))
