"""The model card says how to load the pipe, and what it is made of."""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from pipeline import Bucket, FromIds, Pad, classifier, load
from pipeline.errors import FolderError
from support.saved import make_classifier, make_events, make_matcher
from support.untyped import as_any


class Trained:
    """A history of training, as far as the card needs it."""

    def describe(self) -> Mapping[str, str]:
        """Return sizes and metrics."""
        return {"rows": "6,800", "valid accuracy": "0.912"}


def test_the_card_says_how_to_load_the_pipe(tmp_path: Path) -> None:
    """Its code works, with the folder's path and some inputs."""
    make_classifier().save(tmp_path / "films", card="Tells **good** films from bad ones.")
    card = (tmp_path / "films" / "README.md").read_text()
    assert card.startswith("# films\n\nTells **good** films from bad ones.\n")
    assert "pip install 'ragged-pipeline[text]'\n" in card
    (code,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    assert "load(folder, takes=str, gives=str)" in code
    exec(code, {"folder": tmp_path / "films", "inputs": ["a b"]})  # noqa: S102 - the card's own code
    assert "| encode | Encode(bilstm) | 216 |" in card


def test_a_pipe_of_ids_needs_no_tokenizer(tmp_path: Path) -> None:
    """So the card names no extra."""
    pipe = FromIds() >> Bucket(rows=2) >> Pad() >> classifier(9, 2, hidden_size=3)
    pipe.save(tmp_path / "ids")
    assert "pip install ragged-pipeline\n" in (tmp_path / "ids" / "README.md").read_text()


def test_the_card_has_the_results_of_training(tmp_path: Path) -> None:
    """If the pipe was trained."""
    pipe = make_classifier()
    as_any(pipe).history = Trained()
    pipe.save(tmp_path / "films")
    card = (tmp_path / "films" / "README.md").read_text()
    assert "## Training\n\n|  |  |\n| --- | --- |\n| rows | 6,800 |\n| valid accuracy | 0.912 |\n" in card


def test_names_cannot_break_the_card(tmp_path: Path) -> None:
    """Signs that mean something in Markdown or HTML are escaped."""
    make_classifier().save(tmp_path / "a<b>|c")
    assert (tmp_path / "a<b>|c" / "README.md").read_text().startswith("# a&lt;b>\\|c\n")
    load(tmp_path / "a<b>|c", takes=str, gives=str)


def test_a_card_that_was_edited_is_never_read_nor_lost(tmp_path: Path) -> None:
    """Nor one that may have been edited, since the manifest is damaged; a new text replaces it."""
    folder, card = tmp_path / "films", tmp_path / "films" / "README.md"
    make_classifier().save(folder)
    card.write_text("mine")
    load(folder, takes=str, gives=str)
    manifest = (folder / "manifest.json").read_bytes()
    for content in (manifest, b"{}"):
        (folder / "manifest.json").write_bytes(content)
        with pytest.raises(FolderError, match=r"README\.md' was edited, and would be replaced; move it .* card="):
            make_classifier().save(folder)
        assert card.read_text() == "mine"
    make_classifier().save(folder, card="Theirs.")
    assert card.read_text().startswith("# films\n\nTheirs.\n")
    make_classifier().save(folder)
    card.unlink()
    load(folder, takes=str, gives=str)
    make_classifier().save(folder)


def test_tokenizers_within_a_stage_count(tmp_path: Path) -> None:
    """Of pairs and of columns: the card names the extra."""
    make_matcher().save(tmp_path / "pairs")
    make_events().save(tmp_path / "events")
    for name in ("pairs", "events"):
        assert "pip install 'ragged-pipeline[text]'" in (tmp_path / name / "README.md").read_text()
