"""Chains: names, sizes, order of predictions, inspection, copies; and the models made of them."""

import copy
import inspect
import itertools
import pickle
from collections.abc import Iterable, Iterator, Sequence

import pytest
import torch
from rich.console import Console
from torch import nn
from typing_extensions import override

import pipeline
from pipeline import (
    Attend,
    AttendEarlier,
    Batch,
    Bucket,
    Chain,
    Classify,
    Dropout,
    Embed,
    Encode,
    Example,
    FromIds,
    Ids,
    Labels,
    ModuleStage,
    NextToken,
    Pack,
    Packed,
    Pad,
    Padded,
    Pool,
    Pooled,
    Row,
    Scores,
    Shift,
    States,
    StepScores,
    Stream,
    StreamChain,
    Tag,
    Tokenize,
    TokenizeWords,
    Unpack,
    Vectors,
    classifier,
    language_model,
    tagger,
)
from pipeline.core.chain import TypePreservingChain
from pipeline.core.naming import make_default_name
from pipeline.core.stage import StageBase
from pipeline.errors import CompositionError, OptionError, ShapeError
from pipeline.stages.input_stage import IdSequence
from pipeline_recurrent import LSTM
from support.untyped import seed, to_list, train_step, untyped

TEXTS = ["a b c", "", "c", "b a b a", "a a", "c b"]


def test_state_dict_keys_do_not_depend_on_other_stages() -> None:
    """Adding a stage without weights, or joining in another order, renames none."""
    parts = (Embed(9, 4), Encode(LSTM(4, 5)), Attend("general"), Pool("max"), Classify(3))
    embed, encode, attend, pool, classify = parts
    left = embed >> encode >> attend >> pool >> classify
    right = Pack() >> (embed >> Dropout() >> (encode >> Dropout() >> (attend >> (pool >> classify))))
    assert list(left.state_dict()) == list(right.state_dict())
    assert next(iter(left.state_dict())) == "embed.weight"
    assert {key.split(".")[0] for key in left.state_dict()} == {"embed", "encode", "attend", "classify"}
    assert repr(right).startswith("Pack >> Embed >> Dropout >> Encode >> Dropout >> Attend >> Pool")


def test_stages_with_weights_need_unique_names() -> None:
    """The error names both stages, and how to rename one."""
    first = Embed(9, 4) >> Encode(LSTM(4, 5)) >> Unpack(Vectors)
    with pytest.raises(
        CompositionError, match=r"stage 2 `Encode` and stage 4 `Encode` are both named 'encode'.*name=\"en"
    ):
        _ = first >> Encode(LSTM(5, 6))
    model = first >> Encode(LSTM(5, 6), name="upper")
    assert "upper.encoder.rnn.weight_ih_l0" in model.state_dict()
    with pytest.raises(
        CompositionError, match="the name of stage 2 must be an identifier and no attribute of a chain, got 'forward'"
    ):
        _ = Embed(9, 4) >> Encode(LSTM(4, 5), name="forward")


def test_stages_without_weights_are_numbered() -> None:
    """Their names may repeat, since no state-dict key depends on them."""
    chain = Dropout() >> Dropout()
    assert isinstance(chain, TypePreservingChain)
    assert list(chain.stages) == ["dropout", "dropout_2"]
    states = States.from_padded(torch.ones(1, 2, 3), torch.tensor([2]))
    assert chain.eval()(states) is states


class Training(ModuleStage[Pooled, Pooled]):
    """A stage without weights whose default name is an attribute of each `nn.Module`, and not of its class."""

    @override
    def forward(self, value: Pooled) -> Pooled:
        return value


class Double(Training):
    """The same, with the name of a method."""


class Predict(Training):
    """The same, with the name of a method of stream chains only."""


@pytest.mark.parametrize("cls", [Training, Double, Predict])
def test_a_stage_may_be_named_like_an_attribute_of_a_chain(cls: type[Training]) -> None:
    """Without weights it gets another name."""
    chain = Pool("max") >> cls()
    assert list(chain.stages) == ["pool", f"{cls.__name__.lower()}_2"]


