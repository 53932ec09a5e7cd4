"""The project's chores: `nox -l` lists them, `nox` runs those that CI runs."""

from pathlib import Path

import nox

nox.needs_version = ">=2024.10.9"
nox.options.sessions = ["demo", "tests", "extras", "types", "lint"]
nox.options.reuse_venv = "yes"

PROJECT = nox.project.load_toml("pyproject.toml")
PACKAGES = ["pipeline", "pipeline_attention", "pipeline_recurrent"]
OUTSIDE = "tests/outside/pipeline-mingru"
EXTRAS = ("arrow", "plots")
WITH_EXTRAS = ("tests/sources", "tests/loading", "tests/forecast", "tests/cli/test_plan.py")
NATIVE = ("tests/plugins/recurrent/test_native.py", "tests/plugins/recurrent/test_native_build.py")


def install(session: nox.Session, *what: str, groups: tuple[str, ...] = ()) -> None:
    """Install with the pins that every session shares; torch's above all."""
    needed = [requirement for group in groups for requirement in nox.project.dependency_groups(PROJECT, group)]
    session.install("--constraint", "constraints.txt", *what, *needed)


@nox.session
def demo(session: nox.Session) -> None:
    """Teach a model to highlight Python source, and show what it learned."""
    install(session, ".")
    session.run("python", "-m", "pipeline", "demo", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests against the installed wheel: docstrings, documents, and a plugin from outside among them."""
    install(session, ".", f"./{OUTSIDE}", groups=("test",))
    # `pytest`, not `python -m pytest`: the latter puts the checkout before the wheel that is under test.
    session.run(
        "pytest",
        "--doctest-modules",
        "--pyargs",
        *PACKAGES,
        "tests",
        *session.posargs,
        # Tensors are small here: threads that wait for each other cost more than they bring.
        env={"OMP_NUM_THREADS": "1", "PIPELINE_TESTS_INSTALLED": "1", "TOKENIZERS_PARALLELISM": "false"},
    )


@nox.session(default=False)
def native(session: nox.Session) -> None:
    """Run the native engine's tests, which are skipped where nothing compiles it: here something must."""
    install(session, ".", groups=("test",))
    session.run("pytest", *NATIVE, *session.posargs, env={"OMP_NUM_THREADS": "1", "PIPELINE_TESTS_NATIVE": "1"})


@nox.session
def extras(session: nox.Session) -> None:
    """Run the tests that need optional packages, which are skipped where they are absent: here they must be there."""
    install(session, f".[{','.join(EXTRAS)}]", groups=("extras",))
    environment = {"OMP_NUM_THREADS": "1", "PIPELINE_TESTS_EXTRAS": "1", "TOKENIZERS_PARALLELISM": "false"}
    session.run("pytest", *WITH_EXTRAS, *session.posargs, env=environment)


@nox.session
def types(session: nox.Session) -> None:
    """Check every file with mypy and pyright, both strict, and that both reject what must not type-check."""
    install(session, ".", f"./{OUTSIDE}", groups=("types",))
    session.run("mypy")
    session.run("pyright")
    # By file: as a folder it is left out, since it is a project of its own.
    session.run("mypy", f"{OUTSIDE}/pipeline_mingru/__init__.py")
    session.run("pyright", f"{OUTSIDE}/pipeline_mingru/__init__.py")
    # Every public name says its type: what is left to inference, checkers may infer differently.
    for package in PACKAGES:
        session.run("pyright", "--verifytypes", package, "--ignoreexternal")
    session.run("pytest", "tests/typing", env={"PIPELINE_TYPES_INSTALLED": "1"})


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting."""
    install(session, groups=("lint",))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Measure the library against what else there is; `-- encode`, for that alone, `-- quick`, for two minutes."""
    install(session, ".", groups=("bench",))
    session.run("python", "docs/bench", *session.posargs)


@nox.session(default=False)
def long(session: nox.Session) -> None:
    """Run the native engine's tests under the address and undefined-behaviour sanitizers of gcc."""
    install(session, ".", groups=("test",))
    sanitize = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")
    session.run("python", "-m", "pipeline_recurrent.native", "-g", "-O1", *sanitize, env={"CC": "gcc"})
    # Python itself is not compiled so: their runtimes have to be there before it starts.
    runtimes = [
        str(session.run("gcc", f"-print-file-name=lib{name}.so", external=True, silent=True)).strip()
        for name in ("asan", "ubsan")
    ]
    session.run(
        "pytest",
        "--capture=no",  # what a sanitizer says last would be captured, and lost with the process
        NATIVE[0],
        *session.posargs,
        env={
            "LD_PRELOAD": " ".join(runtimes),
            "ASAN_OPTIONS": "detect_leaks=0",  # Python frees nothing as it ends
            "OMP_NUM_THREADS": "1",
            "PIPELINE_TESTS_NATIVE": "1",
        },
    )


@nox.session(default=False)
def wheel(session: nox.Session) -> None:
    """Build the wheel and the source distribution into dist/."""
    session.install("build")
    for old in Path("dist").glob("pipeline-*"):
        old.unlink()
    session.run("python", "-m", "build")
