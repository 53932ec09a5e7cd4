"""Tests of the summary of a pipe: types, shapes, weights, notes and misfits."""

import random
import threading
from collections.abc import Callable
from operator import methodcaller
from typing import TypeVar, cast

import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from pipeline import (
    Attend,
    AttendEarlier,
    Bucket,
    Chain,
    Classify,
    Dropout,
    Embed,
    Encode,
    FromFeatures,
    FromIds,
    FromNested,
    Hidden,
    Ids,
    MaybeCausal,
    ModuleStage,
    NextToken,
    Pack,
    Pad,
    Padded,
    Pool,
    Pooled,
    Scores,
    Stage,
    States,
    Tag,
    TypePreserving,
    Unpack,
    Vectors,
    language_model,
    set_checks,
    set_padding_check,
)
from pipeline.data.rows import Row
from pipeline.errors import CompositionError, PipelineError, ShapeError
from pipeline.summary.types import may_fit
from pipeline_recurrent import GRU, LSTM
from support.summaries import Best, Rectangular, Widened, gives, notes, small
from support.untyped import untyped

html: Callable[[object], str] = methodcaller("_repr_html_")
"""The HTML that a notebook shows."""


A = TypeVar("A")


class Reading(ModuleStage[States[MaybeCausal], States[MaybeCausal]]):
    """A stage that reads the values of its input."""

    @override
    def forward(self, value: States[MaybeCausal]) -> States[MaybeCausal]:
        """Return the states, if they are finite."""
        assert bool(value.final.isfinite().all())
        return value


class Noisy(ModuleStage[States[MaybeCausal], States[MaybeCausal]]):
    """A stage that draws random numbers from torch's generator and from Python's."""

    @override
    def forward(self, value: States[MaybeCausal]) -> States[MaybeCausal]:
        """Return the states."""
        _ = torch.randn(3), random.random()
        return value


class Halved(ModuleStage[States[MaybeCausal], States[MaybeCausal]]):
    """A stage that halves the features, and does not state its sizes."""

    @override
    def forward(self, value: States[MaybeCausal]) -> States[MaybeCausal]:
        """Return the first half of each vector."""
        steps, half = value.packed(), value.final.shape[1] // 2
        return States(steps.with_values(steps.values[:, :half]), value.final[:, :half])


def test_types_and_weights_of_a_language_model() -> None:
    """Causal states are marked; a tied weight is counted once, and noted."""
    summary = language_model(9, embedding_dim=4, hidden_size=4, tied=True).check()
    assert gives(summary) == [
        "Packed[Ids] steps",
        "Packed[Vectors] steps x 4",
        "Packed[Vectors] steps x 4",
        "States[Causal] steps x 4",
        "States[Causal] steps x 4",
        "States[Causal] steps x 4",
        "StepScores steps x 9",
    ]
    assert [entry.parameters for entry in summary.entries] == [0, 36, 0, 4 * 4 * (4 + 4 + 2), 20 + 8 * 4, 0, 9]
    assert notes(summary) == {
        "encode": "causal",
        "attend_earlier": "unpacks its input",
        "next_token": "linear.weight is tied to embed.weight, and counted there",
    }


def test_changes_of_layout_are_noted() -> None:
    """A stage or part has a note if it has to pack or unpack its input."""
    rectangular = Encode(Rectangular(4, 6))
    padded = (Embed(9, 4) >> rectangular >> Attend() >> Tag(2)).check()
    assert gives(padded)[:3] == [
        "Padded[Vectors] batch x time x 4",
        "States[Causal] batch x time x 6",
        "States batch x time x 6",
    ]
    assert notes(padded) == {"encode": "causal", "tag": "packs its input"}
    packed = (Pack() >> Embed(9, 4) >> Encode(LSTM(4, 6)) >> AttendEarlier() >> NextToken(2)).check()
    assert notes(packed) == {"encode": "causal", "attend_earlier": "unpacks its input"}
    assert notes((Pack() >> Embed(9, 4) >> rectangular).check()) == {"encode": "unpacks its input, causal"}
    assert notes(small().check()) == {"encode": "packs its input, causal"}
    assert gives((small() >> Unpack()).check())[-1] == "Padded[Hidden] batch x time x 6"


