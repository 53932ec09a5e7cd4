"""Every border bites: what goes into a stage, a batch or a part, and what comes out, is of the annotated shape."""

import inspect
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import attrs
import pytest
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from typing_extensions import override

import pipeline
from pipeline import (
    Attend,
    AttendEarlier,
    Attention,
    Batch,
    BPTTWindows,
    Bucket,
    Causal,
    Classify,
    Dropout,
    Embed,
    Encode,
    Encoder,
    FromFeatures,
    FromIds,
    Hidden,
    Ids,
    Labels,
    MaybeCausal,
    ModuleStage,
    NextToken,
    Pack,
    Packed,
    Pad,
    Padded,
    Pool,
    Pooled,
    Pooling,
    Row,
    Scores,
    Shift,
    Stage,
    States,
    StepScores,
    Stream,
    Tag,
    Tokenize,
    Tokenizer,
    TokenizeWords,
    Unpack,
    Vectors,
    set_checks,
)
from pipeline.core.stage import StageBase
from pipeline.data.metadata import BatchMetadata
from pipeline.data.order import Order
from pipeline.errors import CompositionError, LabelError, LengthError, OptionError, PipelineError, ShapeError, TextError
from pipeline.parts.attention import masked_softmax
from pipeline.parts.tokenizer import Tokens
from pipeline_attention import Dot
from support.untyped import loosely

L = torch.tensor([2, 1])
FLAT, PLANE, CUBE = torch.zeros(2), torch.zeros(2, 3), torch.zeros(2, 2, 3)
ROWS = Padded(Vectors, CUBE, L)
STEPS = ROWS.packed()
STATES = States.from_padded(CUBE, L)
THREE = BatchMetadata(torch.arange(3))

