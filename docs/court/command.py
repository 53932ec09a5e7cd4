"""Judge all libraries, each in a process of its own, and write the page: `python docs/court`."""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import attrs

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
    "torchrl",
    "ours",
)
"""The modules of `court.libraries`, in the order of the page."""

_SHARES: Final[Mapping[str, int]] = {"ours": 6}
"""Libraries with many modules, which are shared out to this number of processes."""

_TIMEOUT: Final = 3_600

_RESULTS: Final = Path(__file__).parents[1] / "_build" / "court"
"""The folder of the results of the last run, a file per process."""


def main(arguments: Sequence[str]) -> int:
    """Judge, and write docs/court.md; return 0 if every library could be judged."""
    parser = argparse.ArgumentParser(prog="python docs/court", description=__doc__)
    parser.add_argument("libraries", nargs="*", choices=[*LIBRARIES, []], help="the libraries (default: all)")
    parser.add_argument("--page", type=Path, default=Path(__file__).parents[1] / "court.md", help="the file to write")
    parser.add_argument("--json", action="store_true", help="judge one library in this process, and print JSON")
    parser.add_argument("--share", type=int, default=0, help="with --json: the number of the share of its modules")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="the number at the same time")
    parser.add_argument("--resume", action="store_true", help=f"take results that are in {_RESULTS}")
    options = parser.parse_args(arguments)
    names: Sequence[str] = options.libraries or LIBRARIES
    if options.json:
        for name in names:
            sys.stdout.write(json.dumps(judge_library(name, options.share)) + "\n")
        return 0
    # The library that takes longest begins first.
    tasks = [(name, share) for name in reversed(names) for share in range(_SHARES.get(name, 1))]
    with ThreadPoolExecutor(options.processes) as pool:
        running = {task: pool.submit(_judge_in_process, *task, options.resume) for task in tasks}
    judged = [_join([each.result() for (of, _), each in running.items() if of == name]) for name in names]
    write_page(options.page, judged)
    sys.stdout.write(f"wrote {options.page}\n")
    return int(any(found.failure for found in judged))


def judge_library(name: str, share: int) -> dict[str, Any]:
    """Judge the modules of one library in this process, and return the results for JSON."""
    library: Library = import_module(f"court.libraries.{name}").LIBRARY
    versions: dict[str, str] = {}
    for package in library.packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    cases = list(enumerate(library.list_cases()))[share :: _SHARES.get(name, 1)]
    return {
        "name": library.name,
        "versions": versions,
        "better": library.better,
        "calls": library.calls,
        "judgements": {number: judge(case).to_dict() for number, case in cases},
    }


def _judge_in_process(name: str, share: int, resume: bool) -> JudgedLibrary:
    file = _RESULTS / f"{name}-{share}.json"
    if not resume or not file.exists():
        start = time.perf_counter()
        failure = _run_process(name, share, file)
        if failure:
            sys.stderr.write(f"{name}: {failure}\n")
            return JudgedLibrary(name=name, failure=failure)
        sys.stderr.write(f"{name}: {time.perf_counter() - start:.0f} s\n")
    state: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    judgements = {int(number): Judgement.from_dict(each) for number, each in state.pop("judgements").items()}
    broken = sum(not each.obeys for each in judgements.values())
    sys.stderr.write(f"{name}: {len(judgements)} modules, {broken} with a broken law\n")
    return JudgedLibrary(**state, judgements=judgements)


def _run_process(name: str, share: int, file: Path) -> str:
    """Judge in a process that writes a file; return why it failed, or nothing."""
    command = [sys.executable, str(Path(__file__).parent), "--json", "--share", str(share), name]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        return f"no result in {_TIMEOUT} s"
    if run.returncode:
        return (run.stderr.strip().splitlines()[-1:] or [f"status {run.returncode}"])[0]
    file.parent.mkdir(parents=True, exist_ok=True)
    # Some libraries write to standard output when they are imported.
    file.write_text(run.stdout.strip().splitlines()[-1], encoding="utf-8")
    return ""


def _join(shares: Sequence[JudgedLibrary]) -> JudgedLibrary:
    """Join the results of the shares of a library, its modules in their order."""
    failed = next((share for share in shares if share.failure), None)
    if failed is not None:
        return failed
    judgements = sorted((item for share in shares for item in share.judgements.items()), key=lambda item: item[0])
    return attrs.evolve(shares[0], judgements=dict(judgements))
