"""Records are found where a reader of the whole text finds them, however the file is cut into blocks."""

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.sources.delimited import split_fields
from pipeline.sources.framing import Framing, QuotedLines, every_line, frames, paragraphs
from pipeline.sources.index import Index
from pipeline.sources.opened import Opened

TEXTS = st.text(alphabet='ab,"\n\r\u2028\x85\x0b\x0c', max_size=40)
QUOTED = QuotedLines(b",", b'"')


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all examples."""
    return tmp_path_factory.mktemp("framing")


def found(folder: Path, content: bytes, framing: Framing, block: int, *, keep_blank: bool = True) -> list[bytes]:
    """The records of a file, by its index."""
    file = folder / f"{abs(hash((content, block)))}.txt"
    file.write_bytes(content)
    opened = Opened(file)
    index = Index.of(frames(opened, framing, block), keep_blank=keep_blank, headers=0)
    streamed = [
        opened.read(start, stop)
        for some in frames(opened, framing, block)
        for start, stop, blank in zip(some.starts.tolist(), some.stops.tolist(), some.blank.tolist(), strict=True)
        if keep_blank or not blank
    ]
    indexed = [opened.read(*index.span(number)) for number in range(len(index))]
    assert indexed == streamed
    file.unlink()
    return indexed


def lines(content: bytes) -> list[bytes]:
    """Lines with their ends, by Python."""
    return list(io.BytesIO(content))


@given(text=TEXTS, block=st.integers(1, 50), bom=st.booleans())
def test_lines_end_with_a_newline_and_nothing_else(folder: Path, text: str, block: int, bom: bool) -> None:
    """A lone carriage return, form feeds, U+0085 and U+2028 are text; a byte-order mark is not."""
    content = text.encode()
    assert found(folder, b"\xef\xbb\xbf" * bom + content, every_line, block) == lines(content)


@given(text=TEXTS, block=st.integers(1, 50))
def test_blank_lines_are_left_out(folder: Path, text: str, block: int) -> None:
    """Those that hold their end alone."""
    content = text.encode()
    wanted = [line for line in lines(content) if line not in {b"\n", b"\r\n"}]
    assert found(folder, content, every_line, block, keep_blank=False) == wanted


@given(text=TEXTS, block=st.integers(1, 50))
def test_paragraphs_end_with_a_blank_line(folder: Path, text: str, block: int) -> None:
    """However many blank lines stand between them; together they are the file."""
    content = text.encode()
    wanted: list[bytes] = []
    current = b""
    for line in lines(content):
        current += line
        if line in {b"\n", b"\r\n"}:
            wanted.append(current)
            current = b""
    wanted += [current] if current else []
    assert found(folder, content, paragraphs, block) == wanted
    without = [one for one in wanted if one not in {b"\n", b"\r\n"}]
    assert found(folder, content, paragraphs, block, keep_blank=False) == without


def quoted_oracle(content: bytes) -> list[bytes]:
    """Records of comma-separated values, one byte after another."""
    records: list[bytes] = []
    current, state = b"", "begin"
    for number in range(len(content)):
        byte = content[number : number + 1]
        current += byte
        if state == "quoted":
            state = "closing" if byte == b'"' else "quoted"
        elif state == "closing" and byte == b'"':
            state = "quoted"
        elif byte == b"\n":
            records.append(current)
            current, state = b"", "begin"
        elif byte == b",":
            state = "begin"
        else:
            state = "quoted" if state == "begin" and byte == b'"' else "field"
    return [*records, current] if current else records


@given(text=TEXTS, block=st.integers(1, 50))
def test_an_open_quote_goes_on_over_lines(folder: Path, text: str, block: int) -> None:
    """Quotes open fields where they begin, and are doubled within."""
    assert found(folder, text.encode(), QUOTED, block) == quoted_oracle(text.encode())


@given(
    rows=st.lists(st.lists(st.text(alphabet='ab,"\n\u2028', max_size=6), min_size=2, max_size=3), max_size=5),
    block=st.integers(1, 50),
)
def test_what_the_csv_module_writes_is_read(folder: Path, rows: list[list[str]], block: int) -> None:
    """Records and fields alike."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    records = found(folder, text.getvalue().encode(), QUOTED, block)
    assert [split_fields(record.decode().removesuffix("\r\n"), ",", '"') for record in records] == rows