def test_no_default_name_is_an_attribute_of_a_chain() -> None:
    """A stage is a child module under its name, so no chain may have a method `embed`, `pool` or `tag`."""
    public = {value for value in vars(pipeline).values() if inspect.isclass(value) and issubclass(value, StageBase)}
    names = {make_default_name(cls) for cls in public if not inspect.isabstract(cls)}
    assert {"embed", "bptt_windows", "next_token", "tokenize_words"} <= names
    taken = {name for name in names if any(hasattr(cls, name) for cls in (Chain, StreamChain, TypePreservingChain))}
    assert not taken


@pytest.mark.parametrize(
    ("cls", "name"),
    [
        (type("BPTTWindows", (), {}), "bptt_windows"),
        (type("LSTM", (), {}), "lstm"),
        (type("FromIds", (), {}), "from_ids"),
        (type("Conv1dBlock", (), {}), "conv1d_block"),
    ],
)
def test_default_names_are_snake_case(cls: type, name: str) -> None:
    """An acronym is one word."""
    assert make_default_name(cls) == name


def test_sizes_are_inferred_along_the_chain() -> None:
    """For any order of joins, and before any data: state-dict and optimizer see all weights."""
    tail = Attend("additive") >> Pool("attention") >> Classify(3)
    assert not list(tail.parameters())
    model = Embed(9, 4) >> (Encode("bigru", hidden_size=5) >> tail)
    sizes = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    assert sizes["encode.encoder.rnn.weight_ih_l0"] == (15, 4)
    assert sizes["attend.attention.query.weight"] == (10, 10)
    assert sizes["pool.pooling.query"] == (10,)
    assert sizes["classify.linear.weight"] == (3, 10)


def bracket(parts: Sequence[int]) -> Iterator[str]:
    """Yield every way to set brackets in `parts[0] >> parts[1] >> ...`."""
    if len(parts) == 1:
        yield f"parts[{parts[0]}]"
    for cut in range(1, len(parts)):
        for left, right in itertools.product(bracket(parts[:cut]), bracket(parts[cut:])):
            yield f"({left} >> {right})"


@pytest.mark.parametrize("expression", list(bracket(range(5))))
def test_the_order_of_joins_does_not_matter(expression: str) -> None:
    """For any brackets the weights are the same, and all are created before any data."""
    parts = [Embed(9, 4), Encode("bigru", hidden_size=5), Attend("additive"), Pool("attention"), Classify(3)]
    chain: Chain[Batch[Ids], Scores] = eval(expression, {"parts": parts})  # noqa: S307 - written above
    assert repr(chain) == "Embed >> Encode >> Attend >> Pool >> Classify"
    shapes = {name: tuple(weight.shape) for name, weight in chain.state_dict().items()}
    assert len(shapes) == 18
    assert shapes["attend.attention.query.weight"] == (10, 10)
    assert shapes["classify.linear.weight"] == (3, 10)


def test_a_known_size_is_passed_to_later_stages() -> None:
    """Also in a chain that begins in the middle of a pipe."""
    for chain in (
        Attend("general", input_size=8) >> Pool("max") >> Classify(3),
        AttendEarlier("general", input_size=8) >> Dropout() >> Tag(3),
        Pool("attention", input_size=8) >> Dropout() >> Classify(3),
        Encode(LSTM(2, 4, bidirectional=True)) >> Dropout() >> Pool("mean") >> Classify(3),
    ):
        assert list(chain.state_dict().values())[-2].shape == (3, 8)


