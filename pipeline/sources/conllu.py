"""Annotated sentences in CoNLL-U.

Source: https://universaldependencies.org/format.html (Universal Dependencies, version 2).
"""

import re
from collections.abc import Sequence
from os import PathLike
from typing import Final, Literal, TypeAlias, final

from typing_extensions import override

from pipeline.data.rows import Example
from pipeline.sources.fields import checked_choice
from pipeline.sources.files import FileSource, text_of
from pipeline.sources.framing import Framing, paragraphs
from pipeline.sources.problems import Malformed, UnfitError

Annotation: TypeAlias = Literal["form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc"]

_COLUMNS: Final = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
_BESIDE: Final = re.compile(r"[0-9]+(?:-[0-9]+|\.[0-9]+)")
_NAME: Final = re.compile(rb"^#\s*(sent_id\s*=[^\n\r]*)", re.MULTILINE)


@final
class Conllu(FileSource[Sequence[str]]):
    r"""Sentences of words in CoNLL-U, with one annotation a word as targets.

    The words are the syntactic ones, numbered 1, 2, 3 and so on. The lines of multiword tokens (`1-2`), which say how
    words are written, and those of empty nodes (`1.1`) are left out; so are comments, of which `sent_id` names the
    sentence in errors. A word without the annotation (`_`) has no target; a `_` that is its form or lemma is that.

    Args:
        file: the path.
        words: the column of the words: `form` or `lemma`.
        target: the column of the targets: `upos`, `xpos`, `feats`, `deprel`, ...; `head` as numbers; None for none.
        on_bad_record: what becomes of sentences with a line that has not ten columns, words that are not numbered from 1,
            heads that are no number, no word at all, bytes that are no UTF-8, or a NUL: `raise`, `skip`, or a function
            of a `Problem` that gives an example in its place, or None.
        cache: a folder in which the index is kept; None keeps none.

    Raises:
        OptionError: if a column is none of these.
        SourceError: if the file cannot be read.

    Example:
        >>> import pathlib
        >>> file = pathlib.Path(getfixture("tmp_path")) / "de.conllu"
        >>> lines = ["1-2\tim" + "\t_" * 8, "1\tin\t_\tADP" + "\t_" * 6, "2\tdem\t_\tDET" + "\t_" * 6]
        >>> _ = file.write_text("# sent_id = 7\n" + "\n".join(lines) + "\n\n")
        >>> source = Conllu(file)
        >>> source[0].input, source[0].target, source.where(0).endswith("de.conllu, line 1 (sent_id = 7)")
        (['in', 'dem'], ['ADP', 'DET'], True)
    """

    def __init__(
        self,
        file: str | PathLike[str],
        *,
        words: Literal["form", "lemma"] = "form",
        target: Annotation | None = "upos",
        on_bad_record: Malformed[Sequence[str]] = "raise",
        cache: str | PathLike[str] | None = None,
    ) -> None:
        super().__init__(file, on_bad_record=on_bad_record, cache=cache)
        checked_choice("words", words, ("form", "lemma"))
        checked_choice("target", target, (*_COLUMNS[1:], None))
        self._words: Final = words
        self._target: Final = target

    @property
    @override
    def framing(self) -> Framing:
        return paragraphs

    @override
    def decoded(self, record: bytes) -> Example[Sequence[str]]:
        found = _word_lines(text_of(record))
        words = [columns[_COLUMNS.index(self._words)] for columns in found]
        if self._target is None:
            return Example(words)
        place = _COLUMNS.index(self._target)
        if self._target == "head":
            return Example(words, [_head(columns[place], len(found)) for columns in found])
        is_text = self._target in {"form", "lemma"}
        return Example(words, [c[place] if is_text or c[place] != "_" else None for c in found])

    @override
    def named(self, record: bytes) -> str:
        found = _NAME.search(record)
        return "" if found is None else found.group(1).decode("utf-8", "backslashreplace").strip()

    @override
    def options(self) -> tuple[object, ...]:
        return (self._words, self._target)


def _word_lines(sentence: str) -> list[list[str]]:
    """The columns of each syntactic word of a sentence."""
    found: list[list[str]] = []
    for number, line in enumerate(sentence.rstrip("\r\n").split("\n"), start=1):
        if line.startswith("#"):
            continue
        columns = line.removesuffix("\r").split("\t")
        if len(columns) != len(_COLUMNS):
            msg = f"a word must have 10 columns, apart by tabs, but line {number} of the sentence has {len(columns)}"
            raise UnfitError("columns", msg)
        if _BESIDE.fullmatch(columns[0]):
            continue
        if columns[0] != str(len(found) + 1):
            msg = (
                f"words must be numbered from 1, but line {number} of the sentence, word {len(found) + 1}, has the id "
            )
            raise UnfitError("ids", msg + repr(columns[0]))
        found.append(columns)
    if not found:
        raise UnfitError("words", "a sentence must have a word, but this one has comments alone")
    return found


def _head(head: str, words: int) -> int | None:
    if head == "_":
        return None
    if not (head.isascii() and head.isdecimal()) or int(head) > words:
        msg = f"a head must be the number of a word, 1 to {words}, or 0, but {head!r} arrived"
        raise UnfitError("head", msg)
    return int(head)