# A way to make each class of what flows, right in all but one field, and what is said of that field.
FIELDS: Mapping[tuple[type, str], tuple[Callable[[], object], str]] = {
    (Padded, "kind"): (lambda: loosely(Padded)("Ids", CUBE, L), "Padded: kind must be type"),
    (Padded, "values"): (lambda: Padded(Vectors, FLAT, L), r"Padded: values must be Shaped\[Tensor, 'batch time \*"),
    (Padded, "lengths"): (lambda: Padded(Vectors, CUBE, L.float()), "Padded: lengths must be Int64.*float32"),
    (Padded, "initial"): (
        lambda: Padded(Vectors, CUBE, L, initial_carry=(CUBE[:, :1],)),
        r"initial\[0\] must be layers x",
    ),
    (Padded, "metadata"): (lambda: Padded(Vectors, CUBE, L, metadata=THREE), "metadata has places of 3 rows, .* has 2"),
    (Padded, "order"): (lambda: Padded(Vectors, CUBE, L, order=Order(L + 1)), "order was made of other lengths"),
    (Packed, "kind"): (lambda: loosely(Packed)(3, PLANE, L), "Packed: kind must be type"),
    (Packed, "values"): (lambda: Packed(Ids, torch.tensor(1), L), r"Packed: values must be Shaped\[Tensor, 'steps"),
    (Packed, "lengths"): (lambda: Packed(Vectors, CUBE, L.int()), "Packed: lengths must be Int64.*int32"),
    (Packed, "width"): (lambda: Packed(Vectors, torch.zeros(3, 1), L, width=1), r"lengths\[0\] is 2, but .* 1 steps"),
    (Packed, "initial"): (
        lambda: loosely(Packed)(Vectors, torch.zeros(3, 1), L, initial=[CUBE]),
        "initial must be tup",
    ),
    (Packed, "metadata"): (
        lambda: Packed(Vectors, torch.zeros(3, 1), L, metadata=THREE),
        "metadata has places of 3 rows",
    ),
    (Packed, "order"): (lambda: Packed(Vectors, torch.zeros(3, 1), L, order=Order(L.flip(0))), "order was made of oth"),
    (States, "steps"): (lambda: loosely(States)(CUBE, PLANE), "States: steps must be .*but float32 of shape"),
    (States, "final"): (lambda: States(ROWS, PLANE[:, :2]), r"States: final must be batch x hidden, \(2, 3\)"),
    (States, "carried"): (lambda: loosely(States)(ROWS, PLANE, carried=[PLANE]), "States: carried must be tuple"),
    (States, "engine"): (lambda: loosely(States)(ROWS, PLANE, engine=3), "States: engine must be str or None"),
    (Pooled, "values"): (lambda: Pooled(CUBE), r"Pooled: values must be Float\[Tensor, 'batch hidden'\]"),
    (Pooled, "metadata"): (lambda: Pooled(PLANE, metadata=THREE), "metadata has places of 3 rows, but the batch has 2"),
    (Scores, "values"): (lambda: Scores(PLANE.long(), range(3)), r"Scores: values must be Float.*but int64"),
    (Scores, "names"): (lambda: Scores(PLANE, range(2)), "names has 2 classes, but values scores 3"),
    (Scores, "metadata"): (lambda: Scores(PLANE, range(3), metadata=THREE), "metadata has places of 3 rows"),
    (StepScores, "values"): (lambda: StepScores(FLAT, L, range(2)), "StepScores: values must be Float"),
    (StepScores, "lengths"): (lambda: StepScores(PLANE, L.float(), range(3)), "StepScores: lengths must be Int64"),
    (StepScores, "names"): (lambda: StepScores(torch.zeros(3, 2), L, "abc"), "names has 3 classes, .* scores 2"),
    (StepScores, "metadata"): (lambda: StepScores(torch.zeros(3, 2), L, "ab", metadata=THREE), "places of 3 rows"),
    (StepScores, "order"): (lambda: StepScores(torch.zeros(3, 2), L, "ab", order=Order(L * 0)), "order was made of"),
    (BatchMetadata, "places"): (lambda: BatchMetadata(FLAT), "BatchMetadata: places must be Int64.*but float32"),
    (BatchMetadata, "targets"): (
        lambda: BatchMetadata(L, targets=torch.zeros(3).long()),
        "BatchMetadata: targets must be Int64.*'batch'",
    ),
    (BatchMetadata, "asked"): (
        lambda: BatchMetadata(L, answer_mask=torch.ones(3, 4).bool()),
        "BatchMetadata: asked must be Bool.*beside places",
    ),
    (BatchMetadata, "begins"): (
        lambda: BatchMetadata(L, start_steps=torch.zeros(3).long()),
        "BatchMetadata: begins must be Int64.*'batch'",
    ),
}

FLOWING: Sequence[type] = [Padded, Packed, States, Pooled, Scores, StepScores, BatchMetadata]


@pytest.mark.parametrize(("cls", "field"), FIELDS, ids=[f"{cls.__name__}-{field}" for cls, field in FIELDS])
def test_every_field_of_what_flows_bites(cls: type, field: str) -> None:
    """One wrong field is found, and named."""
    make, said = FIELDS[cls, field]
    with pytest.raises(PipelineError, match=said):
        make()


def test_no_field_is_left_out() -> None:
    """The table above has every field of every class of what flows."""
    flowing = [value for value in vars(pipeline).values() if attrs.has(value) and hasattr(value, "to")]
    assert {*flowing, BatchMetadata} == set(FLOWING)
    assert {(cls, field.name) for cls in FLOWING for field in attrs.fields(cls)} == set(FIELDS)


def test_axes_of_one_name_must_agree() -> None:
    """Across the fields of one class: targets and what is asked for have one time."""
    places = torch.arange(2)
    with pytest.raises(
        ShapeError, match=r"asked must be .*'batch time'.*but bool of shape \(2, 3\).*targets int64.*\(2, 4\)"
    ):
        BatchMetadata(places, torch.zeros(2, 4).long(), torch.ones(2, 3).bool())
    with pytest.raises(ShapeError, match="metadata.asked has 3 steps a row, but the batch is 2 steps wide"):
        Padded(Vectors, CUBE, L, metadata=BatchMetadata(places, answer_mask=torch.ones(2, 3).bool()))


