"""Offsets cut out of the text what a token stands for, whatever the normalizer does with its characters."""

import pickle
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from pipeline import Tokenize, TokenizeWords
from pipeline.builtin.tokenizer_training import bpe, byte_level, characters, words
from pipeline.builtin.tokenizers import HuggingFaceTokenizer
from pipeline.parts.tokenizer import Tokenizer as Part

Make = Callable[..., Part]

LETTERS = (
    *("a", "E", "i", " ", "\n", "\r\n", "\u00a0", "''", "  "),
    *(
        "\u00df",
        "\u0130",
        "\u03a3",
        "\ufb01",
        "\u00bd",
        "\ufdfa",
        "\u212b",
        "\u01c5",
    ),  # other lengths in lower case, NFKC
    *("e\u0301", "\u0301", "\u0323", "\u0344", "\u1e9b\u0323", "\u0915\u093c", "\u09c7\u09be", "\u0e33"),  # marks
    *("\uac00", "\u1100", "\u1161", "\u11a8", "\uff76\uff9e", "\uffb7", "\u314f", "\u304b\u3099"),  # Hangul, Kana
    *("\U0001f469\u200d\U0001f467", "\U0001f44d\U0001f3fd", "\U0001d518", "\ufe0f", "\u200b", "\ufeff"),
)
TEXT = st.lists(st.sampled_from(LETTERS), max_size=8).map("".join)

NORMALIZERS: dict[str, normalizers.Normalizer] = {
    "bert": normalizers.BertNormalizer(),
    "accents": normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents(), normalizers.NFC()]),
    "quotes": normalizers.Sequence([normalizers.Replace("''", '"'), normalizers.NFKC(), normalizers.Lowercase()]),
    "spaces": normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(" {2,}"), " ")]),
}


def check_spans(
    normalize: Callable[[str], str], text: str, tokens: Sequence[str], spans: Sequence[Sequence[int]]
) -> None:
    """Check that each span cuts out characters that the normalizer turns into the token, and maybe its neighbors."""
    for token, (start, end) in zip(tokens, spans, strict=True):
        assert 0 <= start <= end <= len(text)
        assert token in normalize(text[start:end]), (token, start, end)
    assert all(first[0] <= second[0] and first[1] <= second[1] for first, second in pairwise(spans))


@pytest.mark.parametrize("lowercase", [False, True])
@pytest.mark.parametrize("normalization", [None, "NFC", "NFD", "NFKC", "NFKD"])
@pytest.mark.parametrize("make", [words, characters, byte_level, bpe])
@given(text=TEXT)
def test_offsets_cut_out_the_token(make: Make, normalization: str | None, lowercase: bool, text: str) -> None:
    """For every tokenizer that is built in, with every option."""
    tokenizer = make([text, *LETTERS], lowercase=lowercase, normalization=normalization)
    form = getattr(normalizers, normalization)().normalize_str if normalization else str
    names = {number: token for token, number in tokenizer.vocabulary.items()}
    decode = decoders.ByteLevel().decode if make in (byte_level, bpe) else "".join

    def normalize(part: str) -> str:
        return normalizers.Lowercase().normalize_str(form(part)) if lowercase else form(part)

    (found,) = tokenizer.encode([text])
    # A part of the bytes of a character decodes to U+FFFD.
    tokens = [decode([names[number]]).strip("\ufffd") for number in found.ids]
    check_spans(normalize, text, tokens, found.offsets)
    covered = {place for start, end in found.offsets for place in range(start, end)}
    assert covered >= {place for place, character in enumerate(text) if not character.isspace()}


@pytest.mark.parametrize("name", NORMALIZERS)
@given(text=TEXT)
def test_offsets_cut_out_the_character_of_a_file(name: str, text: str) -> None:
    """Also with normalizers that no tokenizer trained here has, such as those that strip accents."""
    normalizer = NORMALIZERS[name]
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(?m)."), "isolated")
    part = HuggingFaceTokenizer(tokenizer, pad_token=None, unk_token="[UNK]", bos_token=None, eos_token=None)
    (found,) = part.encode([text])
    check_spans(normalizer.normalize_str, text, normalizer.normalize_str(text), found.offsets)


@given(row=st.lists(TEXT.map(lambda text: text.replace("\n", "")), max_size=4))
def test_words_have_the_offsets_that_they_have_alone(row: list[str]) -> None:
    """They count from the beginning of the word; each word has one answer, also if it has several tokens, or none."""
    tokenizer = characters(LETTERS, lowercase=True, normalization="NFKC")
    (found,) = tokenizer.encode_words([row])
    alone = tokenizer.encode(row)
    assert list(found.offsets) == [span for one in alone for span in one.offsets]
    assert list(found.words) == [word for word, one in enumerate(alone) for _ in one.ids]
    prepared = TokenizeWords(tokenizer)(row)
    assert len(row) == (len(prepared) if prepared.answer_mask is None else sum(prepared.answer_mask))


def test_a_letter_and_its_accent_are_one_span() -> None:
    """Without a normalizer that joins or removes them, they are as the library cuts them."""
    text = "cafe\u0301 \u1100\u1161\u11a8!"
    assert spans_of(words([text], normalization="NFC"), text) == [(0, 5), (6, 9), (9, 10)]
    apart = [(place, place + 1) for place in range(len(text))]
    assert spans_of(characters([text], normalization="NFD"), text) == apart
    assert spans_of(make_stripping(), "e\u0301a") == [(0, 2), (2, 3)]


def test_a_file_has_the_same_offsets(tmp_path: Path) -> None:
    """A tokenizer that was saved or pickled finds the clusters of its normalizer again."""
    tokenizer = make_stripping()
    tokenizer.save(tmp_path / "tokenizer.json")
    read = Tokenize.read(tmp_path / "tokenizer.json", pad_token=None, bos_token=None, eos_token=None).tokenizer
    for part in (tokenizer, read, pickle.loads(pickle.dumps(tokenizer))):
        assert spans_of(part, "e\u0301''a") == [(0, 2), (2, 4), (4, 5)]


def spans_of(tokenizer: Part, text: str) -> list[tuple[int, int]]:
    """Return the offsets of a text's tokens."""
    return list(tokenizer.encode([text])[0].offsets)


def make_stripping() -> HuggingFaceTokenizer:
    """Return a tokenizer for characters that strips accents and replaces two signs by one."""
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "e": 1, "a": 2}, unk_token="[UNK]"))
    steps = [normalizers.Replace("''", '"'), normalizers.NFD(), normalizers.StripAccents()]
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(?m)."), "isolated")
    return HuggingFaceTokenizer(tokenizer, pad_token=None, unk_token="[UNK]", bos_token=None, eos_token=None)
