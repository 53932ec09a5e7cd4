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
            file = f"{stem}{infix}.tokenizer.json"
            tokenizer.save(folder / file)
            ids = tokenizer.vocabulary
            special = [token for name, token in tokenizer.special_tokens.items() if name != "unk_token"]
            described.append(
                {
                    "file": file,
                    "by_words": stage.by_words,
                    "special_ids": _look_up(ids, special),
                    "unknown_id": next(iter(_look_up(ids, [tokenizer.unk_token])), None),
                    "first_ids": list(stage.first_ids),
                    "last_ids": list(stage.last_ids),
                    "max_length": stage.max_length,
                    "truncation_side": stage.truncation_side,
                }
            )
        return described


_INFIXES: Final[Sequence[Sequence[str]]] = ((), ("",), (".first", ".second"))


def _is_pair(stage: object) -> TypeIs[TokenizePair[Any]]:
    return isinstance(stage, TokenizePair)


def _look_up(ids: Mapping[str, int], tokens: Iterable[str | None]) -> list[int]:
    return [ids[token] for token in tokens if token is not None]


def _can_be_written(stage: object) -> bool:
    is_text = isinstance(stage, TextInputStage)
    return is_text and isinstance(cast("TextInputStage[Any]", stage).tokenizer, HuggingFaceTokenizer)
