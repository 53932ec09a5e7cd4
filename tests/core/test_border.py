"""Checks around every stage: the types of input and output, the results of parts, and the stage that an error names."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import pytest
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from typing_extensions import override

import pipeline
from pipeline import (
    Attend,
    AttendEarlier,
    AttendLocal,
    Attention,
    Batch,
    BPTTWindows,
    Bucket,
    Causal,
    Classify,
    ClassifyMultiLabel,
    CrossAttend,
    Dropout,
    EachStep,
    Embed,
    EmbedFields,
    Encode,
    Encoder,
    Field,
    FromColumns,
    FromFeatures,
    FromFields,
    FromIds,
    FromNested,
    Heads,
    Hidden,
    Identity,
    Ids,
    Join,
    MaybeCausal,
    ModuleStage,
    NextToken,
    Pack,
    Pad,
    Padded,
    Pool,
    Pooled,
    Pooling,
    Regress,
    Row,
    Shift,
    SpellWords,
    Stage,
    States,
    Stream,
    Tag,
    TextPair,
    Tokenize,
    TokenizeDocument,
    TokenizeJoined,
    TokenizePair,
    Tokenizer,
    TokenizeWords,
    Unpack,
    Vectors,
    WordDropout,
    read,
    through,
    unused,
)
from pipeline.core.stage import StageBase
from pipeline.errors import CompositionError, LengthError, PipelineError, ShapeError, TextError
from pipeline.parts.tokenizer import Tokens
from pipeline_attention import Dot
from pipeline_recurrent import LSTM
from support.records import Event
from support.untyped import untyped

L = torch.tensor([2, 1])
FLAT, PLANE, CUBE = torch.zeros(2), torch.zeros(2, 3), torch.zeros(2, 2, 3)
ROWS = Padded(Vectors, CUBE, L)
STEPS = ROWS.packed()
STATES = States.from_padded(CUBE, L)
EMBEDDED = Embed(3, 3) >> Encode(LSTM(3, 3))


def make_buckets(rows: Iterable[Row[Ids]]) -> list[list[Row[Ids]]]:
    """Return all batches of `Bucket`."""
    return list(Bucket(rows=1)(rows))


def make_windows(rows: Iterable[Row[Ids]]) -> list[list[Row[Ids]]]:
    """Return all batches of `BPTTWindows`."""
    return list(BPTTWindows(rows=1, steps=1)(rows))


# For each stage: how to make it, an input that it does not accept, and the error.
STAGES: Mapping[type[StageBase], tuple[Callable[[], Any], object, str]] = {
    Tokenize: (lambda: Tokenize.train(["a"]), 3, "row 0 must be text, got an int"),
    TokenizePair: (lambda: TokenizePair(FromIds()), "ab", "row 0 must be a pair"),
    TokenizeWords: (lambda: TokenizeWords.train([["a"]]), "a b", "row 0 must be a list of words"),
    FromIds: (FromIds, FLAT, "row 0 must be a sequence of integers, got float32"),
    FromFeatures: (FromFeatures, FLAT, r"row 0 must be a floating-point tensor of time x feature, got .*\(2,\)"),
    FromFields: (lambda: FromFields(Event), Ids(L), "row 0 must be an object of Event, got an Ids"),
    FromColumns: (
        lambda: FromColumns(Event, read(FromIds()), read(FromFeatures())),
        [3],
        "row 0 must be a mapping from columns to values, got a list",
    ),
    FromNested: (lambda: FromNested(FromIds()), "ab", "row 0 must be a list with one item per step"),
    SpellWords: (lambda: SpellWords.train([["a"]]), "a b", "row 0 must be a list of words"),
    TokenizeDocument: (
        lambda: TokenizeDocument(Tokenize.train(["a"])),
        3,
        "row 0 must be text, got an int; use FromNested",
    ),
    TokenizeJoined: (lambda: TokenizeJoined(Tokenize.train(["a"])), "ab", "row 0 must be a pair"),
    Shift: (Shift, Row(Vectors(PLANE), row_id=7), "row 7 must hold Ids.*got Vectors"),
    Bucket: (lambda: make_buckets, [Row(Ids(L)), "row"], "item 1 must be a Row of Ids"),
    BPTTWindows: (lambda: make_windows, [Row(Ids(L)), "row"], "item 1 must be a Row of Ids"),
    Pad: (Pad, [Row(Ids(L)), Row(Ids(FLAT), row_id=5)], "row 5 must be int64 ids of time.*got float32"),
    Pack: (Pack, STEPS, r"Pack takes Padded\[Kind\], got a Packed; leave Pack out"),
    Unpack: (Unpack, ROWS, "Unpack must be Packed or States, got Padded"),
    Field: (lambda: Event.code, ROWS, "Event.code takes batches of Event, got Vectors"),
    EmbedFields: (
        lambda: EmbedFields(Event, through(Embed(3, 3)), unused(Vectors)),
        ROWS,
        "EmbedFields takes batches of Event, got Vectors",
    ),
    EachStep: (lambda: EachStep(Embed(3, 3) >> Encode(LSTM(3, 2)) >> Pool("max")), ROWS, "EachStep must be Nested"),
    Identity: (lambda: Identity(2), ROWS, "Identity has size 2, got vectors of 3 features"),
    Join: (lambda: Join(Pool("max"), Pool("mean")), CUBE, r"Pool takes States\[MaybeCausal\] or Padded\[Hidden\] or P"),
    Embed: (
        lambda: Embed(3, 3),
        STATES,
        r"Embed takes Padded\[Ids\] or Packed\[Ids\], got a States; join it after a stage that returns what it takes",
    ),
    Dropout: (Dropout, Padded(Ids, L.unsqueeze(1), L * 0), "Dropout must hold vectors, got a Padded"),
    Encode: (
        lambda: Encode("gru", input_size=3, hidden_size=2),
        CUBE,
        r"Encode takes Padded\[Hidden\] or Packed\[Hidden\]",
    ),
    Attend: (lambda: Attend(Dot(3)), Pooled(PLANE), r"Attend takes States\[MaybeCausal\], got a Pooled"),
    AttendEarlier: (
        lambda: AttendEarlier(Dot(3)),
        ROWS,
        r"AttendEarlier takes States\[MaybeCausal\], got a Padded; join Encode before it",
    ),
    AttendLocal: (lambda: AttendLocal(Dot(3), window=2), ROWS, r"AttendLocal takes States"),
    CrossAttend: (
        lambda: CrossAttend(TextPair.first >> EMBEDDED, TextPair.second >> EMBEDDED, Dot(3)),
        CUBE,
        "Field takes Padded",
    ),
    WordDropout: (lambda: WordDropout(0.5, unk_id=1), ROWS, "WordDropout"),
    Pool: (lambda: Pool("max"), Pooled(PLANE), r"Pool takes States\[MaybeCausal\] or Padded\[Hidden\] or Packed"),
    Classify: (lambda: Classify(2, input_size=3), STATES, "Classify takes Pooled, got a States; join Pool before it"),
    ClassifyMultiLabel: (lambda: ClassifyMultiLabel(2, input_size=3), STATES, "ClassifyMultiLabel takes Pooled"),
    Regress: (lambda: Regress(input_size=3), STATES, "Regress takes Pooled, got a States"),
    Heads: (
        lambda: Heads(Tag(2, input_size=3), Tag(2, input_size=3)),
        CUBE,
        "Heads must be Pooled or States, got float",
    ),
    Tag: (
        lambda: Tag(2, input_size=3),
        Pooled(PLANE),
        r"Tag takes States\[MaybeCausal\], got a Pooled; leave the pooling before it out, since Tag needs every step",
    ),
    NextToken: (
        lambda: NextToken(2, input_size=3),
        PLANE,
        r"NextToken takes States\[Causal\], got float32 of shape \(2, 3\); make the tensor States: States.from_padded",
    ),
}


@pytest.mark.parametrize("cls", STAGES, ids=lambda cls: cls.__name__)
def test_every_stage_rejects_other_inputs(cls: type[StageBase]) -> None:
    """The error names the stage, or the row, before anything is computed."""
    make, wrong, message = STAGES[cls]
    with pytest.raises(PipelineError, match=message):
        make()(wrong)


def test_all_stages_are_tested() -> None:
    """The table above has every public stage."""
    abstract = {Stage, Stream, ModuleStage, pipeline.TypePreserving}
    chains = {pipeline.Chain, pipeline.StreamChain}
    public = {value for value in vars(pipeline).values() if inspect.isclass(value) and issubclass(value, StageBase)}
    assert public - abstract - chains == set(STAGES)


class FakeEncoder(Encoder[Causal]):
    """An encoder that returns the result of a given function."""

    def __init__(self, encode: Callable[[Batch[Vectors]], Any], *, output_size: int = 4) -> None:
        super().__init__()
        self.input_size, self.output_size, self.causal = 3, output_size, True
        self.encode = encode

    @override
    def forward(self, batch: Batch[Vectors]) -> States[Causal]:
        return cast("States[Causal]", self.encode(batch))


def make_hidden(batch: Batch[Vectors], size: int = 4) -> Batch[Hidden]:
    """Return zeros for every step."""
    return batch.with_values(torch.zeros(*batch.values.shape[:-1], size))


ENCODERS: Mapping[str, tuple[Encoder[MaybeCausal], str]] = {
    "no states": (FakeEncoder(lambda batch: batch), "encoder 'FakeEncoder' must return States, got a Padded"),
    "another size": (
        FakeEncoder(lambda batch: States(make_hidden(batch, 5), torch.zeros(2, 5))),
        r"encoder 'FakeEncoder' declares output_size=4, but returned float32 of shape \(2, 2, 5\)",
    ),
    "metadata lost": (
        FakeEncoder(lambda _: States(Padded(Vectors, torch.zeros(2, 2, 4), L), torch.zeros(2, 4))),
        "encoder 'FakeEncoder' must return states of the same rows with their metadata",
    ),
    "rows lost": (
        FakeEncoder(lambda _: States(Padded(Vectors, torch.zeros(1, 2, 4), L[:1]), torch.zeros(1, 4))),
        "encoder 'FakeEncoder' must return states of the same rows with their metadata",
    ),
}


@pytest.mark.parametrize("fault", ENCODERS)
def test_results_of_encoders_are_checked(fault: str) -> None:
    """The error names the encoder."""
    encoder, message = ENCODERS[fault]
    with pytest.raises(ShapeError, match=message):
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
    """An attention whose scores lack an axis."""

    def __init__(self) -> None:
        super().__init__()
        self.input_size = 3

    @override
    def score(
        self, query: Float[Tensor, "batch query hidden"], key: Float[Tensor, "batch key hidden"]
    ) -> Float[Tensor, "batch query key"]:
        return query.sum((1, 2))


class WidePool(Pooling):
    """A pooling that returns more features than it declares."""

    @override
    def forward(self, states: States[MaybeCausal]) -> Float[Tensor, "batch hidden"]:
        return states.final.repeat(1, 2)


def test_results_of_attentions_and_pools_are_checked() -> None:
    """The error names the part."""
    with pytest.raises(ShapeError, match=r"attention 'ShortAttention' must return one context per query.*got .*1, 3"):
        Attend(ShortAttention())(STATES)
    with pytest.raises(ShapeError, match=r"masked_softmax: mask must be Bool\[Tensor, '\*#axes key'\]"):
        Attend(FlatAttention())(STATES)
    with pytest.raises(ShapeError, match=r"pooling 'WidePool' must return one vector per row.*\(2, 3\).*\(2, 6\)"):
        Pool(WidePool())(STATES)


class SilentTokenizer(Tokenizer):
    """A tokenizer that returns nothing."""

    vocabulary: Mapping[str, int] = {"a": 0}
    pad_token = unk_token = bos_token = eos_token = None

    @override
    def encode(self, texts: Sequence[str], *, offsets: bool = True) -> list[Tokens]:
        return []

    @override
    def encode_words(self, rows: Sequence[Sequence[str]], *, offsets: bool = True) -> list[Tokens]:
        return []

    @override
    def decode(self, ids: Sequence[int]) -> str:
        return ""


def test_results_of_tokenizers_are_checked() -> None:
    """A tokenizer must return one result per input."""
    for tokenize, inputs in (
        (Tokenize(SilentTokenizer()), ["a", "b"]),
        (TokenizeWords(SilentTokenizer()), [["a"], ["b"]]),
    ):
        with pytest.raises(
            ShapeError, match="tokenizer 'SilentTokenizer' must return one result per input, got 0 for 2"
        ):
            list(cast("Iterable[object]", untyped(tokenize.map)(inputs)))


def test_inputs_that_an_encoder_does_not_support_raise() -> None:
    """Empty rows and initial carries, unless the encoder declares support; and contradicting declarations."""
    encoder = FakeEncoder(lambda batch: States(make_hidden(batch), torch.zeros(len(batch.lengths), 4)))
    encoder.empty_rows = False
    assert Encode(encoder)(ROWS).steps.values.shape == (2, 2, 4)
    with pytest.raises(LengthError, match="row 1 has no steps, and encoder 'FakeEncoder' does not support empty rows"):
        Encode(encoder)(Padded(Vectors, CUBE, torch.tensor([2, 0])))
    with pytest.raises(ShapeError, match="encoder 'FakeEncoder' is not stateful"):
        Encode(encoder)(Padded(Vectors, CUBE, L, initial_carry=(torch.zeros(1, 2, 4),)))
    encoder.bidirectional = True
    with pytest.raises(PipelineError, match="encoder 'FakeEncoder' declares"):
        Encode(encoder)


def test_values_of_another_dtype_than_the_weights_are_named() -> None:
    """Whatever torch's own error says."""
    got = r"values are torch.float16 on cpu, but the weights of Encode are torch.float32 on cpu; move one"
    convolution = Encode("causal_cnn", input_size=3, hidden_size=6)
    transformer = Encode("transformer", input_size=3, hidden_size=6, num_heads=3)
    for encode in (convolution, transformer):
        with pytest.raises(ShapeError, match=got):
            encode(Padded(Vectors, CUBE.half(), L))
    head = Classify(2, input_size=4)
    with pytest.raises(ShapeError, match=r"values are torch.float64 on cpu, but the weights of Classify are"):
        head(Pooled(torch.ones(1, 4, dtype=torch.float64)))


