"""Run a causal model step by step: each call takes the next steps of the rows, and what is remembered of the others."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self, TypeVar, cast, final

import attrs
import torch
from jaxtyping import Int64
from torch import Tensor

from pipeline.checks.hints import describe
from pipeline.core.running import NumberedStage, naming_stage, run_stages
from pipeline.core.stage import StageBase
from pipeline.core.stepping import Memory, Stepping
from pipeline.data.batches import Batch, Padded, is_batch
from pipeline.data.kinds import Ids, Kind, Vectors
from pipeline.data.metadata import Collated
from pipeline.data.trees import ON_CPU, as_pytree
from pipeline.errors import CompositionError, ShapeError

A = TypeVar("A")


@final
@as_pytree
@attrs.frozen(eq=False)
class StepCarry(Collated):
    """What a model remembers of each row, from one call of `step` to the next.

    A carry is a value, and stays valid after the next call: two calls with one carry try two tokens. It may be moved
    to another device with `to`, copied and pickled.

    Attributes:
        memories: what each stage remembers, by the stage's name; stages without memory are left out.
        steps: the number of steps of each row so far; on the CPU.
    """

    memories: Mapping[str, Memory] = attrs.field(repr=False)
    steps: Int64[Tensor, " batch"] = attrs.field(metadata=ON_CPU)

    def select(self, rows: Int64[Tensor, " selected"]) -> Self:
        """Return the carry of some rows, by their indices: to drop rows, or, if an index is repeated, to branch."""
        on_cpu = rows.cpu()
        memories = {name: memory.select(on_cpu) for name, memory in self.memories.items()}
        return attrs.evolve(self, memories=memories, steps=self.steps[on_cpu])


def make_step_batch(values: Tensor) -> Padded[Kind]:
    """Return a batch with one step per row: of ids, if they are integers, or of vectors.

    Raises:
        ShapeError: if the tensor is neither.

    Example:
        >>> make_step_batch(torch.tensor([5, 7])).values.tolist()
        [[5], [7]]
    """
    is_ids = values.dtype is torch.int64 and values.ndim == 1
    if not is_ids and not (values.is_floating_point() and values.ndim == 2):
        msg = (
            "the input of step must be one int64 id per row, one floating-point vector per row, or a batch, got "
            f"{describe(values)}; for several steps per row pass a batch, such as Pad()(rows)."
        )
        raise ShapeError(msg, argument="value")
    lengths = torch.ones(len(values), dtype=torch.int64, device="cpu")
    return Padded(cast("type[Kind]", Ids if is_ids else Vectors), values.unsqueeze(1), lengths)


def run_steps(
    stages: Mapping[str, StageBase], value: object, carry: StepCarry | None, *, first: int = 1
) -> tuple[Any, StepCarry]:
    """Run the next steps of a batch of rows through stages; return the output, and what they remember.

    Args:
        stages: the stages by name.
        value: one id or vector per row, or a batch.
        carry: what the call before returned; None at the beginning of the rows.
        first: the number of the first stage in its chain.

    Raises:
        CompositionError: if a stage cannot run step by step, or the carry is of another model.
        ShapeError: if the batch has another number of rows than the carry, or is no batch.
    """
    numbered = dict(zip(stages, enumerate(stages.values(), start=first), strict=True))
    _check_stages(numbered.values())
    batch = make_step_batch(value) if isinstance(value, Tensor) else value
    if not is_batch(batch):
        msg = f"the input of step must be a tensor or a batch, got {describe(batch)}; pass one id per row, or Padded."
        raise ShapeError(msg, argument="value")
    batch = _continue_rows(batch, numbered, carry)
    memories: dict[str, Memory] = {}
    output: Any = batch
    for name, (number, stage) in numbered.items():
        if isinstance(stage, Stepping):
            with naming_stage(number, stage):
                memory = None if carry is None else carry.memories[name]
                output, memories[name] = cast("Stepping[Any, Any, Memory]", stage).step(output, memory)
        else:
            output = run_stages([(number, stage)], output)
    steps = batch.lengths if carry is None else carry.steps + batch.lengths
    return output, StepCarry(memories, steps)


def _check_stages(stages: Iterable[NumberedStage]) -> None:
    for number, stage in stages:
        if isinstance(stage, Stepping) or getattr(stage, "stepwise", False):
            continue
        name = type(stage).__name__
        explain: Callable[[], str] | None = getattr(stage, "explain_not_stepwise", None)
        if explain is not None:
            msg = f"stage {number} `{name}` cannot run step by step, because {explain()}."
            raise CompositionError(msg, stage_number=number, stage=name)
        msg = (
            f"stage {number} `{name}` cannot run step by step, because its output may depend on several steps of a row "
            "and it keeps no memory of them; leave it out, or, in a stage of your own, declare stepwise = True if each "
            "step of its output depends on the same step of its input only, or derive it from Stepping."
        )
        raise CompositionError(msg, stage_number=number, stage=name)


def _continue_rows(batch: Batch[Kind], stages: Mapping[str, NumberedStage], carry: StepCarry | None) -> Batch[Kind]:
    """Return the batch with the number of its first step in each row.

    Raises:
        CompositionError: if the carry is not of these stages.
        ShapeError: if it has another number of rows.
    """
    if carry is None:
        return batch
    expected = {name for name, (_, stage) in stages.items() if isinstance(stage, Stepping)}
    if expected != set(carry.memories):
        got, wanted = (", ".join(sorted(names)) or "no stage" for names in (carry.memories, expected))
        msg = (
            f"carry must be what step of this model returned, with the memory of {wanted}, got one of {got}; pass None "
            "for new rows."
        )
        raise CompositionError(msg, argument="carry")
    if len(carry.steps) != len(batch.lengths):
        msg = (
            f"the batch must have one row for each of the {len(carry.steps)} rows of the carry, got "
            f"{len(batch.lengths)} rows; a row that does not continue has no steps, or select the carry's rows: "
            "carry.select(rows)."
        )
        raise ShapeError(msg, argument="value", rows=len(batch.lengths))
    return attrs.evolve(batch, metadata=attrs.evolve(batch.metadata, start_steps=carry.steps))
