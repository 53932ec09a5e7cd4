"""A file of JSON, an object a line.

Source: https://jsonlines.org; RFC 8259 (Bray 2017).
"""

import json
from collections.abc import Sequence
from os import PathLike
from typing import Final, cast, final, overload

from typing_extensions import override

from pipeline.checks.shapes import described
from pipeline.data.rows import Example, X_co
from pipeline.sources.fields import Fields, fields_of
from pipeline.sources.files import FileSource, text_of
from pipeline.sources.problems import Malformed, UnfitError


@final
class JsonLines(FileSource[X_co]):
    r"""A file of JSON, an object a line. Blank lines are no records.

    Args:
        file: the path.
        text: the field of the input, if that is text: `text`, unless something else is said.
        words: the field of the input, if that is a list of words.
        target: the field of the target: a class, by name or number, a list of them, one a step, or null; None for none.
        on_bad_record: what becomes of lines that are no JSON, no object, lack a field, or have one of another type: `raise`,
            `skip`, or a function of a `Problem` that gives an example in its place, or None.
        cache: a folder in which the index is kept; None keeps none.

    Raises:
        OptionError: if an option is out of its range, or both `text` and `words` are given.
        SourceError: if the file cannot be read.

    Example:
        >>> import pathlib
        >>> file = pathlib.Path(getfixture("tmp_path")) / "tagged.jsonl"
        >>> _ = file.write_text('{"tokens": ["Be", "quiet"], "tags": ["AUX", null]}\n')
        >>> source = JsonLines(file, words="tokens", target="tags")
        >>> source[0].input, source[0].target
        (['Be', 'quiet'], ['AUX', None])
    """

    @overload
    def __init__(
        self: "JsonLines[str]",
        file: str | PathLike[str],
        *,
        text: str = "text",
        target: str | None = None,
        on_bad_record: Malformed[str] = "raise",
        cache: str | PathLike[str] | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self: "JsonLines[Sequence[str]]",
        file: str | PathLike[str],
        *,
        words: str,
        target: str | None = None,
        on_bad_record: Malformed[Sequence[str]] = "raise",
        cache: str | PathLike[str] | None = None,
    ) -> None: ...
    def __init__(
        self,
        file: str | PathLike[str],
        *,
        text: str | None = None,
        words: str | None = None,
        target: str | None = None,
        on_bad_record: Malformed[object] = "raise",
        cache: str | PathLike[str] | None = None,
    ) -> None:
        super().__init__(file, on_bad_record=cast("Malformed[X_co]", on_bad_record), cache=cache)
        self._fields: Final[Fields[X_co]] = fields_of("text" if words is None and text is None else text, words, target)

    @override
    def decoded(self, record: bytes) -> Example[X_co]:
        text = text_of(record)
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            msg = f"a line must be JSON, but is none: {error}"
            raise UnfitError("json", msg) from error
        if not isinstance(found, dict):
            msg = f"a line must be a JSON object, as in {{...}}, but {described(found)} arrived"
            raise UnfitError("json", msg)
        return self._fields.example(found)

    @override
    def options(self) -> tuple[object, ...]:
        return (self._fields,)
