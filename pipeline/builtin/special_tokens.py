"""The special tokens of a tokenizer: their names, and where the files of the Hugging Face Hub state them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypedDict, cast

from pipeline.errors import OptionError
from pipeline.parts.tokenizer import BOS, EOS, PAD, UNKNOWN

DEFAULTS: Final[Mapping[str, str]] = {"pad_token": PAD, "unk_token": UNKNOWN, "bos_token": BOS, "eos_token": EOS}
"""The special tokens of tokenizers trained here."""

NAMES: Final = (*DEFAULTS, "mask_token", "cls_token", "sep_token")
"""The options for special tokens, in the order of the ids that trained tokenizers give them."""

_FILES: Final = ("tokenizer_config.json", "special_tokens_map.json")
"""Files of the Hub that name the special tokens, beside `tokenizer.json`."""

_USUAL: Final[Mapping[str, Sequence[str]]] = {
    "pad_token": ("<pad>", "[PAD]", "<|pad|>", "<|padding|>", "<|finetune_right_pad_id|>"),
    "unk_token": ("<unk>", "[UNK]", "<|unk|>"),
    "bos_token": ("<bos>", "<s>", "[BOS]", "<|begin_of_text|>", "<|startoftext|>"),
    "eos_token": ("<eos>", "</s>", "[EOS]", "<|end_of_text|>", "<|endoftext|>"),
    "mask_token": ("<mask>", "[MASK]", "<|mask|>"),
    "cls_token": ("[CLS]", "<cls>"),
    "sep_token": ("[SEP]", "<sep>"),
}
"""The usual names of special tokens. They count only if the file marks them as special."""


class SpecialTokens(TypedDict, total=False):
    """The special tokens of a tokenizer, named as in Hugging Face; None for a token that it does not have."""

    pad_token: str | None
    unk_token: str | None
    bos_token: str | None
    eos_token: str | None
    mask_token: str | None
    cls_token: str | None
    sep_token: str | None


def list_tokens(tokens: SpecialTokens) -> list[str]:
    """Return the special tokens that a new tokenizer begins with. Their order gives their ids, from 0.

    Example:
        >>> list_tokens(SpecialTokens(unk_token="?", pad_token="_", bos_token=None))
        ['_', '?']
    """
    given = cast("Mapping[str, str | None]", tokens)
    return list(dict.fromkeys(token for name in NAMES if (token := given.get(name)) is not None))


def read_named_tokens(tokenizer_file: Path) -> dict[str, str]:
    """Return the special tokens that the files beside a `tokenizer.json` name; none if there are no such files.

    Raises:
        OptionError: if such a file is not a JSON object.
    """
    found: dict[str, str] = {}
    for name in reversed(_FILES):
        file = tokenizer_file.with_name(name)
        if file.is_file():
            found |= _parse_named_tokens(file)
    return found


def _parse_named_tokens(file: Path) -> dict[str, str]:
    try:
        content: object = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        msg = f"{file} beside the tokenizer must be JSON, but is not: {error}; repair or remove it."
        raise OptionError(msg, file=str(file)) from error
    fields = _get_fields(content)
    found: dict[str, str] = {}
    for name in NAMES:
        # An added token is an object with its options, such as whether it takes the space before it.
        token = fields.get(name)
        token = _get_fields(token).get("content", token)
        if isinstance(token, str):
            found[name] = token
    return found


def _get_fields(value: object) -> Mapping[str, object]:
    return cast("Mapping[str, object]", value) if isinstance(value, Mapping) else {}


def find_special_tokens(file: Mapping[str, Any], ends: tuple[str | None, str | None]) -> dict[str, str | None]:
    """Return the special tokens that a `tokenizer.json` states.

    The model states the unknown token, the padding options state the padding token, and the post-processor states the
    tokens around a text. A token that is not stated has one of its usual names, such as `<pad>` or `[PAD]`, if the file
    marks that as special.

    Args:
        file: the content of the file.
        ends: the tokens that the post-processor puts before and after a text.
    """
    special = {token["content"] for token in file.get("added_tokens") or () if token.get("special")}
    found = {name: next((token for token in usual if token in special), None) for name, usual in _USUAL.items()}
    padding: Mapping[str, Any] = file.get("padding") or {}
    found["pad_token"] = padding.get("pad_token") or found["pad_token"]
    found["unk_token"] = _find_unknown_token(file["model"]) or found["unk_token"]
    first, last = ends
    # BERT has no tokens for the beginning and the end but these.
    found["bos_token"] = first or found["bos_token"] or found["cls_token"]
    found["eos_token"] = last or found["eos_token"] or found["sep_token"]
    found["cls_token"] = found["cls_token"] or first
    found["sep_token"] = found["sep_token"] or last
    return found


def _find_unknown_token(model: Mapping[str, Any]) -> str | None:
    token: str | None = model.get("unk_token")
    if token is None and model.get("unk_id") is not None:  # a Unigram model states its number
        token = model["vocab"][model["unk_id"]][0]
    # A WordLevel model always states one, even if the vocabulary lacks it.
    return token if token is None or "unk_id" in model or token in model["vocab"] else None


def check_special_tokens(tokens: Iterable[tuple[str, str | None]], vocabulary: Mapping[str, int]) -> None:
    """Reject a special token that is not in the vocabulary.

    Raises:
        OptionError: naming the option and the token.
    """
    for option, token in tokens:
        if token is not None and token not in vocabulary:
            some = ", ".join(sorted(vocabulary, key=vocabulary.__getitem__)[:8])
            msg = (
                f"{option} must be in the vocabulary, which begins with {some}, got {token!r}; "
                "choose a token of the vocabulary, or None."
            )
            raise OptionError(msg, token=token)