def test_what_passed_once_is_still_refused_when_it_is_wrong() -> None:
    """Looks are remembered, not verdicts: other shapes, dtypes and types are looked at anew."""
    for _ in range(3):
        BatchMetadata(torch.arange(2), torch.zeros(2, 4).long())
        with pytest.raises(ShapeError, match="targets must be"):
            BatchMetadata(torch.arange(3), torch.zeros(2, 4).long())
        with pytest.raises(ShapeError, match="targets must be"):
            BatchMetadata(torch.arange(2), torch.zeros(2, 4))


def bucketed(rows: Iterable[Row[Ids]]) -> list[list[Row[Ids]]]:
    """All that a bucket makes of rows."""
    return list(Bucket(rows=1)(rows))


def laned(rows: Iterable[Row[Ids]]) -> list[list[Row[Ids]]]:
    """All that lanes make of rows."""
    return list(BPTTWindows(rows=1, steps=1)(rows))


# Each stage, made; what it does not take; what it says of that.
STAGES: Mapping[type[StageBase], tuple[Callable[[], Any], object, str]] = {
    Tokenize: (lambda: Tokenize.train(["a"]), 3, "row 0 must be text, but an int arrived"),
    TokenizeWords: (lambda: TokenizeWords.train([["a"]]), "a b", "row 0 must be a list of words"),
    FromIds: (FromIds, FLAT, "row 0 must be whole numbers, one a step, but float32"),
    FromFeatures: (
        FromFeatures,
        FLAT,
        r"row 0 must be a floating-point tensor of time x feature, but float32 of shape \(2,\)",
    ),
    Shift: (Shift, Row(Vectors(PLANE), row_id=7), "row 7 holds Vectors, but Shift takes Ids"),
    Bucket: (lambda: bucketed, [Row(Ids(L)), "row"], "item 1 must be a Row of Ids"),
    BPTTWindows: (lambda: laned, [Row(Ids(L)), "row"], "item 1 must be a Row of Ids"),
    Pad: (Pad, [Row(Ids(L)), Row(Ids(FLAT), row_id=5)], "row 5 is float32 .*, but every row must be int64 ids of time"),
    Pack: (Pack, STEPS, r"Pack takes Padded\[Kind\], but a Packed arrived"),
    Unpack: (Unpack, ROWS, "Unpack takes Packed or States, but a Padded arrived"),
    Embed: (lambda: Embed(3, 3), STATES, r"Embed takes Padded\[Ids\] or Packed\[Ids\], but a States arrived"),
    Dropout: (Dropout, Padded(Ids, L.unsqueeze(1), L * 0), "Dropout takes vectors, but a Padded of none arrived"),
    Encode: (
        lambda: Encode("gru", input_size=3, hidden_size=2),
        CUBE,
        r"Encode takes Padded\[Hidden\] or Packed\[Hidden\]",
    ),
    Attend: (lambda: Attend(Dot(3)), Pooled(PLANE), r"Attend takes States\[MaybeCausal\], but a Pooled arrived"),
    AttendEarlier: (
        lambda: AttendEarlier(Dot(3)),
        ROWS,
        r"AttendEarlier takes States\[MaybeCausal\], but a Padded arrived",
    ),
    Pool: (lambda: Pool("max"), STEPS, r"Pool takes States\[MaybeCausal\], but a Packed arrived"),
    Classify: (lambda: Classify(2, input_size=3), STATES, "Classify takes Pooled, but a States arrived"),
    Tag: (lambda: Tag(2, input_size=3), Pooled(PLANE), r"Tag takes States\[MaybeCausal\], but a Pooled arrived"),
    NextToken: (lambda: NextToken(2, input_size=3), PLANE, r"NextToken takes States\[Causal\], but float32 of shape"),
}


@pytest.mark.parametrize("cls", STAGES, ids=lambda cls: cls.__name__)
def test_every_stage_bites(cls: type[StageBase]) -> None:
    """What it does not take is refused before it computes, in words that name stage and row."""
    make, wrong, said = STAGES[cls]
    with pytest.raises(PipelineError, match=said):
        make()(wrong)


