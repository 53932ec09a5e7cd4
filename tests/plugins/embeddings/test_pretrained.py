"""Tests of `read_vectors` and `list_vector_words`."""

import gzip
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Literal, cast

import pytest
import safetensors.torch
import torch

from pipeline import Bucket, Classify, Embed, Encode, Example, Labels, Pad, Pool, Tokenize, TokenizeWords, load
from pipeline.errors import OptionError, RecordError, SourceError
from pipeline_embeddings import list_vector_words, read_vectors
from support.untyped import to_list

IDS: Final[Mapping[str, int]] = {"<pad>": 0, "<unk>": 1, "the": 2, "cat": 3, "Paris": 4}
save_file: Callable[..., None] = getattr(safetensors.torch, "save_file")  # noqa: B009 - its types are open

LINES: Final = ["the 0.5 -1", "dog 3 4", "cat 1e-1 2"]


def write(folder: Path, *lines: str, name: str = "vectors.txt") -> Path:
    """Write lines to a file."""
    file = folder / name
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return file


@pytest.mark.parametrize("header", [(), ("3 2",)])
def test_text_with_and_without_header_is_read(tmp_path: Path, header: tuple[str, ...]) -> None:
    """GloVe has no header; word2vec and fastText have one."""
    vectors = read_vectors(write(tmp_path, *header, *LINES), IDS, missing="zeros")
    assert to_list(vectors.weight) == [[0, 0], [0, 0], [0.5, -1], [pytest.approx(0.1), 2], [0, 0]]
    assert vectors.coverage.exact == ["the", "cat"]
    assert vectors.coverage.missing == ["Paris"]
    assert vectors.coverage.file_words == 3
    assert vectors.coverage.type_share == pytest.approx(2 / 3)


def test_compressed_text_is_read(tmp_path: Path) -> None:
    """By the ending of its name; tabs, spaces at the end and line ends of Windows are separators too."""
    file = tmp_path / "vectors.vec.gz"
    file.write_bytes(gzip.compress(b"the\t1\t2 \r\ncat 3 4 \r\n2000\t5\t6\n"))
    assert to_list(read_vectors(file, {**IDS, "2000": 5}).weight[[2, 3, 5]]) == [[1, 2], [3, 4], [5, 6]]


@pytest.mark.parametrize("header", ["", "1 2\n"])
def test_byte_order_mark_is_no_part_of_the_first_word(tmp_path: Path, header: str) -> None:
    """Some editors write one."""
    file = tmp_path / "vectors.txt"
    file.write_text(f"{header}the 1 2\n", encoding="utf-8-sig")
    assert to_list(read_vectors(file, IDS).weight[2]) == [1, 2]


def test_word_may_hold_spaces(tmp_path: Path) -> None:
    """As some lines of GloVe do: the numbers are the last ones."""
    vectors = read_vectors(write(tmp_path, "the 1 2", ". . . 5 6", "New York 7 8"), {"the": 0, "New York": 1})
    assert to_list(vectors.weight) == [[1, 2], [7, 8]]
    assert list_vector_words(tmp_path / "vectors.txt") == ["the", ". . .", "New York"]


def test_case_fallback_takes_another_case(tmp_path: Path) -> None:
    """The word itself comes first, then its lower case, then title and upper case."""
    file = write(tmp_path, "THE 1 1", "the 2 2", "paris 3 3", "Cat 4 4", "CAT 5 5")
    ids = {"The": 0, "the": 1, "Paris": 2, "cat": 3}
    found = read_vectors(file, ids, case_fallback=True)
    assert to_list(found.weight[:, 0]) == [2, 2, 3, 4]
    assert found.coverage.by_case == {"The": "the", "Paris": "paris", "cat": "Cat"}
    assert read_vectors(file, ids).coverage.missing == ["The", "Paris", "cat"]


def test_coverage_of_tokens_is_stated_with_counts(tmp_path: Path) -> None:
    """Missing words are listed by falling frequency, and special tokens are not counted."""
    counts = Counter({"the": 6, "owl": 1, "emu": 2, "not in the vocabulary": 100})
    found = read_vectors(write(tmp_path, *LINES), {"<unk>": 0, "the": 1, "owl": 2, "emu": 3}, counts=counts)
    assert found.coverage.missing == ["emu", "owl"]
    assert (found.coverage.tokens, found.coverage.found_tokens) == (9, 6)
    wanted = "1 of 3 words have a vector (33.3%), and 6 of 9 tokens (66.7%); missing: emu, owl"
    assert str(found.coverage) == wanted
    assert str(found) == f"4 vectors of 2 features: {wanted}"


