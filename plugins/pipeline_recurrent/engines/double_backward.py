"""Gradients that can be differentiated again, for engines with a backward pass of their own."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.extend import name_transform
from pipeline_recurrent.engines.engine import LayerInputs
from pipeline_recurrent.engines.torch_kernels import run_packed_layer
from pipeline_recurrent.engines.unrolled import unroll


def double_backward(inputs: LayerInputs, gradients: Sequence[Tensor], needed: Sequence[bool]) -> list[Tensor | None]:
    """Return the gradients of a layer, computed once more by torch's packed kernel, which has second derivatives.

    In a transform of torch, such as a backward pass for a batch of gradients, the layer is unrolled instead.

    Args:
        inputs: the layer.
        gradients: those of its output and of each final state.
        needed: for each of `inputs.tensors`, whether its gradient is needed.
    """
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        output, ended = unroll(inputs) if name_transform() else run_packed_layer(inputs)
    needed_tensors = [
        tensor for tensor, want in zip(inputs.tensors, needed, strict=True) if want and tensor is not None
    ]
    found = iter(
        torch.autograd.grad((output, *ended), needed_tensors, gradients, create_graph=create_graph, allow_unused=True)
    )
    return [next(found) if want else None for want in needed]