def test_a_check_changes_nothing() -> None:
    """No random number, mode, gradient, weight, hook, epoch or switch is affected."""
    bucket = Bucket(rows=2)
    states = Embed(9, 4) >> Dropout(0.5) >> Encode("bilstm", hidden_size=3) >> Noisy()
    model = states >> Pool("attention", input_size=6) >> Classify(2)
    pipe = FromIds() >> bucket >> Pad() >> model
    pipe.get_submodule("encode").eval()
    called: list[object] = []

    def note(module: nn.Module, *_: object) -> None:
        called.append(module)

    for module in pipe.modules():
        module.register_forward_hook(note)
        module.register_forward_pre_hook(note)
    weights = {name: (weight, id(weight), weight.clone(), weight._version) for name, weight in pipe.named_parameters()}
    modes = [module.training for module in pipe.modules()]
    drawn, state = torch.get_rng_state(), random.getstate()
    with set_padding_check(True), set_checks(False):
        for _ in (pipe.check(), str(pipe), pipe.mermaid()):
            pass
        with pytest.raises(CompositionError):
            (Pool("attention") >> Classify(2)).check()
    assert torch.equal(torch.get_rng_state(), drawn)
    assert random.getstate() == state
    assert [module.training for module in pipe.modules()] == modes
    assert not called
    assert bucket.epoch == 0
    assert torch.is_grad_enabled()
    for name, weight in pipe.named_parameters():
        before, identity, values, version = weights[name]
        assert weight is before
        assert id(weight) == identity
        assert torch.equal(weight, values)
        assert weight._version == version
        assert weight.grad is None


def test_dtypes_and_devices_do_not_matter() -> None:
    """A model may be in half or double precision, or on the meta device."""
    for change in ({"dtype": torch.float64}, {"dtype": torch.float16}, {"device": "meta"}):
        pipe = (
            FromFeatures()
            >> Bucket(Vectors, rows=2)
            >> Pad(Vectors)
            >> Encode(LSTM(3, 5))
            >> Pool("mean")
            >> Classify(2)
        )
        untyped(pipe.to)(**change)
        assert gives(pipe.check()) == [
            "Row[Vectors] time x 3",
            "list[Row[Vectors]] batch of time x 3",
            "Padded[Vectors] batch x time x 3",
            "States[Causal] steps x 5",
            "Pooled batch x 5",
            "Scores batch x 2",
        ]


@pytest.mark.parametrize(
    ("chain", "takes", "last"),
    [
        (lambda: Pool("max") >> Classify(3, input_size=8), "States steps x 8", "Scores batch x 3"),
        (lambda: Dropout() >> AttendEarlier("general", input_size=8), "States steps x 8", "States steps x 8"),
        (lambda: Dropout() >> Classify(3, input_size=8), "Pooled batch x 8", "Scores batch x 3"),
        (lambda: Dropout() >> Encode(GRU(8, 2)), "Padded[Vectors] batch x time x 8", "States[Causal] steps x 2"),
        (lambda: Embed(9, 4) >> Dropout(), "Padded[Ids] batch x time", "Padded[Vectors] batch x time x 4"),
        (lambda: Pack(Vectors) >> Encode(GRU(8, 2)), "Padded[Vectors] batch x time x 8", "States[Causal] steps x 2"),
        (lambda: Widened(8, 1) >> Pool("max"), "States steps x 8", "Pooled batch x 9"),
    ],
)
def test_a_chain_may_begin_with_any_stage(chain: Callable[[], Chain[object, object]], takes: str, last: str) -> None:
    """Its input type is that of its first stages, and its size that of the first part that declares one."""
    summary = chain().check()
    assert str(summary.input) == takes
    assert gives(summary)[-1] == last


def test_a_size_is_not_guessed_before_a_stage_without_build() -> None:
    """It may change the size, so the size of its input stays open. The stages after it are checked."""
    summary = (Halved() >> Pool("max") >> Classify(2, input_size=4)).check()
    assert str(summary.input) == "States steps x hidden"
    assert gives(summary) == ["States steps x 4", "Pooled batch x 4", "Scores batch x 2"]
    assert notes(summary) == {"halved": "not known without data: the type or size of its input is not known"}


