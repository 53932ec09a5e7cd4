"""Tokenizers in a saved pipe: the JSON of the `tokenizers` library as a file, and the special tokens beside it."""

from collections.abc import Callable, Mapping
from typing import Final, cast

from pipeline.builtin.special_tokens import DEFAULTS, NAMES, SpecialTokens
from pipeline.builtin.tokenizers import HuggingFaceTokenizer
from pipeline.errors import LoadError, OptionError, SaveError
from pipeline.parts.tokenizer import Tokenizer
from pipeline.registry import registry
from pipeline.saving.json_files import Json, parse_json
from pipeline.text import to_one_line

_MAX_PATTERN: Final = 2_000
"""Limit of the length of a regular expression. That of GPT-4's tokenizer has about 200 characters."""


def name_tokenizer_file(index: int, count: int) -> str:
    """Return the name of a tokenizer's file.

    Example:
        >>> name_tokenizer_file(0, 1), name_tokenizer_file(1, 2)
        ('tokenizer.json', 'tokenizer-2.json')
    """
    return "tokenizer.json" if count == 1 else f"tokenizer-{index + 1}.json"


def describe_tokenizer(tokenizer: Tokenizer, file: str) -> tuple[dict[str, Json], str | None]:
    """Return the description of a tokenizer for the configuration, and the content of its file.

    A tokenizer of one's own has no file. It needs a plugin that offers its class, and in this class `get_config(self)`
    and a class method `from_config(config)`.

    Args:
        tokenizer: the tokenizer.
        file: the name of the file.

    Raises:
        SaveError: if a tokenizer of one's own has none of these, or the library does not read what it wrote.
    """
    if not isinstance(tokenizer, HuggingFaceTokenizer):
        get_config = cast("Callable[[], Json]", getattr(tokenizer, "get_config", None))
        return {"name": _find_name(tokenizer), "config": get_config()}, None
    tokens: dict[str, Json] = dict(tokenizer.special_tokens)
    text = tokenizer.to_json()
    again = make_tokenizer({"file": file, "tokens": tokens}, {file: text.encode()})
    if again.cache_key() != tokenizer.cache_key():
        msg = "the tokenizer cannot be saved: the tokenizers library does not read what it wrote; use another version."
        raise SaveError(msg)
    return {"file": file, "tokens": tokens}, text


def make_tokenizer(described: Json, files: Mapping[str, bytes | memoryview]) -> Tokenizer:
    """Return the tokenizer of a description.

    Args:
        described: the description.
        files: the content of the files by name.

    Raises:
        LoadError: if the description or the file is not valid.
    """
    if isinstance(described, dict) and set(described) == {"name", "config"}:
        return _make_own(described["name"], described["config"])
    if not isinstance(described, dict) or set(described) != {"file", "tokens"}:
        raise _make_error("tokenizer", "its description is not valid")
    file, tokens = described["file"], described["tokens"]
    if not isinstance(file, str) or file not in files:
        raise _make_error(str(file), "there is no such file in the manifest")
    special = _check_tokens(tokens, file)
    # Parsed here too, because the library accepts doubled keys and any nesting.
    _check_patterns(parse_json(files[file], file), file)
    try:
        return HuggingFaceTokenizer.parse(bytes(files[file]).decode(), **special)
    except OptionError as error:
        raise _make_error(file, to_one_line(error, 300)) from error


def _check_tokens(tokens: Json, file: str) -> SpecialTokens:
    named = tokens if isinstance(tokens, dict) else {}
    # Pipes saved by earlier versions have the first four only.
    is_complete = set(DEFAULTS) <= named.keys() <= set(NAMES)
    if not is_complete or not all(token is None or isinstance(token, str) for token in named.values()):
        raise _make_error(file, f"it must have the tokens {', '.join(DEFAULTS)}, texts or null")
    return cast("SpecialTokens", named)


def _check_patterns(value: Json, file: str) -> None:
    """Reject long regular expressions, which may take very long to match."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if isinstance(value, dict):
        pattern = value.get("Regex")
        if isinstance(pattern, str) and len(pattern) > _MAX_PATTERN:
            raise _make_error(file, f"a regular expression has {len(pattern):,} characters, at most {_MAX_PATTERN:,}")
    for each in inner:
        if isinstance(each, list | dict):
            _check_patterns(each, file)


def _find_name(tokenizer: Tokenizer) -> str:
    cls = type(tokenizer)
    catalogue = registry().tokenizers
    offered = next((offer.name for offer in catalogue.offers if offer.factory is cls), None)
    if offered is None or not hasattr(cls, "get_config") or not hasattr(cls, "from_config"):
        msg = (
            f"tokenizer {cls.__name__} cannot be saved: its class needs get_config(self), a class method "
            "from_config(config), and a plugin that offers the class through the hook pipeline_tokenizers."
        )
        raise SaveError(msg, tokenizer=cls.__name__)
    return catalogue.offer(offered).name


def _make_own(name: Json, config: Json) -> Tokenizer:
    offer = registry().tokenizers.offer(str(name))
    make = cast("Callable[[Json], object] | None", getattr(offer.factory, "from_config", None))
    found = None if make is None else make(config)
    if not isinstance(found, Tokenizer):
        raise _make_error(str(name), "it cannot be made from a configuration")
    return found


def _make_error(file: str, reason: str) -> LoadError:
    msg = f"tokenizer {file!r:.80} is not valid: {reason}; save the pipe again."
    return LoadError(msg, file=file, reason=reason)
