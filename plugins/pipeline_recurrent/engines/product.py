"""The input product of a layer, which is made of all steps at once."""

import torch
from torch import Tensor

from pipeline_recurrent.engines.run import Steps


def fill(gates: Tensor, steps: Steps, weight: Tensor, bias: Tensor | None) -> None:
    """Fill gates with what the input makes of them, in place.

    Args:
        gates: steps x (gates x hidden).
        steps: vectors, or ids.
        weight: (gates x hidden) x feature; or x id, with the biases in it, and then each id's column lies in one piece.
        bias: added to products of vectors.
    """
    if not steps.is_floating_point():
        torch.index_select(weight.t(), 0, steps, out=gates)
    elif bias is None:
        torch.mm(steps, weight.t(), out=gates)
    else:
        torch.addmm(bias, steps, weight.t(), out=gates)
