"""Processes that save pipes, and may be killed: `python -m support.saving_process`.

Reads lines of JSON from its input: a folder, the first number, a limit of the size of files (0 for none), and a log. For
each it forks a process, and prints its id. That process saves again and again, with weights that are all equal to the
number of the save, and writes each number to the log when the folder is complete; at an error it writes this, and ends.
Forking takes milliseconds, while starting Python with torch takes seconds.
"""

import json
import os
import resource
import signal
import sys
from typing import NoReturn

import torch

from pipeline.errors import FolderError
from support.saved import make_classifier


def main() -> None:
    """Fork a process for each line."""
    # The ends of the processes are not waited for.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    torch.set_num_threads(1)
    make_classifier().check()
    for line in sys.stdin:
        folder, start, limit, log = json.loads(line)
        process = os.fork()
        if process == 0:
            _save(folder, start, limit, log)
        sys.stdout.write(f"{process}\n")
        sys.stdout.flush()


def _save(folder: str, start: int, limit: int, log: str) -> NoReturn:
    pipe = make_classifier()
    # Unbuffered, so that a line of a process that is killed is there or not.
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    if limit:
        # Without this, the signal of an exceeded limit would end the process.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    for number in range(start, start + 100_000):
        with torch.no_grad():
            for parameter in pipe.parameters():
                parameter.fill_(number)
        try:
            pipe.save(folder)
        except FolderError as error:
            os.write(handle, f"{error}\n".encode())
            break
        os.write(handle, f"{number}\n".encode())
    os._exit(0)


if __name__ == "__main__":
    main()
