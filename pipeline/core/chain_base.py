"""What all chains share: their stages by name, checks without data, and how they are shown."""

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from os import PathLike
from typing import TYPE_CHECKING, Any, Self, cast

import torch
from torch import Tensor, nn
from typing_extensions import Unpack, override

from pipeline.core.contexts import temporary_mode
from pipeline.core.inference import InferenceReport, Prepared
from pipeline.core.naming import name_stages
from pipeline.core.running import (
    NumberedStage,
)
from pipeline.core.stage import Spec, StageBase
from pipeline.errors import CompositionError, ExportError, InferenceError

if TYPE_CHECKING:
    from pipeline.export.options import ExportOptions
    from pipeline.export.write import Exported
    from pipeline.summary.inspection import Inspection
    from pipeline.summary.summary import Summary


class JoinedStages(tuple[StageBase, ...]):
    """Stages in order. A type of its own, so that a chain made without `>>` does not type-check."""

    __slots__ = ()


class ChainBase(nn.Module):
    """The stages of a chain in order. Stages with weights are child modules under their names.

    Attributes:
        prepared: how the chain computes, if `for_inference` made it; None for any other chain.
    """

    prepared: Prepared | None = None

    def __init__(self, stages: JoinedStages) -> None:
        super().__init__()
        self.set_stages(name_stages(stages, _get_reserved_names()))

    def set_stages(self, stages: Mapping[str, StageBase]) -> None:
        """Set the stages of a new chain, or of a copy that is prepared for inference."""
        self._modules.clear()
        # None for a child module: torch's tools replace, wrap and delete children under their names.
        self._others: dict[str, StageBase | None] = {}
        for name, stage in stages.items():
            self._others[name] = None if isinstance(stage, nn.Module) else stage
            if isinstance(stage, nn.Module):
                self.add_module(name, stage)

    @property
    def stages(self) -> Mapping[str, StageBase]:
        """The stages in order, by name. A child module that was replaced or deleted is so here too."""
        found = ((name, self._modules.get(name) if stage is None else stage) for name, stage in self._others.items())
        return {name: cast("StageBase", stage) for name, stage in found if stage is not None}

    def build(self, spec: Spec, /) -> Spec:
        """Build the stages in order; see `StageBase.build`. Errors name the two stages that do not fit."""
        before: StageBase | None = None
        for number, stage in self._numbered():
            try:
                spec = stage.build(spec)
            except CompositionError as error:
                if before is None:
                    raise
                names = f"stage {number - 1} `{type(before).__name__}` and stage {number} `{type(stage).__name__}`"
                msg = f"between {names}: {error}"
                raise CompositionError(msg, **error.details) from error
            before = stage
        return spec

    def check(self) -> "Summary":
        """Check the whole chain without data; return the input, output, weights and work of each stage.

        Stages with weights run on torch's `meta` device, as copies with shapes and no values. Of other stages the
        annotations are compared. The chain is not changed. The first call in a process takes some seconds, because
        torch loads its support for shapes without values.

        Raises:
            CompositionError: if two stages do not fit each other, or a stage does not know its input size yet.
            ShapeError: if a stage rejects its input, as it would in a run.

        Example:
            >>> from pipeline import Classify, Pool
            >>> head = Pool("max") >> Classify(6, input_size=8)
            >>> head.check().parameters, str(head.check().entries[-1].output)
            (54, 'Scores batch x 6')
        """
        summary = self._summarize()
        if summary.problem is not None:
            raise summary.problem
        return summary

    def mermaid(self) -> str:
        """Return the chain as a flowchart in Mermaid's language."""
        return self._summarize().to_mermaid()

    def export(self, file: "str | PathLike[str]", **options: "Unpack[ExportOptions]") -> "Exported":
        """Export the model to a file that runs without this library: ONNX for `.onnx`, torch's program for `.pt2`.

        It takes plain tensors, padded, with any number of rows and steps, and their lengths; scores of steps are padded
        with zeros. It is compared with the model on random ragged batches, empty rows included, and left out
        if a result differs. Beside it are written a description, `<name>.json`, with class names; the tokenizers; and
        for ONNX a script, `<name>.py`, that predicts with onnxruntime, numpy and tokenizers only. A model that ends in
        a decoder becomes two graphs: that of a step of its search is in `<name>.step.onnx`, or `.pt2`.

        Args:
            file: the file. All files of an earlier export of this name are replaced.
            options: see `ExportOptions`.

        Raises:
            ExportError: if a part cannot be exported, or the exported model gives other results; or for a pipe for
                inference.
            MissingExtraError: for ONNX, if the extra `export` is not installed.
        """
        from pipeline.export.write import export_model  # noqa: PLC0415 - as in `_summarize`

        if self.prepared is not None:
            msg = "a pipe for inference cannot be exported, since its weights are packed; export the original pipe."
            raise ExportError(msg)
        return export_model(self.stages, file, options)

    @property
    def inference_report(self) -> InferenceReport | None:
        """The comparison of a pipe for inference with the original on examples; None without examples."""
        return None if self.prepared is None else self.prepared.report

    # The packed weights of a pipe for inference would not follow any of these changes.

    @override
    def train(self, mode: bool = True) -> Self:
        if mode:
            self.reject_if_prepared("train")
        return super().train(mode)

    @override
    def requires_grad_(self, requires_grad: bool = True) -> Self:
        if requires_grad:
            self.reject_if_prepared("requires_grad_")
        return super().requires_grad_(requires_grad)

    @override
    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        self.reject_if_prepared("load_state_dict")
        return super().load_state_dict(state_dict, strict, assign)

    @override
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self.reject_if_prepared("to, float, cpu, cuda or share_memory")
        apply: Callable[[Callable[[Tensor], Tensor], bool], Self] = getattr(super(), "_apply")  # noqa: B009 - untyped
        return apply(fn, recurse)

    def reject_if_prepared(self, method: str) -> None:
        """Reject a change of the weights of a pipe for inference.

        Raises:
            InferenceError: if `for_inference` made this pipe.
        """
        if self.prepared is not None:
            msg = (
                f"the weights of a pipe for inference are fixed, but {method} was called; call it on the original "
                "pipe, and make another with for_inference."
            )
            raise InferenceError(msg, method=method)

    def __repr__(self) -> str:
        names = " >> ".join(type(stage).__name__ for stage in self.stages.values())
        return names if self.prepared is None else f"{names} (for inference, {self.prepared.options.precision})"

    def __str__(self) -> str:
        """Return the table of `check`, and what is missing if the chain cannot run yet."""
        return str(self._summarize()) if self.prepared is None else f"{self._summarize()}\n{self.prepared}"

    def __rich__(self) -> "Summary":
        return self._summarize()

    def _repr_html_(self) -> str:
        return self._summarize().to_html()

    def _summarize(self) -> "Summary":
        # The summary is above the core and imported when it is needed: `check` is a method for convenience.
        from pipeline.summary.build import summarize  # noqa: PLC0415

        # Packed weights cannot run on shapes without values.
        original = self.prepared.original if self.prepared is not None else self
        return summarize(cast("ChainBase", original).stages)

    def _inspect(self, value: object) -> "Inspection":
        from pipeline.summary.inspection import inspect_stages  # noqa: PLC0415

        with temporary_mode(self, training=False), torch.no_grad():
            return inspect_stages(value, self.stages)

    def _numbered(self) -> Iterable[NumberedStage]:
        return enumerate(self.stages.values(), start=1)


@cache
def _get_reserved_names() -> frozenset[str]:
    """Return the attributes of all chains and of their instances, such as `double`, `predict`, `training`, `stages`."""
    chains = ChainBase.__subclasses__()
    return frozenset({"stages", *vars(nn.Module()), *(name for chain in chains for name in dir(chain))})