def test_missing_words_have_the_statistics_of_the_found_ones(tmp_path: Path) -> None:
    """Feature by feature, and the same for each seed, whatever the state of torch's generator."""
    file = write(tmp_path, *(f"w{word} {word % 2} {5 + word % 2 / 10}" for word in range(10)))
    ids = {f"w{word}" if word < 10 else f"missing{word}": word for word in range(2_000)}
    weight = read_vectors(file, ids).weight
    assert to_list(weight[10:].mean(0)) == pytest.approx([0.5, 5.05], abs=0.05)
    assert to_list(weight[10:].std(0)) == pytest.approx([0.5, 0.05], rel=0.1)
    assert torch.equal(weight, read_vectors(file, ids).weight)
    assert not torch.equal(weight, read_vectors(file, ids, seed=1).weight)
    mean = read_vectors(file, ids, missing="mean").weight
    assert to_list(mean[10]) == pytest.approx([0.5, 5.05])


def test_doubled_words_are_reported(tmp_path: Path) -> None:
    """The first vector is taken."""
    found = read_vectors(write(tmp_path, "the 1 1", "cat 2 2", "the 3 3", "the 4 4"), IDS)
    assert to_list(found.weight[2]) == [1, 1]
    assert found.coverage.doubled == {"the": [3, 4]}
    assert "doubled: the" in str(found)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("cat 1", "it has 1 numbers, not 2"),
        ("cat 1 2 3", "it has 3 numbers, not 2"),
        ("cat", "it has 0 numbers, not 2"),
        ("", "it has 0 numbers, not 2"),
        ("cat nan 1", "feature 0 is nan"),
        ("cat 1 -inf", "feature 1 is -inf"),
        ("cat 1 x", "a number is malformed"),
    ],
)
def test_malformed_lines_raise_or_are_reported(tmp_path: Path, line: str, problem: str) -> None:
    """With the file and the line."""
    file = write(tmp_path, "the 1 2", line, "dog 3 4")
    with pytest.raises(RecordError, match=r"vectors\.txt, line 2") as caught:
        read_vectors(file, IDS)
    assert problem in str(caught.value)
    assert caught.value.details["line"] == 2
    found = read_vectors(file, IDS, on_error="skip").coverage
    assert problem in found.problems[2]
    assert "cat" in found.missing
    assert "1 malformed lines, the first is line 2" in str(found)


def test_word_that_is_not_utf8_is_malformed(tmp_path: Path) -> None:
    """Other words are read."""
    file = tmp_path / "vectors.txt"
    file.write_bytes(b"the 1 2\n\xff 3 4\ncat 5 6\n")
    with pytest.raises(RecordError, match=r"line 2: its word, b'\\xff', is not UTF-8"):
        read_vectors(file, IDS)
    assert read_vectors(file, IDS, on_error="skip").coverage.exact == ["the", "cat"]


def test_incomplete_and_wrong_files_raise(tmp_path: Path) -> None:
    """A file that ends early, is binary, is empty, does not exist, or has other words."""
    with pytest.raises(RecordError, match=r"ends after 3 words, but its first line says 5"):
        read_vectors(write(tmp_path, "5 2", *LINES), IDS)
    with pytest.raises(RecordError, match=r"line 1 must be `word number number ...`"):
        read_vectors(write(tmp_path), IDS)
    with pytest.raises(RecordError, match=r"line 1 must be"):
        read_vectors(write(tmp_path, "the cat sat"), IDS)
    with pytest.raises(SourceError, match=r"absent\.txt cannot be read"):
        read_vectors(tmp_path / "absent.txt", IDS)
    cut = tmp_path / "cut.txt.gz"
    cut.write_bytes(gzip.compress(b"the 1 2\ncat 3 4\n")[:-9])
    with pytest.raises(SourceError, match=r"cut\.txt\.gz cannot be read: Compressed file ended"):
        read_vectors(cut, IDS)
    with pytest.raises(
        RecordError, match=r"has a vector for none of the 1 words of the vocabulary, which begins with T"
    ):
        read_vectors(write(tmp_path, *LINES), {"The": 0})


def test_wrong_options_raise(tmp_path: Path) -> None:
    """With the choices."""
    file = write(tmp_path, *LINES)
    with pytest.raises(OptionError, match=r"missing must be one of normal, zeros, mean, got 'ones'"):
        read_vectors(file, IDS, missing=cast("Literal['mean']", "ones"))
    with pytest.raises(OptionError, match=r"words and tensor are for files of safetensors"):
        read_vectors(file, IDS, words=["the"])
    with pytest.raises(OptionError, match=r"vocabulary must have an id of 0 or more for each word, got -1 for 'cat'"):
        read_vectors(file, {"the": 0, "cat": -1})
    with pytest.raises(OptionError, match=r"vocabulary must be a tokenizer, its stage, or a mapping .* got \['the'\]"):
        read_vectors(file, cast("Mapping[str, int]", ["the"]))


