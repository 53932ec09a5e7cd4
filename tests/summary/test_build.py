"""What is known of a pipe before any data: shapes, weights, work, misfits; as text, HTML and a flowchart."""

import random
import threading
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from operator import methodcaller
from typing import TypeVar, cast

import pytest
import torch
from jaxtyping import Float
from rich.console import Console
from rich.text import Text
from torch import Tensor, nn
from torch.utils.flop_counter import flop_registry
from typing_extensions import override

from pipeline import (
    Attend,
    AttendEarlier,
    Batch,
    Bucket,
    Causal,
    Chain,
    Classify,
    Dropout,
    Embed,
    Encode,
    Encoder,
    FromFeatures,
    FromIds,
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
    StreamChain,
    Tag,
    Tokenize,
    TypePreserving,
    Unpack,
    Vectors,
    classifier,
    language_model,
    set_checks,
    set_padding_check,
)
from pipeline.data.rows import Row
from pipeline.errors import CompositionError, PipelineError, ShapeError
from pipeline.summary.shapes import twin
from pipeline.summary.summary import Summary
from pipeline.summary.types import Flowing, fits
from pipeline.summary.work import Work, counting, multiply_adds
from pipeline_recurrent import GRU, LSTM
from support.untyped import loosely

A = TypeVar("A")

HOSTILE = 'end"]; #quot; `x` <script>alert("x")</script> [red]r[/red] \x1b[31m\n| & %%'


html: Callable[[object], str] = methodcaller("_repr_html_")
"""What a notebook shows."""


class Widened(ModuleStage[States[MaybeCausal], States[MaybeCausal]]):
    """States with features added, by a stage that does not say so: it has no `fit`."""

    def __init__(self, size: int, more: int) -> None:
        super().__init__()
        self.linear = nn.Linear(size, size + more)

    @override
    def forward(self, value: States[MaybeCausal]) -> States[MaybeCausal]:
        """The states, wider."""
        return States(value.packed().with_values(self.linear(value.packed().values)), self.linear(value.final))


class Reading(ModuleStage[States[MaybeCausal], States[MaybeCausal]]):
    """A stage that looks at the numbers that come in."""

    @override
    def forward(self, value: States[MaybeCausal]) -> States[MaybeCausal]:
        """The states, if there is anything in them."""
        assert bool(value.final.isfinite().all())
        return value


class Noisy(ModuleStage[States[MaybeCausal], States[MaybeCausal]]):
    """A stage that draws numbers, from torch's generator and from Python's."""

    @override
    def forward(self, value: States[MaybeCausal]) -> States[MaybeCausal]:
        """The states as they came."""
        _ = torch.randn(3), random.random()
        return value


class Halved(ModuleStage[States[MaybeCausal], States[MaybeCausal]]):
    """States with half of their features, by a stage that says nothing about sizes."""

    @override
    def forward(self, value: States[MaybeCausal]) -> States[MaybeCausal]:
        """The first half of each vector."""
        steps, half = value.packed(), value.final.shape[1] // 2
        return States(steps.with_values(steps.values[:, :half]), value.final[:, :half])


class Best(Stage[Scores, list[int]]):
    """A plain stage behind a model."""

    @override
    def __call__(self, value: Scores, /) -> list[int]:
        """Never called without data."""
        raise NotImplementedError


class Rectangular(Encoder[Causal]):
    """An encoder that wants a rectangle."""

    causal = True
    layouts = ("padded",)
    exportable = True

    def __init__(self, input_size: int, output_size: int) -> None:
        super().__init__()
        self.input_size = input_size
        self.output_size = output_size
        self.linear = nn.Linear(input_size, output_size)

    @override
    def forward(self, batch: Batch[Hidden]) -> States[Causal]:
        rows = batch.padded()
        values: Tensor = self.linear(rows.values)
        return States(rows.with_values(values), values[:, 0])


def small(encode: Encode | None = None) -> Chain[Batch[Ids], States]:
    """The begin of a model: ids to states of 6."""
    return Embed(9, 4) >> (Encode(LSTM(4, 6)) if encode is None else encode)


def gives(overview: Summary) -> list[str]:
    """What goes out of each stage."""
    return [str(entry.gives) for entry in overview.entries]