def test_no_stage_is_left_out() -> None:
    """The table above has every public stage."""
    abstract = {Stage, Stream, ModuleStage, pipeline.TypePreserving}
    chains = {pipeline.Chain, pipeline.StreamChain}
    public = {value for value in vars(pipeline).values() if inspect.isclass(value) and issubclass(value, StageBase)}
    assert public - abstract - chains == set(STAGES)


class Wrong(Encoder[Causal]):
    """An encoder that gives whatever it is told to."""

    def __init__(self, give: Callable[[Batch[Vectors]], Any], *, output_size: int = 4) -> None:
        super().__init__()
        self.input_size, self.output_size, self.causal = 3, output_size, True
        self.give = give

    @override
    def forward(self, batch: Batch[Vectors]) -> States[Causal]:
        return cast("States[Causal]", self.give(batch))


def hidden(batch: Batch[Vectors], size: int = 4) -> Batch[Hidden]:
    """Zeros for every step."""
    return batch.with_values(torch.zeros(*batch.values.shape[:-1], size))


ENCODERS: Mapping[str, tuple[Encoder[MaybeCausal], str]] = {
    "no states": (Wrong(lambda batch: batch), "encoder 'Wrong' must give States, but gave a Padded"),
    "another size": (
        Wrong(lambda batch: States(hidden(batch, 5), torch.zeros(2, 5))),
        r"encoder 'Wrong' declares output_size=4, but gave float32 of shape \(2, 2, 5\)",
    ),
    "metadata lost": (
        Wrong(lambda _: States(Padded(Vectors, torch.zeros(2, 2, 4), L), torch.zeros(2, 4))),
        "encoder 'Wrong' gave states of other rows than came in, or lost their metadata",
    ),
    "rows lost": (
        Wrong(lambda _: States(Padded(Vectors, torch.zeros(1, 2, 4), L[:1]), torch.zeros(1, 4))),
        "encoder 'Wrong' gave states of other rows than came in, or lost their metadata",
    ),
}


@pytest.mark.parametrize("fault", ENCODERS)
def test_what_an_encoder_gives_is_checked(fault: str) -> None:
    """At its border, with the part named."""
    encoder, said = ENCODERS[fault]
    with pytest.raises(ShapeError, match=said):
        Encode(encoder)(ROWS)


class ShortAttention(Attention):
    """An attention that loses a query."""

    def __init__(self) -> None:
        super().__init__()
        self.input_size = 3

    @override
    def score(
        self, query: Float[Tensor, "batch query hidden"], key: Float[Tensor, "batch key hidden"]
    ) -> Float[Tensor, "batch query key"]:
        return query @ key.mT

    @override
    def forward(
        self,
        query: Float[Tensor, "batch query hidden"],
        key: Float[Tensor, "batch key hidden"],
        mask: Bool[Tensor, "#batch #query key"],
    ) -> Float[Tensor, "batch query hidden"]:
        return super().forward(query, key, mask)[:, 1:]


class FlatAttention(Attention):
    """An attention whose scores are of one axis too few."""

    def __init__(self) -> None:
        super().__init__()
        self.input_size = 3

    @override
    def score(
        self, query: Float[Tensor, "batch query hidden"], key: Float[Tensor, "batch key hidden"]
    ) -> Float[Tensor, "batch query key"]:
        return query.sum((1, 2))


class WidePool(Pooling):
    """A pool that gives more than it says."""

    @override
    def forward(self, states: States[MaybeCausal]) -> Float[Tensor, "batch hidden"]:
        return states.final.repeat(1, 2)


