"""The tokenizers of an exported pipe, as files and as options that a script without this library follows."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast, final

import attrs
from typing_extensions import TypeIs

from pipeline.builtin.tokenizers import HuggingFaceTokenizer
from pipeline.core.stage import StageBase, is_stream
from pipeline.data.kinds import Kind
from pipeline.stages.pad import Pad
from pipeline.stages.shift import Shift
from pipeline.stages.text_input_stage import TextInputStage
from pipeline.stages.tokenize import Tokenize
from pipeline.stages.tokenize_pair import TokenizePair


@final
@attrs.frozen
class TextInput:
    """How the inputs of a pipe become the rows of its model.

    Attributes:
        stages: the stages that tokenize: one, one for each side of pairs, or none if inputs are no texts.
        max_length: the limit of `Pad`.
        too_long: what `Pad` does with a longer row.
    """

    stages: Sequence[TextInputStage[Any]] = ()
    max_length: int | None = None
    too_long: str = "raise"

    @classmethod
    def of(cls, data: Sequence[StageBase]) -> "TextInput":
        """Read the data stages of a pipe. If one changes rows in an unknown way, there are no tokenizers."""
        pad = cast("Pad[Kind]", data[-1])
        options = {"max_length": pad.max_length, "too_long": pad.too_long}
        first, *others = data[:-1] if len(data) > 1 else [pad]
        if not all(is_stream(stage) or isinstance(stage, Shift) for stage in others):
            return cls(**cast("Any", options))
        pair: tuple[object, object] = (first.first, first.second) if _is_pair(first) else (first, first)
        stages = list(dict.fromkeys(pair)) if pair[0] is pair[1] and not _is_pair(first) else [*pair]
        if not all(_can_be_written(stage) for stage in stages):
            return cls(**cast("Any", options))
        return cls(cast("Sequence[TextInputStage[Any]]", stages), **cast("Any", options))

    def write(self, folder: Path, stem: str) -> list[Mapping[str, object]]:
        """Write the tokenizers into a folder, and return their options."""
        described: list[Mapping[str, object]] = []
        for stage, infix in zip(self.stages, _INFIXES[len(self.stages)], strict=True):
            tokenizer = cast("HuggingFaceTokenizer", stage.tokenizer)
            described.append(
                {
                    **_write_tokenizer(tokenizer, folder, f"{stem}{infix}"),
                    "by_words": stage.by_words,
                    "unknown_id": next(iter(_look_up(tokenizer.vocabulary, [tokenizer.unk_token])), None),
                    "first_ids": list(stage.first_ids),
                    "last_ids": list(stage.last_ids),
                    "max_length": stage.max_length,
                    "truncation_side": stage.truncation_side,
                }
            )
        return described


def write_target(target: Tokenize, folder: Path, stem: str) -> Mapping[str, object] | None:
    """Write the tokenizer of a decoder's texts into a folder, and return its options; None if it is Python code."""
    if not _can_be_written(target):
        return None
    return _write_tokenizer(cast("HuggingFaceTokenizer", target.tokenizer), folder, f"{stem}.target")


def _write_tokenizer(tokenizer: HuggingFaceTokenizer, folder: Path, stem: str) -> Mapping[str, object]:
    """Write a tokenizer, and return its file and the tokens that never stand for text."""
    file = f"{stem}.tokenizer.json"
    tokenizer.save(folder / file)
    special = [token for name, token in tokenizer.special_tokens.items() if name != "unk_token"]
    return {"file": file, "special_ids": _look_up(tokenizer.vocabulary, special)}


_INFIXES: Final[Sequence[Sequence[str]]] = ((), ("",), (".first", ".second"))


def _is_pair(stage: object) -> TypeIs[TokenizePair[Any]]:
    return isinstance(stage, TokenizePair)


def _look_up(ids: Mapping[str, int], tokens: Iterable[str | None]) -> list[int]:
    return [ids[token] for token in tokens if token is not None]


def _can_be_written(stage: object) -> bool:
    is_text = isinstance(stage, TextInputStage)
    return is_text and isinstance(cast("TextInputStage[Any]", stage).tokenizer, HuggingFaceTokenizer)
