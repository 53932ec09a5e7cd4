"""Write the predictions of taggers into a column of CoNLL-U."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast, final

from typing_extensions import override

from pipeline.errors import OptionError, RecordError
from pipeline.inference.file_records import Chunk
from pipeline.inference.file_writers import ChunkWriter, Predicted
from pipeline.inference.plain import Plain

_COLUMNS: Final = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
# https://universaldependencies.org/u/pos, and _ for none.
_UNIVERSAL: Final = (
    *("ADJ", "ADP", "ADV", "AUX", "CCONJ", "DET", "INTJ", "NOUN", "NUM", "PART", "PRON", "PROPN", "PUNCT"),
    *("SCONJ", "SYM", "VERB", "X", "_"),
)
_NOT_SYNTACTIC: Final = re.compile(r"[0-9]+(?:-[0-9]+|\.[0-9]+)")
_NOT_IN_A_FIELD: Final = re.compile(r"[\t\r\n]")


@final
class ConlluWriter(ChunkWriter):
    """Sentences whose words have the predicted class in one column.

    Lines of CoNLL-U stay as they are but for that column, comments and multiword tokens included. Rows of words from
    other sources become sentences whose other columns are empty.

    Args:
        columns: the columns of a file that is continued.
        names: the columns of the input if it is CoNLL-U, else None.
        target: the column of the predictions; None for `upos`, if they are universal parts of speech.

    Raises:
        OptionError: if there is no such column, or the predictions are something else, and no column is given.
    """

    def __init__(self, columns: Sequence[str] | None, names: Sequence[str] | None, target: str | None) -> None:
        super().__init__(columns)
        self._universal: Final = target is None
        self._has_lines: Final = names is not None
        self._names: Final = tuple(names or _COLUMNS)
        column = "upos" if target is None else target.lower()
        if column not in self._names[1:]:
            others = ", ".join(self._names[1:])
            msg = f"column must be one of {others}, for CoNLL-U, got {column!r}."
            if target is None:
                msg = f"column (--column) must be given, since the file has no upos; choose one of {others}."
            raise OptionError(msg, column=column)
        self._target: Final = self._names.index(column)

    columns: Sequence[str] | None

    @override
    def format_chunk(self, chunk: Chunk[Any], predicted: Predicted, added: Sequence[str]) -> bytes:
        text = ""
        if self.columns is None:
            self.columns = self._names
            # The first line of CoNLL-U Plus names its columns.
            text = "" if self._names == _COLUMNS else f"# global.columns = {' '.join(self._names).upper()}\n"
        lines = chunk.lines if self._has_lines and chunk.lines is not None else [None] * len(chunk.examples)
        sentences: list[str] = []
        for number, (example, found, given) in enumerate(zip(chunk.examples, predicted, lines, strict=True)):
            place = chunk.places(number)
            tags = _get_tags(found, place)
            if self._universal:
                _check_universal(tags, place)
            sentence = self._make_sentence(example.input, place) if given is None else _clean(given)
            sentences.append("\n".join(self._fill(sentence, tags, place)) + "\n\n")
        return (text + "".join(sentences)).encode()

    def _fill(self, sentence: Sequence[str], tags: Sequence[str], place: str) -> list[str]:
        """Return the lines of a sentence with the tags of its words."""
        words = [number for number, line in enumerate(sentence) if self._is_word(line)]
        if len(words) != len(tags):
            msg = f"{place} has {len(words)} words, but {len(tags)} predictions; use a tagger of words (TokenizeWords)."
            raise RecordError(msg, words=len(words), predictions=len(tags))
        filled = list(sentence)
        for number, tag in zip(words, tags, strict=True):
            fields = filled[number].split("\t")
            fields[self._target] = tag
            filled[number] = "\t".join(fields)
        return filled

    def _is_word(self, line: str) -> bool:
        if line.startswith("#"):
            return False
        # CoNLL-U Plus may have no ids, and then every line is a word.
        return "id" not in self._names or not _NOT_SYNTACTIC.fullmatch(line.split("\t")[self._names.index("id")])

    def _make_sentence(self, value: object, place: str) -> list[str]:
        """Return a sentence of words without annotations."""
        if isinstance(value, Mapping):
            columns = cast("Mapping[str, object]", value)
            value = next(iter(columns.values()), None)
        if isinstance(value, str) or not isinstance(value, Sequence):
            msg = f"{place} must be a list of words, for CoNLL-U, got {type(value).__name__}; write .jsonl instead."
            raise RecordError(msg, place=place)
        found: list[str] = []
        for number, word in enumerate(cast("Sequence[object]", value), start=1):
            fields = ["_"] * len(self._names)
            if "id" in self._names:
                fields[self._names.index("id")] = str(number)
            fields[self._names.index("form")] = _check_field(word, place)
            found.append("\t".join(fields))
        return found


def _clean(lines: Sequence[str]) -> list[str]:
    """Return the lines of a sentence without their ends, and without the comment that names the columns."""
    plain = [line.rstrip("\r\n") for line in lines]
    # The separator of sentences may be a line of spaces.
    return [line for line in plain if line.strip(" \t") and not re.match(r"#\s*global\.columns\s*=", line)]


def _check_universal(tags: Sequence[str], place: str) -> None:
    """Reject to write something else than universal parts of speech into their column, unless the user names it."""
    other = next((tag for tag in tags if tag not in _UNIVERSAL), None)
    if other is not None:
        msg = (
            f"column must be given, since {place} has the prediction {other!r}, which is no universal part of speech; "
            "name the column to write, as in column='xpos' (--column xpos)."
        )
        raise OptionError(msg, column=None)


def _get_tags(found: Mapping[str, Plain], place: str) -> list[str]:
    tags = next(iter(found.values()), None)
    if not isinstance(tags, list):
        msg = f"{place} has one prediction, but CoNLL-U needs one per word; write .csv or .jsonl instead."
        raise OptionError(msg, place=place)
    return ["_" if tag is None else _check_field(str(tag), place) for tag in tags]


def _check_field(value: object, place: str) -> str:
    if not isinstance(value, str) or not value or _NOT_IN_A_FIELD.search(value):
        msg = f"{place} has {value!r:.60}, but a field of CoNLL-U must be text without tabs and line ends."
        raise RecordError(msg, place=place)
    return value
