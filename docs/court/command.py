"""Judge all libraries, each in a process of its own, and write the page: `python docs/court`."""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from court.case import Library
from court.judge import Judgement, judge
from court.page import JudgedLibrary, write_page

LIBRARIES: Final = (
    "torch",
    "torch_geometric",
    "transformers",
    "sentence_transformers",
    "keras",
    "thinc",
    "x_transformers",
    "pytorch_lifestream",
    "pytorch_forecasting",
    "stanza",
    "ncps",
    "pytorch_crf",
    "ours",
)
"""The modules of `court.libraries`, in the order of the page."""

_TIMEOUT: Final = 1_800


def main(arguments: Sequence[str]) -> int:
    """Judge, and write docs/court.md; return 0 if every library could be judged."""
    parser = argparse.ArgumentParser(prog="python docs/court", description=__doc__)
    parser.add_argument("libraries", nargs="*", choices=[*LIBRARIES, []], help="the libraries (default: all)")
    parser.add_argument("--page", type=Path, default=Path(__file__).parents[1] / "court.md", help="the file to write")
    parser.add_argument("--json", action="store_true", help="judge one library in this process, and print JSON")
    options = parser.parse_args(arguments)
    names: Sequence[str] = options.libraries or LIBRARIES
    if options.json:
        for name in names:
            sys.stdout.write(json.dumps(judge_library(name)) + "\n")
        return 0
    judged: list[JudgedLibrary] = []
    for name in names:
        sys.stderr.write(f"{name}: ")
        sys.stderr.flush()
        found = _judge_in_process(name)
        judged.append(found)
        broken = sum(not _obeys(each) for each in found.judgements)
        sys.stderr.write(f"{found.failure or f'{len(found.judgements)} modules, {broken} with a broken law'}\n")
    write_page(options.page, judged)
    sys.stdout.write(f"wrote {options.page}\n")
    return int(any(found.failure for found in judged))


def judge_library(name: str) -> dict[str, Any]:
    """Judge the modules of one library in this process, and return the results for JSON."""
    library: Library = import_module(f"court.libraries.{name}").LIBRARY
    versions: dict[str, str] = {}
    for package in library.packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    cases = library.list_cases()
    return {
        "name": library.name,
        "versions": versions,
        "better": library.better,
        "judgements": [judge(case).to_dict() for case in cases],
    }


def _judge_in_process(name: str) -> JudgedLibrary:
    command = [sys.executable, str(Path(__file__).parent), "--json", name]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        return JudgedLibrary(name=name, versions={}, better="", judgements=(), failure=f"no result in {_TIMEOUT} s")
    if run.returncode:
        last = run.stderr.strip().splitlines()[-1:] or [f"status {run.returncode}"]
        return JudgedLibrary(name=name, versions={}, better="", judgements=(), failure=last[0])
    # Some libraries write to standard output when they are imported.
    state: dict[str, Any] = json.loads(run.stdout.strip().splitlines()[-1])
    judgements = [Judgement.from_dict(each) for each in state.pop("judgements")]
    return JudgedLibrary(**state, judgements=judgements)


def _obeys(judgement: Judgement) -> bool:
    return all(verdict.outcome != "broken" for verdict in judgement.verdicts.values())
