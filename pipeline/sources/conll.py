"""Annotated sentences in the CoNLL formats: one word per line, blank lines between sentences.

Source: https://universaldependencies.org/format.html (CoNLL-U, version 2) and https://universaldependencies.org/ext-format.html
(CoNLL-U Plus); Tjong Kim Sang and De Meulder 2003, "Introduction to the CoNLL-2003 Shared Task", https://aclanthology.org/W03-0419.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import takewhile
from typing import Any, Final, Literal, cast, final, overload

from typing_extensions import TypeVar, Unpack, override

from pipeline.checks.options import check_choice
from pipeline.data.rows import Example
from pipeline.errors import OptionError
from pipeline.sources.malformed import MalformedError, check_inputs
from pipeline.sources.parsed import FileOptions, FileSource
from pipeline.sources.text_file import FileInput, Lines, open_lines

_COLUMNS: Final[Sequence[str]] = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
_GLOBAL_COLUMNS: Final = re.compile(r"#\s*global\.columns\s*=\s*(.*)")
_SENTENCE_ID: Final = re.compile(r"#\s*(sent_id\s*=.*)")
_NOT_SYNTACTIC: Final = re.compile(r"[0-9]+(?:-[0-9]+|\.[0-9]+)")
"""Ids of multiword tokens (`1-2`) and empty nodes (`1.1`)."""
_DOCUMENT_START: Final = re.compile(r"[ \t]*-DOCSTART-([ \t]|$)")


W_co = TypeVar("W_co", covariant=True, default=Sequence[str])


@final
class Conllu(FileSource[W_co]):
    r"""Sentences in CoNLL-U or CoNLL-U Plus, with one annotation per word as targets.

    The words are the syntactic words, numbered 1, 2, 3. Multiword tokens (`1-2`) and empty nodes (`1.1`) are left out.
    Comments are left out, too; errors show the `sent_id`. A word with the annotation `_` has no target; as a form or a
    lemma, `_` is text. In CoNLL-U Plus, the first line names the columns: `# global.columns = ID FORM UPOS MISC`.

    Args:
        file: as for `TextLines`.
        words: the column of the words.
        inputs: instead of `words`, several columns for `FromColumns`, such as `("form", "xpos")`: an annotation per
            word each, as text.
        target: the column of the targets: `upos`, `xpos`, `feats`, `head` (as numbers), `deprel`, ..., or another one
            of CoNLL-U Plus; None for no targets.
        options: see `FileOptions`. A sentence is malformed without words, with a wrong number of columns or wrong ids,
            and with heads that are not words.

    Raises:
        OptionError: if the file has no such column.

    Example:
        >>> import pathlib
        >>> file = pathlib.Path(getfixture("tmp_path")) / "de.conllu"
        >>> lines = ["1-2\tim" + "\t_" * 8, "1\tin\t_\tADP" + "\t_" * 6, "2\tdem\t_\tDET" + "\t_" * 6]
        >>> _ = file.write_text("# sent_id = 7\n" + "\n".join(lines) + "\n\n")
        >>> source = Conllu(file)
        >>> source[0].input, source[0].target, source.where(0).endswith("de.conllu, line 1 (sent_id = 7)")
        (['in', 'dem'], ['ADP', 'DET'], True)
    """

    @overload
    def __init__(
        self: "Conllu[Sequence[str]]",
        file: FileInput,
        *,
        words: Literal["form", "lemma"] = "form",
        target: str | None = "upos",
        **options: Unpack[FileOptions[Sequence[str]]],
    ) -> None: ...
    @overload
    def __init__(
        self: "Conllu[Mapping[str, Sequence[str]]]",
        file: FileInput,
        *,
        inputs: Sequence[str],
        target: str | None = "upos",
        **options: Unpack[FileOptions[Mapping[str, Sequence[str]]]],
    ) -> None: ...
    def __init__(
        self,
        file: FileInput,
        *,
        words: Literal["form", "lemma"] = "form",
        inputs: Sequence[str] | None = None,
        target: str | None = "upos",
        **options: Unpack[FileOptions[Any]],
    ) -> None:
        super().__init__(file, **options)
        check_choice("words", words, ("form", "lemma"))
        if inputs is not None:
            check_inputs(inputs)
        self._words: Final = words
        self._inputs: Final = None if inputs is None else {name: name.lower() for name in inputs}
        if not isinstance(cast("object", target), str | None):
            msg = (
                f"target must be the name of one column, got {target!r}; read several columns as inputs, and make the "
                "targets of them with Records."
            )
            raise OptionError(msg, target=target)
        self._target: Final = None if target is None else target.lower()
        self._prepare()

    @override
    def _open_parser(self, lines: Lines, file: int) -> Callable[[], Example[W_co] | None]:
        columns = self._read_columns(lines)
        inputs = {name: columns.index(column) for name, column in (self._inputs or {"": self._words}).items()}
        target = None if self._target is None else columns.index(self._target)

        def read() -> Example[W_co] | None:
            sentence = _read_sentence(lines)
            if not sentence or (len(sentence) == 1 and _GLOBAL_COLUMNS.match(sentence[0])):
                return None
            found = _split_words(sentence, columns)
            values = {name: [fields[column] for fields in found] for name, column in inputs.items()}
            value = cast("W_co", values[""] if self._inputs is None else values)
            if target is None:
                return Example(value)
            # Head numbers count the syntactic words, so they are checked only now that all words are known.
            return Example(value, [self._parse_annotation(fields[target], len(found)) for fields in found])

        return read

    @cached_property
    def columns(self) -> Sequence[str]:
        """The columns of the file, in lower case."""
        with open_lines(self._files[0], self.encoding) as lines:
            return self._read_columns(lines)

    @property
    def target_column(self) -> str | None:
        """The column of the targets, in lower case; None for no targets."""
        return self._target

    @override
    def parse_columns(self, lines: Sequence[str]) -> Mapping[str, object]:
        columns = self.columns
        words = _split_words([line.rstrip("\r\n") for line in lines if _is_not_blank(line)], columns)
        return {name: [fields[at] for fields in words] for at, name in enumerate(columns)}

    @override
    def name_columns(self, value: object) -> Mapping[str, object]:
        return cast("Mapping[str, object]", value) if self._inputs else {self._words: value}

    def _parse_annotation(self, field: str, words: int) -> int | str | None:
        if field == "_" and self._target not in {"form", "lemma"}:
            return None
        if self._target != "head":
            return field
        if not (field.isascii() and field.isdecimal()) or int(field) > words:
            msg = f"a head must be the number of a word, 1 to {words}, or 0, got {field!r}"
            raise MalformedError("head", msg)
        return int(field)

    def _read_columns(self, lines: Lines) -> list[str]:
        """Return the columns of a file, in lower case: those that its first line names, or those of CoNLL-U."""
        lines.begin_record()
        named = _GLOBAL_COLUMNS.match(next(lines, ""))
        lines.return_lines(0)
        columns: list[str] = [*_COLUMNS] if named is None else named.group(1).lower().split()
        inputs = {"words": [self._words]} if self._inputs is None else {"inputs": self._inputs.values()}
        chosen = {**inputs, "target": [self._target]}
        for name, column in ((name, column) for name, several in chosen.items() for column in several):
            if column is not None and (column == "id" or column not in columns):
                known = ", ".join(map(repr, [other for other in columns if other != "id"]))
                msg = f"{name} must be a column of {self._files[0].name}, {known}, got {column!r}."
                raise OptionError(msg, **{name: column})
        return columns

    @override
    def _name_record(self, lines: Sequence[str]) -> str:
        for line in lines:
            if not line.startswith("#"):
                break
            if found := _SENTENCE_ID.match(line):
                name = found.group(1).strip()
                return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        return ""

    @override
    def _get_options(self) -> tuple[object, ...]:
        return (self.encoding, self._inputs or self._words, self._target)


@final
class Conll2003(FileSource[Sequence[str]]):
    r"""Sentences as in the CoNLL-2003 shared task: one word per line, columns separated by spaces or tabs.

    `-DOCSTART-` lines, which separate documents, are left out.

    Args:
        file: as for `TextLines`.
        target: the column of the targets; None for no targets.
        columns: the columns of the file, among them `form`. For files with words and tags only: `("form", "ner")`.
        options: see `FileOptions`. A sentence with a wrong number of columns is malformed.

    Raises:
        OptionError: if there is no such column.

    Example:
        >>> import pathlib
        >>> file = pathlib.Path(getfixture("tmp_path")) / "eng.train"
        >>> _ = file.write_text("-DOCSTART- -X- O O\n\nEU NNP I-NP I-ORG\nrejects VBZ I-VP O\n\n")
        >>> source = Conll2003(file)
        >>> len(source), source[0].input, source[0].target
        (1, ['EU', 'rejects'], ['I-ORG', 'O'])
    """

    def __init__(
        self,
        file: FileInput,
        *,
        target: str | None = "ner",
        columns: Sequence[str] = ("form", "pos", "chunk", "ner"),
        **options: Unpack[FileOptions[Sequence[str]]],
    ) -> None:
        super().__init__(file, **options)
        self._columns: Final = list(columns)
        if target is not None:
            check_choice("target", target, tuple(columns))
        if "form" not in self._columns:
            msg = f'columns must have a column "form", the words, got {self._columns}.'
            raise OptionError(msg, columns=columns)
        self._target: Final = target

    @override
    def _open_parser(self, lines: Lines, file: int) -> Callable[[], Example[Sequence[str]] | None]:
        form = self._columns.index("form")
        target = None if self._target is None else self._columns.index(self._target)

        def read() -> Example[Sequence[str]] | None:
            sentence = enumerate(_read_sentence(lines), start=1)
            found = [
                _split_fields(number, line, None, len(self._columns))
                for number, line in sentence
                if not _DOCUMENT_START.match(line)
            ]
            if not found:
                return None
            inputs = [fields[form] for fields in found]
            return Example(inputs) if target is None else Example(inputs, [fields[target] for fields in found])

        return read

    @override
    def _get_options(self) -> tuple[object, ...]:
        return (self.encoding, self._columns, self._target)


def _read_sentence(lines: Lines) -> list[str]:
    """Read the lines up to a blank line, without their ends; raise StopIteration at the end of the file."""
    # `takewhile` also takes the blank line, so that only at the end of the file nothing is taken.
    sentence = [line.rstrip("\r\n") for line in takewhile(_is_not_blank, lines)]
    if not lines.taken:
        raise StopIteration
    return sentence


def _is_not_blank(line: str) -> bool:
    # Not `str.strip`: other white space, such as a no-break space, may be a word or part of one.
    return bool(line.strip(" \t\r\n"))


def _split_fields(number: int, line: str, separator: str | None, wanted: int) -> list[str]:
    # Without a separator, columns are separated by any number of spaces and tabs.
    fields = line.split(separator) if separator else [field for field in line.replace("\t", " ").split(" ") if field]
    if len(fields) != wanted:
        columns = "tab-separated columns" if separator else "columns"
        msg = f"a word must have {wanted} {columns}, but line {number} of the sentence has {len(fields)}"
        raise MalformedError("columns", msg)
    return fields


def _split_words(sentence: Sequence[str], columns: Sequence[str]) -> list[list[str]]:
    """Return the fields of each syntactic word of a sentence."""
    found: list[list[str]] = []
    place = columns.index("id") if "id" in columns else None
    for number, line in enumerate(sentence, start=1):
        if line.startswith("#"):
            continue
        fields = _split_fields(number, line, "\t", len(columns))
        if "" in fields:
            msg = f"a column must not be empty, but column {fields.index('') + 1} of line {number} of the sentence is"
            raise MalformedError("columns", f"{msg}; '_' stands for no annotation")
        if place is not None:
            if _NOT_SYNTACTIC.fullmatch(fields[place]):
                continue
            if fields[place] != str(len(found) + 1):
                msg = (
                    f"words must be numbered from 1, but line {number} of the sentence, word {len(found) + 1}, has the "
                    f"id {fields[place]!r}"
                )
                raise MalformedError("ids", msg)
        found.append(fields)
    if not found:
        raise MalformedError("words", "a sentence must have at least one word, got only comments")
    return found