def test_an_error_names_the_stage_and_its_position_once() -> None:
    """In a chain, and in a chain over a stream."""
    model = Pack() >> Embed(5, 3) >> Encode("gru", hidden_size=4) >> Pool("max") >> Classify(2)
    ids = Padded(Ids, torch.tensor([[1, 9]]), torch.tensor([2]))
    with pytest.raises(PipelineError, match=r"^stage 2 `Embed`: row 0, step 1 (is|holds id) 9") as raised:
        model(ids)
    assert raised.value.details["stage_number"] == 2
    data = FromIds() >> Bucket(rows=1) >> Pad()
    with pytest.raises(PipelineError, match=r"^stage 5 `Embed`: row 0, step 0 (is|holds id) 7"):
        list((data >> model)([[7], [1]]))
    with pytest.raises(PipelineError, match=r"^stage 1 `FromIds`: row 1 must be a sequence of integers"):
        list(cast("Iterable[object]", untyped(data >> model)([[1], "a"])))


class WrongResult(ModuleStage[Pooled, Pooled]):
    """A stage that does not return what it declares."""

    @override
    def forward(self, value: Pooled) -> Pooled:
        return cast("Pooled", value.values)


class ShapedStage(Stage[Tensor, Tensor]):
    """A stage whose annotations are shapes."""

    @override
    def __call__(self, value: Float[Tensor, "batch 3"], /) -> Float[Tensor, "batch 1"]:
        return value[:, : int(value[0, 0])]


