"""The demo by itself: `python -m pipeline.demo`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.demo.play import run
from pipeline.errors import PipelineError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo, and give its exit status: 1 if it was refused."""
    about = "Teach a model to highlight Python source, and show what it learned."
    parser = argparse.ArgumentParser("python -m pipeline.demo", description=about)
    parser.add_argument("--html", type=Path, metavar="PATH", default=Path("highlight.html"), help="the page to write")
    parser.add_argument("--lines", type=int, metavar="N", default=8_000, help="learn from so many lines")
    parser.add_argument("--epochs", type=int, metavar="N", default=2, help="go through them so many times")
    parser.add_argument("--seed", type=int, metavar="N", default=0, help="what makes a run repeatable")
    options = parser.parse_args(arguments)
    reconfigure: object = getattr(sys.stdout, "reconfigure", None)
    if callable(reconfigure):
        # A character that the terminal cannot spell is no reason to fail.
        reconfigure(errors="replace")
    try:
        run(options.html, options.lines, options.epochs, options.seed)
    except PipelineError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
