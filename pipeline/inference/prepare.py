"""Make a pipe for inference: a copy whose weights are fixed, and packed for the kernels."""

import copy
from collections.abc import Iterable
from typing import Any, Final, TypeVar, cast, final

import attrs
import torch
from torch import Tensor, nn

from pipeline.checks.module_hooks import has_hooks
from pipeline.core.chain_base import ChainBase
from pipeline.core.inference import FusesForInference, InferenceOptions, Prepared, PreparesForInference
from pipeline.core.stage import StageBase
from pipeline.errors import CompositionError, OptionError
from pipeline.functional.products import replace_linear
from pipeline.inference.compare import Score, compare
from pipeline.stages.dropout import Dropout

C = TypeVar("C", bound=ChainBase)


def prepare(pipe: C, options: InferenceOptions, examples: Iterable[Any] | None, score: Score) -> C:
    """Return a copy of a pipe for inference; see `StreamChain.for_inference`.

    Args:
        pipe: the pipe. Of one that is for inference already, the original is prepared again.
        options: how to compute.
        examples: inputs on which to compare the two.
        score: runs a pipe over the examples, and yields the predictions of each row with their scores.

    Raises:
        CompositionError: if a stage waits for its input size.
        OptionError: if the precision or `deterministic` does not suit the weights, or there are no examples.
    """
    source = pipe if pipe.prepared is None else cast("C", pipe.prepared.original)
    _check(source, options)
    original = copy.deepcopy(source)
    made = _copy_with_weights(original)
    fuse = _Fuse(options)
    for chain in [each for each in made.modules() if isinstance(each, ChainBase)]:
        fuse.change(chain)
    # Fused stages are new.
    made.eval().requires_grad_(requires_grad=False)
    if options.deterministic:
        replace_linear(made)
    for module in list(made.modules()):
        if isinstance(module, PreparesForInference):
            module.prepare_for_inference(options)
    device = next((each.device for each in original.parameters()), None)
    made.prepared = Prepared(options, cast("StageBase", original), device)
    if examples is not None:
        made.prepared = attrs.evolve(made.prepared, report=compare(original, made, examples, score))
    return made


def _check(pipe: ChainBase, options: InferenceOptions) -> None:
    for name, stage in pipe.stages.items():
        if getattr(stage, "is_lazy", False) is True:
            msg = f"stage {name!r} does not know its input size yet; join it after the stage that feeds it."
            raise CompositionError(msg, stage=name)
    wide = next((name for name, each in pipe.named_parameters() if each.dtype is torch.float64), None)
    if wide is not None and (options.precision != "float32" or options.deterministic):
        msg = (
            f"precision={options.precision!r}, deterministic={options.deterministic} needs weights of float32 or less, "
            f"but {wide!r} is float64; convert the pipe first: pipe.float()."
        )
        raise OptionError(msg, parameter=wide)


def _copy_with_weights(original: C) -> C:
    """Return a copy in evaluation mode that shares the weights with the original, and needs no gradients for them."""
    tensors: list[Tensor] = [*original.parameters(), *original.buffers()]
    shared: dict[int, object] = {
        id(each): nn.Parameter(each.detach(), requires_grad=False) if isinstance(each, nn.Parameter) else each
        for each in tensors
    }
    made = copy.deepcopy(original, shared)
    return made.eval()


@final
class _Fuse:
    """Fuses stages of several chains. Two stages that are neighbors in two chains become one stage for both."""

    def __init__(self, options: InferenceOptions) -> None:
        self._options: Final = options
        self._fused: Final[dict[tuple[StageBase, StageBase], StageBase | None]] = {}

    def change(self, chain: ChainBase) -> None:
        """Leave out the stages that do nothing in evaluation, and fuse those that offer it with the stage before."""
        found: dict[str, StageBase] = {}
        for name, stage in chain.stages.items():
            if isinstance(stage, Dropout) and not has_hooks(stage):
                continue
            before = next(reversed(found), None)
            fused = None if before is None else self._fuse(found[before], stage)
            if before is not None and fused is not None:
                del found[before]
            found[name] = stage if fused is None else fused
        if found:
            chain.set_stages(found)

    def _fuse(self, before: StageBase, stage: StageBase) -> StageBase | None:
        offer: object = stage
        # A hook on a stage that is replaced would not run.
        if any(isinstance(each, nn.Module) and has_hooks(each) for each in (before, stage)):
            return None
        if (before, stage) not in self._fused and isinstance(offer, FusesForInference):
            self._fused[before, stage] = offer.fuse_for_inference(before, self._options)
        return self._fused.get((before, stage))
