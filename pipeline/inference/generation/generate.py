"""Generate texts with a language model: token by token, several prompts at a time, without running the past again."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, cast, final

import torch
from jaxtyping import Bool
from torch import Tensor
from typing_extensions import Unpack

from pipeline.core.contexts import evaluating
from pipeline.core.stream_chain import StreamChain
from pipeline.data.generation import Generation
from pipeline.data.iteration import iterate
from pipeline.data.kinds import Ids
from pipeline.data.rows import reject_single_text
from pipeline.data.tensors import to_ints
from pipeline.errors import OptionError, TextError
from pipeline.functional.generation.drawn_row import Drawn
from pipeline.functional.generation.options import GenerateOptions, GenerateSettings
from pipeline.functional.generation.search import find_continuations
from pipeline.inference.generation.stepwise_pipe import StepwisePipe
from pipeline.inference.generation.token_steps import TokenSteps
from pipeline.stages.input_stage import to_examples
from pipeline.stages.tokenize import Tokenize
from pipeline.stages.tokenize_words import TokenizeWords


def generate(
    pipe: StreamChain[Any, Any], prompts: Iterable[Any], **options: Unpack[GenerateOptions]
) -> Iterator[Generation[Any]]:
    """Yield the continuations of each prompt, in the order of the prompts; see `StreamChain.generate`."""
    reject_single_text(prompts)
    # Before the first prompt is read, so that a wrong option is reported by the call itself.
    settings = GenerateSettings.of(**options)
    generator = _Generator(pipe, settings)
    return generator.run(iterate(prompts))


@final
class _Generator:
    """Continues prompts with one pipe and one set of options.

    Raises:
        CompositionError: if a stage of the pipe cannot run step by step.
        OptionError: if the pipe reads words, or an option is not one of its tokens.
    """

    def __init__(self, pipe: StreamChain[Any, Any], settings: GenerateSettings) -> None:
        self._pipe = pipe
        self._settings = settings
        split = StepwisePipe.of(pipe.stages, pipe)
        self._steps = TokenSteps.of(split)
        input_stage = cast("object", split.input_stage)
        if isinstance(input_stage, TokenizeWords):
            msg = "generate continues texts or ids, but the pipe reads rows of words; use Tokenize."
            raise OptionError(msg)
        self._tokenize: Tokenize | None = input_stage if isinstance(input_stage, Tokenize) else None
        self._input_stage = split.input_stage
        self._eos = settings.eos_token_id if settings.eos_token_id is not None else self._find_eos()

    def run(self, prompts: Iterator[Any]) -> Iterator[Generation[Any]]:
        """Yield the continuations, one batch of prompts after another."""
        first = 0
        while chunk := list(islice(prompts, self._settings.batch_size)):
            with evaluating(self._pipe):
                rows = self._encode(chunk, first)
                numbers = range(first, first + len(rows))
                found = find_continuations(self._steps, rows, self._settings, self._eos, self._find_blocked, numbers)
            for row, drawn in zip(rows, found, strict=True):
                yield from (self._decode(row, each) for each in drawn)
            first += len(chunk)

    def _find_eos(self) -> frozenset[int]:
        # Without eos at the end of its rows, a model has never seen it.
        return frozenset() if self._tokenize is None else frozenset(self._tokenize.last_ids[:1])

    def _encode(self, prompts: Sequence[object], first: int) -> list[list[int]]:
        """Return the ids of prompts, with bos and without eos; they are not truncated.

        Raises:
            TextError: if a prompt is empty and the pipe adds no bos.
        """
        inputs: list[Any] = [example.input for example in to_examples(prompts)]
        numbers = range(first, first + len(inputs))
        stage = self._tokenize
        if stage is not None:
            rows = [[*stage.first_ids, *tokens.ids] for tokens in stage.tokenize(inputs, numbers)]
        elif self._input_stage is not None:
            made = self._input_stage.make_rows(to_examples(inputs), numbers)
            rows = [to_ints(cast("Ids", row.sequence).values) for row in made]
        else:
            rows = [to_ints(cast("Ids", each.sequence).values) for each in inputs]
        empty = next((number for number, row in zip(numbers, rows, strict=True) if not row), None)
        if empty is not None:
            msg = (
                f"prompt {empty} has no tokens, so there is nothing to continue; begin rows with bos, in training too: "
                "Tokenize(..., bos=True), or pass a token."
            )
            raise TextError(msg, row=empty)
        return rows

    def _decode(self, prompt: list[int], drawn: Drawn) -> Generation[Any]:
        ids = list(drawn.ids[:-1] if drawn.ended else drawn.ids)
        shown = [*prompt, *ids] if self._settings.return_full_text else ids
        output: object = shown if self._tokenize is None else self._tokenize.decode(shown)
        return Generation(output, list(drawn.ids), list(drawn.log_probabilities), drawn.ended)

    def _find_blocked(self, scores: Tensor) -> Bool[Tensor, " token"] | None:
        """Return which tokens must not occur: those that are suppressed, and those that the tokenizer does not have.

        Raises:
            OptionError: if an option is not a token, or no token is left.
        """
        tokens, settings = scores.shape[1], self._settings
        for name, ids in (("eos_token_id", self._eos), ("suppress_tokens", settings.suppress_tokens)):
            for token in ids:
                if token >= tokens:
                    msg = f"{name} must be a token of the model, 0 to {tokens - 1}, got {token}."
                    raise OptionError(msg, token=token)
        blocked = torch.zeros(tokens, dtype=torch.bool, device="cpu")
        blocked[list(settings.suppress_tokens)] = True
        if self._tokenize is not None:
            # A model may have room for more tokens than the tokenizer: these have no text.
            blocked[self._tokenize.vocab_size :] = True
        if bool(blocked.all()):
            msg = f"suppress_tokens must leave a token, got all {tokens}; leave some out."
            raise OptionError(msg, suppress_tokens=settings.suppress_tokens)
        return blocked.to(scores.device) if bool(blocked.any()) else None
