"""Test that a plugin's part is tried when it is first created by name, and that nothing else notices."""

import os
import random
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline import Batch, Encode, Encoder, MaybeCausal, States, Vectors
from pipeline.errors import PluginError
from pipeline.registry import Catalogue, Offer, Plugin, PluginWarning, Registry, discover_plugins
from pipeline.registry import trial as trial_module
from pipeline.registry.sampling import make_sample
from pipeline.registry.trial import Outcome, reduce_sizes, try_part
from pipeline_recurrent import GRU, LSTM, bilstm
from support.fakes import Fakes

CORRECT_ENCODER = """
import torch
from torch import nn
from pipeline import Attention, Encoder, Pooling, States, Tokenizer
from pipeline.extend import Tokens, hookimpl, last_by_row, sum_by_row

class Base(Encoder):
    def __init__(self, input_size, hidden_size: int = 4):
        super().__init__()
        self.input_size, self.output_size, self.causal = input_size, hidden_size, True
        self.linear = nn.Linear(input_size, hidden_size)

    def forward(self, batch):
        packed = batch.packed()
        steps = packed.with_values(self.linear(packed.values).tanh())
        return States(steps, last_by_row(steps))
"""


# A plugin's source, the kind of part, and the law that it breaks.
WRONG_PARTS = {
    "size": (
        "class Part(Base):\n"
        "    def __init__(self, input_size):\n"
        "        super().__init__(input_size)\n"
        "        self.output_size = 5\n",
        "encoder",
        r"output_sizes_match_declared: with output_size=5, steps \(packed\) and final states must have shapes \[\(8, 5\), \(3, 5\)\]",
    ),
    "shape": (
        "class Part(Base):\n    def forward(self, batch):\n        return super().forward(batch).steps.values\n",
        "encoder",
        "output_sizes_match_declared: forward must return pipeline.States, got a Tensor",
    ),
    "causal": (
        "class Part(Base):\n"
        "    def forward(self, batch):\n"
        "        states = super().forward(batch)\n"
        "        rows = states.padded()\n"
        "        return states.with_values(rows.with_values(rows.values + rows.values.sum(1, keepdim=True)))\n",
        "encoder",
        "causal_steps_do_not_look_ahead: ",
    ),
    "bidirectional": (
        "class Part(Base):\n"
        "    bidirectional = True\n"
        "    def __init__(self, input_size):\n"
        "        super().__init__(input_size)\n"
        "        self.causal = False\n",
        "encoder",
        "bidirectional_reads_from_both_ends: ",
    ),
    "both": (
        "class Part(Base):\n    bidirectional = True\n",
        "encoder",
        "declared_attributes_are_valid: causal and bidirectional exclude each other",
    ),
    "empty": (
        "class Part(Base):\n"
        "    def forward(self, batch):\n"
        "        states = super().forward(batch)\n"
        "        return States(states.steps, states.final + 1)\n",
        "encoder",
        "empty_rows_return_initial_carry: among lengths",
    ),
    "stateful": (
        "class Part(Base):\n    stateful = True\n    empty_rows = False\n",
        "encoder",
        "carry_matches_declared: ",
    ),
    "metadata": (
        "class Part(Base):\n"
        "    def forward(self, batch):\n"
        "        states = super().forward(batch).packed()\n"
        "        bare = type(states)(states.kind, states.values, states.lengths)\n"
        "        return States(bare, last_by_row(bare))\n",
        "encoder",
        "metadata_is_passed_on: targets or the answer mask are missing",
    ),
    "attention": (
        "class Part(Attention):\n"
        "    def __init__(self, input_size):\n"
        "        super().__init__()\n"
        "        self.input_size = input_size\n"
        "    def score(self, query, key):\n"
        "        return (query @ key.mT)[:, 1:]\n",
        "attention",
        "attention_sizes_match_declared: ",
    ),
    "pool": (
        "class Part(Pooling):\n    def forward(self, states):\n        return sum_by_row(states.steps).repeat(1, 2)\n",
        "pool",
        "pooled_sizes_match_declared: ",
    ),
    "zeros": (
        "class Part(Pooling):\n    def forward(self, states):\n        return sum_by_row(states.steps) + 1\n",
        "pool",
        "empty_rows_give_zeros: ",
    ),
    "tokenizer": (
        "class Part(Tokenizer):\n"
        "    pad_token = unk_token = bos_token = eos_token = None\n"
        "    def __init__(self, texts):\n"
        "        self.vocabulary = {'a': 0}\n"
        "    def encode(self, texts, *, offsets=True):\n"
        "        return [Tokens([7]) for _ in texts]\n"
        "    def encode_words(self, rows, *, offsets=True):\n"
        "        return [Tokens([7]) for _ in rows]\n"
        "    def decode(self, ids):\n"
        "        return ''\n",
        "tokenizer",
        "ids_are_in_vocabulary: ",
    ),
}