@pytest.mark.parametrize(
    ("join", "positions", "sizes"),
    [
        (
            lambda: Embed(9, 4) >> Encode(LSTM(5, 6)),
            "1 `Embed` and stage 2 `Encode`",
            (4, "encoder 'LSTM'", 5, "feature"),
        ),
        (
            lambda: Embed(9, 4) >> Dropout() >> Encode("gru", input_size=5, hidden_size=6),
            "2 `Dropout` and stage 3 `Encode`",
            (4, "encoder 'gru'", 5, "feature"),
        ),
        (
            lambda: Encode(LSTM(4, 6)) >> Attend("general", input_size=5),
            "1 `Encode` and stage 2 `Attend`",
            (6, "attention 'general'", 5, "hidden"),
        ),
        (
            lambda: Encode(LSTM(4, 6)) >> AttendEarlier("dot", input_size=5),
            "1 `Encode` and stage 2 `AttendEarlier`",
            (6, "attention 'dot'", 5, "hidden"),
        ),
        (
            lambda: Encode(LSTM(4, 6)) >> Pool("attention", input_size=5),
            "1 `Encode` and stage 2 `Pool`",
            (6, "pool 'attention'", 5, "hidden"),
        ),
        (
            lambda: Encode(LSTM(4, 128, bidirectional=True)) >> Pool("max") >> Classify(2, input_size=128),
            "2 `Pool` and stage 3 `Classify`",
            (256, "Classify", 128, "hidden"),
        ),
        (
            lambda: Encode(LSTM(4, 6)) >> (Attend() >> (Dropout() >> Tag(2, input_size=5))),
            "3 `Dropout` and stage 4 `Tag`",
            (6, "Tag", 5, "hidden"),
        ),
        (
            lambda: (Embed(9, 4) >> Encode(LSTM(4, 6))) >> (AttendEarlier() >> NextToken(9, input_size=5)),
            "3 `AttendEarlier` and stage 4 `NextToken`",
            (6, "NextToken", 5, "hidden"),
        ),
        (
            lambda: Embed(9, 4) >> Encode(LSTM(4, 6)) >> NextToken(Embed(9, 4)),
            "2 `Encode` and stage 3 `NextToken`",
            (6, "NextToken", 4, "hidden"),
        ),
    ],
)
def test_sizes_that_do_not_fit_raise_at_the_join(
    join: object, positions: str, sizes: tuple[int, str, int, str]
) -> None:
    """The error names both stages, their positions, the axis and both sizes."""
    assert callable(join)
    size, owner, input_size, axis = sizes
    with pytest.raises(CompositionError) as error:
        join()
    message = str(error.value)
    assert message.startswith(f"between stage {positions}: ")
    assert f"the input has size {size} along the axis {axis!r}, but {owner} has input_size={input_size}" in message
    assert error.value.details == {"axis": axis, "size": size, "input_size": input_size}


def test_next_token_after_a_bidirectional_encoder_raises_without_types_too() -> None:
    """For encoders given by name, and in code that no type checker sees."""
    for encode in (Encode("bilstm", hidden_size=4), Encode("lstm", hidden_size=4, bidirectional=True)):
        with pytest.raises(
            CompositionError, match=r"between stage 2 `Encode` and stage 3 `NextToken`: .*must be causal states"
        ):
            untyped((Embed(9, 4) >> encode).__rshift__)(NextToken(9))
    with pytest.raises(CompositionError, match="`Attend` and stage 4 `NextToken`"):
        untyped((Embed(9, 4) >> Encode(LSTM(4, 4)) >> Attend()).__rshift__)(NextToken(9))
    with pytest.raises(CompositionError, match="encoder 'bigru'.*causal"):
        Encode("bigru", causal=True, hidden_size=4)


def test_joining_a_plain_module_raises() -> None:
    """The error says how to wrap it."""
    with pytest.raises(
        CompositionError, match=r"`Embed >> ...` must be followed by a stage, got Linear; derive it from Stage"
    ):
        untyped(Embed(9, 4).__rshift__)(nn.Linear(4, 4))


def test_labels_that_name_a_class_differently_raise() -> None:
    """A model trained with the ids of one would predict the names of the other. More classes at the end are right."""
    data = FromIds() >> Bucket(rows=2) >> Pad(labels=Labels(["neg", "pos"]))
    states = data >> Embed(9, 4) >> Encode(LSTM(4, 5)) >> Pool("max")
    with pytest.raises(
        CompositionError, match=r"stage 3 `Pad` and stage 7 `Classify` .* class 0 is 'neg' in one and 'pos'"
    ):
        _ = states >> Classify(Labels(["pos", "neg"]))
    pipe = states >> Classify(Labels(["neg", "pos", "mixed"]))
    assert len(list(pipe.predict([[1], [2, 3]]))) == 2


