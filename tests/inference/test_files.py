"""Files in, files out: each prediction is that of its row alone, all columns are kept, and a stopped run continues."""

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from typing_extensions import override

from pipeline import (
    Bucket,
    Classify,
    ClassifyMultiLabel,
    Embed,
    Encode,
    Example,
    FromFeatures,
    Heads,
    Labels,
    Pad,
    Pool,
    Regress,
    StreamChain,
    Tokenize,
    TokenizeWords,
    Vectors,
    classifier,
    tagger,
)
from pipeline.core.contexts import seeded
from pipeline.errors import OptionError, RecordError, ShapeError, SourceError, UnknownOptionError, ValuesError
from pipeline.extras import import_extra
from pipeline.inference import files
from pipeline.inference.file_journal import open_locked
from pipeline.inference.files import predict_file
from pipeline.sources import Conllu, Csv, JsonLines, Parquet, Problem, Records, Source, TextLines, Tsv
from support.needs import needs
from support.untyped import as_any

LABELS = Labels(["bad", "good", "mixed"])
TEXTS = ["a fine film", "dull", "what a fine, fine evening", "a dull evening", "film", "evening film", "what a film"]
WORDS = [["a", "fine", "film"], ["so", "dull"], ["film"]]


def make_classifier(seed: int = 0) -> StreamChain[Any, Any]:
    """Return a classifier of texts in float64, with random weights."""
    tokenize = Tokenize.train(TEXTS)
    with seeded(seed):
        pipe = (
            tokenize >> Bucket(max_padded_steps=24) >> Pad() >> classifier(tokenize.vocab_size, LABELS, hidden_size=4)
        )
    return pipe.to(torch.float64)


def make_tagger(labels: Labels = LABELS) -> StreamChain[Any, Any]:
    """Return a tagger of words."""
    tokenize = TokenizeWords.train(WORDS)
    with seeded(0), torch.no_grad():
        model = tagger(tokenize.vocab_size, labels, hidden_size=4)
        # Large weights, so that words of one row have different tags.
        for weight in model.parameters():
            weight.mul_(10)
    return tokenize >> Bucket(rows=2) >> Pad() >> model


def predict_alone(pipe: StreamChain[Any, Any], value: object) -> Any:
    """Return the prediction of one input by itself."""
    return next(pipe.predict([value], scores=True))


def write_csv(file: Path, texts: Sequence[str] = TEXTS) -> Path:
    """Write texts with an id before and a note after them that needs quotes."""
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "text", "note"])
        writer.writerows([number, text, f'"{number}",\r\nö'] for number, text in enumerate(texts))
    return file


def read_csv(file: Path) -> list[dict[str, str]]:
    """Read a file with a header."""
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


class Stopping(Source[str]):
    """A source that fails at a record, as a run that is stopped there."""

    def __init__(self, texts: Sequence[str], stop: int | None) -> None:
        self.texts = texts
        self.stop = stop

    @override
    def __len__(self) -> int:
        return len(self.texts)

    @override
    def __iter__(self) -> Iterator[Example[str]]:
        for number, text in enumerate(self.texts):
            if number == self.stop:
                raise KeyboardInterrupt
            yield Example(text)

    @override
    def read(self, number: int) -> Example[str]:
        return Example(self.texts[number])

    @override
    def where(self, index: int) -> str:
        return f"record {index}"


def run(
    pipe: StreamChain[Any, Any], output: Path, *, stop: int | None = None, chunk_size: int = 2, **options: Any
) -> files.WrittenFile:
    """Predict the texts in chunks of two, and stop at a record."""
    return predict_file(pipe, Stopping(TEXTS, stop), output, chunk_size=chunk_size, **options)


def test_csv_keeps_all_columns_and_adds_the_prediction_of_each_row_alone(tmp_path: Path) -> None:
    """Also fields with quotes, separators and line ends."""
    pipe, source = make_classifier(), Csv(write_csv(tmp_path / "in.csv"))
    written = predict_file(pipe, source, tmp_path / "out.csv", chunk_size=3)
    assert str(written) == f"wrote 7 predictions to {tmp_path / 'out.csv'}"
    found, given = read_csv(tmp_path / "out.csv"), read_csv(tmp_path / "in.csv")
    assert [[*row] for row in found[:1]] == [["id", "text", "note", "prediction", "probability"]]
    for row, before, text in zip(found, given, TEXTS, strict=True):
        wanted = predict_alone(pipe, text)
        assert {**row, "probability": ""} == {**before, "prediction": wanted.label, "probability": ""}
        assert float(row["probability"]) == pytest.approx(wanted.probability, abs=1e-12)
    assert {path.name for path in tmp_path.iterdir()} == {"in.csv", "out.csv"}