def test_safetensors_are_read_by_rows(tmp_path: Path) -> None:
    """The words are given as a list or a file, and the matrix by name if there are several."""
    file = tmp_path / "vectors.safetensors"
    matrix = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, torch.nan]], dtype=torch.float16)
    save_file({"matrix": matrix, "bias": torch.ones(3)}, file)
    words = write(tmp_path, "the", "cat", "dog", name="words.txt")
    for given in (["the", "cat", "dog"], words):
        assert to_list(read_vectors(file, IDS, words=given).weight[2:4]) == [[1, 2], [3, 4]]
    with pytest.raises(RecordError, match=r"line 3 \('dog'\): feature 1 is nan"):
        read_vectors(file, {"dog": 0}, words=words)
    with pytest.raises(RecordError, match=r"must have one row per word, got 3 rows of 'matrix' for 1 words"):
        read_vectors(file, IDS, words=["the"])
    with pytest.raises(OptionError, match=r"tensor must be the name of a matrix in .* has matrix, got 'bias'"):
        read_vectors(file, IDS, words=words, tensor="bias")
    with pytest.raises(OptionError, match=r"words must be the word of each row"):
        read_vectors(file, IDS)
    broken = write(tmp_path, "no tensors", name="broken.safetensors")
    with pytest.raises(RecordError, match=r"is not a file of safetensors"):
        read_vectors(broken, IDS, words=words)
    with pytest.raises(SourceError, match=r"absent.safetensors is not a file"):
        read_vectors(tmp_path / "absent.safetensors", IDS, words=words)


def test_a_file_of_words_has_one_per_line(tmp_path: Path) -> None:
    """Without a byte order mark; a word may hold any other end of a line in Unicode; errors name the file."""
    file, words = tmp_path / "vectors.safetensors", tmp_path / "words.txt"
    save_file({"matrix": torch.tensor([[1.0], [2.0]])}, file)
    words.write_bytes(b"\xef\xbb\xbfthe\r\na\xe2\x80\xa8b\r\n")
    assert to_list(read_vectors(file, {"the": 0, "a\u2028b": 1}, words=words).weight) == [[1], [2]]
    words.write_bytes(b"the\n\xfc\n")
    with pytest.raises(RecordError, match=r"words\.txt, line 2: its word is not UTF-8"):
        read_vectors(file, IDS, words=words)
    with pytest.raises(SourceError, match=r"absent\.txt cannot be read"):
        read_vectors(file, IDS, words=tmp_path / "absent.txt")


def test_words_outside_the_training_set_are_kept_on_request(tmp_path: Path) -> None:
    """The tokenizer is trained on the words of the file too."""
    file = write(tmp_path, *LINES)
    assert list_vector_words(file, limit=2) == ["the", "dog"]
    tokenize = TokenizeWords.train([["the", "mouse"], list_vector_words(file)])
    found = read_vectors(file, tokenize)
    assert found.coverage.missing == ["mouse"]
    assert len(found.weight) == tokenize.vocab_size
    (row,) = tokenize.map([["dog"]])
    assert to_list(found.weight[row.sequence.values]) == [[3, 4]]


def test_pipe_with_frozen_vectors_trains_saves_and_loads(tmp_path: Path) -> None:
    """They are ordinary weights, which training leaves as they are."""
    texts, classes = ["the cat", "the dog", "a dog"], ["c", "d", "d"]
    tokenize, labels = Tokenize.train(texts), Labels.from_targets(classes)
    vectors = read_vectors(write(tmp_path, *LINES), tokenize)
    assert not vectors.weight[0].any()  # the padding token
    model = Embed.from_pretrained(vectors.weight) >> Encode("lstm", hidden_size=3) >> Pool("max") >> Classify(labels)
    pipe = tokenize >> Bucket(rows=2, seed=0) >> Pad(labels=labels) >> model
    pipe.fit(
        [Example(text, target=target) for text, target in zip(texts, classes, strict=True)], epochs=1, progress=False
    )
    pipe.save(tmp_path / "saved")
    loaded = load(tmp_path / "saved")
    state = loaded.state_dict()
    assert torch.equal(state["embed.weight"], vectors.weight)
    assert not dict(loaded.named_parameters())["embed.weight"].requires_grad
    assert list(loaded.predict(texts)) == list(pipe.predict(texts))
