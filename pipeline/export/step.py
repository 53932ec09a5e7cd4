"""A causal model as a module that takes one step of each row, and the state of the steps before."""

from collections.abc import Mapping, Sequence
from typing import Any, cast, final

import attrs
import torch
from torch import Tensor, nn
from typing_extensions import TypeIs, override

from pipeline.core.stage import StageBase
from pipeline.core.stepping import Stepping
from pipeline.data.batches import Batch, Padded
from pipeline.data.kinds import Ids, Kind, Vectors
from pipeline.data.states import MaybeCausal, States
from pipeline.errors import ExportError
from pipeline.export.check import Run, measure
from pipeline.export.forms import GraphSet
from pipeline.export.inputs import BatchInputs, Input
from pipeline.export.outputs import Output, describe_outputs, read_outputs, rename_outputs
from pipeline.export.program import Graph
from pipeline.stages.attend_earlier import AttendEarlier
from pipeline.stages.encode import Encode

_STEPS: int = 12
"""The length of the rows on which step by step is compared with the whole pass."""

_CARRY_NAMES = ("h", "c")


@final
class StepModule(nn.Module):
    """The stages of a causal model over one step of each row.

    An encoder starts from its carry. `AttendEarlier` keeps the steps that it has seen: a memory of batch x past x
    hidden, which begins with one step that is never attended to, since no axis of a graph may be empty.

    Args:
        stages: the stages by name.
        inputs: the inputs of the whole model.

    Raises:
        ExportError: if a stage needs other steps of a row, and is neither a stateful encoder nor `AttendEarlier`; or
            if the rows are neither ids nor vectors.
    """

    def __init__(self, stages: Mapping[str, StageBase], inputs: BatchInputs) -> None:
        super().__init__()
        values = inputs.inputs[0]
        if inputs.kind not in {Ids, Vectors}:
            msg = f"form='step' is for rows of Ids or Vectors, got {inputs.kind.__name__}; use form='rows'."
            raise ExportError(msg)
        self.kind: type[Kind] = inputs.kind
        self.whole = inputs
        self.stages: dict[str, StageBase] = dict(stages)
        self.modules_of_stages: nn.ModuleList = nn.ModuleList(
            stage for stage in stages.values() if isinstance(stage, nn.Module)
        )
        _reject_other_stages(stages)
        self.inputs: list[Input] = [attrs.evolve(values, axes=("batch",), lengths=None)]
        self._find_states(inputs)

    def _find_states(self, inputs: BatchInputs) -> None:
        """Describe the states, of which the first run of the model shows the sizes."""
        shape = {axis: 2 for each in inputs.inputs for axis in each.axes}
        values: Any = inputs.make_batch(inputs.draw(shape, torch.Generator().manual_seed(0)))
        with torch.no_grad():
            for name, stage in self.stages.items():
                values = cast("Any", stage)(values)
                if _is_encode(stage):
                    carry = cast("States[MaybeCausal]", values).carry or ()
                    for number, state in enumerate(carry):
                        suffix = _CARRY_NAMES[number] if len(carry) <= len(_CARRY_NAMES) else str(number)
                        sizes = (state.shape[0], "batch", state.shape[2])
                        self._add_state(f"{name}_{suffix}", ("", "batch"), sizes, state)
                elif isinstance(stage, AttendEarlier):
                    # Its output may have more features than the states that it remembers.
                    past, size = f"{name}_past", _count_features(stage)
                    like = cast("States[MaybeCausal]", values).steps.values
                    self._add_state(f"{name}_memory", ("batch", past), ("batch", 1, size), like)
        scores = describe_outputs(values)
        self.outputs: list[Output] = [attrs.evolve(each, axes=("batch",)) for each in scores]
        for each in self.inputs[1:]:
            self.outputs.append(Output(f"next_{each.name}", "state", each.axes))

    def _add_state(self, name: str, axes: tuple[str, ...], shape: tuple[int | str, ...], like: Tensor) -> None:
        dtype = str(like.dtype).removeprefix("torch.")
        self.inputs.append(Input(name, "state", axes, dtype=dtype, shape=shape))

    def make_states(self, batch: int) -> list[Tensor]:
        """Return the states before the first step: zeros."""
        return [
            torch.zeros([batch if size == "batch" else int(size) for size in each.shape or ()], dtype=_get_dtype(each))
            for each in self.inputs[1:]
        ]

    def draw(self) -> list[Tensor]:
        """Return an example of the inputs, after two steps."""
        sizes = {"batch": 3}
        states: list[Tensor] = []
        for each, state in zip(self.inputs[1:], self.make_states(3), strict=True):
            # The memory of an attention grows; all dynamic sizes of an example should differ.
            states.append(state.expand(-1, 5, -1).clone() if each.axes[0] == "batch" else state)
        drawn = self.whole.draw({axis: sizes.get(axis, 1) for axis in self.whole.inputs[0].axes}, _make_generator(0))
        values = drawn[self.whole.inputs[0].name]
        return [torch.zeros_like(values[:, 0]), *states]

    @override
    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the scores of the step, and the states after it."""
        values, *rest = tensors
        lengths = torch.ones(values.shape[0], dtype=torch.int64)
        value: Any = Padded(self.kind, values.unsqueeze(1), lengths)
        after: list[Tensor] = []
        for stage in self.stages.values():
            if _is_encode(stage):
                count = self._count_carry(stage)
                carry, rest = tuple(rest[:count]), rest[count:]
                found = stage(attrs.evolve(cast("Batch[Vectors]", value), initial_carry=carry))
                after += found.carry or ()
                value = found
            elif isinstance(stage, AttendEarlier):
                value, memory = _attend(stage, cast("States[MaybeCausal]", value), rest.pop(0))
                after.append(memory)
            else:
                value = cast("Any", stage)(value)
        return *(output.squeeze(1) for output in read_outputs(value).values()), *after

    def _count_carry(self, stage: object) -> int:
        name = next(name for name, each in self.stages.items() if each is stage)
        return sum(each.name.startswith(f"{name}_") and not each.axes[0] for each in self.inputs)


def _attend(stage: AttendEarlier, states: States[MaybeCausal], memory: Tensor) -> tuple[States[MaybeCausal], Tensor]:
    """Return the context of each row's next step, and the memory with that step."""
    rows = states.padded()
    memory = torch.cat([memory, rows.values], dim=1)
    now = memory.shape[1] - 1
    key = torch.arange(memory.shape[1])
    # The first position stands for no step. As in AttendEarlier, the first real step attends to itself.
    earlier = (
        (key >= 1) & (key < now) if stage.window is None else (key >= 1) & (key < now) & (now - key <= stage.window)
    )
    mask = earlier | ((key >= 1) & (key + now == 2))
    attention = stage.get_part(rows.values.shape[-1])
    contexts = stage.compute_contexts(attention, rows.values, memory, mask.view(1, 1, -1))
    return stage.finish(states, rows.with_values(contexts)), memory


