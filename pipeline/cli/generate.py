"""`python -m pipeline generate`: continue texts with a saved language model."""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any, Final

from pipeline.cli.saved import Pipe, add_device, add_folder, load_pipe
from pipeline.data.generation import Generation
from pipeline.errors import CompositionError, OptionError
from pipeline.stages.shift import Shift
from pipeline.stages.tokenize import Tokenize
from pipeline.text import escape_control_characters

_SAMPLING: Final = ("temperature", "top_k", "top_p", "num_beams", "num_return_sequences", "seed", "batch_size")
"""Options of `generate` by their names in Python. Only those that are given are passed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    add_folder(parser)
    add = parser.add_argument
    add("prompts", metavar="PROMPT", nargs="*", default=[], help="texts to continue (default: one empty text)")
    add("--max-new-tokens", type=int, metavar="N", default=50, help="most tokens after the prompt (default: 50)")
    add("--temperature", type=float, metavar="T", help="below 1 for likely tokens, 0 for the likeliest (default: 1)")
    add("--top-k", type=int, metavar="K", help="draw from the K likeliest tokens only (default: all)")
    add("--top-p", type=float, metavar="P", help="draw from the likeliest tokens that make up P (default: all)")
    add("--num-beams", type=int, metavar="N", help="search among N continuations instead of drawing (default: 1)")
    add("--num-return-sequences", type=int, metavar="N", help="continuations of each prompt (default: 1)")
    add("--batch-size", type=int, metavar="N", help="prompts that are continued together (default: 32)")
    add("--seed", type=int, metavar="N", help="fixes what is drawn (default: another draw in each run)")
    add("--return-full-text", action="store_true", help="print each prompt with its continuation")
    add("--json", action="store_true", help="print prompt, text, log_probability and ended as lines of JSON")
    add_device(parser)


def generate(options: argparse.Namespace) -> None:
    """Print a continuation of each prompt, one per line.

    Raises:
        PipelineError: if the folder or an option is wrong, or the model cannot generate texts.
    """
    pipe = load_pipe(options.folder, options.device)
    _reject_others(pipe)
    given = {name: getattr(options, name) for name in _SAMPLING if getattr(options, name) is not None}
    prompts: list[str] = options.prompts or [""]
    found = pipe.generate(
        prompts,
        scores=True,
        max_new_tokens=options.max_new_tokens,
        return_full_text=options.return_full_text,
        **given,
    )
    count: int = options.num_return_sequences or 1
    for number, each in enumerate(_name_predict(pipe, found)):
        line = escape_control_characters(each.output)
        if options.json:
            shown: dict[str, Any] = {
                "prompt": prompts[number // count],
                "text": each.output,
                "log_probability": each.log_probability,
                "ended": each.ended,
            }
            line = json.dumps(shown, ensure_ascii=False, allow_nan=False)
        sys.stdout.write(f"{line}\n")
        # Now, not after all prompts.
        sys.stdout.flush()


def _reject_others(pipe: Pipe) -> None:
    """Reject pipes that take no texts, which `generate` would continue in another form, or reject after a while."""
    first: object = next(iter(pipe.stages.values()))
    if not isinstance(first, Tokenize):
        msg = (
            f"generate continues texts with a language model, but this pipe begins with {type(first).__name__}; the "
            "command predict answers inputs, and pipeline.load(folder).generate(rows, ...) continues ids in Python."
        )
        raise OptionError(msg, stage=type(first).__name__)


def _name_predict(pipe: Pipe, found: Iterable[Generation[str]]) -> Iterator[Generation[str]]:
    """Yield what is found; say in the error about a pipe that is not trained to predict the next token what it is."""
    try:
        yield from found
    except CompositionError as error:
        stages: list[object] = list(pipe.stages.values())
        if any(isinstance(stage, Shift) for stage in stages):
            raise
        last = type(stages[-1]).__name__
        msg = (
            f"generate continues texts with a language model, but this pipe ends in {last}; write "
            "predictions for a file with python -m pipeline predict."
        )
        raise OptionError(msg, stage=last) from error