def notes(overview: Summary) -> dict[str, str]:
    """The notes of the stages that have some."""
    return {entry.stage: ", ".join(entry.notes) for entry in overview.entries if entry.notes}


def test_a_whole_pipe_as_text() -> None:
    """From text to scores: what flows, by name where the batch decides and by number where the model does."""
    tokenize = Tokenize.train(["a fine film", "a dull film"])
    data = tokenize >> Bucket(rows=8) >> Pad()
    pipe = data >> Pack() >> Embed(8, 100) >> Encode(LSTM(100, 128, bidirectional=True)) >> Pool("max") >> Classify(6)
    expected = """\
   stage          gives            shape          parameters  multiply-adds
   input          str
1  tokenize       Row[Ids]         time
2  bucket         list[Row[Ids]]   batch of time
3  pad            Padded[Ids]      batch x time
4  pack           Packed[Ids]      steps
5  embed          Packed[Vectors]  steps x 100           800  0
6  encode (LSTM)  States           steps x 256       235,520  233,472 a step
7  pool (max)     Pooled           batch x 256
8  classify       Scores           batch x 6           1,542  1,536 a row
   total                                             237,862  233,472 a step
                                                              + 1,536 a row
6 encode: both ways, not exportable"""
    assert str(pipe) == str(pipe.check()) == repr(pipe.check()) == expected
    assert repr(pipe) == "Tokenize >> Bucket >> Pad >> Pack >> Embed >> Encode >> Pool >> Classify"
    entries = pipe.check().entries
    assert [entry.place for entry in entries] == list(range(1, 9))
    assert [entry.takes for entry in entries[1:]] == [entry.gives for entry in entries[:-1]]
    assert entries[0].takes == pipe.check().takes == Flowing("str")


def test_what_flows_in_a_language_model() -> None:
    """Causal states are said to be; a tied weight is counted once, and said to be tied."""
    overview = language_model(9, embedding_dim=4, hidden_size=4, tied=True).check()
    assert gives(overview) == [
        "Packed[Ids] steps",
        "Packed[Vectors] steps x 4",
        "Packed[Vectors] steps x 4",
        "States[Causal] steps x 4",
        "States[Causal] steps x 4",
        "States[Causal] steps x 4",
        "StepScores steps x 9",
    ]
    assert [entry.parameters for entry in overview.entries] == [0, 36, 0, 4 * 4 * (4 + 4 + 2), 20, 0, 9]
    assert notes(overview) == {
        "encode": "causal, not exportable",
        "attend_earlier": "unpacks what comes in",
        "next_token": "linear.weight is tied to embed.weight, and counted there",
    }


def test_frozen_weights_are_told_apart() -> None:
    """In their stage, and in the total."""
    model = Embed.from_vectors(torch.ones(9, 4)) >> Encode(LSTM(4, 6)) >> Pool("max") >> Classify(2)
    for weight in cast("nn.Linear", model.get_submodule("classify.linear")).parameters():
        weight.requires_grad_(weight.ndim == 2)
    overview = model.check()
    assert [(entry.parameters, entry.frozen) for entry in overview.entries] == [(36, 36), (288, 0), (0, 0), (14, 2)]
    assert (overview.parameters, overview.frozen) == (338, 38)
    shown = [row[4] for row in [*overview.stages(), *overview.totals()]]
    assert shown == ["", "36 frozen", "288", "", "14 (2 frozen)", "338 (38 frozen)", ""]


