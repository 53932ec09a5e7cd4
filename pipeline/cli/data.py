"""Sources for the commands: which source reads a file follows from its suffix."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, cast

import attrs

from pipeline.core.stream_chain import StreamChain
from pipeline.errors import OptionError
from pipeline.sources import Arrow, Conllu, Csv, JsonLines, Parquet, Source, TextLines, Tsv
from pipeline.stages.from_columns import FromColumns
from pipeline.stages.input_stage import FromFeatures, FromIds, InputStage
from pipeline.stages.spell_words import SpellWords
from pipeline.stages.tokenize import Tokenize
from pipeline.stages.tokenize_document import TokenizeDocument
from pipeline.stages.tokenize_words import TokenizeWords

OnBad: TypeAlias = Literal["raise", "skip"]
AnySource: TypeAlias = Source[Any]

_TABLES: Final = (".parquet", ".arrow", ".feather")
_LINES: Final = (".jsonl", ".ndjson")
_DELIMITED: Final = (".csv", ".tsv")
_SUFFIXES: Final = (*_DELIMITED, *_LINES, *_TABLES, ".conllu", ".conllup", ".txt")


@attrs.frozen(kw_only=True)
class Choice:
    """The fields of a file that are read.

    Attributes:
        text: the field with the text.
        words: the field with a list of words.
        inputs: several fields, with the type of each for files that hold text only.
        target: the field with the target; None for none.
        group: the column whose value the lines of one record share; None if each line is a record.
        sort: the column by which the lines of a record are sorted.
        step_targets: whether each line of a record has a target of its own.
    """

    text: str | None = None
    words: str | None = None
    inputs: Mapping[str, type[str] | type[int] | type[float]] | None = None
    target: str | None = None
    group: str | None = None
    sort: str | None = None
    step_targets: bool = False


def add_data_arguments(parser: argparse.ArgumentParser, *, target: bool) -> None:
    """Add the options for the fields of a file."""
    add = parser.add_argument
    add("--text", metavar="NAME", help="field or column with the text (default: text)")
    add("--words", metavar="NAME", help="field or column with lists of words, instead of --text")
    if target:
        add("--target", metavar="NAME", help="field or column with the target (default: label; upos for CoNLL-U)")
    add("--encoding", metavar="NAME", default="utf-8", help="encoding of a text file (default: utf-8)")
    add("--on-bad-record", choices=["raise", "skip"], default="raise", help="treatment of malformed records")


def add_group_arguments(parser: argparse.ArgumentParser, *, target: bool) -> None:
    """Add the options for records of several lines."""
    add = parser.add_argument
    add("--group", metavar="NAME", help="column of a CSV whose value the lines of one record share, such as a user")
    add("--sort", metavar="NAME", help="column by which the lines of a record are sorted (default: as in the file)")
    parser.set_defaults(step_targets=False)
    if target:
        add("--step-targets", action="store_true", help="each line of a record has a target of its own, for taggers")


def get_suffix(file: Path) -> str:
    """Return the suffix of a file, without that of gzip; `.conllu` for CoNLL-U Plus too.

    Raises:
        OptionError: if no source reads such a file.
    """
    plain = file.with_suffix("") if file.suffix.lower() == ".gz" else file
    suffix = plain.suffix.lower()
    if suffix not in _SUFFIXES:
        got = repr(suffix) if suffix else "no suffix"
        msg = f"{str(file)!r} must end in {', '.join(_SUFFIXES)}, got {got}; the suffix determines the format."
        raise OptionError(msg, file=str(file))
    return ".conllu" if suffix == ".conllup" else suffix


def open_source(file: Path, choice: Choice, *, encoding: str = "utf-8", on_bad_record: OnBad = "raise") -> AnySource:
    """Return the source for a file.

    Raises:
        OptionError: if the fields do not fit the format.
        SourceError: if the file cannot be read.
        RecordError: if it has no such column.
    """
    suffix = get_suffix(file)
    bad: dict[str, Any] = {"on_bad_record": on_bad_record}
    if suffix not in _TABLES:
        bad["encoding"] = encoding
    if suffix == ".txt":
        return TextLines(file, **bad)
    if suffix == ".conllu":
        columns: dict[str, Any] = {"inputs": [*choice.inputs]} if choice.inputs else {"words": choice.words or "form"}
        return cast("AnySource", cast("Any", Conllu)(file, **columns, target=choice.target, **bad))
    if suffix in _DELIMITED:
        return _open_delimited(file, suffix, choice, bad)
    fields: dict[str, Any] = {"text": choice.text or "text"}
    if choice.words is not None:
        fields = {"words": choice.words}
    if choice.inputs is not None:
        fields = {"inputs": [*choice.inputs]}
    kinds: Mapping[str, Any] = {".parquet": Parquet, ".arrow": Arrow, ".feather": Arrow}
    return cast("AnySource", kinds.get(suffix, JsonLines)(file, **fields, target=choice.target, **bad))


def _open_delimited(file: Path, suffix: str, choice: Choice, bad: Mapping[str, Any]) -> AnySource:
    if choice.words is not None:
        msg = f"--words needs lists of words, which {suffix} has none of; use .jsonl, .parquet or .conllu."
        raise OptionError(msg, words=choice.words)
    kind: Any = Csv if suffix == ".csv" else Tsv
    fields: dict[str, Any] = {"text": choice.text or "text"}
    if choice.inputs is not None:
        lines = {"group": choice.group, "sort": choice.sort, "step_targets": choice.step_targets}
        fields = {"inputs": choice.inputs, **lines}
    return cast("AnySource", kind(file, **fields, target=choice.target, **bad))


def choose_fields_of(
    pipe: StreamChain[Any, Any], file: Path, options: argparse.Namespace, target: str | None
) -> Choice:
    """Return the fields of a file that a saved pipe takes; they follow from its first stage.

    Raises:
        OptionError: if no file has inputs of this kind, or an option contradicts the pipe.
    """
    text: str | None = options.text
    words: str | None = options.words
    group: str | None = options.group
    lines: dict[str, Any] = {"sort": options.sort, "step_targets": options.step_targets}
    first: object = next(iter(pipe.stages.values()))
    if group is not None and not (isinstance(first, FromColumns) and get_suffix(file) in _DELIMITED):
        msg = f"--group is for pipes that begin with FromColumns, and for .csv and .tsv, got {group!r}; leave it out."
        raise OptionError(msg, group=group)
    if group is None and any(lines.values()):
        name = "--sort" if options.sort is not None else "--step-targets"
        msg = f"{name} is for records of several lines; say which lines are one record with --group, or leave it out."
        raise OptionError(msg, **lines)
    if isinstance(first, Tokenize | TokenizeDocument):
        if words is not None:
            raise OptionError("--words is for pipes that take lists of words, but this one takes text; use --text.")
        return Choice(text=text, target=target)
    if isinstance(first, TokenizeWords | SpellWords):
        if text is not None:
            raise OptionError("--text is for pipes that take text, but this one takes lists of words; use --words.")
        # CoNLL-U has words anyway.
        return Choice(words=words or (None if get_suffix(file) == ".conllu" else "words"), target=target)
    if isinstance(first, FromColumns):
        readers = cast("Mapping[str, tuple[Sequence[str], InputStage[Any, Any]]]", first.readers)
        kinds = {column: _get_type(stage) for columns, stage in readers.values() for column in columns}
        return Choice(inputs=kinds, target=target, group=group, **lines)
    msg = (
        f"the commands read text, words and columns, but this pipe begins with {type(first).__name__}; predict with "
        "pipeline.load(folder).predict(inputs) in Python."
    )
    raise OptionError(msg, stage=type(first).__name__)


def _get_type(stage: InputStage[Any, Any]) -> type[str] | type[int] | type[float]:
    if isinstance(stage, FromFeatures):
        return float
    return int if isinstance(stage, FromIds) else str