def _count_features(stage: AttendEarlier) -> int:
    """Return the number of features of a remembered state."""
    assert stage.part is not None, "the stage has run"
    return stage.part.input_size * (3 if stage.output == "key_value_predict" else 1)


def _reject_other_stages(stages: Mapping[str, StageBase]) -> None:
    for name, stage in stages.items():
        if _is_encode(stage):
            encoder = stage.part
            is_fit = encoder is not None and encoder.stateful and encoder.causal
            reason = "" if is_fit else "its encoder is not causal, or keeps no state"
        else:
            is_fit = isinstance(stage, AttendEarlier) or getattr(stage, "stepwise", False)
            reason = (
                ""
                if is_fit and (isinstance(stage, AttendEarlier) or not isinstance(stage, Stepping))
                else ("its output may depend on other steps of the row")
            )
        if reason:
            msg = f"stage {name!r}, {type(stage).__name__}, cannot run step by step, because {reason}; use form='rows'."
            raise ExportError(msg, stage=name)


@final
class StepGraph(GraphSet):
    """The graph of one step of a causal model.

    Args:
        stages: the stages by name.
        inputs: the inputs of the whole model.

    Raises:
        ExportError: if the model cannot run step by step; see `StepModule`.
    """

    def __init__(self, stages: Mapping[str, StageBase], inputs: BatchInputs) -> None:
        self._module = StepModule(stages, inputs)
        outputs = rename_outputs(self._module.outputs, [each.name for each in self._module.inputs])
        self.graphs: Sequence[Graph] = [Graph(self._module, self._module.draw(), self._module.inputs, outputs)]

    @override
    def compare(self, runs: Sequence[Run], batches: int, tolerance: float) -> float:
        return compare_steps(self._module, runs[0], batches, tolerance)


def compare_steps(module: StepModule, found: Run, batches: int, tolerance: float) -> float:
    """Return the largest difference between an exported model step by step, and the whole pass of the model.

    Args:
        module: the model.
        found: the exported one.
        batches: the number of batches of rows.
        tolerance: the difference that is allowed, for numbers above 1 relative to them.

    Raises:
        ExportError: if a difference is larger than the tolerance.
    """
    generator, worst = _make_generator(1), 0.0
    whole, count = module.whole, len(module.outputs) - len(module.inputs) + 1
    values, lengths = whole.inputs[0], whole.inputs[1]
    for number in range(batches):
        rows, time = 1 + number % 5, 1 + number % _STEPS
        tensors = whole.draw(dict(zip(values.axes, (rows, time), strict=True)), generator)
        # Rows of one length: all run in step. What is in the padding of a drawn row is a real step here.
        real = tensors[values.name]
        real = real.masked_fill(real > (values.size or 0), 0) if values.role == "ids" else real.nan_to_num()
        tensors |= {values.name: real, lengths.name: torch.full((rows,), time)}
        value: Any = whole.make_batch(tensors)
        with torch.no_grad():
            for stage in module.stages.values():
                value = cast("Any", stage)(value)
        wanted = list(read_outputs(value).values())
        states: Sequence[Tensor] = module.make_states(rows)
        for step in range(time):
            outputs = found([tensors[values.name][:, step].contiguous(), *states])
            states = outputs[count:]
            for one, other in zip(wanted, outputs[:count], strict=True):
                difference = measure(one[:, step], other)
                worst = max(worst, difference)
                if not difference <= tolerance:
                    msg = (
                        f"the exported model gives other results step by step than the model in one pass: they differ "
                        f"by {difference:.2g} at step {step}, and {tolerance:.2g} is allowed; use form='rows'."
                    )
                    raise ExportError(msg, difference=difference, step=step)
    return worst


def _is_encode(stage: object) -> TypeIs[Encode[MaybeCausal, Vectors]]:
    return isinstance(stage, Encode)


def _make_generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _get_dtype(state: Input) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, state.dtype)
    return dtype
