"""A model that ends in a decoder as two graphs: one that reads the sources, and one of a step of the search."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, final

import attrs
import torch
from torch import Tensor, nn
from typing_extensions import override

from pipeline.core.stage import StageBase
from pipeline.errors import ExportError
from pipeline.export.check import Run, draw_batches, measure
from pipeline.export.decoder import Decoder
from pipeline.export.files import STEP
from pipeline.export.forms import GraphSet
from pipeline.export.inputs import BatchInputs, Input
from pipeline.export.module import RowsModule
from pipeline.export.outputs import Output, rename_outputs
from pipeline.export.program import Graph
from pipeline.export.texts import write_target

_STEPS: Final = 12
"""The maximum number of tokens for which scores are compared."""


@final
class SourceModule(nn.Module):
    """The stages before a decoder, and what it remembers of the source before its first token.

    Args:
        stages: the stages before the decoder.
        decoder: the decoder.
        inputs: says what the tensors are.
    """

    def __init__(self, stages: Mapping[str, StageBase], decoder: Decoder[Any], inputs: BatchInputs) -> None:
        super().__init__()
        self.rows: RowsModule = RowsModule(stages, inputs)
        self.decoder = decoder

    @override
    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the tensors of the source, then those of the state."""
        found = self.decoder.flatten_memory(self.read(tensors))
        return tuple(found[name] for name in (*self.decoder.source_axes, *self.decoder.state_axes))

    def read(self, tensors: Sequence[Tensor]) -> Any:  # noqa: ANN401 - a decoder has a type of its own
        """Return the decoder's own memory."""
        return self.decoder.read_source(self.rows.run(tensors))


