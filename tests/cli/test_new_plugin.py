"""`python -m pipeline new-plugin` writes a package that works as it is, or nothing at all."""

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from importlib.resources import files
from pathlib import Path

import pytest

import pipeline.__main__ as command_line
from pipeline.cli.new_plugin import Names, new_plugin
from pipeline.errors import OptionError


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """The folder of a package, as it is written."""
    return new_plugin("leaky-mean", tmp_path)


def run(*command: str, path: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    """A command in a process of its own, with a folder on its path."""
    paths = os.pathsep.join([str(path), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    environment = {**os.environ, "PYTHONPATH": paths, **variables}
    return subprocess.run(command, cwd=path, capture_output=True, text=True, check=False, env=environment)


def test_the_package_is_whole(written: Path) -> None:
    """A project, a page, a typed module and its tests; no placeholder is left, and nothing lies beside it."""
    found = {str(file.relative_to(written)): file for file in written.rglob("*") if file.is_file()}
    assert set(found) == {
        "pyproject.toml",
        "README.md",
        "pipeline_leaky_mean/__init__.py",
        "pipeline_leaky_mean/py.typed",
        "tests/test_leaky_mean.py",
    }
    assert list(written.parent.iterdir()) == [written]
    assert not [name for name, file in found.items() if "$" in file.read_text(encoding="utf-8")]
    project = tomllib.loads(found["pyproject.toml"].read_text(encoding="utf-8"))
    assert project["build-system"]["build-backend"] == "hatchling.build"
    assert (project["project"]["name"], project["project"]["dependencies"]) == ("pipeline-leaky-mean", ["ragged-pipeline"])
    assert project["project"]["entry-points"] == {"pipeline": {"leaky_mean": "pipeline_leaky_mean"}}
    assert project["dependency-groups"] == {"test": ["pytest"]}


def test_every_template_is_used(written: Path) -> None:
    """And none is missing from what is installed."""
    templates = {entry.name for entry in (files("pipeline.cli") / "template").iterdir()}
    assert templates == {"pyproject.toml.in", "README.md.in", "module.py.in", "test.py.in"}
    assert len([file for file in written.rglob("*") if file.is_file()]) == len(templates) + 1


def test_its_tests_pass(written: Path) -> None:
    """The laws among them, and the example in its docstring; and they can fail."""
    tests = (sys.executable, "-m", "pytest", "-q", "-W", "error", "--doctest-modules", "pipeline_leaky_mean", "tests")
    told = run(*tests, path=written)
    assert told.returncode == 0, told.stdout + told.stderr
    assert int(re.findall(r"(\d+) passed", told.stdout)[0]) > 10
    module = written / "pipeline_leaky_mean" / "__init__.py"
    right = module.read_text(encoding="utf-8")
    wrong = right.replace("rows = batch.padded().fill_padding(0)", "rows = batch.padded()")
    assert wrong != right
    module.write_text(wrong, encoding="utf-8")
    told = run(*tests, "-x", path=written)
    assert told.returncode == 1, told.stdout + told.stderr
    assert "LawBrokenError" in told.stdout


def test_it_installs(written: Path, tmp_path: Path) -> None:
    """By pip, from its folder; then it is in the list, and the example of its page runs."""
    for needed in ("hatchling", "pip"):
        if importlib.util.find_spec(needed) is None:
            if os.environ.get("PIPELINE_TESTS_INSTALLED"):
                pytest.fail(f"{needed} is missing from the session that installs it")
            pytest.skip(f"{needed} is not installed; the tests session has it")
    site = tmp_path / "site"
    offline = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")
    told = run(sys.executable, "-m", "pip", "install", *offline, "--target", str(site), str(written), path=tmp_path)
    assert told.returncode == 0, told.stdout + told.stderr
    assert (site / "pipeline_leaky_mean" / "py.typed").exists()
    told = run(sys.executable, "-P", "-W", "error", "-m", "pipeline", "plugins", path=site)
    line = r"^leaky_mean +encoder +pipeline-leaky-mean +0\.1\.0 +causal stateful +ok *$"
    assert re.search(line, told.stdout, flags=re.MULTILINE), told.stdout + told.stderr
    page = (written / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    told = run(sys.executable, "-P", "-W", "error", "-c", f"{example}print(model.state_dict().keys())", path=site)
    assert "encode.encoder.project.weight" in told.stdout, told.stderr


@pytest.mark.parametrize(
    ("said", "names"),
    [
        ("ema", ("ema", "pipeline-ema", "pipeline_ema", "EmaEncoder")),
        ("two_words", ("two_words", "pipeline-two-words", "pipeline_two_words", "TwoWordsEncoder")),
        ("Two.Words", ("two_words", "pipeline-two-words", "pipeline_two_words", "TwoWordsEncoder")),
        ("minGRU2", ("mingru2", "pipeline-mingru2", "pipeline_mingru2", "MinGRU2Encoder")),
        ("Pipeline_Mine", ("mine", "pipeline-mine", "pipeline_mine", "MineEncoder")),
        ("MyEncoder", ("myencoder", "pipeline-myencoder", "pipeline_myencoder", "MyEncoder")),
        ("tensor", ("tensor", "pipeline-tensor", "pipeline_tensor", "TensorEncoder")),
        ("encoder", ("encoder", "pipeline-encoder", "pipeline_encoder", "EncoderEncoder")),
    ],
)
def test_names_follow_from_one(said: str, names: tuple[str, str, str, str]) -> None:
    """However it is spelt; and the class is called as nothing else in its module is."""
    assert Names.of(said) == Names(*names)


def test_no_name_breaks_the_module(tmp_path: Path) -> None:
    """Those that its own code, Python or pytest use for something else."""
    folders = [new_plugin(said, tmp_path) for said in ("encoder", "test", "pytest", "none", "states")]
    path = {"PYTHONPATH": os.pathsep.join([*map(str, folders), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)}
    tests = ("-W", "error", "-m", "pytest", "-q", "--import-mode=importlib", "-k", "made_by_name", *map(str, folders))
    told = run(sys.executable, *tests, path=tmp_path, **path)
    assert told.returncode == 0, told.stdout + told.stderr
    assert f"{len(folders)} passed" in told.stdout


BAD = {
    "": "must begin with a letter",
    "3d": "must begin with a letter",
    "_mine": "must begin with a letter",
    "mine-": "must begin with a letter",
    "my encoder": "must begin with a letter",
    "pipeline-": "must begin with a letter",
    "über": "must begin with a letter",
    "a/b": "must begin with a letter",
    "../up": "must begin with a letter",
    "a\x1b[31mb": "must begin with a letter",
    "a\n": "must begin with a letter",
    "class": "is a word of Python's own, or a module of its library",
    "Lambda": "is a word of Python's own, or a module of its library",
    "json": "is a word of Python's own, or a module of its library",
    "recurrent": "is taken: a module pipeline_recurrent is installed already",
    "LSTM": "is taken: an encoder of that name is installed already",
}


@pytest.mark.parametrize("said", BAD)
def test_a_bad_name_is_refused(said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On one line, and nothing is written."""
    assert command_line.main(["new-plugin", "--into", str(tmp_path), "--", said]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith(f"error: name {said!r} {BAD[said]}")
    assert told.err.endswith("; choose another, such as leaky_mean.\n")
    assert told.err[:-1].isprintable()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("there", ["file", "folder", "full folder", "link"])
def test_nothing_is_overwritten(there: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever is there stays as it is, alone."""
    target = tmp_path / "pipeline-mine"
    if there == "file":
        target.write_text("mine", encoding="utf-8")
    elif there == "link":
        target.symlink_to(tmp_path / "nowhere")
    else:
        target.mkdir()
        if there == "full folder":
            (target / "README.md").write_text("mine", encoding="utf-8")
    before = sorted(tmp_path.rglob("*"))
    assert command_line.main(["new-plugin", "mine", "--into", str(tmp_path)]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert (
        told.err
        == f"error: {str(target)!r} is there already, and nothing was written; move it, or choose another name.\n"
    )
    assert sorted(tmp_path.rglob("*")) == before
    for file in before:
        assert not file.is_file() or file.read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("method", ["write_text", "rename"])
def test_what_fails_midway_leaves_nothing(
    error: BaseException, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither under its name nor under another."""
    calls: list[object] = []
    real = Path.write_text

    def fail(path: Path, *args: str, **options: str) -> int:
        calls.append(path)
        if method == "rename" or len(calls) == 3:
            assert any(tmp_path.iterdir())
            raise error
        return real(path, *args, **options)

    monkeypatch.setattr(Path, method, fail)
    with pytest.raises((OptionError, KeyboardInterrupt)) as raised:
        new_plugin("mine", tmp_path)
    told = f"{str(tmp_path / 'pipeline-mine')!r} cannot be written: OSError: disk full; nothing is left of it."
    assert str(raised.value) == (told if isinstance(error, OSError) else "")
    assert len(calls) == (1 if method == "rename" else 3)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_must_be_there(tmp_path: Path) -> None:
    """None is made on the way."""
    with pytest.raises(OptionError, match=r"^into must be a folder, but '.*nowhere' is none; make it first\.$"):
        new_plugin("mine", tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


def test_others_may_read_it(written: Path) -> None:
    """As any folder that one makes."""
    made = written.parent / "made"
    made.mkdir()
    assert written.stat().st_mode == made.stat().st_mode


def test_it_says_what_to_do_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In lines to paste, whatever the folder is called; without a folder it is this one."""
    into = tmp_path / "with a blank"
    into.mkdir()
    assert command_line.main(["new-plugin", "mine", "--into", str(into)]) == 0
    out = capsys.readouterr().out
    assert f"wrote '{into}/pipeline-mine': " in out
    assert f"\n  pytest '{into}/pipeline-mine'\n" in out
    monkeypatch.chdir(tmp_path)
    assert command_line.main(["new-plugin", "mine"]) == 0
    assert "\n  pip install --editable ./pipeline-mine pytest\n" in capsys.readouterr().out
    assert (tmp_path / "pipeline-mine" / "pyproject.toml").exists()
