"""A cache of the words of the text so far, mixed into the predictions of a language model."""

import math
from collections.abc import Mapping, Sequence
from typing import Self, cast, final

import attrs
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import pad
from typing_extensions import override

from pipeline import Chain, Ids, NextToken, Padded, StepCarry, StepScores
from pipeline.extend import (
    ON_CPU,
    Causal,
    CompositionError,
    Memory,
    ModuleStage,
    Spec,
    StageBase,
    States,
    Stepping,
    as_pytree,
    check_number,
    check_optional_int,
    check_probability,
    masked_softmax,
)


@final
@as_pytree
@attrs.frozen(eq=False)
class CachedSteps(Memory):
    """The states and the tokens of each row so far, and the carry of the stages before the head.

    Attributes:
        states: the hidden vectors; zeros at positions without a step.
        tokens: the ids at the same positions.
        stored: the number of steps of each row; on the CPU.
        carry: what the stages before the head remember.
    """

    states: Float[Tensor, "batch time hidden"]
    tokens: Int64[Tensor, "batch time"]
    stored: Int64[Tensor, " batch"] = attrs.field(metadata=ON_CPU)
    carry: StepCarry

    @override
    def select(self, rows: Int64[Tensor, " selected"]) -> Self:
        on_device = rows.to(self.tokens.device)
        return attrs.evolve(
            self,
            states=self.states.index_select(0, on_device),
            tokens=self.tokens.index_select(0, on_device),
            stored=self.stored[rows],
            carry=self.carry.select(rows),
        )


