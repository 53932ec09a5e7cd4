"""Test that `python -m pipeline new-plugin` writes a working package, or nothing at all."""

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
from pipeline.cli.new_plugin import Names, write_plugin
from pipeline.cli.plugin_kinds import PLUGIN_KINDS
from pipeline.errors import OptionError
from support.needs import SLOW


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """Write a package and return its folder."""
    return write_plugin("leaky-mean", tmp_path)


def run(*command: str, path: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run a command in a process of its own, with a folder on its path."""
    paths = os.pathsep.join([str(path), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    environment = {**os.environ, "PYTHONPATH": paths, **variables}
    return subprocess.run(command, cwd=path, capture_output=True, text=True, check=False, env=environment)


def test_package_is_complete(written: Path) -> None:
    """The package has a project, a README, a typed module and tests, and no placeholders or temporary files."""
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
    assert (project["project"]["name"], project["project"]["dependencies"]) == (
        "pipeline-leaky-mean",
        ["ragged-pipeline"],
    )
    assert project["project"]["entry-points"] == {"pipeline": {"leaky_mean": "pipeline_leaky_mean"}}
    assert project["dependency-groups"] == {"test": ["pytest"]}


def test_every_template_is_used(written: Path) -> None:
    """All templates are installed with the library."""
    folder = files("pipeline.cli") / "template"
    templates = {entry.name for entry in folder.iterdir()}
    assert templates == {"pyproject.toml.in", "README.md.in", *PLUGIN_KINDS}
    for kind in PLUGIN_KINDS:
        assert {entry.name for entry in (folder / kind).iterdir()} == {"module.py.in", "test.py.in"}
    assert len([file for file in written.rglob("*") if file.is_file()]) == 5


@SLOW
@pytest.mark.parametrize("kind", [kind for kind in PLUGIN_KINDS if kind != "encoder"])
def test_the_tests_of_every_kind_pass(kind: str, tmp_path: Path) -> None:
    """All laws, the doctest, and the example of its README, which names the part."""
    written = write_plugin("mine", tmp_path, kind=kind)
    tests = ("-m", "pytest", "-q", "-W", "error", "--doctest-modules", "pipeline_mine", "tests")
    output = run(sys.executable, *tests, path=written)
    assert output.returncode == 0, output.stdout + output.stderr
    assert int(re.findall(r"(\d+) passed", output.stdout)[0]) > 5
    page = (written / "README.md").read_text(encoding="utf-8")
    assert f"contains the {kind}, and" in page
    assert not [file for file in written.rglob("*") if file.is_file() and "$" in file.read_text(encoding="utf-8")]
    (example,) = re.findall(r"^```python\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    if "import Mine" in example:  # parts that are used by name must be installed first
        output = run(sys.executable, "-W", "error", "-c", example, path=written)
        assert output.returncode == 0, output.stderr


@SLOW
def test_its_tests_pass(written: Path) -> None:
    """Its tests run all laws and the doctest, and can fail."""
    tests = (sys.executable, "-m", "pytest", "-q", "-W", "error", "--doctest-modules", "pipeline_leaky_mean", "tests")
    output = run(*tests, path=written)
    assert output.returncode == 0, output.stdout + output.stderr
    assert int(re.findall(r"(\d+) passed", output.stdout)[0]) > 10
    module = written / "pipeline_leaky_mean" / "__init__.py"
    right = module.read_text(encoding="utf-8")
    wrong = right.replace("rows = batch.padded().fill_padding(0)", "rows = batch.padded()")
    assert wrong != right
    module.write_text(wrong, encoding="utf-8")
    output = run(*tests, "-x", path=written)
    assert output.returncode == 1, output.stdout + output.stderr
    assert "LawBrokenError" in output.stdout


@SLOW
def test_it_installs(written: Path, tmp_path: Path) -> None:
    """Its folder can be installed by pip; then it is in the list, and the example of its README runs."""
    for needed in ("hatchling", "pip"):
        if importlib.util.find_spec(needed) is None:
            if os.environ.get("PIPELINE_TESTS_INSTALLED"):
                pytest.fail(f"{needed} is missing from the session that installs it")
            pytest.skip(f"{needed} is not installed; the tests session has it")
    site = tmp_path / "site"
    offline = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")
    output = run(sys.executable, "-m", "pip", "install", *offline, "--target", str(site), str(written), path=tmp_path)
    assert output.returncode == 0, output.stdout + output.stderr
    assert (site / "pipeline_leaky_mean" / "py.typed").exists()
    output = run(sys.executable, "-P", "-W", "error", "-m", "pipeline", "plugins", path=site)
    line = r"^leaky_mean +encoder +pipeline-leaky-mean +0\.1\.0 +causal stateful +ok *$"
    assert re.search(line, output.stdout, flags=re.MULTILINE), output.stdout + output.stderr
    page = (written / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    output = run(sys.executable, "-P", "-W", "error", "-c", f"{example}print(model.state_dict().keys())", path=site)
    assert "encode.encoder.project.weight" in output.stdout, output.stderr


@pytest.mark.parametrize(
    ("name", "names"),
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
def test_names_follow_from_one_name(name: str, names: tuple[str, str, str, str]) -> None:
    """All spellings give the same names, and the class has a unique name in its module."""
    assert Names.parse(name) == Names(*names)


def test_names_that_the_module_uses_work(tmp_path: Path) -> None:
    """The names have other meanings in the module's code, in Python or in pytest."""
    folders = [write_plugin(name, tmp_path) for name in ("encoder", "test", "pytest", "none", "states")]
    path = {"PYTHONPATH": os.pathsep.join([*map(str, folders), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)}
    tests = (
        "-W",
        "error",
        "-m",
        "pytest",
        "-q",
        "--import-mode=importlib",
        "-k",
        "created_by_name",
        *map(str, folders),
    )
    output = run(sys.executable, *tests, path=tmp_path, **path)
    assert output.returncode == 0, output.stdout + output.stderr
    assert f"{len(folders)} passed" in output.stdout


@pytest.mark.parametrize(
    ("kind", "name", "part"),
    [
        ("pooling", "mine", "MinePool"),
        ("pooling", "MyPool", "MyPool"),
        ("head", "head", "HeadHead"),
        ("metric", "f2", "F2Metric"),
        ("tokenizer", "two_words", "TwoWordsTokenizer"),
    ],
)
def test_the_class_is_named_after_its_kind(kind: str, name: str, part: str) -> None:
    """As the classes of the library are."""
    assert Names.parse(name, kind=kind).part == part


def test_an_unknown_kind_is_rejected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the function and by the command, which list the kinds."""
    with pytest.raises(OptionError, match="kind must be one of encoder, attention, .*, got 'poem'"):
        write_plugin("mine", tmp_path, kind="poem")
    with pytest.raises(SystemExit):
        command_line.main(["new-plugin", "mine", "--kind", "poem", "--into", str(tmp_path)])
    assert "invalid choice: 'poem'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_a_part_of_the_kind_has_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An encoder may have the name of a pooling."""
    assert command_line.main(["new-plugin", "max", "--kind", "pooling", "--into", str(tmp_path)]) == 1
    assert "is taken: a pooling of that name is already installed, by ragged-pipeline" in capsys.readouterr().err
    assert command_line.main(["new-plugin", "max", "--into", str(tmp_path)]) == 0
    assert "a working encoder for you to change" in capsys.readouterr().out


BAD = {
    "": "must start with a letter",
    "3d": "must start with a letter",
    "_mine": "must start with a letter",
    "mine-": "must start with a letter",
    "my encoder": "must start with a letter",
    "pipeline-": "must start with a letter",
    "über": "must start with a letter",
    "a/b": "must start with a letter",
    "../up": "must start with a letter",
    "a\x1b[31mb": "must start with a letter",
    "a\n": "must start with a letter",
    "class": "must not be a keyword of Python, or a module of its standard library",
    "Lambda": "must not be a keyword of Python, or a module of its standard library",
    "json": "must not be a keyword of Python, or a module of its standard library",
    "recurrent": "is taken: module pipeline_recurrent is already installed",
    "LSTM": "is taken: an encoder of that name is already installed, by ragged-pipeline ",
}


@pytest.mark.parametrize("name", BAD)
def test_bad_name_raises(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The error is on one line, and nothing is written."""
    assert command_line.main(["new-plugin", "--into", str(tmp_path), "--", name]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(f"error: name {name!r} {BAD[name]}")
    assert output.err.endswith("; choose another name, such as leaky_mean.\n")
    assert output.err[:-1].isprintable()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("existing", ["file", "folder", "full folder", "link"])
def test_nothing_is_overwritten(existing: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Existing files stay as they are."""
    target = tmp_path / "pipeline-mine"
    if existing == "file":
        target.write_text("mine", encoding="utf-8")
    elif existing == "link":
        target.symlink_to(tmp_path / "nowhere")
    else:
        target.mkdir()
        if existing == "full folder":
            (target / "README.md").write_text("mine", encoding="utf-8")
    before = sorted(tmp_path.rglob("*"))
    assert command_line.main(["new-plugin", "mine", "--into", str(tmp_path)]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert (
        output.err
        == f"error: {str(target)!r} already exists, so nothing was written; move it, or choose another name.\n"
    )
    assert sorted(tmp_path.rglob("*")) == before
    for file in before:
        assert not file.is_file() or file.read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("method", ["write_text", "rename"])
def test_failure_midway_leaves_nothing(
    error: BaseException, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no folder under the final name or a temporary one."""
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
        write_plugin("mine", tmp_path)
    output = f"{str(tmp_path / 'pipeline-mine')!r} cannot be written: OSError: disk full; nothing is left of it."
    assert str(raised.value) == (output if isinstance(error, OSError) else "")
    assert len(calls) == (1 if method == "rename" else 3)
    assert list(tmp_path.iterdir()) == []


def test_folder_must_exist(tmp_path: Path) -> None:
    """No folder is created."""
    with pytest.raises(OptionError, match=r"^into must be an existing folder, got '.*nowhere'; create it first\.$"):
        write_plugin("mine", tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


def test_folder_has_default_permissions(written: Path) -> None:
    """Its permissions are those of any new folder."""
    made = written.parent / "made"
    made.mkdir()
    assert written.stat().st_mode == made.stat().st_mode


def test_output_lists_next_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The lines can be pasted for any folder name; the default is the current folder."""
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
