"""`python -m pipeline`: what the library is, and what to do next."""

import platform
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from typing import Final

import torch
from rich.console import Console
from rich.syntax import Syntax
from rich.text import Text

import pipeline
from pipeline.registry import Registry
from pipeline.registry.offers import told
from pipeline.text import plain

PIPE: Final = """\
from pipeline import Bucket, Classify, Embed, Encode, Pack, Pad, Pool, Tokenize

texts = ["a fine film", "dull", "far from dull, and fine"]
tokenize = Tokenize.train(texts)
data = tokenize >> Bucket(max_padded_steps=4_096) >> Pad()
states = Pack() >> Embed(tokenize.vocab_size, 16) >> Encode("bilstm", hidden_size=32)
pipe = data >> states >> Pool("max") >> Classify(2)

print(list(pipe.predict(texts)))  # a class for each text: a guess, until it is trained
"""
"""A pipe that runs as pasted."""

_AIM: Final = "models over sequences of unequal length in PyTorch, as typed stages joined by >>."

_NEXT: Final = """\
The commands:

  python -m pipeline plugins          every encoder, attention, pool and tokenizer that is installed
  python -m pipeline new-plugin NAME  a package with an encoder of your own, to begin with
  python -m pipeline plan FILE        what an epoch will be like: padding, batches, the largest of them
  python -m pipeline --help           all of this, and the options of a command behind its name

The documents are in docs/ beside the source; in Python, help(pipeline.Encode) and the like.
"""


def welcome(console: Console, found: Registry) -> None:
    """Say what the library is, with a pipe to begin with, where to go from there, and how things stand."""
    console.print(Text.assemble((f"pipeline {pipeline.__version__}", "bold"), f": {_AIM}\n"))
    console.print("A pipe to begin with; it runs as pasted:\n", markup=False)
    # Highlighted text, and not a Syntax block: that one fills lines with blanks and crops them to the terminal.
    code = Syntax(PIPE, "python", theme="ansi_dark", background_color="default").highlight(PIPE)
    console.print(code, soft_wrap=True)
    console.print(_NEXT, markup=False, highlight=False, soft_wrap=True)
    for line in (*status(found), versions()):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def status(found: Registry) -> Iterator[str]:
    """How things stand on this machine, a line a subject, as plugins have it.

    Example:
        >>> from pipeline.registry import registry
        >>> [line.partition(":")[0] for line in status(registry())]
        ['recurrent engines']
    """
    for offer in sorted(found.status, key=lambda offer: offer.name):
        # What it prints belongs to no line.
        with redirect_stdout(sys.stderr):
            try:
                said = str(offer.factory())
            except Exception as error:  # noqa: BLE001 - a stranger's function may raise anything
                said = f"{offer.plugin} failed to say: {told(error)}"
        yield plain(f"{offer.name}: {said}")


def versions() -> str:
    """The versions that matter in a report: `pipeline 0.1.0, torch 2.13.0, Python 3.11.4`.

    Example:
        >>> versions().startswith(f"pipeline {pipeline.__version__}, torch ")
        True
    """
    return f"pipeline {pipeline.__version__}, torch {torch.__version__}, Python {platform.python_version()}"