def test_json_lines_keep_fields_that_only_some_records_have(tmp_path: Path) -> None:
    """Fields may be of any type."""
    records: list[dict[str, Any]] = [{"text": "dull", "meta": {"a": [1, None]}}, {"ü": 2.5, "text": "a fine film"}]
    (tmp_path / "in.jsonl").write_text("\n\n".join(map(json.dumps, records)) + "\n")
    pipe = make_classifier()
    predict_file(pipe, JsonLines(tmp_path / "in.jsonl"), tmp_path / "out.jsonl")
    for line, record in zip((tmp_path / "out.jsonl").read_text().splitlines(), records, strict=True):
        found = json.loads(line)
        wanted = predict_alone(pipe, record["text"])
        assert found.pop("probability") == pytest.approx(wanted.probability, abs=1e-12)
        assert found == {**record, "prediction": wanted.label}


def test_csv_rejects_a_field_that_the_first_records_lack(tmp_path: Path) -> None:
    """A missing field is an empty cell."""
    (tmp_path / "in.jsonl").write_text('{"text": "dull", "a": [1]}\n{"text": "film"}\n{"text": "film", "b": 2}\n')
    source = JsonLines(tmp_path / "in.jsonl")
    with pytest.raises(RecordError, match=r"in.jsonl, line 3 has the column 'b', but the first records have only"):
        predict_file(make_classifier(), source, tmp_path / "out.csv", chunk_size=1)
    (tmp_path / "in.jsonl").write_text('{"text": "dull", "a": [1]}\n{"text": "film"}\n')
    source = JsonLines(tmp_path / "in.jsonl")
    predict_file(make_classifier(), source, tmp_path / "out.csv", resume=False)
    assert [row["a"] for row in read_csv(tmp_path / "out.csv")] == ["[1]", ""]


def test_a_tagger_fills_one_column_of_conllu_and_keeps_the_rest(tmp_path: Path) -> None:
    """Comments, multiword tokens, empty nodes and all other columns stay as they are."""
    text = (
        "# sent_id = 1\n1-2\tafine\t_\t_\t_\t_\t_\t_\t_\tX=1\n1\ta\tA\tDET\tq\t_\t2\tdet\t_\t_\n"
        "2\tfine\t_\t_\t_\t_\t0\troot\t_\t_\n2.1\te\t_\t_\t_\t_\t_\t_\t_\t_\n3\tfilm\t_\tNOUN\t_\t_\t2\tx\t_\t_\n\n"
        "# two\n# comments\n1\tso\t_\tADV\t_\t_\t0\troot\t_\t_\n\n"
    )
    (tmp_path / "in.conllu").write_text(text)
    pipe = make_tagger()
    predict_file(pipe, Conllu(tmp_path / "in.conllu"), tmp_path / "out.conllu")
    first, second = (predict_alone(pipe, words) for words in (["a", "fine", "film"], ["so"]))
    assert first[0].label != first[2].label
    tags = iter([tag.label for tag in (*first, *second)])
    wanted: list[str] = []
    for line in text.splitlines():
        fields = line.split("\t")
        if fields[0].isdecimal():
            fields[3] = next(tags)
        wanted.append("\t".join(fields))
    assert (tmp_path / "out.conllu").read_text().splitlines() == wanted


def test_other_tags_than_parts_of_speech_need_the_name_of_their_column(tmp_path: Path) -> None:
    """Nothing is written without it."""
    names = Labels(["B-PER", "O"])
    with pytest.raises(OptionError, match=r"column must be given, since list, record 1 has the prediction '(B-PER|O)'"):
        predict_file(make_tagger(names), Records(WORDS), tmp_path / "out.conllu")
    assert list(tmp_path.iterdir()) == []
    predict_file(make_tagger(Labels(["ADJ", "NOUN"])), Records(WORDS), tmp_path / "out.conllu")
    assert {line.split("\t")[3] for line in (tmp_path / "out.conllu").read_text().splitlines() if line} <= {
        "ADJ",
        "NOUN",
    }


