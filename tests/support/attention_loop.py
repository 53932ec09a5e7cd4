"""Multi-head attention of one row, by a loop over its heads and queries."""

import math

import torch
from torch import Tensor

from pipeline_transformer.shapes import split_features
from pipeline_transformer.spec import AttentionForm


def attend_one(row: Tensor, form: AttentionForm, bias: Tensor | None) -> Tensor:
    """Return the contexts of one row, by a loop over its heads and queries."""
    query, key, values = split_features(
        row, [form.heads * form.size, form.kv_heads * form.size, form.kv_heads * form.size], 1
    )
    contexts: list[Tensor] = []
    for time in range(len(row)):
        heads: list[Tensor] = []
        for head in range(form.heads):
            own, shared = (slice(h * form.size, (h + 1) * form.size) for h in (head, head // form.sharing))
            keys = [
                other
                for other in range(len(row))
                if not (form.causal and other > time) and (form.window is None or abs(time - other) <= form.window)
            ]
            scores = torch.stack(
                [
                    query[time, own] @ key[other, shared] / math.sqrt(form.size)
                    + (0 if bias is None else bias[head, time, other])
                    for other in keys
                ]
            )
            heads.append(scores.softmax(0) @ values[keys, shared])
        contexts.append(torch.cat(heads))
    return torch.stack(contexts)