OPTIONS: dict[str, dict[str, object]] = {
    "encoder": {"input_size": 3},
    "attention": {"input_size": 3},
    "pool": {},
    "tokenizer": {"texts": ["a"]},
}
"""Options that a user writes, or a stage fills in."""


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fakes:
    """A folder of installed distributions."""
    return Fakes(tmp_path / "site", monkeypatch)


def offering(kind: str, parts: str) -> str:
    """Return the source of a hook that offers parts defined above it."""
    return f"\n@hookimpl\ndef pipeline_{kind}s():\n    return {parts}\n"


def make(found: Registry, kind: str, name: str, **options: object) -> object:
    """Create a part of a kind, as its stage does."""
    (catalogue,) = (catalogue for catalogue in found.catalogues() if catalogue.kind == kind)
    return catalogue.make(name, **options)


@pytest.mark.parametrize("case", WRONG_PARTS)
def test_false_declaration_raises_when_the_part_is_created(fakes: Fakes, case: str) -> None:
    """The error names the distribution, the entry point, the hook, the part and the law; loading is not affected."""
    source, kind, reason = WRONG_PARTS[case]
    fakes.add("wrong", CORRECT_ENCODER + source + offering(kind, "{'mine': Part}"))
    found = fakes.registry()
    assert [name for catalogue in found.catalogues() for name in catalogue.names()] == ["mine"]
    message = (
        rf"^{kind} 'mine' of wrong 1\.0 \(entry point 'wrong'\), from hook pipeline_{kind}s, breaks a law: {reason}"
    )
    for _ in range(2):
        with pytest.raises(PluginError, match=message):
            make(found, kind, "mine", **OPTIONS[kind])


