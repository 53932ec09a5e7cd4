"""`python -m pipeline` without a command: a first pipe, the commands, and status lines of this machine."""

import platform
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from importlib.metadata import version
from typing import Final

import torch
from rich.console import Console
from rich.syntax import Syntax
from rich.text import Text

from pipeline.registry import Registry
from pipeline.text import escape_control_characters, format_error

PIPE: Final = """\
from pipeline import Bucket, Classify, Embed, Encode, Pack, Pad, Pool, Tokenize

texts = ["a fine film", "dull", "far from dull, and fine"]
tokenize = Tokenize.train(texts)
data = tokenize >> Bucket(max_padded_steps=4_096) >> Pad()
states = Pack() >> Embed(tokenize.vocab_size, 16) >> Encode("bilstm", hidden_size=32)
pipe = data >> states >> Pool("max") >> Classify(2)

print(list(pipe.predict(texts)))  # one class per text, at random until the pipe is trained
"""
"""A pipe that runs as pasted."""

_VERSION: Final = version("ragged-pipeline")

_SUMMARY: Final = "models over sequences of unequal length in PyTorch, as typed stages joined by >>."

_NEXT: Final = """\
Commands:

  python -m pipeline train FILE       train a model on a file, and save it in a folder
  python -m pipeline evaluate         print how good a saved model is on another file
  python -m pipeline predict          write a file with its predictions
  python -m pipeline generate FOLDER  continue texts with a saved language model
  python -m pipeline export FOLDER    write a saved model as ONNX, or as a program of torch
  python -m pipeline serve FOLDER     answer requests over HTTP with a saved model
  python -m pipeline plugins          list installed encoders, attentions, pools and tokenizers
  python -m pipeline new-plugin NAME  write a package with an encoder of your own
  python -m pipeline plan FILE        forecast padding, batches and memory of an epoch
  python -m pipeline --help           list all commands; COMMAND --help lists their options

The documentation is in docs/ of the source; in Python, see help(pipeline.Encode) and the like.
"""


def print_welcome(console: Console, found: Registry) -> None:
    """Print a first pipe, the commands, the plugins' status lines and the versions."""
    console.print(Text.assemble((f"pipeline {_VERSION}", "bold"), f": {_SUMMARY}\n"))
    console.print("A first pipe, which runs as pasted:\n", markup=False)
    # Highlighted text instead of a Syntax block, which pads lines with blanks and cuts off long ones.
    code = Syntax(PIPE, "python", theme="ansi_dark", background_color="default").highlight(PIPE)
    console.print(code, soft_wrap=True)
    console.print(_NEXT, markup=False, highlight=False, soft_wrap=True)
    for line in (*format_status(found), format_versions()):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def format_status(found: Registry) -> Iterator[str]:
    """Yield the plugins' status lines, sorted by subject.

    Example:
        >>> from pipeline.registry import registry
        >>> [line.partition(":")[0] for line in format_status(registry())]
        ['CRF', 'recurrent engines', 'transformer']
    """
    for offer in sorted(found.status, key=lambda offer: offer.name):
        # Anything that the function prints is not part of the line.
        with redirect_stdout(sys.stderr):
            try:
                status = str(offer.factory())
            except Exception as error:  # noqa: BLE001 - a plugin's function may raise anything
                status = f"the status function of {offer.plugin} failed: {format_error(error)}"
        yield escape_control_characters(f"{offer.name}: {status}")


def format_versions() -> str:
    """Return the versions that a bug report needs: `pipeline 0.1.0, torch 2.13.0, Python 3.11.4`.

    Example:
        >>> [part.split()[0] for part in format_versions().split(", ")]
        ['pipeline', 'torch', 'Python']
    """
    return f"pipeline {_VERSION}, torch {torch.__version__}, Python {platform.python_version()}"
