"""Tests of copies of modules on the meta device."""

import torch
from torch import nn

from pipeline import Embed, Encode, Pool
from pipeline.summary.meta import copy_to_meta


def test_no_weight_is_copied() -> None:
    """An embedding of a petabyte, on the meta device, can be checked."""
    with torch.device("meta"):
        embed = Embed(10**11, 2_000)
    summary = (embed >> Encode("gru", hidden_size=2) >> Pool("max")).check()
    assert summary.entries[0].parameters == 2 * 10**14
    real = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    real.plain = torch.ones(3)
    copied = copy_to_meta(real, {})
    assert all(tensor.is_meta for tensor in (*copied.parameters(), *copied.buffers(), copied.plain))
    assert not any(tensor.is_meta for tensor in (*real.parameters(), *real.buffers()))
    assert [child.training for child in copied.modules()] == [False] * 3