def test_layouts_are_told() -> None:
    """Whatever is packed or unpacked on the way, by those who say which layout they read."""
    rectangular = Encode(Rectangular(4, 6))
    padded = (Embed(9, 4) >> rectangular >> Attend() >> Tag(2)).check()
    assert gives(padded)[:3] == [
        "Padded[Vectors] batch x time x 4",
        "States[Causal] batch x time x 6",
        "States batch x time x 6",
    ]
    assert notes(padded) == {"encode": "causal", "tag": "packs what comes in"}
    packed = (Pack() >> Embed(9, 4) >> Encode(LSTM(4, 6)) >> AttendEarlier() >> NextToken(2)).check()
    assert notes(packed) == {"encode": "causal, not exportable", "attend_earlier": "unpacks what comes in"}
    assert notes((Pack() >> Embed(9, 4) >> rectangular).check()) == {"encode": "unpacks what comes in, causal"}
    assert notes(small().check()) == {"encode": "packs what comes in, causal, not exportable"}
    assert gives((small() >> Unpack()).check())[-1] == "Padded[Hidden] batch x time x 6"


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize(("encoder", "gates"), [(LSTM, 4), (GRU, 3)])
def test_a_recurrent_encoder_costs_its_gates(
    encoder: Callable[..., Encoder], gates: int, layers: int, *, both: bool
) -> None:
    """A product with what comes in and one with the state, for each gate, direction and layer."""
    overview = (Pack() >> Embed(9, 5) >> Encode(encoder(5, 7, num_layers=layers, bidirectional=both))).check()
    directions = 2 if both else 1
    inputs = [5, *[7 * directions] * (layers - 1)]
    expected = sum(directions * gates * 7 * (size + 7) for size in inputs)
    assert [entry.work for entry in overview.entries] == [Work(), Work(), Work(step=expected)]


@pytest.mark.parametrize(
    ("stage", "step", "pair"),
    [
        (Attend("dot"), 0, 2 * 6),
        (Attend("general"), 6 * 6, 2 * 6),
        (Attend("additive", hidden_size=5), 2 * 6 * 5, 5 + 6),
        (Pool("attention"), 6 * 6 + 6, 0),
        (Tag(3), 6 * 3, 0),
    ],
)
def test_attention_costs_more_the_longer_the_row(stage: Stage[States, object], step: int, pair: int) -> None:
    """Scores and contexts are products of each step with each step of its row."""
    (*_, entry) = (small() >> stage).check().entries
    assert entry.work == Work(step=step, pair=pair)


def test_the_first_step_of_a_row_looks_back_at_nothing() -> None:
    """So that of T steps, T - 1 are held against T - 1."""
    (*_, entry) = (small() >> AttendEarlier("scaled_dot")).check().entries
    assert entry.work == Work(row=2 * 6, step=-2 * 2 * 6, pair=2 * 6)
    assert str(entry.work) == "12·time - 24 a step + 12 a row"


def test_work_is_what_a_run_does() -> None:
    """The multiply-adds of a row of a length that was not tried are those counted on real numbers."""
    # Not a recurrent one: on a CPU, torch runs those in one piece, which no counter looks into.
    model = small(Encode(Rectangular(4, 6))) >> Attend("additive") >> Pool("attention") >> Classify(5)
    work = model.check().work
    assert work is not None
    for time in (5, 11):
        batch = Padded(Ids, torch.ones(3, time, dtype=torch.int64), torch.full((3,), time))
        with torch.no_grad(), counting() as counter:
            model(batch)
        assert 3 * work.of(time) == multiply_adds(counter)


def test_work_reads_well() -> None:
    """A step's and a row's apart, and what grows with the row."""
    assert str(Work()) == "0"
    assert str(Work(step=40_000)) == "40,000 a step"
    assert str(Work(row=7, step=5_120, pair=256)) == "5,120 + 256·time a step + 7 a row"
    assert str(Work(pair=0.5)) == "0.5·time a step"


class Squared(ModuleStage[States[MaybeCausal], States[MaybeCausal]]):
    """A stage whose work grows with the cube of a row's length."""

    @override
    def forward(self, value: States[MaybeCausal]) -> States[MaybeCausal]:
        """The states as they came."""
        square = torch.zeros(value.width, value.width, device=value.final.device)
        _ = square @ square
        return value


def test_work_that_follows_no_simple_rule_is_not_known() -> None:
    """Rather than a wrong number."""
    overview = (small() >> Squared()).check()
    assert overview.entries[-1].work is None
    assert overview.work is None
    assert str(overview).splitlines()[-2].split() == ["total", "324", "?"]


def test_a_check_changes_nothing() -> None:
    """No number drawn, no mode or gradient or weight touched, no hook called, no epoch counted, no switch left."""
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


