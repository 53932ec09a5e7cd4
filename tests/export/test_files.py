"""An export replaces the files of an earlier one of its name together, so that no script mixes two models."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline import Bucket, Labels, Pad, Tokenize, classifier, language_model
from pipeline.errors import ExportError, PipelineError
from pipeline.export.files import compute_digest, write_beside
from pipeline.export.runner import Model
from support.needs import needs
from support.untyped import as_any, seed

NEEDS_ONNX = needs("onnx", "onnxruntime", "onnxscript", "tokenizers")


def make_pipe(*labels: str) -> Any:
    """Return a small classifier of texts."""
    seed(0)
    tokenize = Tokenize.train(["a fine film"])
    model = classifier(tokenize.vocab_size, Labels(labels), embedding_dim=2, hidden_size=2)
    return as_any(tokenize >> Bucket(rows=2) >> Pad() >> model)


def list_names(folder: Path) -> list[str]:
    """Return the names of the files in a folder."""
    return sorted(file.name for file in folder.iterdir())


@NEEDS_ONNX
def test_an_export_replaces_all_files_of_an_earlier_one(tmp_path: Path) -> None:
    """No script is left that reads the class names of another model."""
    make_pipe("good", "bad").export(tmp_path / "film.onnx", batches=1)
    make_pipe("bad", "good").export(tmp_path / "film.pt2", batches=1)
    assert list_names(tmp_path) == ["film.json", "film.pt2", "film.tokenizer.json"]


@NEEDS_ONNX
def test_one_step_leaves_no_script_of_whole_rows(tmp_path: Path) -> None:
    """Which would read the wrong graph."""
    model = as_any(language_model(9, embedding_dim=2, hidden_size=2))
    model.export(tmp_path / "p.onnx", batches=1)
    model.export(tmp_path / "p.onnx", form="step", batches=1)
    assert list_names(tmp_path) == ["p.json", "p.onnx"]
    with pytest.raises(ValueError, match=r"p\.json describes p\.onnx of form 'step'; this script needs an export of w"):
        Model(tmp_path / "p.onnx")


def write(path: Path, *infixes: str) -> None:
    """Write files as an export does: those of the name of `path` with these infixes, and their description."""
    with write_beside(path) as folder:
        for infix in infixes:
            (folder / f"{path.stem}{infix}").write_text("new")
        digests = {each.name: compute_digest(each) for each in folder.iterdir()}
        described: dict[str, object] = {"format": 1, "inputs": [], "outputs": [], "files": digests}
        (folder / f"{path.stem}.json").write_text(json.dumps(described))


DECODER = (".pt2", ".step.pt2", ".target.tokenizer.json", ".first.tokenizer.json")


def test_a_classifier_replaces_both_graphs_of_a_decoder(tmp_path: Path) -> None:
    """And its tokenizers; files of other names, and those that were changed, stay."""
    write(tmp_path / "m.pt2", *DECODER)
    (tmp_path / "m.py").write_text("print('mine')")
    (tmp_path / "m.target.tokenizer.json").write_text("mine")
    write(tmp_path / "m.pt2", ".pt2", ".tokenizer.json")
    assert list_names(tmp_path) == ["m.json", "m.pt2", "m.py", "m.target.tokenizer.json", "m.tokenizer.json"]


def test_a_tokenizer_of_the_user_is_never_replaced(tmp_path: Path) -> None:
    """One of an earlier export is."""
    (tmp_path / "m.tokenizer.json").write_text("mine")
    with pytest.raises(
        ExportError, match=r"m\.tokenizer\.json' beside the model, but this file is not of an export, or"
    ):
        write(tmp_path / "m.pt2", ".pt2", ".tokenizer.json")
    assert list_names(tmp_path) == ["m.tokenizer.json"]
    (tmp_path / "m.tokenizer.json").unlink()
    for _ in range(2):
        write(tmp_path / "m.pt2", ".pt2", ".tokenizer.json")


def test_files_outside_the_folder_are_never_deleted(tmp_path: Path) -> None:
    """Whatever a description says."""
    (tmp_path / "mine.txt").write_text("mine")
    write(tmp_path / "new" / "m.pt2", ".pt2")
    file = tmp_path / "new" / "m.json"
    described = json.loads(file.read_text())
    described["files"]["../mine.txt"] = compute_digest(tmp_path / "mine.txt")
    file.write_text(json.dumps(described))
    write(tmp_path / "new" / "m.pt2", ".pt2")
    assert (tmp_path / "mine.txt").is_file()


def test_all_files_are_as_before_after_an_error(tmp_path: Path) -> None:
    """If one cannot be moved into place, since a folder has its name."""
    write(tmp_path / "m.pt2", *DECODER)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    (tmp_path / "m.txt").mkdir()
    (tmp_path / "m.txt" / "mine").write_text("mine")
    with pytest.raises(PipelineError):
        write(tmp_path / "m.pt2", ".pt2", ".txt")
    assert (tmp_path / "m.txt" / "mine").is_file()
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()} == before


@NEEDS_ONNX
def test_the_script_checks_that_files_are_of_one_export(tmp_path: Path) -> None:
    """A copied model of another export, a missing file; all of them may be renamed together."""
    pipe = make_pipe("good", "bad")
    pipe.export(tmp_path / "a.onnx", batches=1)
    model = (tmp_path / "a.onnx").read_bytes()
    for suffix in (".onnx", ".json"):
        (tmp_path / "a").with_suffix(suffix).rename((tmp_path / "b").with_suffix(suffix))
    assert Model(tmp_path / "b.onnx").predict(["film"])
    (tmp_path / "b.onnx").write_bytes(model + b"\0")
    with pytest.raises(ValueError, match=r"b\.onnx is not the file that .*b\.json describes: it was changed, or is of"):
        Model(tmp_path / "b.onnx")
    (tmp_path / "b.onnx").write_bytes(model)
    described = (tmp_path / "b.json").read_text()
    tokenizer = tmp_path / "a.tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + "\n")
    (tmp_path / "b.json").write_text(json.dumps(_drop_digest(json.loads(described), tokenizer.name)))
    assert Model(tmp_path / "b.onnx").predict(["film"])
    tokenizer.unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.tokenizer\.json is missing; keep the files of an export together"):
        Model(tmp_path / "b.onnx")
    for text, reason in (('{"mine": 1}', "KeyError.*form"), ('{"form": }', "Expecting value: line 1 column 10")):
        (tmp_path / "b.json").write_text(text)
        with pytest.raises(ValueError, match=rf"b\.json is not the description of an exported model \(.*{reason}"):
            Model(tmp_path / "b.onnx")


def _drop_digest(described: dict[str, Any], name: str) -> dict[str, Any]:
    described["files"][name] = None
    return described
