"""The project's chores: `nox -l` lists them, `nox` runs those that CI runs."""

import re
from pathlib import Path
from shutil import copytree
from tempfile import mkdtemp

import nox

nox.needs_version = ">=2024.10.9"
nox.options.sessions = ["tests", "demo", "extras", "types", "lint", "docs"]
nox.options.reuse_venv = "yes"

PROJECT = nox.project.load_toml("pyproject.toml")
PACKAGES = [
    "pipeline",
    "pipeline_attention",
    "pipeline_convolutional",
    "pipeline_decoders",
    "pipeline_embeddings",
    "pipeline_heads",
    "pipeline_recurrent",
    "pipeline_transformer",
]
OUTSIDE = ("./tests/outside/pipeline-mingru", "./tests/outside/pipeline-highway")
DEMO = "docs/examples/highlight"
EXAMPLES = (
    "classify_csv",
    "tag_conllu",
    "sensor_rows",
    "events",
    "words_and_characters",
    "documents",
    "two_heads",
    "generate_text",
    "text_and_numbers",
    "spell_numbers",
)
# 500 kills of a training instead of 5, 10,000 changes of a saved folder instead of 1,000, 100 kills while saving.
LONG = ("tests/training/test_kill.py", "tests/saving/test_mutations.py", "tests/saving/test_hard_cases.py")
# Tests of the compiled kernels, which also run with sanitizers.
KERNELS = (
    "tests/plugins/recurrent/test_native.py",
    "tests/plugins/recurrent/test_native_bfloat16.py",
    "tests/plugins/recurrent/test_frozen.py",
    "tests/plugins/recurrent/test_scan_layer.py",
    "tests/plugins/heads/test_chains.py",
    "tests/plugins/transformer/test_native.py",
)
NATIVE = (
    *KERNELS,
    "tests/plugins/recurrent/test_frozen_inference.py",
    "tests/plugins/recurrent/test_frozen_invariance.py",
    "tests/plugins/recurrent/test_native_build.py",
)
COURT_WITHOUT_REQUIREMENTS = ("pytorch-forecasting", "pytorch-lifestream", "stanza")
# Tensors are small in tests: threads that wait for each other cost more than they bring.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
# One process per core of CI. The tests of a file stay together, since they share what its fixtures compute.
PARALLEL = ("--numprocesses=2", "--dist=loadfile")


def install(session: nox.Session, *what: str, groups: tuple[str, ...] = ()) -> None:
    """Install with the pins that every session shares, above all that of torch."""
    session.install("--constraint", "constraints.txt", *what, *list_requirements(*groups))


def list_requirements(*groups: str) -> list[str]:
    """List the requirements of dependency groups."""
    return [requirement for group in groups for requirement in nox.project.dependency_groups(PROJECT, group)]


@nox.session
def tests(session: nox.Session) -> None:
    """Test the installed wheel: docstrings, documents, examples and a plugin from outside included."""
    install(session, ".[text]", *OUTSIDE, groups=("test",))
    run_all_tests(session)


def run_all_tests(session: nox.Session, *options: str) -> None:
    """Run the whole test suite against the installed packages."""
    # `pytest`, not `python -m pytest`: the latter puts the checkout before the wheel that is under test.
    session.run(
        "pytest",
        "--doctest-modules",
        "--pyargs",
        *PACKAGES,
        "tests",
        *PARALLEL,
        *options,
        *session.posargs,
        env={**ENVIRONMENT, "PIPELINE_TESTS_INSTALLED": "1"},
    )


@nox.session
def demo(session: nox.Session) -> None:
    """Teach a model to highlight Python source, and show what it learned."""
    install(session, ".[text]")
    session.run("python", DEMO, *session.posargs)


@nox.session
def extras(session: nox.Session) -> None:
    """Run slow tests and those that need optional packages; elsewhere they are skipped, here they must run."""
    install(session, ".[arrow,export,lightning,plots,ray,serve,text]", groups=("extras",))
    chosen = ("tests", "-m", "slow or extras")
    session.run("pytest", *chosen, *PARALLEL, *session.posargs, env={**ENVIRONMENT, "PIPELINE_TESTS_EXTRAS": "1"})