@final
class NeuralCache(ModuleStage[Padded[Ids], StepScores[int]], Stepping[Padded[Ids], StepScores[int], CachedSteps]):
    """Let a language model repeat words of its row: those that followed states like the present one.

    A step with state h gives the word after an earlier step with state k the probability softmax(theta h . k), over all
    earlier steps whose next word is known. This is mixed with the model's own probability by `share`. There are no
    weights, and nothing is trained: in training, scores are those of the head alone.

    Texts must be long for this to help: a cache sees its own row only.

    Args:
        states: the stages before the head, from ids to causal states.
        head: scores the next token.
        size: the number of earlier steps in the cache; None for all.
        theta: the sharpness of the cache, 0 or more: with 0 it counts words.
        share: the share of the cache in the probability, from 0 up to, but not including, 1.
        name: the stage's name in its chain.

    Raises:
        OptionError: if an option is out of its range.

    Source: Grave, Joulin and Usunier 2017, "Improving Neural Language Models with a Continuous Cache",
    arXiv:1612.04426, equations 4 and 6 (linear interpolation; our `share` is their lambda). Their cache keeps
    the states of earlier texts; ours begins empty in each row.

    Example:
        >>> from pipeline import language_model
        >>> model = NeuralCache.wrap(language_model(9, hidden_size=8), share=0.2).eval()
        >>> ids = Padded(Ids, torch.tensor([[5, 7, 5, 7]]), torch.tensor([4]))
        >>> model(ids).values.shape
        torch.Size([4, 9])
    """

    default_metrics: Sequence[str] = ("perplexity",)

    def __init__(
        self,
        states: Chain[Padded[Ids], States[Causal]],
        head: NextToken,
        *,
        size: int | None = None,
        theta: float = 0.3,
        share: float = 0.1,
        name: str | None = None,
    ) -> None:
        super().__init__()
        check_optional_int("size", size, minimum=1, advice="pass None to keep all earlier steps")
        check_number("theta", theta, minimum=0, advice="0 counts words")
        check_probability("share", share)
        self.states: Chain[Padded[Ids], States[Causal]] = states
        self.head: NextToken = head
        self.size = size
        self.theta = theta
        self.share = share
        self.name = name

    @classmethod
    def wrap(
        cls,
        model: Chain[Padded[Ids], StepScores[int]],
        *,
        size: int | None = None,
        theta: float = 0.3,
        share: float = 0.1,
        name: str | None = None,
    ) -> "NeuralCache":
        """Return a cache around a language model, with the model's own weights.

        Raises:
            CompositionError: if the model does not end in `NextToken`, after two stages or more.
        """
        *before, head = model.stages.values()
        if not isinstance(head, NextToken) or len(before) < 2:
            msg = f"the model of a NeuralCache must end in NextToken, got {model!r}; pass a language model."
            raise CompositionError(msg)
        joined: StageBase = before[0]
        for stage in before[1:]:
            joined = cast("Chain[object, object]", joined) >> cast("ModuleStage[object, object]", stage)
        states = cast("Chain[Padded[Ids], States[Causal]]", joined)
        return cls(states, head, size=size, theta=theta, share=share, name=name)

    @property
    def branches(self) -> Mapping[str, StageBase]:
        """The stages that read the ids; `export` finds their number there."""
        return {"states": self.states}

    def get_config(self) -> Mapping[str, object]:
        """Return the arguments with which this stage can be made again."""
        return {
            "states": self.states,
            "head": self.head,
            "size": self.size,
            "theta": self.theta,
            "share": self.share,
            "name": self.name,
        }

    @override
    def build(self, spec: Spec, /) -> Spec:
        return self.head.build(self.states.build(spec))

    @override
    def forward(self, value: Padded[Ids]) -> StepScores[int]:
        """Return the scores of the token after each step: in evaluation, logarithms of the mixed probabilities."""
        states = self.states(value)
        scores = self.head(states)
        if self.training or self.share == 0:
            return scores
        if torch.compiler.is_compiling():
            return self._mix_in_graph(scores, states, value)
        tokens = value.padded().fill_padding(0).values
        start = torch.zeros_like(value.lengths)
        return self._mix(scores, states.padded().values, states.padded().values, tokens, start)

    @override
    def step(self, value: Padded[Ids], memory: CachedSteps | None, /) -> tuple[StepScores[int], CachedSteps]:
        """Return the scores of the token after the next steps of each row, and the memory of all steps so far."""
        states, carry = self.states.step(value, None if memory is None else memory.carry)
        scores = self.head(states)
        rows, tokens = states.padded().values, value.padded().fill_padding(0).values
        if memory is None:
            kept = CachedSteps(rows, tokens, value.lengths, carry)
            start = torch.zeros_like(value.lengths)
        else:
            start, stored = memory.stored, memory.stored + value.lengths
            kept = CachedSteps(
                _append(memory.states, rows, start, value.lengths),
                _append(memory.tokens, tokens, start, value.lengths),
                stored,
                carry,
            )
        if self.share == 0 or not value.order.steps:
            return scores, kept
        return self._mix(scores, rows, kept.states, kept.tokens, start), kept

    def _mix(
        self,
        scores: StepScores[int],
        query: Float[Tensor, "batch query hidden"],
        states: Float[Tensor, "batch time hidden"],
        tokens: Int64[Tensor, "batch time"],
        start: Int64[Tensor, " batch"],
    ) -> StepScores[int]:
        """Return scores that are mixed with the cache; queries are the steps from `start` on."""
        plain = scores.values.log_softmax(-1)
        if tokens.shape[1] < 2:
            return attrs.evolve(scores, values=plain)
        device = tokens.device
        # The word after step j is known to a step at time t > j.
        time = start.to(device).view(-1, 1, 1) + torch.arange(query.shape[1], device=device).unsqueeze(1)
        distance = time - torch.arange(tokens.shape[1] - 1, device=device)
        mask = (distance > 0) if self.size is None else (distance > 0) & (distance <= self.size)
        weights = masked_softmax(self.theta * (query @ states[:, :-1].mT), mask)
        row, at = scores.order.locate_steps(scores.values)
        weights, known = weights[row, at].to(scores.values.dtype), tokens[row, 1:]
        cached = torch.zeros_like(scores.values).scatter_add(1, known, weights)
        # Of two logarithms, because a small probability may be 0 as a number.
        mixed = torch.logaddexp(plain + math.log1p(-self.share), cached.log() + math.log(self.share))
        # The first step of a row has nothing in its cache.
        return attrs.evolve(scores, values=torch.where((at + start.to(device)[row] > 0).unsqueeze(1), mixed, plain))

    def _mix_in_graph(self, scores: StepScores[int], states: States[Causal], value: Padded[Ids]) -> StepScores[int]:
        """Return scores that are mixed with the cache, in a traced graph."""
        rows, tokens = states.padded().fill_padding(0).values, value.padded().fill_padding(0).values
        time = torch.arange(tokens.shape[1], device=tokens.device)
        distance = time.unsqueeze(1) - time
        mask = (distance > 0) if self.size is None else (distance > 0) & (distance <= self.size)
        weights = masked_softmax(self.theta * (rows @ rows.mT), mask.unsqueeze(0))
        # The last step is never in the cache, so that the word after it may be any.
        known = pad(tokens, (0, 1))[:, 1:].unsqueeze(1).expand_as(weights)
        cached = weights.new_zeros(*weights.shape[:2], scores.values.shape[-1]).scatter_add(2, known, weights)
        if scores.values.ndim == 2:  # packed
            row, at = scores.order.locate_steps(scores.values)
            cached, is_first = cached[row, at], (at == 0).unsqueeze(1)
        else:
            is_first = (time == 0).unsqueeze(1)
        plain = scores.values.log_softmax(-1)
        one, other = plain + math.log1p(-self.share), cached.to(plain.dtype).log() + math.log(self.share)
        # As `logaddexp`, which ONNX computes by the sum of the powers, where a small one would be 0.
        mixed = torch.maximum(one, other) + (-(one - other).abs()).exp().log1p()
        mixed = torch.where(is_first, plain, mixed)
        if scores.values.ndim == 3:
            mixed = mixed.masked_fill(~states.mask.unsqueeze(2), 0)
        return attrs.evolve(scores, values=mixed)


def _append(buffer: Tensor, new: Tensor, start: Tensor, lengths: Tensor) -> Tensor:
    """Return a buffer with the first `lengths[i]` steps of each row after its first `start[i]`."""
    width = int((start + lengths).max()) if len(start) else 0
    made = buffer.new_zeros(buffer.shape[0], max(width, buffer.shape[1]), *buffer.shape[2:])
    made[:, : buffer.shape[1]] = buffer
    row, at = (torch.arange(new.shape[1], device="cpu") < lengths.unsqueeze(1)).nonzero(as_tuple=True)
    to = (start[row] + at).to(buffer.device)
    row, at = row.to(buffer.device), at.to(buffer.device)
    made[row, to] = new[row, at]
    return made
