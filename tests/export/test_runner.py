"""The script beside an exported model gives the predictions of the pipe, and needs neither torch nor this library."""

import json
import subprocess
import sys
from copy import copy
from pathlib import Path
from typing import Any, final

import attrs
import pytest
import torch
from tokenizers import Tokenizer as HubTokenizer
from tokenizers import models, pre_tokenizers, processors

from pipeline import (
    Bucket,
    Embed,
    EmbedFields,
    Encode,
    Fields,
    FromFeatures,
    Identity,
    Ids,
    Labels,
    Pad,
    Pool,
    Regress,
    Row,
    TextPair,
    Tokenize,
    TokenizePair,
    TokenizeWords,
    Vectors,
    classifier,
    matcher,
    tagger,
    through,
)
from pipeline.export import runner
from pipeline.export.runner import Model
from support.decoding import KINDS, make_decoder, make_text_pipe
from support.needs import SLOW, mark_slow, needs
from support.untyped import as_any, seed

pytestmark = needs("onnx", "onnxruntime", "onnxscript", "tokenizers")

TEXTS = ["a fine film", "", "dull", "a <pad> film of unseen words, and more than six"]

# Fails if any of these is imported; the script runs as __main__.
BLOCKED = """
import runpy, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "pipeline", "pipeline_recurrent", "attrs", "attr"}:
            raise ImportError(name)
sys.meta_path.insert(0, Blocked())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_the_script_finds_the_best_paths_of_a_crf(tmp_path: Path) -> None:
    """And the probability of each tag over all paths: of one step, many, none, and with steps that need none."""
    seed(0)
    labels = Labels(["O", "B-x", "I-x"])
    words = [["a", "fine", "film"], [], ["dull"], ["a", "fine", "fine", "film", "b"]]
    tokenize = TokenizeWords.train(words, bos=True, eos=True)
    model = tagger(tokenize.vocab_size, labels, embedding_dim=3, hidden_size=2, head="crf", constraints="bio")
    for weight in model.parameters():
        torch.nn.init.normal_(weight)
    pipe = tokenize >> Bucket(rows=2) >> Pad(labels=labels) >> model
    pipe.export(tmp_path / "tagger.onnx", batches=5)
    found: Any = Model(tmp_path / "tagger.onnx").predict(words)
    wanted = list(pipe.predict(words, scores=True))
    assert [[step["label"] for step in row] for row in found] == [[step.label for step in row] for row in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert [step["probability"] for step in one] == pytest.approx([step.probability for step in other], rel=1e-4)


def test_the_script_prints_the_predictions_of_the_pipe(tmp_path: Path) -> None:
    """For texts of the command line: empty ones, special tokens as text, unseen words, truncated rows."""
    seed(0)
    tokenize = Tokenize.train(["a fine film", "a dull film"], bos=True, eos=True, max_length=6)
    model = classifier(tokenize.vocab_size, Labels(["good", "bad"]), embedding_dim=3, hidden_size=2)
    pipe = tokenize >> Bucket(rows=2) >> Pad() >> model
    pipe.export(tmp_path / "film.onnx", batches=5)
    command = [sys.executable, "-c", BLOCKED, str(tmp_path / "film.py"), *TEXTS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    wanted = list(pipe.predict(TEXTS, scores=True))
    assert [each["label"] for each in found] == [each.label for each in wanted]
    assert [each["probability"] for each in found] == pytest.approx([each.probability for each in wanted], abs=1e-5)


def test_the_script_applies_what_a_tokenizer_of_the_hub_states(tmp_path: Path) -> None:
    """Special tokens around a text, and truncation at the left."""
    seed(0)
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "fine", "film", "dull"]
    library: Any = HubTokenizer(models.WordLevel({token: place for place, token in enumerate(tokens)}, "[UNK]"))
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    library.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    library.enable_truncation(5, direction="left")
    library.save(str(tmp_path / "tokenizer.json"))
    tokenize = Tokenize.read(tmp_path / "tokenizer.json")
    pipe = tokenize >> Bucket(rows=2) >> Pad() >> classifier(8, Labels(["good", "bad"]), embedding_dim=3, hidden_size=2)
    pipe.export(tmp_path / "film.onnx", batches=5)
    texts = [*TEXTS, "a dull a fine film", "fine film dull"]
    found: Any = Model(tmp_path / "film.onnx").predict(texts)
    wanted = [each.probability for each in pipe.predict(texts, scores=True)]
    assert [each["probability"] for each in found] == pytest.approx(wanted, abs=1e-5)


def test_tags_are_those_of_words(tmp_path: Path) -> None:
    """One per word, from its first token; words without tokens too."""
    seed(0)
    tokenize = TokenizeWords.train([["New", "York", "is"]], "bpe", vocab_size=270, eos=True)
    pipe = tokenize >> Bucket(rows=2) >> Pad() >> tagger(tokenize.vocab_size, Labels(["A", "B", "C"]), hidden_size=2)
    pipe.export(tmp_path / "tag.onnx", batches=3)
    rows = [["New", "Yorkshire"], [], ["is", "", "York"]]
    found = Model(tmp_path / "tag.onnx", rows=2).predict(rows)
    assert [[each["label"] for each in row] for row in as_any(found)] == list(pipe.predict(rows))


def test_pairs_have_a_tokenizer_each(tmp_path: Path) -> None:
    """An input is a pair of texts."""
    seed(0)
    tokenize = Tokenize.train(["is it so", "it is"])
    model = matcher(tokenize.vocab_size, Labels(["no", "yes"]), embedding_dim=3, hidden_size=2)
    pipe = TokenizePair(tokenize) >> Bucket(TextPair, rows=2) >> Pad(TextPair) >> model
    pipe.export(tmp_path / "pair.onnx", batches=3)
    pairs = [("is it so", "it is"), ("", "so"), ("it", "")]
    found = Model(tmp_path / "pair.onnx").predict(pairs)
    assert [each["label"] for each in as_any(found)] == list(pipe.predict(pairs))


def test_features_are_lists(tmp_path: Path) -> None:
    """Of vectors; the prediction is a number."""
    seed(0)
    model = Encode("gru", input_size=2, hidden_size=3) >> Pool("mean") >> Regress()
    pipe = FromFeatures() >> Bucket(Vectors, rows=2) >> Pad(Vectors) >> model
    pipe.export(tmp_path / "sensor.onnx", batches=3)
    rows: list[Any] = [[[0.5, 1.0], [2.0, 0.0]], [[1.0, 1.0]]]
    found = Model(tmp_path / "sensor.onnx").predict(rows)
    assert found == pytest.approx(list(as_any(pipe).predict(rows)), abs=1e-5)


LETTERS = ["a b c d " * 7, "", "a", "c d", "d c b a", "b a d c", "x <eos> y", "d d"]
SEARCHES: Any = [
    {},
    {"num_beams": 3, "num_return_sequences": 3, "length_penalty": 0.0, "max_new_tokens": 5},
    {"num_beams": 2, "num_return_sequences": 1, "length_penalty": 2.0, "max_new_tokens": 8},
]


@pytest.mark.parametrize("kind", mark_slow(KINDS, quick={"fed"}))
def test_a_decoder_generates_the_texts_of_the_pipe(kind: str, tmp_path: Path) -> None:
    """Greedily and with beams, together and alone, until eos or the maximum, with their log-probabilities."""
    pipe = make_text_pipe(kind)
    decoder = as_any(pipe.stages[list(pipe.stages)[-1]])
    pipe.export(tmp_path / "text.onnx", batches=3, tolerance=1e-4)
    described = json.loads((tmp_path / "text.json").read_text())
    ended: set[bool] = set()
    for search in SEARCHES:
        # As the options of the decoder, those of the export can be changed.
        decoder.set_search(**search)
        described["search"] |= search
        (tmp_path / "text.json").write_text(json.dumps(described))
        wanted = [list(map(attrs.asdict, row)) for row in pipe.predict(LETTERS, scores=True)]
        ended |= {each["ended"] for row in wanted for each in row}
        for rows in (64, 1):
            found = as_any(Model(tmp_path / "text.onnx", rows=rows).predict(LETTERS))
            for one, other in zip(found, wanted, strict=True):
                assert [each["output"] for each in one] == [each["output"] for each in other]
                assert [each["ids"] for each in one] == [each["ids"] for each in other]
                assert [each["ended"] for each in one] == [each["ended"] for each in other]
                for text, same in zip(one, other, strict=True):
                    assert text["log_probabilities"] == pytest.approx(same["log_probabilities"], abs=1e-3)
    assert ended == {True, False}


def test_the_script_prints_generated_texts(tmp_path: Path) -> None:
    """With the files beside it, and without this library."""
    pipe = make_text_pipe("plain", num_beams=2)
    pipe.export(tmp_path / "text.onnx", batches=3)
    command = [sys.executable, "-c", BLOCKED, str(tmp_path / "text.py"), *LETTERS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each[0]["output"] for each in found] == list(pipe.predict(LETTERS))
    assert all(len(each) == 1 for each in found)


def test_texts_are_ids_with_a_tokenizer_in_python(tmp_path: Path) -> None:
    """Which cannot be written."""
    pipe = make_text_pipe("plain")
    wanted = [list(each[0].ids) for each in pipe.predict(LETTERS, scores=True)]
    decoder = as_any(pipe.stages["recurrent_decoder"])
    decoder.target = copy(decoder.target)
    decoder.target.tokenizer = _Wrapped(decoder.target.tokenizer)
    pipe.export(tmp_path / "text.onnx", batches=2)
    found = as_any(Model(tmp_path / "text.onnx").predict(LETTERS))
    assert [each[0]["ids"] for each in found] == wanted
    assert [each[0]["output"] for each in found] == [ids[:-1] if ids[-1] == 3 else ids for ids in wanted]
    assert not list(tmp_path.glob("*target*"))


@attrs.frozen(eq=False)
class _Reading(Fields):
    """Fields with the names of what a decoder remembers."""

    mask: Ids
    h: Vectors


@SLOW
@pytest.mark.parametrize("kind", ["gru", "transformer"])
def test_a_source_of_fields_may_have_the_names_of_the_memory(kind: str, tmp_path: Path) -> None:
    """The outputs of the first graph then have others, and are the inputs of the second one by their order."""
    seed(0)
    embed = EmbedFields(_Reading, mask=through(Embed(9, 4)), h=through(Identity(2)))
    model = as_any(embed >> Encode("lstm", hidden_size=6) >> make_decoder(kind).float())
    exported = model.export(tmp_path / "text.onnx", batches=5, tolerance=1e-4)
    assert "output_mask" in [each.name for each in exported.outputs]
    rows: Any = [{"mask": [1, 2, 3], "h": [[0.1, 0.2], [1.0, 2.0], [3.0, 4.0]]}, {"mask": [8], "h": [[1.0, 2.0]]}]
    found = as_any(Model(tmp_path / "text.onnx").predict(rows))
    made = [_Reading(Ids(torch.tensor(row["mask"])), Vectors(torch.tensor(row["h"]))) for row in rows]
    batch = as_any(Pad)(_Reading)([Row(each, row_id=place) for place, each in enumerate(made)])
    with torch.no_grad():
        wanted = dict(model.eval()(batch).scored_rows())
    assert [each[0]["ids"] for each in found] == [list(wanted[row][0].ids) for row in (0, 1)]


@final
class _Wrapped:
    """A tokenizer of another type."""

    def __init__(self, tokenizer: Any) -> None:
        self.vocabulary, self.pad_token = tokenizer.vocabulary, tokenizer.pad_token


def test_wrong_inputs_are_errors(tmp_path: Path) -> None:
    """A list where a text is asked for, and an id that the model does not have."""
    tokenize = Tokenize.train(["to be"])
    pipe = tokenize >> Bucket(rows=2) >> Pad() >> classifier(tokenize.vocab_size, 2, embedding_dim=2, hidden_size=2)
    pipe.export(tmp_path / "model.onnx", batches=2)
    model = Model(tmp_path / "model.onnx")
    with pytest.raises(ValueError, match="the input must be a text, got"):
        model.predict([["to", "be"]])
    with pytest.raises(ValueError, match="ids has an id that is not in 0 to"):
        model.predict([{"ids": [99]}])
    with pytest.raises(TypeError, match="inputs must be a list, got one input: 'to be'; put it into a list"):
        model.predict("to be")
    with pytest.raises(ValueError, match="a mapping must have the inputs ids, got text; pass a text or words as they"):
        model.predict([{"text": "to be"}])
    assert model.predict(iter(["to be", "be"])) == model.predict(("to be", "be"))


def test_wrong_inputs_of_other_models_are_errors() -> None:
    """Of pairs, and of ids."""
    model = as_any(Model.__new__(Model))
    names = [{"name": name, "role": "ids"} for name in ("first", "second")]
    model.description, model.tokenizers = {"inputs": names}, []
    with pytest.raises(ValueError, match="the input must be a list of 2: first, second, got 'ab'"):
        model.predict(["ab"])
    model.description = {"inputs": names[:1]}
    for wrong in (3, "1 2"):
        with pytest.raises(ValueError, match=f"the input must be a list of ids or vectors, got {wrong!r}"):
            model.predict([wrong])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be an integer of at least 1, got 0"),
        ({"max_new_tokens": 9}, "max_new_tokens must be at most 8, the positions of the model, got 9"),
        ({"max_new_tokens": "5"}, "max_new_tokens must be an integer of at least 1, got '5'"),
        ({"num_beams": True}, "num_beams must be an integer of at least 1, got True"),
        ({"num_return_sequences": 3}, "num_return_sequences must be at most num_beams=2, got 3"),
        ({"length_penalty": float("nan")}, "length_penalty must be a number from -10 to 10, got nan"),
        ({"length_penalty": None}, "length_penalty must be a number from -10 to 10, got None"),
        ({"num_beam": 3}, "a search has no option 'num_beam'; its options are max_new_tokens, num_beams"),
        ({"do_sample": True}, "a search has no option 'do_sample'"),
    ],
)
def test_wrong_options_of_a_search_are_errors(changed: dict[str, object], message: str, tmp_path: Path) -> None:
    """When a model is opened, since some searches would never end."""
    search = {"max_new_tokens": 5, "num_beams": 2, "num_return_sequences": 2, "length_penalty": 1, "max_positions": 8}
    described = {"form": "rows", "file": "m.onnx", "files": {}, "search": {**search, **changed}}
    (tmp_path / "m.json").write_text(json.dumps(described))
    with pytest.raises(ValueError, match=f"m.json: {message}"):
        Model(tmp_path / "m.onnx")


def test_the_script_says_how_it_is_used(tmp_path: Path) -> None:
    """And names files that are missing, in one line."""
    script = tmp_path / "film.py"
    script.write_bytes(Path(runner.__file__).read_bytes())

    def run(*arguments: str) -> Any:
        return subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, check=False)

    assert "usage: python film.py [INPUT ...]" in run("--help").stdout
    done = run("a fine film")
    assert done.returncode == 1
    assert done.stderr == (
        f"film.py: {tmp_path / 'film.json'} is missing; keep the files of an export together. "
        "The script finds them by its own name.\n"
    )