def test_what_attentions_and_pools_give_is_checked() -> None:
    """At their border, with the part named."""
    with pytest.raises(
        ShapeError, match=r"attention 'ShortAttention' must give a context for every query.*gave .*1, 3"
    ):
        Attend(ShortAttention())(STATES)
    with pytest.raises(ShapeError, match=r"masked_softmax: mask must be Bool\[Tensor, '\*#axes key'\]"):
        Attend(FlatAttention())(STATES)
    with pytest.raises(
        ShapeError, match=r"pool 'WidePool' must give one vector a row, .* \(2, 3\), but gave .*\(2, 6\)"
    ):
        Pool(WidePool())(STATES)
    with pytest.raises(ShapeError, match="masked_softmax: scores must be Float.*but int64"):
        masked_softmax(torch.ones(2).long(), torch.ones(2).bool())


class Silent(Tokenizer):
    """A tokenizer that answers nothing."""

    vocabulary: Mapping[str, int] = {"a": 0}
    pad = unknown = bos = eos = None

    @override
    def encode(self, texts: Sequence[str], *, offsets: bool = True) -> list[Tokens]:
        return []

    @override
    def encode_words(self, rows: Sequence[Sequence[str]], *, offsets: bool = True) -> list[Tokens]:
        return []

    @override
    def decode(self, ids: Sequence[int]) -> str:
        return ""


def test_a_tokenizer_must_answer_every_text() -> None:
    """Neither more nor fewer."""
    for tokenize, inputs in ((Tokenize(Silent()), ["a", "b"]), (TokenizeWords(Silent()), [["a"], ["b"]])):
        with pytest.raises(ShapeError, match="tokenizer 'Silent' gave 0 answers to 2 inputs"):
            list(cast("Iterable[object]", loosely(tokenize.map)(inputs)))


def test_what_a_part_says_it_cannot_do_is_refused() -> None:
    """Empty rows and initial states, by those who do not take them; both directions of sight at once."""
    encoder = Wrong(lambda batch: States(hidden(batch), torch.zeros(len(batch.lengths), 4)))
    encoder.empty_rows = False
    assert Encode(encoder)(ROWS).steps.values.shape == (2, 2, 4)
    with pytest.raises(LengthError, match="row 1 has no steps, and encoder 'Wrong' takes no empty rows"):
        Encode(encoder)(Padded(Vectors, CUBE, torch.tensor([2, 0])))
    with pytest.raises(ShapeError, match="has initial states, but encoder 'Wrong' is not stateful"):
        Encode(encoder)(Padded(Vectors, CUBE, L, initial_carry=(torch.zeros(1, 2, 4),)))
    encoder.bidirectional = True
    with pytest.raises(PipelineError, match="encoder 'Wrong' declares that it is causal and bidirectional"):
        Encode(encoder)


def test_an_error_names_the_stage_and_its_place() -> None:
    """In a chain, over a stream, and once."""
    model = Pack() >> Embed(5, 3) >> Encode("gru", hidden_size=4) >> Pool("max") >> Classify(2)
    ids = Padded(Ids, torch.tensor([[1, 9]]), torch.tensor([2]))
    with pytest.raises(PipelineError, match=r"^stage 2 `Embed`: row 0, step 1 holds id 9") as refused:
        model(ids)
    assert refused.value.details["stage_number"] == 2
    data = FromIds() >> Bucket(rows=1) >> Pad()
    with pytest.raises(PipelineError, match=r"^stage 5 `Embed`: row 0, step 0 holds id 7"):
        list((data >> model)([[7], [1]]))
    with pytest.raises(PipelineError, match=r"^stage 1 `FromIds`: row 1 must be whole numbers"):
        list(cast("Iterable[object]", loosely(data >> model)([[1], "a"])))


class Gives(ModuleStage[Pooled, Pooled]):
    """A stage of a user's own that does not give what it says."""

    @override
    def forward(self, value: Pooled) -> Pooled:
        return cast("Pooled", value.values)


class Shaped(Stage[Tensor, Tensor]):
    """A stage whose annotations are shapes."""

    @override
    def __call__(self, value: Float[Tensor, "batch 3"], /) -> Float[Tensor, "batch 1"]:
        return value[:, : int(value[0, 0])]