@nox.session
def types(session: nox.Session) -> None:
    """Check every file with mypy and pyright, both strict, and that both reject what must not type-check."""
    install(session, ".[lightning,text]", *OUTSIDE, groups=("types",))
    session.run("mypy")
    session.run("pyright")
    # By file: the folder is excluded from the project's own run, since it is a project of its own.
    for package in ("pipeline-mingru/pipeline_mingru", "pipeline-highway/pipeline_highway"):
        session.run("mypy", f"tests/outside/{package}/__init__.py")
        session.run("pyright", f"tests/outside/{package}/__init__.py")
    # Every public name must declare its type: checkers may infer different ones.
    for package in PACKAGES:
        session.run("pyright", "--verifytypes", package, "--ignoreexternal")
    session.run("pytest", "tests/typing", env={"PIPELINE_TYPES_INSTALLED": "1"})


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, formatting and the layers of the code."""
    install(session, groups=("lint",))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    # The plugins' folder is on the path by itself: nothing has to be installed to read imports.
    session.run("lint-imports", "--no-cache", env={"PYTHONPATH": "plugins"})


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site into docs/_build/html, where every warning is an error, and run the examples."""
    install(session, ".[text]", groups=("docs",))
    session.run("sphinx-build", "-W", "--keep-going", "-b", "html", "docs", "docs/_build/html", *session.posargs)
    for example in EXAMPLES:
        session.run("python", f"docs/examples/{example}.py", env=ENVIRONMENT)


@nox.session(default=False)
def native(session: nox.Session) -> None:
    """Run the native engine's tests; elsewhere they are skipped without a compiler, here they must run."""
    install(session, ".[text]", groups=("test",))
    session.run("pytest", *NATIVE, *session.posargs, env={**ENVIRONMENT, "PIPELINE_TESTS_NATIVE": "1"})


@nox.session(default=False)
def long(session: nox.Session) -> None:
    """Run long tests in full, and the native engine's under the address and undefined-behaviour sanitizers of gcc."""
    install(session, ".[text]", groups=("test",))
    # Before the engine is compiled with sanitizers, without whose runtimes it cannot be loaded then.
    session.run("pytest", "--capture=no", *LONG, env={**ENVIRONMENT, "PIPELINE_TESTS_LONG": "1"})
    session.run("pytest", "tests", "-m", "hypothesis", env={**ENVIRONMENT, "PIPELINE_TESTS_LONG": "1"})
    sanitize = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")
    for plugin in ("pipeline_recurrent", "pipeline_heads", "pipeline_transformer"):
        session.run("python", "-m", f"{plugin}.native", "-g", "-O1", *sanitize, env={"CC": "gcc"})
    # Python itself is not compiled with sanitizers: their runtimes have to be loaded before it starts.
    runtimes = [
        str(session.run("gcc", f"-print-file-name=lib{name}.so", external=True, silent=True)).strip()
        for name in ("asan", "ubsan")
    ]
    session.run(
        "pytest",
        "--capture=no",  # captured output, a sanitizer's last words included, is lost with the process
        *KERNELS,
        *session.posargs,
        env={
            **ENVIRONMENT,
            "LD_PRELOAD": " ".join(runtimes),
            "ASAN_OPTIONS": "detect_leaks=0",  # Python frees nothing as it ends
            "PIPELINE_TESTS_NATIVE": "1",
        },
    )


@nox.session(default=False)
def coverage(session: nox.Session) -> None:
    """Run the tests with coverage; the report lists the lines that no test reaches."""
    install(session, ".[arrow,plots,text]", *OUTSIDE, groups=("coverage",))
    measured = [f"--cov={package}" for package in PACKAGES]
    run_all_tests(session, *measured, "--cov-report=term-missing:skip-covered", "--cov-report=html")


