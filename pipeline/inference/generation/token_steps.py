"""The steps of a language model in generation: prompts first, then one token per row."""

from collections.abc import Mapping, Sequence
from typing import Any, Self, cast, final

import attrs
from jaxtyping import Float, Int64
from torch import Tensor

from pipeline.checks.hints import describe
from pipeline.core.running import run_stages
from pipeline.core.stage import StageBase
from pipeline.core.stepping import Stepping
from pipeline.data.batches import Packed
from pipeline.data.kinds import Hidden, Ids
from pipeline.data.metadata import BatchMetadata
from pipeline.data.scores import StepScores
from pipeline.data.states import MaybeCausal, States, last_by_row
from pipeline.data.tensors import to_tensor, to_tensors
from pipeline.errors import CompositionError
from pipeline.inference.generation.step import StepCarry, make_step_batch, run_steps
from pipeline.inference.generation.stepwise_pipe import StepwisePipe
from pipeline.labels import Labels


@final
@attrs.frozen
class TokenSteps:
    """A pipe that ends in scores of the next token.

    Attributes:
        split: the pipe.
        body: the stages before the head.
        head: the stages from the head on, which need one step only.
    """

    split: StepwisePipe
    body: Mapping[str, StageBase]
    head: Mapping[str, StageBase]

    @classmethod
    def of(cls, split: StepwisePipe) -> Self:
        """Divide the model of a pipe at its head.

        Raises:
            CompositionError: if its rows are not ids.
        """
        if split.kind is not Ids:
            msg = f"generate continues rows of Ids, but the pipe has rows of {split.kind.__name__}; call step instead."
            raise CompositionError(msg)
        items, stages = list(split.model.items()), list(split.model.values())
        at = next((at for at, stage in enumerate(stages) if getattr(stage, "every_step", False)), len(stages))
        if any(isinstance(stage, Stepping) for stage in stages[at:]):
            at = len(stages)
        return cls(split, dict(items[:at]), dict(items[at:]))

    def read(self, prompts: Sequence[Sequence[int]]) -> tuple[Float[Tensor, "row token"], StepCarry]:
        """Return the scores of the token after each prompt, and the carry. Each prompt has a token or more."""
        return self._run(self.split.collate([Ids(ids) for ids in to_tensors(prompts)]), None)

    def step(self, tokens: Int64[Tensor, " row"], carry: StepCarry) -> tuple[Float[Tensor, "row token"], StepCarry]:
        """Return the scores of the token after the next one of each row, and the new carry."""
        if self.split.row_stages:
            return self._run(self.split.collate([Ids(ids) for ids in tokens.cpu().unsqueeze(1)]), carry)
        return self._run(self.split.move(make_step_batch(tokens)), carry)

    def _run(self, batch: object, carry: StepCarry | None) -> tuple[Float[Tensor, "row token"], StepCarry]:
        output, carry = run_steps(self.body, batch, carry, first=self.split.first)
        found: object = output
        # The scores of all tokens, a large product, are needed after the last step of a prompt only.
        if self.head and isinstance(found, States) and found.width != 1:
            found = _keep_last(cast("States[MaybeCausal]", found))
        numbered = enumerate(self.head.values(), start=self.split.first + len(self.body))
        scores: Any = run_stages(numbered, found)
        if not isinstance(scores, StepScores):
            msg = f"generate needs a model that ends in scores per step, got {describe(scores)}; end it with NextToken."
            raise CompositionError(msg)
        names: object = cast("StepScores[object]", scores).names
        if isinstance(names, Labels):
            # The ids of classes would be taken for those of tokens.
            msg = f"generate needs scores of the next token, got those of the classes {', '.join(names):.100}; "
            raise CompositionError(msg + "call predict for a tagger.")
        values, order = cast("StepScores[int]", scores).values, scores.order
        # Rows of one step each are in order already, and for these no index is computed: it costs as much as a step.
        is_single = order.longest == 1 and order.is_full(1)
        return values if is_single else values.index_select(0, order.last_steps), carry


def _keep_last(states: States[MaybeCausal]) -> States[MaybeCausal]:
    """Return the last step of each row."""
    last, lengths = last_by_row(states.steps), to_tensor([1] * len(states.lengths))
    metadata = BatchMetadata(states.metadata.row_ids)
    return attrs.evolve(states, steps=Packed(Hidden, last, lengths, metadata=metadata))