def test_stages_of_a_users_own_have_borders() -> None:
    """What they take and what they give are read from their annotations."""
    with pytest.raises(ShapeError, match="Gives takes Pooled, but a States arrived"):
        loosely(Gives())(STATES)
    with pytest.raises(ShapeError, match=r"Gives must give Pooled, as it says, but gave float32 of shape \(2, 3\)"):
        Gives()(Pooled(PLANE))
    assert Shaped()(torch.ones(2, 3)).shape == (2, 1)
    with pytest.raises(ShapeError, match=r"Shaped takes Float\[Tensor, 'batch 3'\], but float32 of shape \(2, 4\)"):
        Shaped()(torch.ones(2, 4))
    with pytest.raises(ShapeError, match=r"Shaped must give Float\[Tensor, 'batch 1'\], .* but gave .*\(2, 2\)"):
        Shaped()(torch.full((2, 3), 2.0))


def test_one_switch_turns_the_checks_off() -> None:
    """As a context, and for good; and by the environment, from the start."""
    with set_checks(False):
        Padded(Vectors, CUBE, torch.tensor([9, 9]))
        Pooled(FLAT)
        Scores(PLANE, range(1))
        with set_checks(True), pytest.raises(ShapeError):
            Pooled(FLAT)
    with pytest.raises(ShapeError):
        Pooled(FLAT)
    code = "import torch; from pipeline import Pooled; print(Pooled(torch.zeros(2)).values.shape)"
    for said, status in (("0", 0), ("1", 1), ("", 1), ("perhaps", 1)):
        run = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PIPELINE_CHECKS": said},
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == status, run.stderr
        if said == "perhaps":
            assert "PIPELINE_CHECKS must be 0 or 1, but 'perhaps' arrived" in run.stderr


def test_a_switch_is_set_back_after_an_error() -> None:
    """Whatever happens in between."""
    with pytest.raises(OptionError), set_checks(False):
        raise OptionError("on the way")
    with pytest.raises(ShapeError):
        Pooled(FLAT)


def test_one_text_is_not_many() -> None:
    """Its letters are no inputs, and a name's are no names; a type checker cannot tell."""
    tokenize = Tokenize.train(["a b"])
    data = tokenize >> Bucket(rows=2) >> Pad()
    pipe = data >> Pack() >> Embed(9, 3) >> Encode("gru", hidden_size=3) >> Pool("max") >> Classify(2)
    calls: list[Callable[[str], object]] = [Tokenize.train, tokenize.map, data, lambda text: list(pipe.predict(text))]
    for call in calls:
        with pytest.raises(TextError, match="inputs must be many, but one text arrived, 'a b', and its letters"):
            call("a b")
    for learn in (Labels, Labels.from_targets):
        with pytest.raises(LabelError, match="names must be many, but one arrived, 'spam', and its letters"):
            learn("spam")


def test_what_has_seen_the_future_stays_so_when_it_is_unpacked() -> None:
    """A causal encoder above it does not make it causal again: at assembly, whatever a type checker was told."""
    for before in (Encode("bilstm", hidden_size=3), Encode("lstm", hidden_size=3) >> Attend("dot")):
        rows = Embed(9, 3) >> before >> Unpack()
        with pytest.raises(CompositionError, match="the states that come in have seen the future"):
            _ = loosely(rows.__rshift__)(Encode("gru", Hidden, hidden_size=3, name="b") >> cast("Any", NextToken(9)))
        with pytest.raises(CompositionError, match="have seen the future, but Unpack was made for Vectors"):
            _ = (Embed(9, 3) >> before) >> cast("Any", Unpack(Vectors))
    states = Encode("gru", input_size=3, hidden_size=3)(ROWS)
    with pytest.raises(
        ShapeError, match=r"Encode was made for Vectors, but Hidden arrived; make it Encode\(..., Hidden"
    ):
        loosely(Encode("gru", input_size=3, hidden_size=3))(Unpack()(states))
    assert Encode("gru", Hidden, input_size=3, hidden_size=3)(Unpack()(states)).final.shape == (2, 3)
    assert Encode("gru", input_size=3, hidden_size=3)(Unpack(Vectors)(cast("States[Causal]", states))).width == 2
