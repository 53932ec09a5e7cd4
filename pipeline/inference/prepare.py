"""Make a pipe for inference: a copy whose weights are fixed, and packed for the kernels."""

import copy
from collections.abc import Iterable
from typing import Any, TypeVar, cast

import attrs
import torch
from torch import Tensor, nn
from typing_extensions import TypeIs

from pipeline.core.chain_base import ChainBase
from pipeline.core.inference import FusesForInference, InferenceOptions, Prepared, PreparesForInference
from pipeline.core.stage import StageBase
from pipeline.errors import CompositionError, OptionError
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
    for chain in [each for each in made.modules() if isinstance(each, ChainBase)]:
        _fuse(chain, options)
    for module in list(made.modules()):
        if isinstance(module, PreparesForInference):
            module.prepare_for_inference(options)
    made.prepared = Prepared(options, cast("StageBase", original))
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


def _fuse(chain: ChainBase, options: InferenceOptions) -> None:
    """Leave out the stages that do nothing in evaluation, and fuse those that offer it with the stage before."""
    found: dict[str, StageBase] = {}
    for name, each in chain.stages.items():
        if isinstance(each, Dropout):
            continue
        before = next(reversed(found), None)
        fused = each.fuse_for_inference(found[before], options) if before and _can_fuse(each) else None
        if before and fused is not None:
            del found[before]
        found[name] = each if fused is None else fused
    if found:
        chain.set_stages(found)


def _can_fuse(stage: object) -> TypeIs[FusesForInference]:
    return isinstance(stage, FusesForInference)