def test_no_weight_is_copied() -> None:
    """A table of a petabyte is checked in no time: there is none, and the check makes none."""
    with torch.device("meta"):
        embed = Embed(10**11, 2_000)
    overview = (embed >> Encode("gru", hidden_size=2) >> Pool("max")).check()
    assert overview.entries[0].parameters == 2 * 10**14
    real = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    real.plain = torch.ones(3)
    copied = twin(real, {})
    assert all(tensor.is_meta for tensor in (*copied.parameters(), *copied.buffers(), copied.plain))
    assert not any(tensor.is_meta for tensor in (*real.parameters(), *real.buffers()))
    assert [child.training for child in copied.modules()] == [False] * 3


def test_dtypes_and_devices_do_not_matter() -> None:
    """A model in half or double precision, or on a device without numbers, is checked as it is."""
    for change in ({"dtype": torch.float64}, {"dtype": torch.float16}, {"device": "meta"}):
        pipe = (
            FromFeatures()
            >> Bucket(Vectors, rows=2)
            >> Pad(Vectors)
            >> Encode(LSTM(3, 5))
            >> Pool("mean")
            >> Classify(2)
        )
        loosely(pipe.to)(**change)
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
def test_a_chain_may_begin_in_the_middle(chain: Callable[[], Chain[object, object]], takes: str, last: str) -> None:
    """With what its first stages take, of the size that the first part with one reads."""
    overview = chain().check()
    assert str(overview.takes) == takes
    assert gives(overview)[-1] == last


def test_a_size_is_not_guessed_through_a_silent_stage() -> None:
    """It may change the size: those behind it are checked, but nothing is said of what comes in."""
    overview = (Halved() >> Pool("max") >> Classify(2, input_size=4)).check()
    assert str(overview.takes) == "States steps x hidden"
    assert gives(overview) == ["States steps x 4", "Pooled batch x 4", "Scores batch x 2"]
    assert notes(overview) == {"halved": "not known without data: nothing says what comes in"}


def test_a_misfit_behind_a_silent_stage_is_found() -> None:
    """As a run would find it, with both stages and their places, but without data."""
    pipe = small() >> Widened(6, 1) >> Pool("max") >> Classify(2, input_size=5)
    with pytest.raises(
        ShapeError, match="between stage 4 `Pool` and stage 5 `Classify`: Classify reads vectors of 5, but 7 arr"
    ):
        pipe.check()
    with pytest.raises(ShapeError, match="Classify reads vectors of 5, but 7 arrived"):
        pipe(Padded(Ids, torch.ones(1, 2, dtype=torch.int64), torch.tensor([2])))
    with pytest.raises(
        CompositionError, match=r"between stage 2 `Encode` and stage 3 `Widened`: .*RuntimeError: .* 6\] X \[5, 6"
    ) as error:
        (small() >> Widened(5, 1)).check()
    assert error.value.details["stage_number"] == 3


def test_a_part_that_gives_what_it_does_not_declare_is_found() -> None:
    """By the checks at the borders, though they are switched off elsewhere."""
    boastful = Rectangular(4, 6)
    boastful.output_size = 7
    pipe = Embed(9, 4) >> Encode(boastful)
    with set_checks(False), pytest.raises(ShapeError) as error:
        pipe.check()
    assert str(error.value) == (
        "between stage 1 `Embed` and stage 2 `Encode`: encoder 'Rectangular' declares output_size=7, but gave float32 of "
        "shape (2, 16, 6); declare what it gives."
    )


def test_a_misfit_of_stages_that_do_not_run_is_found_by_their_types() -> None:
    """The half that makes batches is asked what it takes and gives."""
    with pytest.raises(
        ShapeError, match=r"stage 1 `FromIds` and stage 2 `Pad`: Pad takes list\[Row\[Ids\]\], but Row\[Ids\] comes"
    ):
        (FromIds() >> cast("Stage[Row[Ids], Padded[Ids]]", Pad())).check()
    frames = cast("StreamChain[Tensor, object]", loosely(FromFeatures().__rshift__)(Bucket(rows=2)))
    with pytest.raises(
        ShapeError, match=r"`FromFeatures` and stage 2 `Bucket`: Bucket takes Row\[Ids\], but Row\[Vectors\] comes in"
    ):
        frames.check()
    behind = cast("Stage[States, object]", Best())
    with pytest.raises(ShapeError, match="`Encode` and stage 3 `Best`: Best takes Scores, but States comes in"):
        (small() >> behind).check()
    assert fits(list[Row[Vectors]], list[Row[Hidden]])
    assert fits(bool | int, float)
    assert not fits(States[MaybeCausal], Pooled)