def test_correct_part_is_tried_once(fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second creation runs no laws."""
    fakes.add("right", CORRECT_ENCODER + offering("encoder", "{'mine': Base}"))
    found = fakes.registry().encoders
    assert not found.offer("mine").tried
    assert found.make("mine", input_size=3, hidden_size=5).output_size == 5
    assert found.offer("mine").tried

    def fail(*_: object) -> object:
        raise AssertionError

    monkeypatch.setattr(trial_module, "try_part", fail)
    assert found.make("mine", input_size=3, hidden_size=6).output_size == 6


def test_other_parts_of_a_plugin_are_not_tried(fakes: Fakes) -> None:
    """A wrong part does not affect the correct one beside it."""
    source, kind, _ = WRONG_PARTS["size"]
    fakes.add("half", CORRECT_ENCODER + source + offering(kind, "{'good': Base, 'bad': Part}"))
    found = fakes.registry().encoders
    assert found.make("good", input_size=3).output_size == 4
    with pytest.raises(PluginError, match="encoder 'bad'"):
        found.make("bad", input_size=3)


def test_own_parts_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """This library's parts are tested against all laws instead, and do not even import them."""
    ours = discover_plugins([distribution("ragged-pipeline")])
    assert all(offer.tried for _, offer in ours.parts())

    def fail(*_: object) -> object:
        raise AssertionError

    monkeypatch.setattr(trial_module, "try_part", fail)
    assert ours.encoders.make("lstm", input_size=3, hidden_size=4).output_size == 4
    program = (
        "import sys; from pipeline import Encode; Encode('gru', input_size=3, hidden_size=4); "
        "assert 'pipeline.laws.encoders' not in sys.modules"
    )
    subprocess.run(
        [sys.executable, "-P", "-c", program], check=True, env={**os.environ, "PIPELINE_PLUGINS": "ragged-pipeline"}
    )


def test_user_options_are_used(fakes: Fakes) -> None:
    """A part may be wrong for some options only, and may need options that have no obvious value."""
    source = (
        "class Part(Base):\n"
        "    def __init__(self, input_size, mode: str):\n"
        "        super().__init__(input_size)\n"
        "        self.output_size = 5 if mode == 'wrong' else 4\n"
        "class Heads(Base):\n"
        "    def __init__(self, input_size, heads: int):\n"
        "        super().__init__(input_size)\n"
        "        if input_size % heads:\n"
        "            raise ValueError('heads')\n"
    )
    fakes.add("mine", CORRECT_ENCODER + source + offering("encoder", "{'mine': Part, 'heads': Heads}"))
    found = fakes.registry().encoders
    with pytest.raises(PluginError, match=re.escape("breaks a law: output_sizes_match_declared")):
        found.make("mine", input_size=3, mode="wrong")
    assert not found.offer("mine").tried
    assert found.make("mine", input_size=3, mode="right").output_size == 4
    assert found.make("heads", input_size=120, heads=6).input_size == 120


@pytest.mark.parametrize(
    ("options", "reduced"),
    [
        ({"input_size": 300}, {"input_size": 8, "hidden_size": 8, "num_layers": 2}),
        ({"input_size": 300, "heads": 6}, {"input_size": 12, "heads": 6, "hidden_size": 12, "num_layers": 2}),
        ({"input_size": 3, "num_layers": 1}, {"input_size": 3, "hidden_size": 9, "num_layers": 1}),
        ({"input_size": 2, "bias": True}, {"input_size": 2, "hidden_size": 8, "num_layers": 2, "bias": True}),
    ],
)
def test_sizes_are_reduced(options: dict[str, object], reduced: dict[str, object]) -> None:
    """Large options and defaults become small, and stay divisible by the small ones."""

    def factory(
        input_size: int, heads: int = 1, hidden_size: int = 2_048, num_layers: int = 12, *, bias: bool = False
    ) -> None:
        """Take the options of a large encoder."""

    assert reduce_sizes(factory, options) == reduced


def test_large_part_is_tried_quickly(fakes: Fakes) -> None:
    """Twelve layers of 2,048 features are created once in full size, and tried in a small size."""
    source = (
        "SIZES = []\n"
        "class Part(Base):\n"
        "    def __init__(self, input_size, hidden_size: int = 2048, num_layers: int = 12):\n"
        "        SIZES.append((input_size, hidden_size, num_layers))\n"
        "        super().__init__(input_size, hidden_size)\n"
    )
    fakes.add("large", CORRECT_ENCODER + source + offering("encoder", "{'mine': Part}"))
    part = fakes.registry().encoders.make("mine", input_size=300)
    assert part.output_size == 2048
    sizes: list[tuple[int, int, int]] = vars(sys.modules["large"])["SIZES"]
    assert sizes[0] == (300, 2048, 12)
    assert set(sizes[1:]) == {(8, 8, 2)}


def test_reduced_size_is_never_the_reason_for_an_error(fakes: Fakes) -> None:
    """A law that is broken by a small part is run again with the user's own sizes."""
    source = (
        "class Part(Base):\n"
        "    def __init__(self, input_size):\n"
        "        super().__init__(input_size)\n"
        "        if input_size < 20:\n"
        "            self.output_size = 5\n"
    )
    fakes.add("mine", CORRECT_ENCODER + source + offering("encoder", "{'mine': Part}"))
    found = fakes.registry().encoders
    assert found.make("mine", input_size=20).output_size == 4
    with pytest.raises(PluginError, match="output_sizes_match_declared"):
        fakes.registry().encoders.make("mine", input_size=19)


def test_no_law_starts_after_the_time_limit(fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The laws that were not run are named in a warning, and the part is not tried again."""
    fakes.add("slow", CORRECT_ENCODER + offering("encoder", "{'mine': Base}"))
    clock = iter(range(0, 1_000, 1))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    found = fakes.registry().encoders
    message = (
        "encoder 'mine' of slow 1.0 (entry point 'slow') is slow to try; these laws were not run: metadata_is_passed_on, "
        "empty_rows_return_initial_carry, causal_steps_do_not_look_ahead, bidirectional_reads_from_both_ends, "
        "carry_matches_declared. Run them in the plugin's tests, with pipeline.testing."
    )
    with pytest.warns(PluginWarning, match=f"^{re.escape(message)}$"):
        assert found.make("mine", input_size=3).output_size == 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert found.make("mine", input_size=3).output_size == 4


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("encoder", "PART = Base(3)\ndef make(input_size):\n    return PART\n"),
        (
            "encoder",
            "import functools\n@functools.lru_cache\ndef make(input_size, hidden_size: int = 4):\n"
            "    return Base(input_size, hidden_size)\n",
        ),
        (
            "pool",
            "class Part(Pooling):\n    def forward(self, states):\n        return sum_by_row(states.steps)\n"
            "PART = Part()\ndef make():\n    return PART\n",
        ),
    ],
)
def test_factory_that_returns_one_object_twice_raises(fakes: Fakes, kind: str, source: str) -> None:
    """Two stages would otherwise share their weights."""
    fakes.add("shared", CORRECT_ENCODER + source + offering(kind, "{'mine': make}"))
    message = (
        f"{kind} 'mine' of shared 1.0 (entry point 'shared'), from hook pipeline_{kind}s, returned the same object "
        "twice; create a new part at every call."
    )
    with pytest.raises(PluginError, match=f"^{re.escape(message)}$"):
        make(fakes.registry(), kind, "mine", **OPTIONS[kind])


def test_modules_among_the_options_are_not_changed() -> None:
    """The trial converts parts to float64, but works on copies of the options."""

    class Wrapper(Encoder[MaybeCausal]):
        def __init__(self, input_size: int, encoder: Encoder[MaybeCausal]) -> None:
            super().__init__()
            self.input_size, self.output_size, self.causal, self.stateful = input_size, 4, True, True
            self.encoder = encoder

        def forward(self, batch: Batch[Vectors]) -> States[MaybeCausal]:
            return self.encoder(batch)

    given = LSTM(3, 4)
    assert try_part("pipeline_encoders", Wrapper, {"input_size": 3, "encoder": given}) == Outcome()
    assert all(weight.dtype is torch.float32 for weight in given.parameters())
    assert given.training


def test_tensors_among_the_options_are_not_copied() -> None:
    """Pretrained weights may be large, and keep their values."""
    weights, addresses = torch.ones(4, 3), list[int]()

    def factory(input_size: int, weights: Tensor) -> Encoder[MaybeCausal]:
        addresses.append(weights.data_ptr())
        encoder = LSTM(input_size, 4)
        encoder.register_parameter("pretrained", nn.Parameter(weights))
        return encoder

    assert try_part("pipeline_encoders", factory, {"input_size": 3, "weights": weights}) == Outcome()
    assert set(addresses) == {weights.data_ptr()}
    assert torch.equal(weights, torch.ones(4, 3))


def test_options_that_cannot_be_copied_skip_the_trial(tmp_path: Path) -> None:
    """An open file allows no second part, so nothing can be said about the factory."""

    def factory(input_size: int, file: object) -> Encoder[MaybeCausal]:
        assert file
        return LSTM(input_size, 4)

    with (tmp_path / "file").open("w", encoding="utf-8") as file:
        outcome = try_part("pipeline_encoders", factory, {"input_size": 3, "file": file})
    assert outcome == Outcome()


CHANGES: dict[str, Callable[[], object]] = {
    "default dtype": lambda: torch.set_default_dtype(torch.float64),
    "grad mode": lambda: torch.set_grad_enabled(False),
    "threads": lambda: torch.set_num_threads(3),
    "torch's generator": lambda: torch.rand(3),
    "torch's seed": lambda: getattr(torch, "manual_seed")(3),  # noqa: B009
    "Python's generator": random.random,
    "numpy's generator": lambda: np.random.rand(3),  # noqa: NPY002
}


def read_global_state() -> tuple[object, ...]:
    """Return everything that a trial must restore."""
    return (
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.get_num_threads(),
        torch.get_rng_state().numpy().tobytes(),
        random.getstate(),
        repr(np.random.get_state()),  # noqa: NPY002
    )


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("fails", [False, True])
def test_global_state_is_restored(change: str, *, fails: bool) -> None:
    """A factory may change it, and may fail after that."""

    def factory(input_size: int) -> Encoder[MaybeCausal]:
        CHANGES[change]()
        if fails:
            raise ValueError
        return LSTM(input_size, 4)

    before = read_global_state()
    try_part("pipeline_encoders", factory, {"input_size": 3})
    assert read_global_state() == before
    make_sample(factory, {"input_size": 3})
    assert read_global_state() == before


def test_caller_modes_do_not_matter() -> None:
    """The trial runs on the CPU with gradients, so it finds mistakes there, and the caller's modes stay."""

    def declare_wrongly(input_size: int) -> Encoder[MaybeCausal]:
        encoder = LSTM(input_size, 4)
        encoder.output_size = 5
        return encoder

    before = torch.get_rng_state()
    with torch.inference_mode(), torch.device("meta"):
        for factory in (LSTM, GRU, bilstm):
            assert try_part("pipeline_encoders", factory, {"input_size": 3, "hidden_size": 4}) == Outcome()
        problem = try_part("pipeline_encoders", declare_wrongly, {"input_size": 3}).problem
        assert problem is not None
        assert "output_sizes_match_declared" in problem
        assert torch.is_inference_mode_enabled()
        assert torch.empty(1).is_meta
    assert torch.equal(torch.get_rng_state(), before)


def test_causal_promise_of_a_plugin_is_checked_on_meta(fakes: Fakes) -> None:
    """`Encode(..., causal=True)` creates the part on `meta`, and the trial takes place on the CPU."""
    fakes.add("mine", CORRECT_ENCODER + offering("encoder", "{'mine': Base}"))
    assert Encode("mine", causal=True, hidden_size=4).is_lazy


def test_catalogue_tries_parts_without_a_registry() -> None:
    """An offer that is added by hand is tried too."""
    catalogue: Catalogue[Encoder[MaybeCausal]] = Catalogue("encoder", "pipeline_encoders", Encoder)
    catalogue.offers.append(Offer("lstm", Plugin("mine", "1.0", "mine"), LSTM, tried=False))
    assert catalogue.make("lstm", input_size=3, hidden_size=2).output_size == 2
    assert catalogue.offer("lstm").tried


OTHER_KINDS = """
import attrs
import torch
from torch import nn
from pipeline import ModuleStage, Pooled, Scores
from pipeline.extend import Engine, Metric, Policy, defer, hookimpl

class Drops(ModuleStage[Pooled, Pooled]):
    def forward(self, value: Pooled) -> Pooled:
        return Pooled(value.values)

class Doubled(ModuleStage[Pooled, Scores]):
    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, value: Pooled) -> Scores:
        scores = value.values.sum(1, keepdim=True).expand(-1, self.classes)
        return Scores(scores.flip(0), range(self.classes))

@attrs.frozen
class Growing(Policy):
    def max_rows(self, longest):
        return longest

class Last(Metric):
    size = 0
    def update(self, predictions):
        self.size += len(list(predictions.rows()))
    def compute(self):
        return float(self.size)
    def merge(self, other):
        pass

class Fast(Engine):
    name = "fast"
    computes = "elsewhere"

@hookimpl
def pipeline_stages():
    return {"drops": Drops, "late": defer("others:Drops"), "gone": defer("others:Gone")}

@hookimpl
def pipeline_heads():
    return {"doubled": Doubled, "policy": Growing}

@hookimpl
def pipeline_policies():
    return {"growing": Growing}

@hookimpl
def pipeline_metrics():
    return {"last": Last}

@hookimpl
def pipeline_engines():
    return {"fast": Fast}
"""


def test_parts_of_other_kinds_are_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages, heads, policies and metrics are tried; the error has the plugin, the hook, the part and the law."""
    fakes = Fakes(tmp_path / "site", monkeypatch)
    fakes.add("others", OTHER_KINDS)
    found = fakes.registry()
    offered = "of others 1.0 (entry point 'others'), from hook pipeline_"
    wanted: dict[Callable[[], object], str] = {
        partial(found.stages.make, "drops"): f"stage 'drops' {offered}stages, breaks a law: stages_pass_metadata_on: ",
        partial(found.stages.make, "late"): f"stage 'late' {offered}stages, breaks a law: stages_pass_metadata_on: ",
        partial(found.stages.make, "gone"): f"stage 'gone' {offered}stages, names 'others:Gone', which cannot be",
        partial(found.heads.make, "doubled"): f"head 'doubled' {offered}heads, breaks a law: stages_pass_metadata_on: ",
        partial(found.heads.make, "policy"): f"head 'policy' {offered}heads, created a Growing instead of an object ",
        partial(found.policies.make, "growing"): f"policy 'growing' {offered}policies, breaks a law: room_does_not_",
        partial(found.metrics.make, "last"): f"metric 'last' {offered}metrics, breaks a law: merged_metrics_equal_",
    }
    for make, start in wanted.items():
        with pytest.raises(PluginError, match=f"^{re.escape(start)}"):
            make()
    assert found.engines.make("fast").computes == "elsewhere"