class OpenStage(Stage[Any, Any]):
    """A stage without annotations that say anything."""

    @override
    def __call__(self, value: Any, /) -> Any:
        return value


def test_annotations_of_user_stages_are_checked() -> None:
    """Input and output, by class or by shape; `Any` accepts everything."""
    with pytest.raises(ShapeError, match="WrongResult takes Pooled, got a States"):
        untyped(WrongResult())(STATES)
    with pytest.raises(ShapeError, match=r"WrongResult must return Pooled as annotated, got float32 of shape \(2, 3\)"):
        WrongResult()(Pooled(PLANE))
    assert ShapedStage()(torch.ones(2, 3)).shape == (2, 1)
    with pytest.raises(
        ShapeError, match=r"ShapedStage takes Float\[Tensor, 'batch 3'\], got float32 of shape \(2, 4\)"
    ):
        ShapedStage()(torch.ones(2, 4))
    with pytest.raises(ShapeError, match=r"ShapedStage must return Float\[Tensor, 'batch 1'\] .*got .*\(2, 2\)"):
        ShapedStage()(torch.full((2, 3), 2.0))
    assert OpenStage()(3) == 3


def test_one_text_is_not_an_iterable_of_inputs() -> None:
    """A type checker accepts it, because its letters are texts too."""
    tokenize = Tokenize.train(["a b"])
    data = tokenize >> Bucket(rows=2) >> Pad()
    pipe = data >> Pack() >> Embed(9, 3) >> Encode("gru", hidden_size=3) >> Pool("max") >> Classify(2)
    calls: list[Callable[[str], object]] = [Tokenize.train, tokenize.map, data, lambda text: list(pipe.predict(text))]
    for call in calls:
        with pytest.raises(
            TextError, match=r"inputs must be an iterable of inputs, got one text, 'a b'; pass \[text\]"
        ):
            call("a b")