def test_a_head_without_an_input_size_raises() -> None:
    """Outside a chain nothing infers it; vectors of another size raise too."""
    pooled = Pool("max")(States.from_padded(torch.zeros(1, 2, 3), torch.tensor([2])))
    with pytest.raises(
        CompositionError, match=r"Classify does not know its input size yet.*Classify\(\.\.\., input_size=3\)"
    ):
        Classify(2)(pooled)
    with pytest.raises(ShapeError, match="Classify has input_size=4, got vectors of 3 features"):
        Classify(2, input_size=4)(pooled)
    with pytest.raises(OptionError, match="Classify needs 1 class or more, got 0"):
        Classify(0)


def small_tagger(*, buffer_size: int = 10_000) -> StreamChain[IdSequence | Example[IdSequence], StepScores]:
    """Return a pipe that tags ids, with the same untrained weights at every call."""
    seed(1)
    model = Pack() >> Embed(7, 4) >> Dropout(0.5) >> Encode("bilstm", hidden_size=5) >> Tag(9)
    return FromIds() >> Bucket(max_padded_steps=30, buffer_size=buffer_size) >> Pad() >> model


@pytest.mark.parametrize("buffer_size", [1, 7, 1000])
def test_predictions_are_in_the_order_of_the_inputs(buffer_size: int) -> None:
    """One per row, equal to that of the row alone, also for empty rows; the mode of each module is restored."""
    pipe = small_tagger(buffer_size=buffer_size).train()
    pipe.get_submodule("embed").eval()
    rows: list[IdSequence] = [[index % 7] * (index * 13 % 9) for index in range(50)]
    predictions = list(pipe.predict(rows))
    assert [len(each) for each in predictions] == [len(row) for row in rows]
    assert predictions == [next(pipe.predict([row])) for row in rows]
    assert pipe.training
    assert pipe.get_submodule("encode").training
    assert not pipe.get_submodule("embed").training


def test_batches_are_moved_to_the_device_of_the_weights() -> None:
    """Collated on the CPU, they go where the first stage with weights is."""
    pipe = (FromIds() >> Bucket(rows=2) >> Pad() >> Embed(7, 4)).to("meta")
    assert next(pipe([[1, 2], [3]])).values.device.type == "meta"


def test_predictions_are_lazy() -> None:
    """An endless input is predicted; only the buffer of the bucket is read ahead."""
    taken: list[int] = []

    def endless() -> Iterator[IdSequence]:
        for index in itertools.count():
            taken.append(index)
            yield [index % 7] * (index % 5)

    first = list(itertools.islice(small_tagger(buffer_size=8).predict(endless()), 20))
    assert [len(each) for each in first] == [index % 5 for index in range(20)]
    assert len(taken) <= 512, "an input stage takes some hundred inputs at a time"


def test_rows_get_new_ids() -> None:
    """Rows made by a user all have row id 0; their predictions are still in order."""
    pipe = Bucket(rows=2) >> Pad() >> Pack() >> Embed(7, 4) >> Encode("gru", hidden_size=5) >> Tag(9)
    rows = [Row(Ids(torch.full((time,), 3))) for time in (1, 4, 2, 3)]
    assert [len(each) for each in pipe.predict(rows)] == [1, 4, 2, 3]


class Faulty(Stream[Row[Ids], list[Row[Ids]]]):
    """Yields batches of one row, and row 1 a given number of times."""

    def __init__(self, times: int) -> None:
        self.times = times

    def __call__(self, values: Iterable[Row[Ids]], /) -> Iterator[list[Row[Ids]]]:
        """Yield each row as a batch."""
        for row in values:
            yield from [[row]] * (self.times if row.row_id == 1 else 1)


@pytest.mark.parametrize(
    ("times", "message"),
    [(0, "stage 2 `Faulty`: it returned 2 rows for 3; in prediction"), (2, "row 1 was predicted twice")],
)
def test_lost_and_repeated_rows_raise(times: int, message: str) -> None:
    """No prediction is silently that of another row."""
    pipe = FromIds() >> Faulty(times) >> Pad() >> Embed(7, 4) >> Encode("gru", hidden_size=5) >> Tag(9)
    with pytest.raises(CompositionError, match=message):
        list(pipe.predict([[1], [2], [3]]))