@nox.session(default=False)
@nox.parametrize("which", ["lowest", "newest"])
def versions(session: nox.Session, which: str) -> None:
    """Run the tests with the lowest allowed version of every dependency, and with the newest.

    For CPU builds of other versions of torch, set PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu.
    """
    needed = [*OUTSIDE, *list_requirements("test")]
    if which == "lowest":
        lowest = Path(session.create_tmp()) / "lowest.txt"
        lowest.write_text("\n".join(list_lower_bounds()), encoding="utf-8")
        session.install("--constraint", str(lowest), ".[text]", *needed)
    else:
        session.install("--upgrade", "--upgrade-strategy=eager", ".[text]", *needed)
    session.run("python", "-m", "pip", "list")
    run_all_tests(session)


def list_lower_bounds() -> list[str]:
    """Pin each dependency to its lower bound in pyproject.toml: `attrs>=24.2` becomes `attrs==24.2`."""
    project = PROJECT["project"]
    requirements = [*project["dependencies"], *project["optional-dependencies"]["text"]]
    return [re.sub(r"^([\w-]+)>=([\w.]+).*$", r"\1==\2", requirement) for requirement in requirements]


@nox.session(default=False)
def checkers(session: nox.Session) -> None:
    """Count what other type checkers report: there should be one on each marked line, and no other."""
    install(session, ".[text]", *OUTSIDE, groups=("test", "types", "checkers"))
    python = Path(session.virtualenv.location) / "bin" / "python"
    commands = {
        "mypy": ("mypy", "--no-error-summary"),
        "pyright": ("pyright", "--pythonpath", str(python)),
        "basedpyright": ("basedpyright", "--pythonpath", str(python), "--level", "error"),
        "ty": ("ty", "check", "--output-format", "concise", "--python", str(python)),
        "pyrefly": ("pyrefly", "check", "--output-format", "min-text", "--python-interpreter-path", str(python)),
        "zuban": ("zuban", "check", "--strict", "--python-executable", str(python)),
    }
    # In a folder elsewhere: the project's own configuration leaves out the wrong lines.
    folder = Path(mkdtemp())
    copytree("tests/typing", folder, dirs_exist_ok=True)
    (folder / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}', encoding="utf-8")
    right, wrong = (sorted(path.name for path in folder.glob(f"{side}*.py")) for side in ("right", "wrong"))
    marked = {
        (file, number)
        for file in wrong
        for number, line in enumerate((folder / file).read_text(encoding="utf-8").splitlines(), start=1)
        if re.search(r"  # E \w+: \w", line)
    }
    session.chdir(folder)
    for name, command in commands.items():
        errors = [error for file in right for error in list_errors(session, command, file)]
        found = {error for file in wrong for error in list_errors(session, command, file)}
        session.log(
            f"{name}: {len(errors)} errors on right lines; of {len(marked)} marked wrong lines "
            f"{len(marked & found)} rejected, and {len(found - marked)} others"
        )


def list_errors(session: nox.Session, command: tuple[str, ...], file: str) -> list[tuple[str, int]]:
    """List a checker's errors as file and line. Checkers write `file:line` and `error` in different orders."""
    output = str(session.run(*command, file, silent=True, success_codes=range(256)))
    reported = re.findall(rf"^(?=.*\berror\b).*\b{re.escape(file)}:(\d+)", output, flags=re.MULTILINE | re.IGNORECASE)
    return [(file, int(number)) for number in reported]


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Measure the library against alternatives; `-- encode` for that alone, `-- quick` for two minutes."""
    install(session, ".[text]", groups=("bench",))
    session.run("python", "docs/bench", *session.posargs)


@nox.session(default=False)
def court(session: nox.Session) -> None:
    """Judge modules of public libraries by the laws about rows, and write docs/court.md, in about ten minutes."""
    install(session, ".[export]", "torch", groups=("court",))
    # Their requirements name other versions of packages that their recurrent layers do not use.
    install(session, "--no-deps", *COURT_WITHOUT_REQUIREMENTS)
    session.run("python", "docs/court", *session.posargs, env=ENVIRONMENT)


@nox.session(default=False)
def wheel(session: nox.Session) -> None:
    """Build the wheel and the source distribution into dist/."""
    session.install("build")
    for old in Path("dist").glob("ragged_pipeline-*"):
        old.unlink()
    session.run("python", "-m", "build")
