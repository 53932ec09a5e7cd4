"""What the post-processor of a tokenizer puts around a text and around a pair of texts."""

from collections.abc import Iterable
from itertools import groupby
from typing import TYPE_CHECKING, Final, TypeAlias

from pipeline.errors import OptionError
from pipeline.extras import LazyModule
from pipeline.parts.template import NO_PAIR_TEMPLATE, NO_TEMPLATE, Part, Template

if TYPE_CHECKING:
    import tokenizers
else:
    tokenizers = LazyModule("tokenizers", extra="text", why="a tokenizer")

_Parts: TypeAlias = list[tuple[int | None, list[tuple[int, int]]]]

_TRIED: Final = 100
"""Tokens of the vocabulary that are tried for a text that has tokens."""


def read_template(tokenizer: "tokenizers.Tokenizer", texts: int) -> Template:
    """Return the template of a tokenizer of the `tokenizers` library, for one text or for two.

    The library itself is asked: its post-processors are of many types, and may be sequences of others.

    Raises:
        OptionError: if a text occurs in the template more than once, or the second one before the first.
    """
    text = None if tokenizer.post_processor is None else _find_sample(tokenizer)
    if text is None:
        return NO_TEMPLATE if texts == 1 else NO_PAIR_TEMPLATE
    return _to_template(tokenizer.encode(text, None if texts == 1 else text), texts)


def _find_sample(tokenizer: "tokenizers.Tokenizer") -> str | None:
    """Return a text that has tokens."""
    texts = ("a", *(tokenizer.decode([number], skip_special_tokens=False) for number in range(_TRIED)))
    return next((text for text in texts if tokenizer.encode(text, add_special_tokens=False).ids), None)


def _to_template(encoding: "tokenizers.Encoding", texts: int) -> Template:
    tokens = zip(encoding.sequence_ids, zip(encoding.ids, encoding.type_ids, strict=True), strict=True)
    runs: _Parts = [(text, [token for _, token in run]) for text, run in groupby(tokens, lambda token: token[0])]
    order = [text for text, _ in runs if text is not None]
    if order != list(range(texts)):
        msg = (
            "the tokenizer's post-processor must put each text once into its template, in their order, got "
            f"{order} for {texts} texts; read the tokenizer with bos=False, eos=False, or change its file."
        )
        raise OptionError(msg)
    parts, segments = [_to_part(())], list[int]()
    for text, run in runs:
        if text is None:
            parts[-1] = _to_part(run)
        else:
            segments.append(run[0][1])
            parts.append(_to_part(()))
    return Template(parts, segments)


def _to_part(tokens: Iterable[tuple[int, int]]) -> Part:
    kept = list(tokens)
    return Part([number for number, _ in kept], [segment for _, segment in kept])
