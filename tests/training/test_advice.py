"""Advice about the machine."""

import os

import pytest
import torch

from pipeline.training import advice
from pipeline.training.advice import advise_precision, advise_threads


@pytest.mark.parametrize(("load", "threads", "is_advised"), [(9.0, 2, True), (1.0, 2, False), (9.0, 1, False)])
def test_one_thread_is_advised_on_a_busy_machine(
    monkeypatch: pytest.MonkeyPatch, load: float, threads: int, is_advised: bool
) -> None:
    """If the load average exceeds the cores, and there is more than one thread."""
    monkeypatch.setattr(os, "getloadavg", lambda: (load, load, load))
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(advice, "count_cores", lambda: 2)
    found = advise_threads()
    assert (found is not None) == is_advised
    if found is not None:
        assert "load average of 9.0 exceeds the 2 cores" in found
        assert "OMP_NUM_THREADS=1" in found


def test_bfloat16_without_instructions_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU only, and not in float32."""
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False, raising=False)
    cpu = torch.device("cpu")
    assert "no instructions for bfloat16" in (advise_precision(cpu, "bfloat16") or "")
    assert advise_precision(cpu, "float32") is None
    assert advise_precision(torch.device("cuda"), "bfloat16") is None