def test_unpacked_states_are_not_causal_again() -> None:
    """A causal encoder after a bidirectional one does not make a causal model; `>>` rejects it without types too."""
    for before in (Encode("bilstm", hidden_size=3), Encode("lstm", hidden_size=3) >> Attend("dot")):
        rows = Embed(9, 3) >> before >> Unpack()
        with pytest.raises(CompositionError, match="the input of NextToken must be causal states"):
            _ = untyped(rows.__rshift__)(Encode("gru", Hidden, hidden_size=3, name="b") >> cast("Any", NextToken(9)))
        with pytest.raises(CompositionError, match=r"the input of Unpack\(Vectors\) must be causal"):
            _ = (Embed(9, 3) >> before) >> cast("Any", Unpack(Vectors))
    states = Encode("gru", input_size=3, hidden_size=3)(ROWS)
    with pytest.raises(ShapeError, match=r"the input of Encode must be Vectors, got Hidden; make it Encode\("):
        untyped(Encode("gru", input_size=3, hidden_size=3))(Unpack()(states))
    assert Encode("gru", Hidden, input_size=3, hidden_size=3)(Unpack()(states)).final.shape == (2, 3)
    assert Encode("gru", input_size=3, hidden_size=3)(Unpack(Vectors)(cast("States[Causal]", states))).width == 2