def test_conllu_plus_keeps_its_columns(tmp_path: Path) -> None:
    """The line that names them is written once, also if the first sentence follows it directly."""
    (tmp_path / "in.conllu").write_text("# global.columns = ID FORM NER\n1\tso\t_\n2\tdull\tx\n\n1\tfilm\t_\n")
    pipe = make_tagger()
    predict_file(pipe, Conllu(tmp_path / "in.conllu", target="ner"), tmp_path / "out.conllup", chunk_size=1)
    tags = [tag.label for words in (["so", "dull"], ["film"]) for tag in predict_alone(pipe, words)]
    wanted = f"# global.columns = ID FORM NER\n1\tso\t{tags[0]}\n2\tdull\t{tags[1]}\n\n1\tfilm\t{tags[2]}\n\n"
    assert (tmp_path / "out.conllup").read_text() == wanted


def test_words_of_any_source_become_conllu(tmp_path: Path) -> None:
    """With the columns that are known."""
    pipe = make_tagger()
    predict_file(pipe, Records(WORDS), tmp_path / "out.conllu", column="xpos")
    tag = predict_alone(pipe, WORDS[2])[0].label
    assert (tmp_path / "out.conllu").read_text().endswith(f"\n\n1\tfilm\t_\t_\t{tag}\t_\t_\t_\t_\t_\n\n")


def test_conllu_rejects_a_pipe_with_one_class_per_row(tmp_path: Path) -> None:
    """And a column that it does not have."""
    with pytest.raises(OptionError, match="record 1 has one prediction, but CoNLL-U needs one per word"):
        predict_file(make_classifier(), Records(["film"]), tmp_path / "out.conllu")
    with pytest.raises(OptionError, match="column must be one of form, lemma, upos, .*, for CoNLL-U, got 'tag'"):
        predict_file(make_tagger(), Records(WORDS), tmp_path / "out.conllu", column="tag")


def test_conllu_without_upos_needs_a_column(tmp_path: Path) -> None:
    """The error lists the columns of the file."""
    (tmp_path / "in.conllu").write_text("# global.columns = ID FORM NER\n1\tso\tO\n\n")
    with pytest.raises(
        OptionError, match=r"column \(--column\) must be given, since .* no upos; choose one of form, ner\."
    ):
        predict_file(make_tagger(), Conllu(tmp_path / "in.conllu", target=None), tmp_path / "out.conllu")


@needs("pyarrow")
def test_parquet_keeps_the_types_of_all_columns(tmp_path: Path) -> None:
    """Types without a counterpart in Python or JSON, nulls and metadata included."""
    arrow, parquet = (import_extra(name, extra="arrow", why="this test") for name in ("pyarrow", "pyarrow.parquet"))
    table = arrow.table(
        {
            "text": TEXTS,
            "time": arrow.array([1, None, 3, 4, 5, 6, 7], arrow.timestamp("ns")),
            "kind": arrow.array(["x", "y", None, "x", "x", "y", "x"]).dictionary_encode(),
            "raw": arrow.array([b"\xff"] * 7, arrow.binary()),
            "many": arrow.array([[1], [], None, [2, 3], [4], [5], [6]], arrow.list_(arrow.int8())),
        },
    ).replace_schema_metadata({"made": "here"})
    parquet.write_table(table, tmp_path / "in.parquet")
    pipe = make_classifier()
    assert predict_file(pipe, Parquet(tmp_path / "in.parquet"), tmp_path / "out.parquet").rows == 7
    found = parquet.read_table(tmp_path / "out.parquet")
    assert found.select(table.schema.names).equals(parquet.read_table(tmp_path / "in.parquet"))
    assert found.schema.metadata[b"made"] == b"here"
    wanted = [predict_alone(pipe, text) for text in TEXTS]
    assert found.column("prediction").to_pylist() == [each.label for each in wanted]
    probabilities = [each.probability for each in wanted]
    assert found.column("probability").to_pylist() == pytest.approx(probabilities, abs=1e-12)