def test_a_part_that_waits_is_an_error_and_a_note() -> None:
    """`check` raises what a run would; printing says it, and does not raise."""
    tail = Pool("attention") >> Classify(3)
    with pytest.raises(CompositionError, match="stage 1 `Pool`: Pool does not know its input size yet; join it behind"):
        tail.check()
    shown = str(tail)
    assert "1 pool: waits for its input size" in shown
    assert "does not run: stage 1 `Pool`: Pool does not know" in shown
    assert shown.splitlines()[3].split() == ["2", "classify", "Scores", "batch", "x", "3", "?"]
    for text in (tail.mermaid(), html(tail)):
        assert "classify" in text
    silent = small() >> Widened(6, 1) >> Pool("max") >> Classify(2)
    with pytest.raises(
        CompositionError, match=r"input_size=7\). Widened leaves open what size it gives: override its `build`"
    ):
        silent.check()
    door = FromFeatures() >> Bucket(Vectors, rows=2) >> Pad(Vectors) >> Encode("lstm", hidden_size=5) >> Pool("max")
    with pytest.raises(
        CompositionError, match="between stage 3 `Pad` and stage 4 `Encode`: Encode does not know its inp"
    ):
        door.check()


def test_a_stage_that_reads_numbers_is_passed_by() -> None:
    """It is said, and those behind it are checked from what its type says."""
    overview = (small() >> Reading() >> Pool("max") >> Classify(2, input_size=6) >> Best()).check()
    assert notes(overview)["reading"].startswith("not known without data: RuntimeError: Tensor.item() cannot be called")
    assert gives(overview)[2:] == ["States steps x 6", "Pooled batch x 6", "Scores batch x 2", "list[int]"]
    assert overview.work is None


class Stuck(nn.Module, TypePreserving[States[MaybeCausal] | Pooled]):
    """A stage that keeps the type of what comes in, and cannot be run without data."""

    def forward(self, value: A) -> A:
        """Never."""
        raise NotImplementedError


def test_what_keeps_its_type_keeps_it_unrun() -> None:
    """What came in is what goes out."""
    overview = (small() >> Pool("max") >> Stuck() >> Classify(2, input_size=6)).check()
    assert gives(overview)[2:] == ["Pooled batch x 6", "Pooled batch x 6", "Scores batch x 2"]


class Losing(ModuleStage[Scores, Float[Tensor, ""]]):
    """A loss as a stage: it needs targets."""

    @override
    def forward(self, value: Scores) -> Float[Tensor, ""]:
        """The loss."""
        return value.loss()


class Vector(ModuleStage[Pooled, Float[Tensor, "rows 2"]]):
    """A bare tensor, whose annotation names its axes."""

    @override
    def forward(self, value: Pooled) -> Float[Tensor, "rows 2"]:
        """The first two features."""
        return value.values[:, :2]


class Bare(ModuleStage[Pooled, Tensor]):
    """A bare tensor."""

    @override
    def forward(self, value: Pooled) -> Tensor:
        """The features."""
        return value.values


class Lazy(ModuleStage[Pooled, Pooled]):
    """A stage of torch's lazy modules, and what cannot be copied."""

    def __init__(self, held: object = None) -> None:
        super().__init__()
        self.linear = nn.LazyLinear(3)
        self.held = held

    @override
    def forward(self, value: Pooled) -> Pooled:
        """Three features."""
        return Pooled(self.linear(value.values), metadata=value.metadata)


def test_stages_of_all_sorts() -> None:
    """Those that need targets, give bare tensors, are lazy, or cannot be copied."""
    scored = (small() >> Pool("max") >> Classify(2) >> Losing()).check()
    assert notes(scored)["losing"].startswith("not known without data: TargetError: the loss needs targets")
    assert gives((small() >> Pool("max") >> Vector()).check())[-1] == "Tensor rows x 2"
    assert gives((small() >> Pool("max") >> Bare()).check())[-1] == "Tensor batch x 6"
    lazy = (small() >> Pool("max") >> Lazy()).check()
    assert gives(lazy)[-1] == "Pooled batch x 3"
    assert notes(lazy)["lazy"] == "linear.weight waits for its size, linear.bias waits for its size"
    stuck = (small() >> Pool("max") >> Lazy(threading.Lock()) >> Classify(2, input_size=3)).check()
    assert "not known without data: cannot be copied: TypeError: cannot pickle" in notes(stuck)["lazy"]
    assert gives(stuck)[-1] == "Scores batch x 2"


