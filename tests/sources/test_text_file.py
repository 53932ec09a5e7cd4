"""Input files: encodings, gzip, streams, line ends and files that cannot be read."""

import errno
import gzip
import io
import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import Tokenize
from pipeline.errors import OptionError, RecordError, SourceError
from pipeline.sources import Conll2003, Conllu, Csv, JsonLines, Records, Source, TextLines, Tokenized, Tsv, lengths_of
from pipeline.sources.text_file import InputFile, open_lines
from support.needs import mark_slow
from support.pairs import to_pairs
from support.source_files import write

pytestmark = pytest.mark.usefixtures("storage")

EMPTY: list[Callable[[Path], Source[object]]] = [
    TextLines,
    JsonLines,
    Conllu,
    Conll2003,
    lambda file: Csv(file, text=0, header=False),
    lambda file: Tsv(file, text=0, header=False),
]


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf", gzip.compress(b"", mtime=0)])
@pytest.mark.parametrize("make", EMPTY)
def test_an_empty_file_has_no_records(tmp_path: Path, make: Callable[[Path], Source[object]], content: bytes) -> None:
    """It may have a byte-order mark, or be compressed."""
    source = make(write(tmp_path / "empty", content))
    assert len(source) == 0
    assert list(source) == []
    with pytest.raises(IndexError):
        source[0]


def test_a_byte_order_mark_is_left_out(tmp_path: Path) -> None:
    """Only at the beginning of a file."""
    assert TextLines(write(tmp_path / "a", b"\xef\xbb\xbfa\n\xef\xbb\xbfb"))[0].input == "a"
    assert TextLines(tmp_path / "a")[1].input == "\ufeffb"
    assert Csv(write(tmp_path / "b", b"\xef\xbb\xbftext\na\n"))[0].input == "a"
    assert JsonLines(write(tmp_path / "c", b'\xef\xbb\xbf{"text": "a"}'))[0].input == "a"


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "UTF_32BE"])
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_a_byte_order_mark_is_left_out_if_the_order_is_given(
    tmp_path: Path, encoding: str, compress: Callable[[bytes], bytes]
) -> None:
    """Python's codecs for one byte order keep it."""
    for text in ("\ufeffone\ntwo\n", "one\ntwo\n"):
        file = write(tmp_path / "a.txt", compress(text.encode(encoding)))
        assert list(TextLines(file, encoding=encoding).inputs()) == ["one", "two"]