@final
class TokenModule(nn.Module):
    """One step of a decoder: a token of each row, and its memory.

    Args:
        decoder: the decoder.
    """

    def __init__(self, decoder: Decoder[Any]) -> None:
        super().__init__()
        self.decoder = decoder

    @override
    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the scores of the next token, and the tensors of the state after it."""
        ids, *rest = tensors
        names = [*self.decoder.source_axes, *self.decoder.state_axes]
        memory = self.decoder.restore_memory(dict(zip(names, rest, strict=True)))
        scores, memory = self.decoder.step(ids, memory)
        found = self.decoder.flatten_memory(memory)
        return scores, *(found[name] for name in self.decoder.state_axes)


@final
class SearchGraphs(GraphSet):
    """The two graphs of a model that ends in a decoder.

    The outputs of the first one are the inputs of the second, in this order, after the ids of the tokens.

    Args:
        stages: the stages by name; the last one is the decoder.
        decoder: the decoder.
        inputs: says what the tensors are.
    """

    def __init__(self, stages: Mapping[str, StageBase], decoder: Decoder[Any], inputs: BatchInputs) -> None:
        self._decoder = decoder
        self._inputs = inputs
        self._source = SourceModule(dict(list(stages.items())[:-1]), decoder, inputs)
        example = inputs.make_example()
        with torch.no_grad():
            memory = self._source(*example)
        axes = {**decoder.source_axes, **decoder.state_axes}
        outputs = [Output(name, "state", tuple(each)) for name, each in axes.items()]
        outputs = rename_outputs(outputs, [each.name for each in inputs.inputs])
        self.graphs: Sequence[Graph] = [
            Graph(self._source, example, inputs.inputs, outputs),
            self._make_step(axes, memory),
        ]

    def _make_step(self, axes: Mapping[str, Sequence[str]], memory: Sequence[Tensor]) -> Graph:
        """Return the graph of a step, from the memory before the first token."""
        inputs, empty = [Input("ids", "ids", ("batch",), self._decoder.target.vocab_size)], set[str]()
        # All dynamic sizes of an example differ, so that none is taken for another.
        dynamic = dict.fromkeys(axis for each in axes.values() for axis in ("batch", *each) if axis)
        sizes = {axis: 3 + 2 * number for number, axis in enumerate(dynamic)}
        example = [torch.zeros(sizes["batch"], dtype=torch.int64)]
        for (name, each), tensor in zip(axes.items(), memory, strict=True):
            inputs.append(Input(name, "state", tuple(each), dtype=str(tensor.dtype).removeprefix("torch.")))
            named = dict(enumerate(each))
            shape = [sizes.get(named.get(place, ""), size) for place, size in enumerate(tensor.shape)]
            example.append(tensor.new_ones(shape))
            empty |= {axis for axis, size in zip(each, tensor.shape, strict=False) if axis and not size}
        outputs = [Output("scores", "classes", ("batch",))]
        outputs += [Output(f"next_{name}", "state", tuple(each)) for name, each in self._decoder.state_axes.items()]
        return Graph(TokenModule(self._decoder), example, inputs, outputs, STEP, empty)

    @override
    def compare(self, runs: Sequence[Run], batches: int, tolerance: float) -> float:
        # In every second batch each token is the most probable one, as in a search. In the others tokens are random.
        return max(
            self._compare_batch(number, shape, tensors, runs, tolerance)
            for number, (shape, tensors) in enumerate(draw_batches(self._inputs, batches, seed=0))
        )

    @torch.no_grad()
    def _compare_batch(
        self, number: int, shape: Mapping[str, int], tensors: Sequence[Tensor], runs: Sequence[Run], tolerance: float
    ) -> float:
        """Return the largest difference on one batch."""
        decoder, generator = self._decoder, torch.Generator().manual_seed(number)
        blocked, kept = list(decoder.blocked_ids), len(decoder.source_axes)
        ids, worst = torch.full((shape["batch"],), decoder.target.first_ids[0]), 0.0
        memory, found = self._source.read(tensors), _run(runs[0], tensors, shape)
        for place in range(min(1 + number % _STEPS, decoder.settings.max_new_tokens)):
            wanted, memory = decoder.step(ids, memory)
            scores, *state = _run(runs[1], [ids, *found], shape)
            found = [*found[:kept], *state]
            # All scores of a row are sums of the same numbers: they are rounded in proportion to the largest one.
            largest = wanted.abs().amax(1, keepdim=True).clamp(min=1)
            difference = measure(wanted / largest, scores / largest)
            worst = max(worst, difference)
            if not difference <= tolerance:
                msg = (
                    f"the exported decoder gives other scores than the model: they differ by {difference:.2g} at token "
                    f"{place} on a batch of {dict(shape)}, and {tolerance:.2g} is allowed. Usually a stage or part of "
                    "your own stores a size or a number of the traced batch, or reads padding; if the model's numbers "
                    "are large, allow more: tolerance=..."
                )
                raise ExportError(msg, difference=difference, shape=shape, token=place)
            ids = scores.index_fill(1, torch.tensor(blocked, dtype=torch.int64), -torch.inf).argmax(1)
            if number % 2:
                ids = torch.randint(0, scores.shape[1], ids.shape, generator=generator)
        return worst

    @override
    def describe_search(self, folder: Path, file: Path, /) -> Mapping[str, object]:
        step, settings = self.graphs[1], self._decoder.settings
        return {
            "file": f"{file.stem}{step.infix}{file.suffix}",
            "inputs": [attrs.asdict(each) for each in step.inputs],
            "outputs": [attrs.asdict(each) for each in step.outputs],
            "first_id": self._decoder.target.first_ids[0],
            "last_ids": list(self._decoder.target.last_ids),
            "blocked_ids": list(self._decoder.blocked_ids),
            # With learned positions; a decoder of another class may have no limit.
            "max_positions": getattr(self._decoder, "longest", None),
            "max_new_tokens": settings.max_new_tokens,
            "num_beams": settings.num_beams,
            "length_penalty": settings.length_penalty,
            "num_return_sequences": settings.num_return_sequences,
            "tokenizer": write_target(self._decoder.target, folder, file.stem),
        }


def _run(run: Run, tensors: Sequence[Tensor], shape: Mapping[str, int]) -> Sequence[Tensor]:
    try:
        return run(tensors)
    except Exception as error:
        msg = f"the exported model fails on a batch of {dict(shape)}, where the model does not: {error}"
        raise ExportError(msg, shape=shape) from error