@needs("pyarrow")
def test_parquet_of_lines_keeps_the_types_of_the_first_records(tmp_path: Path) -> None:
    """A later value of another type is an error, not a null."""
    parquet = import_extra("pyarrow.parquet", extra="arrow", why="this test")
    (tmp_path / "in.jsonl").write_text('{"text": "dull", "a": 1}\n{"text": "film", "a": "x"}\n')
    source = JsonLines(tmp_path / "in.jsonl")
    with pytest.raises(RecordError, match="column 'a' must hold values of type int64, as the first records have"):
        predict_file(make_classifier(), source, tmp_path / "out.parquet", chunk_size=1)
    predict_file(make_tagger(), Records(WORDS), tmp_path / "tags.parquet", chunk_size=2)
    table = parquet.read_table(tmp_path / "tags.parquet")
    assert table.column("words").to_pylist() == WORDS
    assert [str(kind) for kind in table.schema.types[1:]] == ["list<element: string>", "list<element: double>"]


@needs("pyarrow")
@pytest.mark.parametrize("stop", [2, 5])
def test_a_stopped_parquet_file_is_continued(tmp_path: Path, stop: int) -> None:
    """The result equals that of a run that was not stopped."""
    pipe = make_classifier()
    run(pipe, tmp_path / "whole.parquet")
    with pytest.raises(KeyboardInterrupt):
        run(pipe, tmp_path / "out.parquet", stop=stop)
    assert run(pipe, tmp_path / "out.parquet").resumed_from == stop // 2 * 2
    assert (tmp_path / "out.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()


@needs("pyarrow")
def test_rows_that_are_skipped_are_not_in_a_parquet_file(tmp_path: Path) -> None:
    """The other rows keep their own columns."""
    arrow, parquet = (import_extra(name, extra="arrow", why="this test") for name in ("pyarrow", "pyarrow.parquet"))
    parquet.write_table(arrow.table({"text": ["dull", None, "film"], "id": [1, 2, 3]}), tmp_path / "in.parquet")
    source = Parquet(tmp_path / "in.parquet", on_bad_record="skip")
    written = predict_file(make_classifier(), source, tmp_path / "out.csv")
    assert (written.rows, dict(written.skipped.kinds)) == (2, {"null": 1})
    assert [row["id"] for row in read_csv(tmp_path / "out.csv")] == ["1", "3"]


@pytest.mark.parametrize("name", ["out.csv", "out.jsonl"])
@pytest.mark.parametrize("stop", [0, 1, 2, 5, 6])
def test_a_stopped_run_is_continued_to_the_same_result(tmp_path: Path, name: str, stop: int) -> None:
    """Only whole chunks are kept; until the end the output does not exist."""
    pipe = make_classifier()
    run(pipe, tmp_path / f"whole-{name}")
    with pytest.raises(KeyboardInterrupt):
        run(pipe, tmp_path / name, stop=stop)
    assert not (tmp_path / name).exists()
    assert run(pipe, tmp_path / name).resumed_from == stop // 2 * 2
    assert (tmp_path / name).read_bytes() == (tmp_path / f"whole-{name}").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {name, f"whole-{name}"}


def test_rows_that_were_predicted_are_not_predicted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A continued run predicts only the rest."""
    pipe = make_classifier()
    with pytest.raises(KeyboardInterrupt):
        run(pipe, tmp_path / "out.csv", stop=5)
    seen: list[str] = []

    def see(pipe: StreamChain[Any, Any], inputs: Any) -> Iterator[Any]:
        seen.extend(example.input for example in inputs)
        return pipe.predict(inputs, scores=True)

    monkeypatch.setattr(files, "_predict_chunk", see)
    run(pipe, tmp_path / "out.csv")
    assert seen == TEXTS[4:]


def test_a_chunk_that_was_cut_off_is_written_again(tmp_path: Path) -> None:
    """The process died while it wrote, before the journal counted the chunk."""
    pipe = make_classifier()
    run(pipe, tmp_path / "whole.csv")
    with pytest.raises(KeyboardInterrupt):
        run(pipe, tmp_path / "out.csv", stop=5)
    with (tmp_path / "out.csv.partial").open("ab") as file:
        file.write(b"evening fi" * 1_000)
    run(pipe, tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


@pytest.mark.parametrize("damage", ["journal", "partial"])
def test_a_run_begins_again_if_its_files_are_damaged(tmp_path: Path, damage: str) -> None:
    """Less of the output than the journal says, or a journal that cannot be read."""
    pipe = make_classifier()
    run(pipe, tmp_path / "whole.csv")
    with pytest.raises(KeyboardInterrupt):
        run(pipe, tmp_path / "out.csv", stop=5)
    file = tmp_path / ("out.csv.partial.json" if damage == "journal" else "out.csv.partial")
    file.write_bytes(file.read_bytes()[:20])
    assert run(pipe, tmp_path / "out.csv").resumed_from == 0
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_a_run_is_not_continued_with_another_model_or_option(tmp_path: Path) -> None:
    """The error names what differs; resume=False begins again."""
    with pytest.raises(KeyboardInterrupt):
        run(make_classifier(), tmp_path / "out.csv", stop=5)
    with pytest.raises(OptionError, match="is an unfinished output with another model; pass the same to continue"):
        run(make_classifier(seed=1), tmp_path / "out.csv")
    with pytest.raises(OptionError, match="another column and chunk_size"):
        run(make_classifier(), tmp_path / "out.csv", column="x", chunk_size=3)
    assert run(make_classifier(seed=1), tmp_path / "out.csv", resume=False).resumed_from == 0


@pytest.mark.parametrize("texts", [["A fine film", *TEXTS[1:]], TEXTS[:3]])
def test_a_run_is_not_continued_with_another_input(tmp_path: Path, texts: list[str]) -> None:
    """Another record, or fewer of them, among those that were predicted."""
    with pytest.raises(KeyboardInterrupt):
        run(make_classifier(), tmp_path / "out.csv", stop=5)
    with pytest.raises(SourceError, match="the input has changed since .*out.csv.partial' was begun"):
        predict_file(make_classifier(), Stopping(texts, None), tmp_path / "out.csv", chunk_size=2)
    assert not (tmp_path / "out.csv").exists()


def test_an_older_output_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    """It is replaced at the end, also by the run that continues."""
    (tmp_path / "out.csv").write_text("old")
    with pytest.raises(KeyboardInterrupt):
        run(make_classifier(), tmp_path / "out.csv", stop=5, resume=False)
    assert (tmp_path / "out.csv").read_text() == "old"
    assert run(make_classifier(), tmp_path / "out.csv").resumed_from == 4
    assert len(read_csv(tmp_path / "out.csv")) == 7


def test_a_file_that_exists_is_replaced_only_if_told_so(tmp_path: Path) -> None:
    """A file of the user, an older output, one that appeared after the run began, and one of the unfinished output."""
    output, message = tmp_path / "out.csv", "output must be a new file, but .* exists; choose .*resume=False"
    output.write_text("mine")
    for _ in range(2):
        before = output.read_bytes()
        with pytest.raises(OptionError, match=message):
            run(make_classifier(), output)
        assert output.read_bytes() == before
        assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]
        run(make_classifier(), output, resume=False)
    output.unlink()
    with pytest.raises(KeyboardInterrupt):
        run(make_classifier(), output, stop=5)
    output.write_text("mine")
    with pytest.raises(OptionError, match=message):
        run(make_classifier(), output)
    (tmp_path / "new.csv.partial").write_text("mine")
    with pytest.raises(OptionError, match="must be free for the unfinished output"):
        run(make_classifier(), tmp_path / "new.csv")
    assert (output.read_text(), (tmp_path / "new.csv.partial").read_text()) == ("mine", "mine")


def test_a_file_that_appears_during_a_run_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After it is moved away, the same call only moves the finished output to its place."""

    def appear(pipe: StreamChain[Any, Any], inputs: Any) -> Iterator[Any]:
        (tmp_path / "out.csv").write_text("mine")
        return pipe.predict(inputs, scores=True)

    with monkeypatch.context() as patch:
        patch.setattr(files, "_predict_chunk", appear)
        with pytest.raises(SourceError, match="was written by somebody else meanwhile; move it, and run again"):
            run(make_classifier(), tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == "mine"
    (tmp_path / "out.csv").unlink()
    assert run(make_classifier(), tmp_path / "out.csv").resumed_from == 7


def test_two_runs_do_not_write_one_output(tmp_path: Path) -> None:
    """The second one is rejected."""
    with open_locked(tmp_path / "out.csv.partial"), pytest.raises(SourceError, match="written by another process"):
        run(make_classifier(), tmp_path / "out.csv")


def test_malformed_records_are_skipped_or_replaced_as_the_source_says(tmp_path: Path) -> None:
    """A replaced record has its input; its other columns are empty."""

    def replace(_: Problem) -> Example[str]:
        return Example("a fine film")

    (tmp_path / "in.csv").write_text("id,text\n1,dull\n2\n3,film\n")
    pipe = make_classifier()
    written = predict_file(pipe, Csv(tmp_path / "in.csv", on_bad_record="skip"), tmp_path / "out.csv", chunk_size=1)
    assert (written.rows, str(written.skipped)) == (2, "1 record skipped (fields: 1)")
    assert written.skipped.first[0].number == 3
    assert [row["id"] for row in read_csv(tmp_path / "out.csv")] == ["1", "3"]
    replacing = Csv(tmp_path / "in.csv", on_bad_record=replace)
    assert predict_file(pipe, replacing, tmp_path / "out.csv", resume=False).rows == 3
    row = read_csv(tmp_path / "out.csv")[1]
    assert (row["id"], row["text"]) == ("", "a fine film")
    assert row["prediction"] == predict_alone(pipe, "a fine film").label
    with pytest.raises(RecordError, match=r"in.csv, line 3: a record must have 2 fields"):
        predict_file(pipe, Csv(tmp_path / "in.csv"), tmp_path / "out.csv", resume=False)


def test_an_error_of_the_pipe_names_the_record_of_the_file(tmp_path: Path) -> None:
    """Not only its number in the chunk."""
    (tmp_path / "in.txt").write_text("dull\nfilm\nfine\nevening\n")

    pipe = make_classifier()
    with torch.no_grad():
        next(pipe.parameters())[Tokenize.train(TEXTS).tokenizer.vocabulary["evening"]] = torch.nan
    with pytest.raises(ValuesError, match="in.txt, line 4: a prediction must be a finite number, got nan"):
        predict_file(pipe, TextLines(tmp_path / "in.txt"), tmp_path / "out.csv", chunk_size=3)
    data = FromFeatures() >> Bucket(Vectors, rows=2) >> Pad(Vectors)
    sensors = data >> Encode("gru", input_size=1, hidden_size=2) >> Pool("max") >> Classify(LABELS)
    (tmp_path / "in.jsonl").write_text('{"x": [1.0]}\n\n{"x": ["y"]}\n')
    chosen = JsonLines(tmp_path / "in.jsonl", inputs=["x"])
    whole = [example.input["x"] for example in chosen]
    with pytest.raises(ShapeError, match="Row 1 is list, record 2"):
        predict_file(sensors, Records(whole), tmp_path / "other.csv")
    assert not (tmp_path / "other.csv.partial").exists()


@pytest.mark.parametrize("name", ["out.csv", "out.jsonl", "out.conllu"])
def test_an_empty_file_gives_a_file_without_records(tmp_path: Path, name: str) -> None:
    """CSV has its header."""
    (tmp_path / "in.csv").write_text("id,text\n")
    pipe = make_tagger() if name == "out.conllu" else make_classifier()
    source = Records[Any]([]) if name == "out.conllu" else Csv(tmp_path / "in.csv")
    assert predict_file(pipe, source, tmp_path / name).rows == 0
    wanted = "id,text,prediction,probability\n" if name == "out.csv" else ""
    assert (tmp_path / name).read_text() == wanted


def test_columns_may_have_another_name_and_never_replace_one(tmp_path: Path) -> None:
    """A file with predictions can be predicted again under another name."""
    pipe = make_classifier()
    predict_file(pipe, Csv(write_csv(tmp_path / "in.csv")), tmp_path / "one.csv")
    with pytest.raises(RecordError, match="the input has a column 'prediction' already"):
        predict_file(pipe, Csv(tmp_path / "one.csv"), tmp_path / "two.csv")
    predict_file(pipe, Csv(tmp_path / "one.csv"), tmp_path / "two.csv", column="second", resume=False)
    row = read_csv(tmp_path / "two.csv")[0]
    assert row["second"] == row["prediction"]
    assert row["second_probability"] == row["probability"]


def test_several_heads_have_columns_with_their_names(tmp_path: Path) -> None:
    """Several classes are a list with a probability for each; numbers have none."""
    tokenize = Tokenize.train(TEXTS)
    body = Embed(tokenize.vocab_size, 4) >> Encode("bilstm", hidden_size=4) >> Pool("max")
    heads = Heads(Classify(LABELS), ClassifyMultiLabel(LABELS, threshold=0.1), Regress())
    pipe = tokenize >> Bucket(rows=4) >> Pad() >> body >> heads
    predict_file(pipe, Records(TEXTS), tmp_path / "out.jsonl", chunk_size=3)
    for line, text in zip((tmp_path / "out.jsonl").read_text().splitlines(), TEXTS, strict=True):
        one, several, number = predict_alone(pipe, text).heads
        found = json.loads(line)
        assert [*found] == ["text", *(f"{kind}_{name}" for name in heads.branches for kind in kinds_of(name))]
        assert found["prediction_classify"] == one.label
        assert found["prediction_classify_multi_label"] == several.labels
        wanted = [dict(several.top())[label] for label in several.labels]
        assert found["probability_classify_multi_label"] == pytest.approx(wanted, abs=1e-6)
        assert found["prediction_regress"] == pytest.approx(number, abs=1e-6)


def kinds_of(head: str) -> list[str]:
    """Return the columns of a head."""
    return ["prediction"] if head == "regress" else ["prediction", "probability"]


def test_other_sources_keep_input_and_target(tmp_path: Path) -> None:
    """A part of a file, a file of tabs, and a list."""
    (tmp_path / "in.tsv").write_text("text\tlabel\tid\ndull\tbad\t1\nfilm\tgood\t2\n")
    pipe, source = make_classifier(), Tsv(tmp_path / "in.tsv", target="label")
    predict_file(pipe, source[1:], tmp_path / "out.jsonl")
    found = json.loads((tmp_path / "out.jsonl").read_text())
    assert (found["text"], found["target"]) == ("film", "good")
    predict_file(pipe, source, tmp_path / "out.jsonl", resume=False)
    assert json.loads((tmp_path / "out.jsonl").read_text().splitlines()[1])["id"] == "2"
    predict_file(pipe, ["dull"], tmp_path / "out.jsonl", resume=False)
    assert [*json.loads((tmp_path / "out.jsonl").read_text())] == ["text", "prediction", "probability"]


def test_arguments_of_wrong_types_are_named(tmp_path: Path) -> None:
    """Before anything is written."""
    pipe, wrong = as_any(make_classifier()), {"column": 3, "resume": "no", "chunk_size": "3"}
    for name, value in wrong.items():
        with pytest.raises(OptionError, match=f"{name} must be .*, got {value!r}"):
            pipe.predict_file(TEXTS, tmp_path / "out.csv", **{name: value})
    with pytest.raises(OptionError, match="output must be a path, as text or a Path, got None"):
        pipe.predict_file(TEXTS, None)
    with pytest.raises(UnknownOptionError, match="predict_file has no option 'colum'; its options are column, resume"):
        pipe.predict_file(TEXTS, tmp_path / "out.csv", colum="x")
    assert list(tmp_path.iterdir()) == []


def test_wrong_outputs_are_rejected_before_anything_is_written(tmp_path: Path) -> None:
    """The input itself, a folder, no folder, and an unknown suffix."""
    file = write_csv(tmp_path / "in.csv")
    before = file.read_bytes()
    wrong = {
        "in.csv": "output must not be the input",
        "no/out.csv": "which is no folder; choose another path",
        "out.xlsx": r"output must end in .csv, .jsonl, .parquet, .conllu, .conllup, got '.xlsx'",
        "out": "got no suffix",
        ".": "is a folder",
    }
    for name, message in wrong.items():
        with pytest.raises(OptionError, match=message):
            predict_file(make_classifier(), Csv(file), tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]
    assert file.read_bytes() == before
