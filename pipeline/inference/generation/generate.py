"""Generate texts with a language model: token by token, several prompts at a time, without running the past again."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Generic, TypeVar, cast, final

import attrs
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from typing_extensions import Unpack

from pipeline.core.contexts import evaluating
from pipeline.core.stream_chain import StreamChain
from pipeline.data.iteration import iterate
from pipeline.data.kinds import Ids
from pipeline.data.rows import reject_single_text
from pipeline.data.tensors import to_floats, to_ints
from pipeline.errors import OptionError, TextError
from pipeline.inference.generation.beam import Beams, search_beams, select_rows
from pipeline.inference.generation.drawn_row import Drawn, reject_nan
from pipeline.inference.generation.options import GenerateOptions, GenerateSettings
from pipeline.inference.generation.sampling import LOWEST, draw_numbers, draw_tokens, restrict_scores, widen
from pipeline.inference.generation.stepwise_pipe import StepwisePipe
from pipeline.inference.generation.token_steps import TokenSteps
from pipeline.stages.input_stage import to_examples
from pipeline.stages.tokenize import Tokenize
from pipeline.stages.tokenize_words import TokenizeWords

A = TypeVar("A")
X_co = TypeVar("X_co", covariant=True)


@final
@attrs.frozen
class Generation(Generic[X_co]):
    """A generated continuation, with the log-probability of each token.

    Attributes:
        output: the text; or the ids, if the pipe takes ids.
        ids: the tokens of the continuation, eos included.
        log_probabilities: the log-probability of each of them, as the model gives it: at temperature 1, with all
            tokens.
        ended: whether the continuation ended in eos, not at the maximum number of tokens.
    """

    output: X_co
    ids: Sequence[int]
    log_probabilities: Sequence[float]
    ended: bool

    @property
    def log_probability(self) -> float:
        """The log-probability of the continuation: the sum over its tokens."""
        return sum(self.log_probabilities)


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
                found = self._search(rows, first) if self._settings.num_beams > 1 else self._draw(rows, first)
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
        blocked = torch.zeros(tokens, dtype=torch.bool)
        blocked[list(settings.suppress_tokens)] = True
        if self._tokenize is not None:
            # A model may have room for more tokens than the tokenizer: these have no text.
            blocked[self._tokenize.vocab_size :] = True
        if bool(blocked.all()):
            msg = f"suppress_tokens must leave a token, got all {tokens}; leave some out."
            raise OptionError(msg, suppress_tokens=settings.suppress_tokens)
        return blocked.to(scores.device) if bool(blocked.any()) else None

    def _search(self, rows: list[list[int]], first: int) -> Iterator[list[Drawn]]:
        settings = self._settings
        limits = (settings.num_beams, settings.max_new_tokens, settings.length_penalty)
        beams = Beams(*limits, self._eos, self._find_blocked)
        return (found[: settings.num_return_sequences] for found in search_beams(self._steps, rows, beams, first))

    def _draw(self, rows: list[list[int]], first: int) -> list[list[Drawn]]:
        """Return the continuations of prompts, drawn or the most probable token each."""
        settings, copies = self._settings, self._settings.num_return_sequences
        found = [Drawn() for _ in rows for _ in range(copies)]
        names = [(first + row, copy) for row in range(len(rows)) for copy in range(copies)]
        numbers = draw_numbers(settings.seed, names, settings.max_new_tokens) if settings.do_sample else None
        scores, carry = self._steps.read(rows)
        blocked = self._find_blocked(scores)
        active = list(range(len(found)))
        kept = [row for row in range(len(rows)) for _ in range(copies)]
        # Each prompt is read once, and its copies begin with the same scores and carry.
        scores, carry = scores[kept], select_rows(carry, kept)
        for number in range(settings.max_new_tokens):
            drawn_by = None if numbers is None else numbers[active, number]
            tokens = self._choose(scores if blocked is None else scores.masked_fill(blocked, LOWEST), drawn_by)
            own = widen(scores).log_softmax(-1).gather(1, tokens.unsqueeze(1)).squeeze(1)
            for row, token, log_probability in zip(active, to_ints(tokens), to_floats(own), strict=True):
                reject_nan(log_probability != log_probability, first + row // copies)  # noqa: PLR0124 - only NaN differs
                found[row] = found[row].extend(token, log_probability, ended=token in self._eos)
            # Rows that ended are left out, so that no step of them is computed.
            kept = [index for index, row in enumerate(active) if not found[row].ended]
            if not kept or number == settings.max_new_tokens - 1:
                break
            active = [active[index] for index in kept]
            scores, carry = self._steps.step(tokens[kept], select_rows(carry, kept))
        return [found[row * copies : (row + 1) * copies] for row in range(len(rows))]

    def _choose(self, scores: Float[Tensor, "row token"], numbers: Float[Tensor, " row"] | None) -> Tensor:
        if numbers is None:
            return scores.argmax(-1)
        settings = self._settings
        restricted = restrict_scores(
            scores, temperature=settings.temperature, top_k=settings.top_k, top_p=settings.top_p
        )
        return draw_tokens(restricted, numbers.to(scores.device))