def test_inspect_shows_every_stage() -> None:
    """Names, types, shapes by axis, and the first values; as text, and as a rich table."""
    tokenize = Tokenize.train(TEXTS)
    pipe = tokenize >> Bucket(rows=4) >> Pad() >> classifier(tokenize.vocab_size, 2, embedding_dim=3, hidden_size=4)
    inspection = pipe.inspect("a c")
    assert [step.stage for step in inspection.outputs] == ["input", "tokenize", "bucket", "pad", "pack", "embed", "dropout",
                                                    "encode", "pool", "dropout_2", "classify"]  # fmt: skip
    shown = {step.stage: (step.type, step.shape) for step in inspection.outputs}
    assert shown["input"] == ("str", "3 characters")
    assert shown["bucket"] == ("list of 1 Row[Ids]", "time=2")
    assert shown["pad"] == ("Padded[Ids]", "batch=1 time=2")
    assert shown["embed"] == ("Packed[Vectors]", "steps=2 feature=3")
    assert shown["encode"] == ("States", "steps=2 hidden=8")
    assert shown["classify"] == ("Scores", "batch=1 classes=2")
    assert str(inspection).splitlines()[0].split() == ["stage", "output", "shape", "values"]
    console = Console(width=200)
    with console.capture() as capture:
        console.print(inspection)
    assert "list of 1 Row[Ids]" in capture.get(), "names in square brackets are no markup"


def test_a_classifier_learns_from_examples() -> None:
    """Target names reach the loss through every stage; predictions are names."""
    labels = Labels(["even", "odd"])
    examples = [Example(text, target="odd" if len(text) % 3 else "even") for text in TEXTS * 5]
    tokenize = Tokenize.train(TEXTS, "characters")
    data = tokenize >> Bucket(rows=8) >> Pad(labels=labels)
    seed(0)
    model = classifier(tokenize.vocab_size, labels, embedding_dim=4, hidden_size=8)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    losses: list[float] = []
    for _ in range(30):
        losses.extend(train_step(model(batch).loss(), optimizer) for batch in data(examples))
    assert losses[-1] < losses[0] / 4
    found = dict(zip(TEXTS, (data >> model).predict(TEXTS), strict=True))
    # An empty row has no weight in training, so its prediction may be any class.
    assert {text: found[text] for text in TEXTS if text} == {t: "odd" if len(t) % 3 else "even" for t in TEXTS if t}


def test_a_chain_is_an_ordinary_module() -> None:
    """Copies, pickles, dtypes and modes behave as for any module; a copy has its own weights."""
    model = classifier(9, Labels(["a", "b"]), embedding_dim=4, hidden_size=5).eval()
    batch = Padded(Ids, torch.tensor([[1, 2], [3, 0]]), torch.tensor([2, 1]))
    wanted = model(batch).values
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(batch).values, wanted)
        other.get_parameter("embed.weight").data.zero_()
    assert torch.equal(model(batch).values, wanted)
    assert model.double()(batch).values.dtype is torch.float64
    fresh = classifier(9, Labels(["a", "b"]), embedding_dim=4, hidden_size=5).double().eval()
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(batch).values, model(batch).values)
    pipe = small_tagger()
    assert list(copy.deepcopy(pipe).predict([[1, 2]])) == list(pipe.predict([[1, 2]]))


def test_tied_weights_are_one_tensor() -> None:
    """Under two names, also in a copy."""
    model = language_model(9, embedding_dim=4, hidden_size=4, tied=True)
    for each in (model, copy.deepcopy(model)):
        assert each.get_parameter("embed.weight") is each.get_parameter("next_token.linear.weight")
    with pytest.raises(
        CompositionError, match="the input has size 5 along the axis 'hidden', but NextToken has input_size=4"
    ):
        language_model(9, embedding_dim=4, hidden_size=5, tied=True)
    with pytest.raises(OptionError, match="input_size must be 4, the size of the tied embedding, got 5"):
        NextToken(Embed(9, 4), input_size=5)