@torch.library.custom_op("test_overview::doubled", mutates_args=())
def doubled(values: Tensor) -> Tensor:
    """A kernel of one's own, as far as torch sees."""
    return values * 2


methodcaller("register_fake", torch.empty_like)(doubled)


class Doubling(ModuleStage[Pooled, Pooled]):
    """A stage with such a kernel."""

    @override
    def forward(self, value: Pooled) -> Pooled:
        """Twice the vectors."""
        return Pooled(doubled(value.values), metadata=value.metadata)


def test_a_kernel_of_ones_own_may_say_what_it_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """In torch's own way: no counter could know."""
    pipe = small() >> Pool("max") >> Doubling()
    assert pipe.check().entries[-1].work == Work()

    def formula(values: Tensor, **_: object) -> int:
        return 2 * 5 * len(values)

    monkeypatch.setitem(flop_registry, torch.ops.test_overview.doubled, formula)
    assert pipe.check().entries[-1].work == Work(row=5)


def test_the_default_device_does_not_matter() -> None:
    """What a stage makes without naming a device comes to stand on the CPU, as in a run."""
    pipe = Pack() >> small() >> Pool("attention")
    shown = str(pipe)
    with torch.device("meta"):
        assert str(pipe) == shown


def hostile(cls: type, **attributes: object) -> Callable[..., object]:
    """A class with a name that means something to a terminal, to rich, to HTML and to Mermaid."""
    return type(HOSTILE, (cls,), {"__module__": __name__, **attributes})


def hostile_pipe() -> Chain[Batch[Ids], Scores]:
    """A pipe with such names for a plain stage, a value and a part."""
    scores = cast("Stage[Scores, Scores]", hostile(Best)())
    encoder = cast("Encoder[Causal]", hostile(Rectangular)(4, 6))
    return Embed(9, 4) >> Encode(encoder) >> Pool("max") >> Classify(2) >> scores


def test_hostile_names_on_a_terminal() -> None:
    """No control character gets through, and no markup is followed."""
    lines: list[str] = []
    for width in (80, 120, 300):
        console = Console(width=width, force_terminal=True, color_system="truecolor")
        with console.capture() as capture:
            console.print(hostile_pipe())
        text = capture.get()
        assert "\x1b[31m" not in text
        lines = list(unstyled(text))
        assert all(len(line) <= width for line in lines)
    spelt = HOSTILE.replace("\x1b", r"\x1b").replace("\n", r"\n")
    shown = str(hostile_pipe())
    assert [line.rstrip() for line in lines if line] == shown.splitlines()
    assert shown.splitlines()[6].startswith(f"5  {spelt}  ")
    assert all(line.isprintable() for line in shown.splitlines())


class Failing(ModuleStage[Pooled, Pooled]):
    """A stage that cannot be run without data, and says so in its own words."""

    @override
    def forward(self, value: Pooled) -> Pooled:
        """Never."""
        raise NotImplementedError(HOSTILE)


def test_hostile_words_of_an_error() -> None:
    """A note is text too, and one line."""
    pipe = small() >> Pool("max") >> Failing() >> Classify(2, input_size=6)
    spelt = " ".join(HOSTILE.replace("\x1b", r"\x1b").split())
    note = f"not known without data: NotImplementedError: {spelt}"
    assert str(pipe).splitlines()[-1] == f"4 failing: {note}"
    assert note in Cells(html(pipe)).cells


def unstyled(text: str) -> Iterator[str]:
    """Lines as they are seen, without rich's styles."""
    return (line.plain for line in Text.from_ansi(text).split("\n"))