def test_a_misfit_after_a_stage_without_build_is_found() -> None:
    """`check` raises the error of a run, with both stages and their positions."""
    pipe = small() >> Widened(6, 1) >> Pool("max") >> Classify(2, input_size=5)
    with pytest.raises(
        ShapeError, match="between stage 4 `Pool` and stage 5 `Classify`: Classify has input_size=5, got vectors of 7 f"
    ):
        pipe.check()
    with pytest.raises(ShapeError, match="Classify has input_size=5, got vectors of 7 features"):
        pipe(Padded(Ids, torch.ones(1, 2, dtype=torch.int64), torch.tensor([2])))
    with pytest.raises(
        CompositionError, match=r"between stage 2 `Encode` and stage 3 `Widened`: .*RuntimeError: .* 6\] X \[5, 6"
    ) as error:
        (small() >> Widened(5, 1)).check()
    assert error.value.details["stage_number"] == 3


def test_a_wrong_declaration_is_found() -> None:
    """`check` finds an encoder that returns another size than it declares, even if checks are switched off."""
    wrong = Rectangular(4, 6)
    wrong.output_size = 7
    pipe = Embed(9, 4) >> Encode(wrong)
    with set_checks(False), pytest.raises(ShapeError) as error:
        pipe.check()
    assert str(error.value) == (
        "between stage 1 `Embed` and stage 2 `Encode`: encoder 'Rectangular' declares output_size=7, but returned float32 "
        "of shape (2, 16, 6); declare the size that it returns."
    )


def test_misfits_of_data_stages_are_found_by_their_types() -> None:
    """`>>` compares their input and output types, before they are run."""
    with pytest.raises(
        CompositionError,
        match=r"stage 1 `FromIds` and stage 2 `Pad`: FromIds returns Row\[Ids\], but Pad takes list\[Row\[Ids\]\]; join B",
    ):
        _ = FromIds() >> cast("Stage[Row[Ids], Padded[Ids]]", Pad())
    with pytest.raises(
        CompositionError,
        match=r"FromFeatures returns Row\[Vectors\], but Bucket takes Row\[Ids\]; make it Bucket\(Vectors, \.\.\.\)",
    ):
        untyped(FromFeatures().__rshift__)(Bucket(rows=2))
    with pytest.raises(CompositionError, match=r"make it Bucket\(Nested\[Ids\], \.\.\.\)"):
        untyped(FromNested(FromIds()).__rshift__)(Bucket(rows=2))
    best = cast("Stage[States, object]", Best())
    with pytest.raises(CompositionError, match="`Encode` and stage 3 `Best`: Encode returns States, but Best takes Sc"):
        _ = small() >> best
    assert may_fit(list[Row[Vectors]], list[Row[Hidden]])
    assert may_fit(bool | int, float)
    assert not may_fit(States[MaybeCausal], Pooled)


def test_a_missing_input_size_is_an_error_and_a_note() -> None:
    """`check` raises the error of a run; printing shows it."""
    tail = Pool("attention") >> Classify(3)
    with pytest.raises(CompositionError, match="stage 1 `Pool`: Pool does not know its input size yet; join it after"):
        tail.check()
    shown = str(tail)
    assert "1 pool: waits for its input size" in shown
    assert "does not run: stage 1 `Pool`: Pool does not know" in shown
    assert shown.splitlines()[3].split() == ["2", "classify", "Scores", "batch", "x", "3", "?"]
    for text in (tail.mermaid(), html(tail)):
        assert "classify" in text
    hiding = small() >> Widened(6, 1) >> Pool("max") >> Classify(2)
    with pytest.raises(
        CompositionError, match=r"input_size=7\). Widened does not state its output size: override its `build`"
    ):
        hiding.check()
    pipe = FromFeatures() >> Bucket(Vectors, rows=2) >> Pad(Vectors) >> Encode("lstm", hidden_size=5) >> Pool("max")
    with pytest.raises(
        CompositionError, match="between stage 3 `Pad` and stage 4 `Encode`: Encode does not know its inp"
    ):
        pipe.check()