def test_a_language_model_learns_the_next_token() -> None:
    """Every step's target is the next id, and every step is predicted, bos included."""
    tokenize = Tokenize.train(["abc"], "characters", bos=True, eos=True)
    data = tokenize >> Shift() >> Bucket(rows=2) >> Pad()
    seed(0)
    model = language_model(tokenize.vocab_size, embedding_dim=8, hidden_size=16)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(60):
        for batch in data(["abc", "bca"]):
            train_step(model(batch).loss(), optimizer)
    (predicted,) = (data >> model).predict(["abc"])
    assert len(predicted) == 5, "bos, a, b, c and eos are predicted"
    assert tokenize.decode(predicted[2:4]) == "ca" or tokenize.decode(predicted[1:4]) == "bc"


@pytest.mark.parametrize("attention", ["dot", "general", "additive", "scaled_dot"])
def test_scores_of_a_language_model_do_not_depend_on_later_ids(attention: str) -> None:
    """Changing a row's last id changes the scores of no earlier step."""
    model = language_model(9, embedding_dim=4, hidden_size=4, attention=attention).eval()
    ids = torch.tensor([[1, 2, 3, 4]])
    other = torch.tensor([[1, 2, 3, 5]])
    before, after = (model(Padded(Ids, values, torch.tensor([4]))).values for values in (ids, other))
    assert torch.equal(before[:3], after[:3])


def test_unpack_restores_the_padded_width() -> None:
    """Of ids, of vectors, and of states, whose final states it drops."""
    ids = Padded(Ids, torch.tensor([[1, 9, 9, 9], [2, 3, 9, 9]]), torch.tensor([1, 2]))
    assert to_list(Unpack(Ids)(Pack()(ids)).values) == [[1, 0, 0, 0], [2, 3, 0, 0]]
    vectors = Padded(Vectors, torch.randn(2, 4, 3), torch.tensor([1, 2]))
    states = Encode(LSTM(3, 5))(vectors)
    assert Unpack()(states).values.shape == (2, 4, 5)
    assert Unpack(Vectors)(Pack(Vectors)(vectors)).width == 4
    with pytest.raises(ShapeError, match=r"the input of Unpack must be Hidden, got Ids; make it Unpack\(Ids\)"):
        untyped(Unpack())(ids.packed())
    with pytest.raises(ShapeError, match=r"the input of Pack must be Ids, got Vectors; make it Pack\(Vectors\)"):
        untyped(Pack())(vectors)
    with pytest.raises(ShapeError, match="the input of Unpack must be Packed or States, got Padded"):
        untyped(Unpack())(vectors)


def test_encode_accepts_both_layouts_and_no_ids() -> None:
    """Packed and padded vectors give the same states."""
    encode = Encode(LSTM(3, 5))
    vectors = Padded(Vectors, torch.randn(2, 4, 3), torch.tensor([1, 2]))
    assert torch.equal(encode(vectors).packed().values, encode(vectors.packed()).packed().values)
    ids = Packed(Ids, torch.tensor([1, 2]), torch.tensor([2]))
    with pytest.raises(ShapeError, match=r"the input of Encode must be vectors, got Ids; embed ids first"):
        untyped(encode)(ids)
    with pytest.raises(CompositionError, match=r'does not know its input size yet; .* Encode\("lstm", input_size=3\)'):
        Encode("lstm", hidden_size=4)(vectors)


def test_a_tagger_predicts_one_class_per_word() -> None:
    """Although words are split into several tokens, and bos and eos are added."""
    labels = Labels(["N", "V"])
    tokenize = TokenizeWords.train([["low", "lower"]], "bytes", bos=True, eos=True)
    pipe = tokenize >> Bucket(rows=2) >> Pad(labels=labels) >> tagger(tokenize.vocab_size, labels, hidden_size=4)
    rows = [["low", "lower", "é"], [], ["a"]]
    predictions = list(pipe.predict(rows))
    assert [len(each) for each in predictions] == [3, 0, 1]
    assert {name for each in predictions for name in each} <= {"N", "V"}


def test_type_preserving_stages_join_to_one() -> None:
    """And to stages on either side."""
    block = AttendEarlier("dot", input_size=3) >> Dropout() >> AttendEarlier("dot", window=2, input_size=3)
    tags = block >> Tag(2, input_size=3)
    states = States.from_padded(torch.randn(2, 4, 3), torch.tensor([4, 0]))
    assert len(tags(states).values) == 4