class Cells(HTMLParser):
    """The cells of a table of HTML; every tag that was opened, and whether each was closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.tags: set[str] = set()
        self.open: list[str] = []
        self.feed(page)
        self.close()

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag; styles alone may stand in it."""
        assert {name for name, _ in attrs} <= {"style"}
        self.tags.add(tag)
        self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    @override
    def handle_endtag(self, tag: str) -> None:
        """Tags close in order."""
        assert self.open.pop() == tag

    @override
    def handle_data(self, data: str) -> None:
        """Text stands in a cell, or below the table."""
        if self.open[-1] in ("td", "th"):
            self.cells[-1] += data


def test_the_page_of_a_notebook() -> None:
    """The same table in HTML: nothing but a table and text, whatever the names are; nothing is fetched."""
    page = html(hostile_pipe())
    found = Cells(page)
    assert not found.open
    assert found.tags == {"table", "thead", "tbody", "tr", "th", "td"}
    overview = hostile_pipe().check()
    rows = [
        [*row, note]
        for row, note in zip(overview.stages(), ["", *(", ".join(e.notes) for e in overview.entries)], strict=True)
    ]
    flat = ["", "stage", "gives", "shape", "parameters", "multiply-adds", "notes"]
    flat += [cell for row in [*rows, *([*row, ""] for row in overview.totals())] for cell in row]
    assert found.cells == flat
    assert "http" not in page
    assert "#" not in page.replace("#quot;", ""), "colours are the page's own"
    waiting = html(Pool("attention") >> Classify(2))
    assert Cells(waiting).tags >= {"p", "strong"}
    assert "does not run: stage 1 `Pool`" in waiting


def test_a_flowchart() -> None:
    """Nodes are numbered stages, and arrows say what goes along them; a name is nothing but a name."""
    assert hostile_pipe().mermaid() == (
        "flowchart TD\n"
        '    start(["input"])\n'
        '    stage1["1 embed<br/>36 parameters"]\n'
        f'    stage2["2 encode #40;{ESCAPED}#41;<br/>30 parameters"]\n'
        '    stage3["3 pool #40;max#41;"]\n'
        '    stage4["4 classify<br/>14 parameters"]\n'
        f'    stage5["5 {ESCAPED}"]\n'
        '    stop(["output"])\n'
        '    start -->|"Padded#91;Ids#93; batch x time"| stage1\n'
        '    stage1 -->|"Padded#91;Vectors#93; batch x time x 4"| stage2\n'
        '    stage2 -->|"States#91;Causal#93; batch x time x 6"| stage3\n'
        '    stage3 -->|"Pooled batch x 6"| stage4\n'
        '    stage4 -->|"Scores batch x 2"| stage5\n'
        '    stage5 -->|"list#91;int#93;"| stop'
    )


ESCAPED = (
    "end#34;#93;#59; #35;quot#59; #96;x#96; #60;script#62;alert#40;#34;x#34;#41;#60;#47;script#62; "
    "#91;red#93;r#91;#47;red#93; #92;x1b#91;31m#92;n#124; #38; #37;#37;"
)


def test_chains_of_every_kind_are_shown() -> None:
    """A chain, one over a stream, and one of stages that keep their type."""
    model = classifier(9, 2, embedding_dim=3, hidden_size=4)
    for chain in (
        model,
        FromIds() >> Bucket(rows=2) >> Pad() >> model,
        Dropout() >> AttendEarlier("dot", input_size=3),
    ):
        console = Console(width=200)
        with console.capture() as capture:
            console.print(chain)
        assert [line.split() for line in capture.get().splitlines()] == [
            line.split() for line in str(chain).splitlines()
        ]


@pytest.mark.parametrize("name", ["check", "mermaid", "predict", "name", "forward", "parts"])
def test_a_stage_is_not_called_as_a_chain_is_used(name: str) -> None:
    """What a chain can do keeps its name."""
    with pytest.raises(CompositionError, match=f"stage 1 is named '{name}', which a chain cannot call it"):
        _ = Embed(9, 4, name=name) >> Dropout()


def test_errors_are_those_of_the_library() -> None:
    """A problem is told, and every later print tells it again."""
    pipe = small() >> Widened(5, 1)
    for _ in range(2):
        with pytest.raises(PipelineError, match="stage 2 `Encode` and stage 3 `Widened`: it cannot take"):
            pipe.check()
        assert str(pipe).count("between stage") == 1