def test_a_stage_that_reads_values_is_skipped() -> None:
    """It has a note, and the stages after it are checked from its output type."""
    summary = (small() >> Reading() >> Pool("max") >> Classify(2, input_size=6) >> Best()).check()
    assert notes(summary)["reading"].startswith("not known without data: RuntimeError: Tensor.item() cannot be called")
    assert gives(summary)[2:] == ["States steps x 6", "Pooled batch x 6", "Scores batch x 2", "list[int]"]
    assert summary.work is None


class Stuck(nn.Module, TypePreserving[States[MaybeCausal] | Pooled]):
    """A type-preserving stage that cannot be run without data."""

    def forward(self, value: A) -> A:
        """Fail."""
        raise NotImplementedError


def test_a_type_preserving_stage_that_is_not_run_preserves_the_type() -> None:
    """Its output type is its input type."""
    summary = (small() >> Pool("max") >> Stuck() >> Classify(2, input_size=6)).check()
    assert gives(summary)[2:] == ["Pooled batch x 6", "Pooled batch x 6", "Scores batch x 2"]


class Losing(ModuleStage[Scores, Float[Tensor, ""]]):
    """A loss as a stage, which needs targets."""

    @override
    def forward(self, value: Scores) -> Float[Tensor, ""]:
        """Return the loss."""
        return value.loss()


class Vector(ModuleStage[Pooled, Float[Tensor, "rows 2"]]):
    """A stage that returns a tensor whose annotation names its axes."""

    @override
    def forward(self, value: Pooled) -> Float[Tensor, "rows 2"]:
        """Return the first two features."""
        return value.values[:, :2]


class Bare(ModuleStage[Pooled, Tensor]):
    """A stage that returns a tensor without named axes."""

    @override
    def forward(self, value: Pooled) -> Tensor:
        """Return the features."""
        return value.values


class Lazy(ModuleStage[Pooled, Pooled]):
    """A stage with one of torch's lazy modules, and optionally an object that cannot be copied."""

    def __init__(self, held: object = None) -> None:
        super().__init__()
        self.linear = nn.LazyLinear(3)
        self.held = held

    @override
    def forward(self, value: Pooled) -> Pooled:
        """Return three features."""
        return Pooled(self.linear(value.values), metadata=value.metadata)


def test_unusual_stages() -> None:
    """They need targets, return bare tensors, are lazy, or cannot be copied."""
    scored = (small() >> Pool("max") >> Classify(2) >> Losing()).check()
    assert notes(scored)["losing"].startswith("not known without data: TargetError: the loss needs")
    assert gives((small() >> Pool("max") >> Vector()).check())[-1] == "Tensor rows x 2"
    assert gives((small() >> Pool("max") >> Bare()).check())[-1] == "Tensor batch x 6"
    lazy = (small() >> Pool("max") >> Lazy()).check()
    assert gives(lazy)[-1] == "Pooled batch x 3"
    assert notes(lazy)["lazy"] == "linear.weight waits for its size, linear.bias waits for its size"
    stuck = (small() >> Pool("max") >> Lazy(threading.Lock()) >> Classify(2, input_size=3)).check()
    assert "not known without data: cannot be copied: TypeError: cannot pickle" in notes(stuck)["lazy"]
    assert gives(stuck)[-1] == "Scores batch x 2"


def test_the_default_device_does_not_matter() -> None:
    """Tensors that a stage makes without a device are on the CPU, as in a run."""
    pipe = Pack() >> small() >> Pool("attention")
    shown = str(pipe)
    with torch.device("meta"):
        assert str(pipe) == shown


@pytest.mark.parametrize("name", ["check", "mermaid", "predict", "name", "forward", "stages"])
def test_a_stage_may_not_have_the_name_of_a_method(name: str) -> None:
    """It would hide the chain's own method."""
    with pytest.raises(CompositionError, match=f"the name of stage 1 must be .* got '{name}'"):
        _ = Embed(9, 4, name=name) >> Dropout()


def test_a_problem_is_reported_each_time() -> None:
    """The message has one pair of positions, however often the chain is checked and printed."""
    pipe = small() >> Widened(5, 1)
    for _ in range(2):
        with pytest.raises(PipelineError, match="stage 2 `Encode` and stage 3 `Widened`: it cannot take"):
            pipe.check()
        assert str(pipe).count("between stage") == 1
