"""Load folders under an audit hook, in a process of its own: `python -m support.audited FOLDER...`.

Prints the names of forbidden events, one line per folder: whatever runs code, imports, or reaches the network or another
process.
"""

import sys
from pathlib import Path

from pipeline import load
from pipeline.errors import PipelineError
from support.saved import Event, Verdict

FORBIDDEN = (
    "exec",
    "compile",
    "import",
    "socket",
    "subprocess",
    "os.system",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "pickle",
    "marshal",
    "ctypes.dlopen",
    "shutil",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.mkdir",
    "urllib",
    "http",
    "webbrowser",
)
"""The beginnings of the names of forbidden events. Opening a file is allowed; to write one is not."""


def main() -> None:
    """Load the first folder to import what loading needs, then each folder under the hook."""
    events: list[str] = []
    active = False

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        # The signature of a class without an __init__ is parsed, though not executed, by `inspect`.
        if not active or (event == "compile" and arguments[0] == b"def foo(): pass"):
            return
        if event.startswith(FORBIDDEN):
            events.append(event)
        elif event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
            events.append(f"open for writing: {arguments[0]}")

    def try_to_load(folder: str) -> str:
        try:
            load(folder, records=[Event, Verdict])
        except PipelineError as error:
            return type(error).__name__
        return "loaded"

    folders = sys.argv[1:]
    # The first one imports the libraries.
    try_to_load(folders[0])
    sys.addaudithook(watch)
    for folder in folders:
        events.clear()
        active = True
        result = try_to_load(folder)
        active = False
        sys.stdout.write(f"{Path(folder).name}: {result} {sorted(set(events))}\n")


if __name__ == "__main__":
    main()