@given(text=st.text(alphabet="ab\n\r\u2028\x85\x0b\x0c", max_size=30), is_gzip=st.booleans())
def test_lines_are_those_of_python(tmp_path_factory: pytest.TempPathFactory, text: str, is_gzip: bool) -> None:
    """The oracle is `open` with universal newlines; their numbers count them."""
    content = text.encode()
    file = write(tmp_path_factory.mktemp("lines") / "a", gzip.compress(content) if is_gzip else content)
    with io.TextIOWrapper(io.BytesIO(content), "utf-8") as oracle:
        wanted = [line.removesuffix("\n") for line in oracle]
    source = TextLines(file)
    assert list(source.inputs()) == wanted
    assert [source.where(number) for number in range(len(source))] == [
        f"{file}, line {n + 1}" for n in range(len(wanted))
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "UTF8", "utf-16", "utf-16-le", "cp1252", "latin-1", "utf-32"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    """Text is decoded, and the encoding is part of the fingerprint."""
    content = 'text,label\n"Ärger, naïve\ncafé",ß\n'.encode(encoding)
    source = Csv(write(tmp_path / "a", content), target="label", encoding=encoding, cache=tmp_path / "cache")
    assert to_pairs(source) == to_pairs([source[0]]) == [("Ärger, naïve\ncafé", "ß")]
    lines = write(tmp_path / "b", "é\nè".encode(encoding))
    assert list(TextLines(lines, encoding=encoding).inputs()) == ["é", "è"]
    if encoding == "cp1252":
        assert TextLines(lines, encoding="cp437", cache=tmp_path / "cache")[0].input == "Θ"
        assert TextLines(lines, encoding="cp1252", cache=tmp_path / "cache")[0].input == "é"


def test_bytes_of_another_encoding_are_malformed(tmp_path: Path) -> None:
    """The error names the byte and the option."""
    file = write(tmp_path / "a", "a\ncafé au lait\n".encode("cp1252"))
    message = (
        rf'^{file}, line 2: a record must be UTF-8, but character 4 of a line is the byte 0xe9; .* encoding="cp1252"; '
    )
    with pytest.raises(RecordError, match=message) as raised:
        TextLines(file)[1]
    assert raised.value.details["text"] == r"caf\xe9 au lait"
    wide = write(tmp_path / "b", "ab\n".encode("utf-16-le"))
    with pytest.raises(
        RecordError, match='line 1: a record must be text, but character 2 .* NUL, .* encoding="utf-16"'
    ):
        TextLines(wide)[0]
    with pytest.raises(RecordError, match=r"after line 0: .*utf-16.*; say which encoding the file has"):
        TextLines(write(tmp_path / "c", b"\x00\xd8\x00\x00"), encoding="utf-16-le")[0]
    with pytest.raises(OptionError, match="encoding must be a text encoding that Python knows, .*, got 'utf-7,5'"):
        TextLines(file, encoding="utf-7,5")
    for encoding in ("base64", "undefined"):
        with pytest.raises(OptionError, match=f"got '{encoding}'"):
            TextLines(file, encoding=encoding)
    with pytest.raises(RecordError, match=r"a, after line 0: UTF-16 .*BOM; say which encoding the file has"):
        list(TextLines(file, encoding="utf-16"))


def test_compressed_files(tmp_path: Path) -> None:
    """Files with the magic number of gzip are decompressed, whatever their name; damaged ones raise an error."""
    content = "text\n" + "".join(f"row {number}\n" for number in range(5_000))
    compressed = gzip.compress(content.encode())
    source = Csv(write(tmp_path / "a.csv.gz", compressed))
    assert source[4_999].input == "row 4999"
    assert source.where(4_999) == f"{tmp_path}/a.csv.gz, line 5001"
    assert Csv(write(tmp_path / "a.csv", compressed + gzip.compress(b"last\n")))[-1].input == "last"
    with pytest.raises(SourceError, match=r"a\.gz' cannot be read after line \d+: .*; check that it is complete"):
        list(TextLines(write(tmp_path / "a.gz", compressed[:-1000])))
    with pytest.raises(SourceError, match="cannot be read after line"):
        list(TextLines(write(tmp_path / "b.gz", compressed[:-8] + b"12345678")))
    for suffix in ("bz2", "xz", "zst", "zip"):
        with pytest.raises(OptionError, match="must not be compressed, except with gzip; decompress it"):
            TextLines(write(tmp_path / f"a.{suffix}", b""))


def test_a_file_that_is_swapped_while_in_use_is_noticed(tmp_path: Path) -> None:
    """By another one with `rename`, or through a symbolic link; by one of the same content, reading continues."""
    content = b"text\none\n"
    for name in ("a", "b"):
        write(tmp_path / name, content if name == "a" else content.upper())
    link = tmp_path / "link.csv"
    link.symlink_to("a")
    linked, source = Csv(link), Csv(tmp_path / "a")
    assert linked[0].input == source[0].input == "one"
    link.unlink()
    link.symlink_to("b")
    with pytest.raises(SourceError, match=r"link\.csv' has changed since it was first read"):
        linked[0]
    write(tmp_path / "copy", content).rename(tmp_path / "a")
    assert source[0].input == "one"
    (tmp_path / "b").rename(tmp_path / "a")
    with pytest.raises(SourceError, match=r"a' has changed since it was first read"):
        list(source)


def test_a_file_with_only_a_header_has_no_records(tmp_path: Path) -> None:
    """With any line end, or without one."""
    for content in (b"text,label", b"text,label\r", b"\xef\xbb\xbftext,label\r\n\r\n"):
        assert list(Csv(write(tmp_path / "a", content), target="label")) == []
        assert len(Csv(tmp_path / "a", target="label")) == 0


@contextmanager
def pipe(content: bytes, folder: Path) -> Generator[Path]:
    """A named pipe into which a thread writes."""
    path = folder / "pipe"
    os.mkfifo(path)
    thread = threading.Thread(target=lambda: path.write_bytes(content))
    thread.start()
    yield path
    thread.join()


def test_a_pipe_is_read_once(tmp_path: Path) -> None:
    """Its records can be read any number of times, sent to workers and cached."""
    with pipe(b"text,label\na,x\nb\nc,y\n", tmp_path) as path:
        source = Csv(path, target="label", on_bad_record="skip", cache=tmp_path / "cache")
        for one in (source, pickle.loads(pickle.dumps(source))):
            assert to_pairs(one) == to_pairs(one) == [("a", "x"), ("c", "y")]
            assert one.where(1) == f"{path}, line 4"
            assert one.skipped.kinds == {"fields": 1}
    same = Csv(write(tmp_path / "same", b"text,label\na,x\nb\nc,y\n"), target="label", on_bad_record="skip")
    assert source.fingerprint == same.fingerprint
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_open_files_are_read_once(tmp_path: Path) -> None:
    """Files opened as bytes or as text, and streams in memory; a second source of the same one is empty."""
    file = write(tmp_path / "a", "Ä\n\nb".encode())
    with file.open("rb") as binary, file.open(encoding="ascii") as text:
        for stream in (binary, text, io.BytesIO(file.read_bytes()), io.StringIO(file.read_text("utf-8"))):
            source = TextLines(stream)
            assert list(source.inputs()) == list(source.inputs()) == ["Ä", "", "b"]
            assert list(TextLines(stream)) == []
        assert not binary.closed
    assert TextLines(io.BytesIO(gzip.compress(b"a"))).where(0) == "BytesIO, line 1"
    assert TextLines(io.StringIO("é"), encoding="cp1252")[0].input == "é"
    source = TextLines(io.BytesIO(b"a longer line"))
    assert pickle.loads(pickle.dumps(source))[0].input == "a longer line"
    assert to_pairs(JsonLines(io.BytesIO(b'{"text": "a"}'))) == [("a", None)]


def test_a_stream_alone_cannot_be_sent() -> None:
    """An input file that is a stream has no content to send."""
    file = InputFile(io.BytesIO(b"a"))
    with pytest.raises(SourceError, match="BytesIO is an open stream and cannot be sent to another process"):
        pickle.dumps(file)
    with open_lines(file, "utf-8") as lines:
        assert list(lines) == ["a"]
    with pytest.raises(SourceError, match="BytesIO is a stream and was read before; put its records into a list"):
        file.open().__enter__()


@pytest.mark.parametrize("name", mark_slow(["-", "/dev/stdin"], quick={"-"}))
def test_standard_input(tmp_path: Path, name: str, storage: str) -> None:
    """A program reads its standard input, which is a pipe or a file."""
    if storage == "mapped":
        pytest.skip("a new process starts with its own limit")
    code = (
        "import sys; from pipeline.sources import Csv; source = Csv(sys.argv[1], target=1); "
        "print([(one.input, one.target) for one in source], len(source), source.where(1))"
    )
    wanted = f"[('a', '1'), ('b', '2')] 2 {'<stdin>' if name == '-' else name}, line 3\n"
    content = "text,label\na,1\nb,2\n"
    run = [sys.executable, "-c", code, name]
    assert subprocess.run(run, input=content, capture_output=True, text=True, check=True).stdout == wanted
    with write(tmp_path / "a", content.encode()).open("rb") as file:
        assert subprocess.run(run, stdin=file, capture_output=True, text=True, check=True).stdout == wanted


@pytest.mark.parametrize("names", [("-", "-"), ("/dev/stdin", "-"), ("-", "/dev/fd/0")])
def test_a_pipe_read_again_is_not_taken_for_an_empty_file(names: tuple[str, str], storage: str) -> None:
    """Two sources of the standard input would share its records."""
    if storage == "mapped":
        pytest.skip("a new process starts with its own limit")
    code = (
        "import sys; from pipeline.sources import TextLines; from pipeline.errors import SourceError\n"
        "assert len(TextLines(sys.argv[1])) == 2\n"
        "try:\n    len(TextLines(sys.argv[2]))\nexcept SourceError as error:\n    print(error)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, *names], input="a\nb\n", capture_output=True, text=True, check=True
    )
    name = "<stdin>" if names[1] == "-" else names[1]
    assert ran.stdout == f"{name} is a stream and was read before; put its records into a list or a file.\n"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """Missing files, folders and files that were deleted raise errors that name them."""
    with pytest.raises(SourceError, match="no' cannot be read: .*; check the path, which is relative to"):
        TextLines(tmp_path / "no")
    with pytest.raises(SourceError, match="cannot be read: .*null"):
        TextLines("a\0b")
    with pytest.raises(SourceError, match="is a folder, not a file; read a folder of text with TextFolder or lines_of"):
        TextLines(tmp_path)
    source = TextLines(write(tmp_path / "a", b"a\n"))
    source[0]
    (tmp_path / "a").unlink()
    for read in (lambda: source[0], lambda: list(iter(source)), lambda: list(TextLines(tmp_path / "a"))):
        with pytest.raises(SourceError, match="a' cannot be read"):
            read()


def test_a_full_disk_raises_our_error_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit on the size of files stands for a full disk."""
    monkeypatch.setattr("pipeline.sources.record_table.MAX_IN_MEMORY", 10_000)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    file, cache = write(tmp_path / "a", b"some text\n" * 10_000), tmp_path / "cache"
    tokenize, before = Tokenize.train(["some text"]), resource.getrlimit(resource.RLIMIT_FSIZE)
    acts: list[Callable[[], object]] = [
        lambda: len(TextLines(file)),
        lambda: len(TextLines(file, cache=cache)),
        lambda: len(TextLines(io.BytesIO(file.read_bytes()), cache=cache)),
        lambda: lengths_of(Records(["some text"] * 9_000), tokenize, cache=cache),
        lambda: Tokenized(Records(["some text"] * 9_000), tokenize, cache=cache),
    ]
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, before[1]))
    try:
        for act in acts:
            with pytest.raises(SourceError, match="the cache cannot be written to .*; free some space") as raised:
                act()
            assert isinstance(raised.value.__cause__, OSError)
            assert raised.value.__cause__.errno == errno.EFBIG
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list((tmp_path / "temporary").iterdir())
    assert not cache.exists() or not list(cache.iterdir())


def test_temporary_records_are_deleted_with_their_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the process that made them, not by a forked worker."""
    monkeypatch.setattr("pipeline.sources.record_table.MAX_IN_MEMORY", 10)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    source = TextLines(write(tmp_path / "a", b"some text\n" * 9))
    source[0]
    assert len(list((tmp_path / "temporary").iterdir())) == 1
    child = os.fork()
    if child == 0:
        del source
        os._exit(0)
    os.waitpid(child, 0)
    assert source[8].input == "some text"
    assert len(list((tmp_path / "temporary").iterdir())) == 1
    del source
    assert not list((tmp_path / "temporary").iterdir())
