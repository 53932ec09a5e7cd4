"""Tokenizers as the Hugging Face Hub stores them have the ids of the `tokenizers` and `transformers` libraries."""

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from pipeline import (
    Bucket,
    Classify,
    Embed,
    Encode,
    Example,
    JoinedPair,
    Pack,
    Pad,
    Pool,
    StreamChain,
    Tokenize,
    TokenizeJoined,
    TokenizeWords,
    load,
)
from pipeline.builtin.tokenizers import HuggingFaceTokenizer
from pipeline.data.tensors import to_ints
from pipeline.errors import OptionError, TextError
from pipeline.testing import TOKENIZER_LAWS
from support.needs import needs
from support.untyped import as_any, to_list, untyped

TEXTS = [
    "To be, or not to be",
    "",
    "naïve Café — 東京 🦊",
    "a",
    "  two  spaces\nand unbelievable lines ",
    "don't stop " * 6,
]


def add_special(tokenizer: Tokenizer, *tokens: str) -> None:
    """Mark tokens as special."""
    library: Any = tokenizer
    library.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])


def truncate(tokenizer: Tokenizer, max_length: int, **options: str) -> None:
    """Switch truncation on."""
    library: Any = tokenizer
    library.enable_truncation(max_length, **options)


def make_bert() -> Tokenizer:
    """Make WordPiece as BERT's: with [CLS] and [SEP], accents stripped, and the segments of pairs."""
    pieces = ["to", "be", "or", "not", "don", "stop", "naive", "cafe", "un", "##believ", "##able", "a", "two", ",", "'"]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces, "t", "##s", "lines", "東"]
    tokenizer = Tokenizer(models.WordPiece({token: place for place, token in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    add_special(tokenizer, "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    return tokenizer


def make_old_bert() -> Tokenizer:
    """Make BERT's tokenizer with the post-processor that older files have."""
    tokenizer = make_bert()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer


def make_byte_level(*special: str) -> Tokenizer:
    """Make byte-level BPE with a few merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "o"), ("b", "e"), ("Ġ", "be"), ("o", "r"), ("Ġ", "to"), ("n", "o"), ("no", "t"), ("Ġ", "not")]
    tokens = [*special, *alphabet, *(first + second for first, second in merges)]
    tokenizer = Tokenizer(models.BPE({token: place for place, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    add_special(tokenizer, *special)
    return tokenizer


def make_gpt2() -> Tokenizer:
    """Make GPT-2's: nothing around a text."""
    tokenizer = make_byte_level("<|endoftext|>")
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def make_roberta() -> Tokenizer:
    """Make RoBERTa's: two separators between the texts of a pair, all of one segment."""
    tokenizer = make_byte_level("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return tokenizer


def make_modernbert() -> Tokenizer:
    """Make ModernBERT's: byte-level BPE with the template of BERT."""
    tokenizer = make_byte_level("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:0 [SEP]:0",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return tokenizer


def make_llama() -> Tokenizer:
    """Make Llama 3's: a post-processor that is a sequence, and only a beginning."""
    tokenizer = make_byte_level("<|begin_of_text|>", "<|end_of_text|>")
    template = processors.TemplateProcessing(
        single="<|begin_of_text|> $A",
        pair="<|begin_of_text|> $A <|begin_of_text|>:1 $B:1",
        special_tokens=[("<|begin_of_text|>", 0)],
    )
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    return tokenizer


def make_unigram(special: list[str]) -> Tokenizer:
    """Make a Unigram model of SentencePiece."""
    pieces = [("▁", -2.0), ("▁to", -3.0), ("▁be", -3.1), ("▁not", -3.2), ("t", -5.0), ("o", -5.1), ("▁do", -5.2)]
    letters = [(letter, -8.0 - place / 8) for place, letter in enumerate("abcdefghilnpsuvwx',")]
    vocabulary = [*((token, 0.0) for token in special), *pieces, *letters]
    tokenizer = Tokenizer(models.Unigram(vocabulary, special.index("<unk>"), byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("  ", " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    add_special(tokenizer, *special)
    return tokenizer


def make_t5() -> Tokenizer:
    """Make T5's: only an end."""
    tokenizer = make_unigram(["<pad>", "</s>", "<unk>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return tokenizer


def make_xlm_roberta() -> Tokenizer:
    """Make XLM-R's."""
    tokenizer = make_unigram(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


def make_whisper() -> Tokenizer:
    """Make one with several tokens before a text, as Whisper's."""
    tokenizer = make_byte_level("<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|startoftranscript|> <|notimestamps|> $A <|endoftext|>",
        pair="<|startoftranscript|> <|notimestamps|> $A $B <|endoftext|>",
        special_tokens=[("<|startoftranscript|>", 1), ("<|notimestamps|>", 2), ("<|endoftext|>", 0)],
    )
    return tokenizer


MAKERS: list[Callable[[], Tokenizer]] = [
    make_bert,
    make_old_bert,
    make_gpt2,
    make_roberta,
    make_modernbert,
    make_llama,
    make_t5,
    make_xlm_roberta,
    make_whisper,
]
each_maker = pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__.removeprefix("make_"))


def save(tokenizer: Tokenizer, folder: Path, **config: object) -> Path:
    """Write a tokenizer as the Hub stores it; with options, `tokenizer_config.json` too."""
    tokenizer.save(str(folder / "tokenizer.json"))
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder / "tokenizer.json"


def list_ids(tokenize: Tokenize | TokenizeWords, inputs: list[Any]) -> list[list[int]]:
    """Return the ids of inputs."""
    return [to_ints(row.sequence.values) for row in as_any(tokenize).map(inputs)]


@each_maker
def test_ids_of_texts_equal_those_of_the_library(make: Callable[[], Tokenizer], tmp_path: Path) -> None:
    """With the special tokens of the file, for texts and for words, whether or not offsets are kept."""
    theirs, file = make(), save(make(), tmp_path)
    expected = [encoding.ids for encoding in theirs.encode_batch(TEXTS)]
    for offsets in (True, False):
        assert list_ids(Tokenize.read(file, offsets=offsets), TEXTS) == expected
    words = [text.split() for text in TEXTS if text.split()]
    assert list_ids(TokenizeWords.read(file), words) == [theirs.encode(row, is_pretokenized=True).ids for row in words]


@each_maker
def test_ids_and_segments_of_pairs_equal_those_of_the_library(make: Callable[[], Tokenizer], tmp_path: Path) -> None:
    """All pairs of the texts, empty ones included."""
    theirs = make()
    tokenize = TokenizeJoined(Tokenize.read(save(make(), tmp_path)))
    pairs = [(first, second) for first in TEXTS for second in TEXTS]
    for row, pair in zip(tokenize.map(pairs), pairs, strict=True):
        expected = theirs.encode(*pair)
        assert to_ints(row.sequence.token.values) == expected.ids
        assert to_ints(row.sequence.segment.values) == expected.type_ids
        mask = row.answer_mask or [True] * len(row)
        assert [not answered for answered in mask] == [bool(each) for each in expected.special_tokens_mask]


@pytest.mark.parametrize("direction", ["left", "right"])
@pytest.mark.parametrize("max_length", [4, 9])
@each_maker
def test_truncation_is_that_of_the_file(
    make: Callable[[], Tokenizer], max_length: int, direction: str, tmp_path: Path
) -> None:
    """Of texts and of pairs, with room for the special tokens; `max_length` overrides the file."""
    theirs = make()
    truncate(theirs, max_length, direction=direction)
    as_any(theirs).enable_padding(length=20)
    file = save(theirs, tmp_path)
    theirs.no_padding()
    tokenize = Tokenize.read(file)
    assert list_ids(tokenize, TEXTS) == [encoding.ids for encoding in theirs.encode_batch(TEXTS)]
    pairs = [(first, second) for first in TEXTS for second in TEXTS]
    rows = TokenizeJoined(tokenize).map(pairs)
    assert [to_ints(row.sequence.token.values) for row in rows] == [theirs.encode(*pair).ids for pair in pairs]
    assert list_ids(Tokenize.read(file, max_length=None), TEXTS) == [each.ids for each in make().encode_batch(TEXTS)]


@pytest.mark.parametrize("strategy", ["only_first", "only_second"])
def test_only_one_text_of_a_pair_is_cut(strategy: str, tmp_path: Path) -> None:
    """As the file states; a text that is too short for that is an error with the row."""
    theirs = make_roberta()
    truncate(theirs, 30, strategy=strategy)
    tokenize = TokenizeJoined(Tokenize.read(save(theirs, tmp_path)))
    assert tokenize.truncation == strategy
    long = "be " * 12
    row = tokenize((long, long))
    assert to_ints(row.sequence.token.values) == theirs.encode(long, long).ids
    pair = ("be", "be " * 30) if strategy == "only_first" else ("be " * 30, "be")
    with pytest.raises(TextError, match=f"row 1 has .* truncation='{strategy}' cuts; raise max_length"):
        list(tokenize.map([("be", "be"), pair]))


def test_offsets_of_a_pair_are_those_in_its_texts(tmp_path: Path) -> None:
    """Special tokens have empty ones."""
    row = TokenizeJoined(Tokenize.read(save(make_bert(), tmp_path)))(("To be", "not"))
    assert row.sequence.token.offsets is not None
    assert to_list(row.sequence.token.offsets) == [[0, 0], [0, 2], [3, 5], [0, 0], [0, 3], [0, 0]]


def get_special(tokenize: Tokenize) -> dict[str, str | None]:
    """Return the special tokens."""
    assert isinstance(tokenize.tokenizer, HuggingFaceTokenizer)
    return {name.removesuffix("_token"): token for name, token in tokenize.tokenizer.special_tokens.items()}


def test_special_tokens_are_found_in_the_file(tmp_path: Path) -> None:
    """In the model, the post-processor, and among the added tokens by their usual names."""
    bert = {
        "pad": "[PAD]",
        "unk": "[UNK]",
        "bos": "[CLS]",
        "eos": "[SEP]",
        "mask": "[MASK]",
        "cls": "[CLS]",
        "sep": "[SEP]",
    }
    assert get_special(Tokenize.read(save(make_bert(), tmp_path))) == bert
    roberta = get_special(Tokenize.read(save(make_roberta(), tmp_path)))
    assert list(roberta.values()) == ["<pad>", "<unk>", "<s>", "</s>", "<mask>", "<s>", "</s>"]
    t5 = get_special(Tokenize.read(save(make_t5(), tmp_path)))
    assert list(t5.values()) == ["<pad>", "<unk>", None, "</s>", None, None, "</s>"]
    gpt2 = get_special(Tokenize.read(save(make_gpt2(), tmp_path)))
    assert list(gpt2.values()) == [None, None, None, "<|endoftext|>", None, None, None]


def test_special_tokens_are_named_by_the_file_beside_it(tmp_path: Path) -> None:
    """By `tokenizer_config.json`, and before it `special_tokens_map.json`; arguments override both."""
    padding = {"content": "<|endoftext|>", "lstrip": False, "special": True}
    file = save(make_gpt2(), tmp_path, bos_token="<|endoftext|>", pad_token=padding, unk_token=None, model_max_length=9)
    (tmp_path / "special_tokens_map.json").write_text('{"mask_token": "Ġ", "bos_token": "Ġ", "sep_token": "absent"}')
    found = list(get_special(Tokenize.read(file)).values())
    assert found == ["<|endoftext|>", None, "<|endoftext|>", "<|endoftext|>", "Ġ", None, None]
    assert get_special(Tokenize.read(file, bos_token=None, mask_token=None))["bos"] is None
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(OptionError, match=r"tokenizer_config\.json beside the tokenizer must be JSON, but is not"):
        Tokenize.read(file)


@each_maker
def test_special_tokens_in_a_text_are_text(make: Callable[[], Tokenizer], tmp_path: Path) -> None:
    """Also those that only the post-processor adds; words are no exception."""
    tokenize = Tokenize.read(save(make(), tmp_path), bos=False)
    assert isinstance(tokenize.tokenizer, HuggingFaceTokenizer)
    for token in filter(None, tokenize.tokenizer.special_tokens.values()):
        special = tokenize.tokenizer.vocabulary[token]
        if token != tokenize.tokenizer.unk_token:
            assert special not in list_ids(tokenize, [f"a {token}b"])[0]
            assert special not in list_ids(TokenizeWords(tokenize.tokenizer), [[token]])[0]


@each_maker
def test_laws_hold(make: Callable[[], Tokenizer], tmp_path: Path) -> None:
    """But for long words in BERT, whose tokenizer gives up at 100 letters, and what its normalizer changes."""
    file = save(make(), tmp_path)
    skipped = {"many_and_long_texts_are_encoded_completely"} if "bert" in make.__name__ else set[str]()
    for law in TOKENIZER_LAWS:
        if law.__name__ not in skipped:
            law(lambda: HuggingFaceTokenizer.read(file))


@pytest.mark.parametrize("make", [make_bert, make_whisper, make_xlm_roberta])
def test_saved_pipes_keep_all_of_it(make: Callable[[], Tokenizer], tmp_path: Path) -> None:
    """Special tokens, post-processing and truncation: the rows of a loaded pipe are the same."""
    theirs = make()
    truncate(theirs, 8, direction="left")
    tokenize = Tokenize.read(save(theirs, tmp_path))
    model = Embed(tokenize.vocab_size, 4) >> Encode("gru", hidden_size=3) >> Pool("mean") >> Classify(2)
    (tokenize >> Bucket(rows=4) >> Pad() >> Pack() >> model).save(tmp_path / "texts")
    again = get_first(load(tmp_path / "texts"), Tokenize)
    assert list_ids(again, TEXTS) == list_ids(tokenize, TEXTS) == [each.ids for each in theirs.encode_batch(TEXTS)]
    assert get_special(again) == get_special(tokenize)
    pairs = (
        TokenizeJoined(tokenize, truncation="only_second")
        >> Bucket(JoinedPair, rows=4)
        >> Pad(JoinedPair)
        >> Pack(JoinedPair)
    )
    (pairs >> JoinedPair.token >> model).save(tmp_path / "pairs")
    joined: type[Any] = TokenizeJoined
    loaded = load(tmp_path / "pairs", takes=tuple[str, str], gives=int)
    truncate(theirs, 8, direction="left", strategy="only_second")
    (row,) = get_first(loaded, joined).map([("a", "to be, or not to be")])
    assert to_ints(row.sequence.token.values) == theirs.encode("a", "to be, or not to be").ids
    assert len(list(loaded.predict([("a", "to be")]))) == 1


A = TypeVar("A")


def get_first(pipe: StreamChain[Any, Any], cls: type[A]) -> A:
    """Return the first stage of a pipe."""
    first: object = next(iter(pipe.stages.values()))
    assert isinstance(first, cls)
    return first


@needs("transformers")
@each_maker
def test_ids_equal_those_of_transformers(make: Callable[[], Tokenizer], tmp_path: Path) -> None:
    """Of texts and of pairs, also truncated by an argument."""
    transformers = import_module("transformers")
    file = save(make(), tmp_path)
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(file))
    assert list_ids(Tokenize.read(file), TEXTS) == theirs(TEXTS)["input_ids"]
    cut = theirs(TEXTS, TEXTS[::-1], truncation=True, max_length=9)["input_ids"]
    rows = TokenizeJoined(Tokenize.read(file, max_length=9)).map(list(zip(TEXTS, TEXTS[::-1], strict=True)))
    assert [to_ints(row.sequence.token.values) for row in rows] == cut


def test_a_tokenizer_trained_here_is_read_as_it_was_saved(tmp_path: Path) -> None:
    """Nothing is added to its rows, since its file states no post-processor."""
    tokenizer = Tokenize.train(TEXTS, "wordpiece", bos=True, mask_token="[MASK]").tokenizer
    assert isinstance(tokenizer, HuggingFaceTokenizer)
    tokenizer.save(tmp_path / "tokenizer.json")
    again = Tokenize.read(tmp_path / "tokenizer.json")
    assert get_special(again)["mask"] == "[MASK]"
    assert list_ids(again, ["be be"]) == [list(tokenizer.encode(["be be"])[0].ids)]


def test_unusable_files_and_options_raise(tmp_path: Path) -> None:
    """A template with a text twice, both ways to add special tokens, no room for them, no pair."""
    twice = make_bert()
    twice.post_processor = processors.TemplateProcessing(
        single="$A [SEP]", pair="$B [SEP] $A", special_tokens=[("[SEP]", 3)]
    )
    file = save(twice, tmp_path)
    with pytest.raises(OptionError, match=r"must put each text once into its template, in their order, got"):
        TokenizeJoined(Tokenize.read(file))
    assert list_ids(Tokenize.read(file), ["to"]) == [[5, 3]]
    tokenizer = Tokenize.read(save(make_bert(), tmp_path)).tokenizer
    with pytest.raises(OptionError, match="post_process adds what the tokenizer's file states; leave it out, or bos"):
        Tokenize(tokenizer, bos=True, post_process=True)
    with pytest.raises(OptionError, match="max_length must be 2 or more"):
        Tokenize(tokenizer, post_process=True, max_length=1)
    with pytest.raises(OptionError, match="truncation_side must be one of right, left, got 'top'"):
        untyped(Tokenize)(tokenizer, truncation_side="top")
    with pytest.raises(OptionError, match="max_length must be 3 or more, to leave room for the special tokens, got 2"):
        TokenizeJoined(Tokenize(tokenizer, post_process=True, max_length=2))
    with pytest.raises(OptionError, match="truncation must be one of longest_first, only_first, only_second"):
        untyped(TokenizeJoined)(Tokenize(tokenizer), truncation="none")
    with pytest.raises(TextError, match="row 0 must be a pair of texts, got a str"):
        untyped(TokenizeJoined(Tokenize(tokenizer)))("to be")


def test_targets_are_cut_with_their_tokens(tmp_path: Path) -> None:
    """Truncated at the left, and with nothing for the special tokens."""
    file = save(make_bert(), tmp_path)
    tokenizer = Tokenize.read(file).tokenizer
    tokenize = Tokenize(tokenizer, post_process=True, max_length=4, truncation_side="left").with_token_targets()
    row = tokenize(Example("to be or not", target=[1, 2, 3, 4]))
    assert row.target == [None, 3, 4, None]
    assert row.answer_mask == [False, True, True, False]
    assert row.sequence.offsets is not None
    assert to_list(row.sequence.offsets) == [[0, 0], [6, 8], [9, 12], [12, 12]]
    words = TokenizeWords(tokenizer, post_process=True, max_length=5, truncation_side="left")
    found = words(Example(["to", "unbelievable", "or"], target=["a", "b", "c"]))
    assert found.target == [None, None, None, "c", None]
    assert found.answer_mask == [False, False, False, True, False]


def test_targets_of_pairs_are_kept() -> None:
    """One class per pair."""
    tokenize = TokenizeJoined(Tokenize.train(["a b"], eos=True, offsets=False))
    row = tokenize(Example(("a", "b"), target="yes"))
    assert row.target == "yes"
    assert row.answer_mask == [True, False, True, False]
    assert row.sequence.token.offsets is None
