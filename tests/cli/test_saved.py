"""Test `python -m pipeline evaluate` and `predict`: the results are those of the saved pipe in Python."""

import csv
import json
from pathlib import Path

import attrs
import pytest

from pipeline import (
    Bucket,
    Classify,
    Embed,
    EmbedFields,
    Encode,
    Fields,
    FromColumns,
    Ids,
    Nested,
    Pad,
    Pool,
    Tag,
    Tokenize,
    TokenizeDocument,
    TokenizeWords,
    document_classifier,
    read,
    through,
)
from pipeline.__main__ import main
from pipeline.sources import Csv
from support.commands import (
    LABELS,
    REVIEWS,
    make_character_tagger,
    make_classifier,
    make_tagger,
    write_reviews,
    write_words,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the folder of a saved classifier of reviews."""
    make_classifier().save(tmp_path / "model")
    return tmp_path / "model"


def test_evaluate_prints_what_the_pipe_evaluates(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a table, or as JSON."""
    file = write_reviews(tmp_path / "test.csv")
    wanted = make_classifier().evaluate(Csv(file, target="label"))
    assert main(["evaluate", str(folder), str(file)]) == 0
    assert capsys.readouterr().out.split() == str(wanted).split()
    assert main(["evaluate", str(folder), str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(wanted.to_dict()))


def test_predict_writes_a_file_with_its_predictions(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All columns are kept; the target is not needed."""
    file = write_reviews(tmp_path / "new.csv")
    assert main(["predict", str(folder), str(file), "--output", str(tmp_path / "out.csv"), "--column", "guess"]) == 0
    assert capsys.readouterr().out == f"wrote 20 predictions to {tmp_path / 'out.csv'}\n"
    with (tmp_path / "out.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [*rows[0]] == ["id", "text", "label", "guess", "guess_probability"]
    wanted = list(make_classifier().predict([text for text, _ in REVIEWS]))
    assert [row["guess"] for row in rows] == wanted


def test_predict_skips_malformed_records_if_told_so(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The number of skipped ones is printed; without the option they are an error."""
    (tmp_path / "new.csv").write_text("text,id\nfine,1\ndull\n")
    command = ["predict", str(folder), str(tmp_path / "new.csv"), "--output", str(tmp_path / "out.jsonl"), "--quiet"]
    assert main(command) == 1
    assert "line 3: a record must have 2 fields" in capsys.readouterr().err
    assert main([*command, "--on-bad-record", "skip"]) == 0
    assert capsys.readouterr().out.endswith("; 1 record skipped (fields: 1)\n")
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 1


def test_a_tagger_predicts_and_evaluates_conllu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The tags are written into their column."""
    make_tagger().save(tmp_path / "model")
    file = write_words(tmp_path / "in.conllu")
    assert main(["predict", str(tmp_path / "model"), str(file), "--output", str(tmp_path / "out.conllu")]) == 0
    first, second = next(make_tagger().predict([["a", "b"]]))
    empty = "\t_" * 6
    assert (tmp_path / "out.conllu").read_text().startswith(f"1\ta\t_\t{first}{empty}\n2\tb\t_\t{second}{empty}\n\n")
    assert main(["evaluate", str(tmp_path / "model"), str(file)]) == 0
    assert "accuracy" in capsys.readouterr().out


def test_a_tagger_of_words_and_characters_reads_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a tagger of words does."""
    make_character_tagger().save(tmp_path / "model")
    model, file, output = str(tmp_path / "model"), str(write_words(tmp_path / "in.conllu")), tmp_path / "out.jsonl"
    assert main(["predict", model, file, "--output", str(output), "--quiet"]) == 0
    wanted = next(make_character_tagger().predict([["a", "b"]]))
    assert [json.loads(line)["prediction"] for line in output.read_text().splitlines()] == [wanted] * 10
    assert main(["evaluate", model, file]) == 0
    assert "10 rows" in capsys.readouterr().out


def test_a_classifier_of_documents_reads_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a classifier of texts does."""
    tokenize = Tokenize.train([text for text, _ in REVIEWS])
    model = document_classifier(tokenize.vocab_size, LABELS, embedding_dim=4, hidden_size=4)
    data = TokenizeDocument(tokenize) >> Bucket(Nested[Ids], rows=4) >> Pad(Nested[Ids], labels=LABELS)
    (data >> model).save(tmp_path / "model")
    assert main(["evaluate", str(tmp_path / "model"), str(write_reviews(tmp_path / "test.csv"))]) == 0
    assert "20 rows" in capsys.readouterr().out


@attrs.frozen(eq=False)
class Sale(Fields):
    """A step of a customer's history."""

    item: Ids


@pytest.fixture
def sales(tmp_path: Path) -> list[str]:
    """Return the folder of a saved classifier of customers, and a file with a line per sale."""
    items = TokenizeWords.train([["tea", "milk"]])
    data = FromColumns(Sale, item=read(items)) >> Bucket(Sale, rows=4) >> Pad(Sale, labels=LABELS)
    embed = EmbedFields(Sale, item=through(Embed(items.vocab_size, 4)))
    (data >> embed >> Encode("lstm", hidden_size=4) >> Pool("max") >> Classify(LABELS)).save(tmp_path / "sales")
    (tmp_path / "sales.csv").write_text("user,item,label\nann,tea,good\nbob,milk,bad\nann,milk,good\n")
    return [str(tmp_path / "sales"), str(tmp_path / "sales.csv")]


def test_lines_of_a_group_are_one_record(tmp_path: Path, sales: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """It is written with its group, by which it can be found."""
    output, sorts = str(tmp_path / "out.jsonl"), ["--group", "user", "--sort", "item"]
    assert main(["predict", *sales, "--output", output, "--quiet", *sorts]) == 0
    found = [json.loads(line) for line in Path(output).read_text().splitlines()]
    assert [(row["user"], row["item"]) for row in found] == [("ann", ["milk", "tea"]), ("bob", ["milk"])]
    assert [*found[0]] == ["user", "item", "prediction", "probability"]
    assert main(["evaluate", *sales, *sorts]) == 0
    assert "2 rows, 3 steps" in capsys.readouterr().out


def test_lines_of_a_group_may_have_a_target_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For a tagger; otherwise all lines of a record have one target."""
    items = TokenizeWords.train([["tea", "milk"]])
    data = FromColumns(Sale, item=read(items)) >> Bucket(Sale, rows=4) >> Pad(Sale, labels=LABELS)
    embed = EmbedFields(Sale, item=through(Embed(items.vocab_size, 4)))
    pipe = data >> embed >> Encode("lstm", hidden_size=4) >> Tag(LABELS)
    pipe.save(tmp_path / "tagger")
    file = tmp_path / "sales.csv"
    file.write_text("user,item,label\nann,tea,good\nbob,milk,bad\nann,milk,bad\n")
    command = ["evaluate", str(tmp_path / "tagger"), str(file), "--group", "user", "--sort", "item"]
    assert main([*command, "--step-targets", "--json"]) == 0
    steps = Csv(file, inputs={"item": str}, target="label", group="user", sort="item", step_targets=True)
    assert [example.target for example in steps] == [["bad", "good"], ["bad"]]
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(pipe.evaluate(steps).to_dict()))
    assert main(command) == 1
    assert "must have one class in all lines of a record" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--sort", "item"], ["--step-targets"]])
def test_options_of_groups_need_a_group(
    tmp_path: Path, folder: Path, sales: list[str], capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    """They were ignored by pipes that take text."""
    for model, file in (sales, [str(folder), str(write_reviews(tmp_path / "a.csv"))]):
        assert main(["evaluate", model, file, *arguments]) == 1
        assert f"{arguments[0]} is for records of several lines; say which" in capsys.readouterr().err


def test_groups_are_for_columns(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A pipe that takes text reads a line per record."""
    assert main(["evaluate", str(folder), str(write_reviews(tmp_path / "a.csv")), "--group", "id"]) == 1
    assert "--group is for pipes that begin with FromColumns, and for .csv and .tsv" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--words", "x"], "--words is for pipes that take lists of words, but this one takes text"),
        (["--output", "out.xml"], "output must end in .csv, .jsonl, .parquet, .conllu, .conllup, got '.xml'"),
        (["--text", "review"], "has no column 'review'"),
        (["--column", "label"], "rename it, or choose another name with --column NAME"),
        (["--device", "quantum"], "--device must be a device of torch, got 'quantum'"),
    ],
)
def test_mistakes_are_reported_on_one_line(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    """With the status 1, and without an output."""
    file = write_reviews(tmp_path / "new.csv")
    output = [] if "--output" in arguments else ["--output", str(tmp_path / "out.csv")]
    assert main(["predict", str(folder), str(file), *output, *arguments]) == 1
    found = capsys.readouterr()
    assert message in found.err
    assert (found.out, found.err.count("\n")) == ("", 1)
    assert {path.name for path in tmp_path.iterdir()} == {"model", "new.csv"}


@pytest.mark.parametrize("command", ["evaluate", "predict", "generate", "export", "serve"])
def test_a_folder_without_a_model_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    """Before the file is read."""
    rest = {"evaluate": ["x.csv"], "predict": ["x.csv", "--output", "y.csv"], "export": ["y.pt2"]}.get(command, [])
    assert main([command, str(tmp_path), *rest]) == 1
    assert capsys.readouterr().err.startswith("error: ")
