"""Chains: names, sizes, order of answers, traces, copies; and the models made of them."""

import copy
import itertools
import pickle
import re
from collections.abc import Iterable, Iterator, Sequence

import pytest
import torch
from rich.console import Console
from torch import nn

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
    NextToken,
    Pack,
    Packed,
    Pad,
    Padded,
    Pool,
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
from pipeline.errors import CompositionError, OptionError, ShapeError
from pipeline.stages.from_ids import Numbered
from pipeline_recurrent import LSTM
from support.untyped import learn, listed, loosely, seed

TEXTS = ["a b c", "", "c", "b a b a", "a a", "c b"]


def test_state_dict_keys_are_names() -> None:
    """Adding a stage without weights, or joining in another order, renames nothing."""
    parts = (Embed(9, 4), Encode(LSTM(4, 5)), Attend("general"), Pool("max"), Classify(3))
    embed, encode, attend, pool, classify = parts
    left = embed >> encode >> attend >> pool >> classify
    right = Pack() >> (embed >> Dropout() >> (encode >> Dropout() >> (attend >> (pool >> classify))))
    assert list(left.state_dict()) == list(right.state_dict())
    assert next(iter(left.state_dict())) == "embed.weight"
    assert {key.split(".")[0] for key in left.state_dict()} == {"embed", "encode", "attend", "classify"}
    assert repr(right).startswith("Pack >> Embed >> Dropout >> Encode >> Dropout >> Attend >> Pool")


def test_two_stages_with_weights_need_two_names() -> None:
    """The error says which stages, and how to name one."""
    first = Embed(9, 4) >> Encode(LSTM(4, 5)) >> Unpack(Vectors)
    with pytest.raises(
        CompositionError, match=r"stage 2 `Encode` and stage 4 `Encode` are both named 'encode'.*name=\"en"
    ):
        _ = first >> Encode(LSTM(5, 6))
    model = first >> Encode(LSTM(5, 6), name="upper")
    assert "upper.encoder.rnn.weight_ih_l0" in model.state_dict()
    with pytest.raises(CompositionError, match="stage 2 is named 'forward', which a chain cannot call it"):
        _ = Embed(9, 4) >> Encode(LSTM(4, 5), name="forward")


def test_weightless_stages_are_numbered() -> None:
    """They may repeat: nothing hangs on their names."""
    keeps = Dropout() >> Dropout()
    assert isinstance(keeps, TypePreservingChain)
    assert list(keeps.parts) == ["dropout", "dropout_2"]
    states = States.from_padded(torch.ones(1, 2, 3), torch.tensor([2]))
    assert keeps.eval()(states) is states


def test_sizes_are_inferred_along_the_chain() -> None:
    """Wherever the join is made, and complete before any data: the state-dict and the optimiser see all weights."""
    tail = Attend("additive") >> Pool("attention") >> Classify(3)
    assert not list(tail.parameters())
    model = Embed(9, 4) >> (Encode("bigru", hidden_size=5) >> tail)
    sizes = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    assert sizes["encode.encoder.rnn.weight_ih_l0"] == (15, 4)
    assert sizes["attend.attention.query.weight"] == (10, 10)
    assert sizes["pool.pooling.query"] == (10,)
    assert sizes["classify.linear.weight"] == (3, 10)


def ways(parts: Sequence[int]) -> Iterator[str]:
    """Every way to set the brackets when parts are joined, two at a time."""
    if len(parts) == 1:
        yield f"parts[{parts[0]}]"
    for cut in range(1, len(parts)):
        for left, right in itertools.product(ways(parts[:cut]), ways(parts[cut:])):
            yield f"({left} >> {right})"


@pytest.mark.parametrize("way", list(ways(range(5))))
def test_the_order_of_joins_does_not_matter(way: str) -> None:
    """However the brackets are set, the weights are the same, and all are made before any data."""
    parts = [Embed(9, 4), Encode("bigru", hidden_size=5), Attend("additive"), Pool("attention"), Classify(3)]
    chain: Chain[Batch[Ids], Scores] = eval(way, {"parts": parts})  # noqa: S307 - written above
    assert repr(chain) == "Embed >> Encode >> Attend >> Pool >> Classify"
    shapes = {name: tuple(weight.shape) for name, weight in chain.state_dict().items()}
    assert len(shapes) == 18
    assert shapes["attend.attention.query.weight"] == (10, 10)
    assert shapes["classify.linear.weight"] == (3, 10)


def test_a_part_that_knows_its_size_tells_those_behind_it() -> None:
    """At the join, wherever in the middle of a pipe the chain begins."""
    for chain in (
        Attend("general", input_size=8) >> Pool("max") >> Classify(3),
        AttendEarlier("general", input_size=8) >> Dropout() >> Tag(3),
        Pool("attention", input_size=8) >> Dropout() >> Classify(3),
        Encode(LSTM(2, 4, bidirectional=True)) >> Dropout() >> Pool("mean") >> Classify(3),
    ):
        assert list(chain.state_dict().values())[-2].shape == (3, 8)


@pytest.mark.parametrize(
    ("join", "places", "sizes"),
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
def test_sizes_that_do_not_fit_are_refused_at_the_join(
    join: object, places: str, sizes: tuple[int, str, int, str]
) -> None:
    """In one error that names both stages, their places, the axis and both sizes."""
    assert callable(join)
    came, who, wanted, axis = sizes
    with pytest.raises(CompositionError) as error:
        join()
    message = str(error.value)
    assert message.startswith(f"between stage {places}: ")
    assert f"{who} reads input_size={wanted} along the axis {axis!r}" in message
    assert re.search(rf"\b{came}\b.* come in, but", message)
    assert error.value.details == {"axis": axis, "size": came, "input_size": wanted}


def test_the_future_is_refused_at_run_time_too() -> None:
    """For parts that come by name, or from code without types."""
    for encode in (Encode("bilstm", hidden_size=4), Encode("lstm", hidden_size=4, bidirectional=True)):
        with pytest.raises(
            CompositionError, match=r"between stage 2 `Encode` and stage 3 `NextToken`: .*seen the future"
        ):
            loosely((Embed(9, 4) >> encode).__rshift__)(NextToken(9))
    with pytest.raises(CompositionError, match="`Attend` and stage 4 `NextToken`"):
        loosely((Embed(9, 4) >> Encode(LSTM(4, 4)) >> Attend()).__rshift__)(NextToken(9))
    with pytest.raises(CompositionError, match="encoder 'bigru' was promised to be causal, but it is not"):
        Encode("bigru", causal=True, hidden_size=4)


def test_what_is_no_stage_is_refused() -> None:
    """A torch module is wrapped first."""
    with pytest.raises(
        CompositionError, match=r"`Embed >> ...` joins stages, but Linear is none; derive it from Stage"
    ):
        loosely(Embed(9, 4).__rshift__)(nn.Linear(4, 4))


def test_heads_wait_for_their_size() -> None:
    """By themselves they say so, and refuse vectors of another size."""
    pooled = Pool("max")(States.from_padded(torch.zeros(1, 2, 3), torch.tensor([2])))
    with pytest.raises(
        CompositionError, match=r"Classify does not know its input size yet.*Classify\(2, input_size=3\)"
    ):
        Classify(2)(pooled)
    with pytest.raises(ShapeError, match="Classify reads vectors of 4, but 3 arrived"):
        Classify(2, input_size=4)(pooled)
    with pytest.raises(OptionError, match="Classify needs 1 class or more, but 0 arrived"):
        Classify(0)


def small_tagger(*, buffer_size: int = 10_000) -> StreamChain[Numbered | Example[Numbered], StepScores]:
    """A pipe that tags numbers, with untrained weights, the same at every call."""
    seed(1)
    model = Pack() >> Embed(7, 4) >> Dropout(0.5) >> Encode("bilstm", hidden_size=5) >> Tag(9)
    return FromIds() >> Bucket(max_padded_steps=30, buffer_size=buffer_size) >> Pad() >> model


@pytest.mark.parametrize("buffer_size", [1, 7, 1000])
def test_predictions_come_in_the_order_of_the_input(buffer_size: int) -> None:
    """One a row, the same as for the row alone, empty rows included; the model is left in its mode."""
    pipe = small_tagger(buffer_size=buffer_size).train()
    pipe.get_submodule("embed").eval()
    rows: list[Numbered] = [[place % 7] * (place * 13 % 9) for place in range(50)]
    answers = list(pipe.predict(rows))
    assert [len(answer) for answer in answers] == [len(row) for row in rows]
    assert answers == [next(pipe.predict([row])) for row in rows]
    assert pipe.training
    assert pipe.get_submodule("encode").training
    assert not pipe.get_submodule("embed").training


def test_batches_follow_the_weights() -> None:
    """A pipe whose weights are elsewhere sends its batches there."""
    pipe = (FromIds() >> Bucket(rows=2) >> Pad() >> Embed(7, 4)).to("meta")
    assert next(pipe([[1, 2], [3]])).values.device.type == "meta"


def test_predictions_are_lazy() -> None:
    """An endless input is answered; a pool is read ahead, and no more."""
    taken: list[int] = []

    def endless() -> Iterator[Numbered]:
        for place in itertools.count():
            taken.append(place)
            yield [place % 7] * (place % 5)

    answers = small_tagger(buffer_size=8).predict(endless())
    first = list(itertools.islice(answers, 20))
    assert [len(answer) for answer in first] == [place % 5 for place in range(20)]
    assert len(taken) <= 512, "a door takes some hundred inputs at a time"


def test_rows_are_numbered_anew() -> None:
    """Rows that a user made all say place 0; their answers still come in order."""
    pipe = Bucket(rows=2) >> Pad() >> Pack() >> Embed(7, 4) >> Encode("gru", hidden_size=5) >> Tag(9)
    rows = [Row(Ids(torch.full((time,), 3))) for time in (1, 4, 2, 3)]
    assert [len(answer) for answer in pipe.predict(rows)] == [1, 4, 2, 3]


class Faulty(Stream[Row[Ids], list[Row[Ids]]]):
    """Batches of one row, of which row 1 comes as often as told: not at all, or twice."""

    def __init__(self, times: int) -> None:
        self.times = times

    def __call__(self, values: Iterable[Row[Ids]], /) -> Iterator[list[Row[Ids]]]:
        """Each row by itself."""
        for row in values:
            yield from [[row]] * (self.times if row.row_id == 1 else 1)


@pytest.mark.parametrize(
    ("times", "message"), [(0, r"row 1 was never answered.*Faulty.*lost it"), (2, "row 1 was answered twice")]
)
def test_lost_and_doubled_rows_are_noticed(times: int, message: str) -> None:
    """No answer is silently another row's."""
    pipe = FromIds() >> Faulty(times) >> Pad() >> Embed(7, 4) >> Encode("gru", hidden_size=5) >> Tag(9)
    with pytest.raises(CompositionError, match=message):
        list(pipe.predict([[1], [2], [3]]))


def test_a_trace_shows_every_stage() -> None:
    """Names, types, shapes by axis, and the first values; as text, and as a table."""
    tokenize = Tokenize.train(TEXTS)
    pipe = tokenize >> Bucket(rows=4) >> Pad() >> classifier(tokenize.vocab_size, 2, embedding_dim=3, hidden_size=4)
    trace = pipe.inspect("a c")
    assert [step.stage for step in trace.steps] == ["input", "tokenize", "bucket", "pad", "pack", "embed", "dropout",
                                                    "encode", "pool", "dropout_2", "classify"]  # fmt: skip
    shown = {step.stage: (step.type, step.shape) for step in trace.steps}
    assert shown["input"] == ("str", "3 characters")
    assert shown["bucket"] == ("list of 1 Row[Ids]", "time=2")
    assert shown["pad"] == ("Padded[Ids]", "batch=1 time=2")
    assert shown["embed"] == ("Packed[Vectors]", "steps=2 feature=3")
    assert shown["encode"] == ("States", "steps=2 hidden=8")
    assert shown["classify"] == ("Scores", "batch=1 classes=2")
    assert str(trace).splitlines()[0].split() == ["stage", "gives", "shape", "values"]
    console = Console(width=200)
    with console.capture() as capture:
        console.print(trace)
    assert "list of 1 Row[Ids]" in capture.get(), "names in square brackets are no markup"


def test_examples_bring_their_targets_to_the_loss() -> None:
    """From names to a loss that trains, through every stage; answers are names."""
    labels = Labels(["even", "odd"])
    examples = [Example(text, target="odd" if len(text) % 3 else "even") for text in TEXTS * 5]
    tokenize = Tokenize.train(TEXTS, "characters")
    data = tokenize >> Bucket(rows=8) >> Pad(labels=labels)
    seed(0)
    model = classifier(tokenize.vocab_size, labels, embedding_dim=4, hidden_size=8)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.05)
    losses: list[float] = []
    for _ in range(30):
        losses.extend(learn(model(batch).loss(), optimiser) for batch in data(examples))
    assert losses[-1] < losses[0] / 4
    found = dict(zip(TEXTS, (data >> model).predict(TEXTS), strict=True))
    # An empty row weighs nothing in training, so nothing is known of it.
    assert {text: found[text] for text in TEXTS if text} == {t: "odd" if len(t) % 3 else "even" for t in TEXTS if t}


def test_a_chain_is_an_ordinary_module() -> None:
    """Copies, pickles, dtypes and modes do what they do for any module; a copy's weights are its own."""
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


def test_tied_weights_are_shared() -> None:
    """One tensor under two names, and still one in a copy."""
    model = language_model(9, embedding_dim=4, hidden_size=4, tied=True)
    for each in (model, copy.deepcopy(model)):
        assert each.get_parameter("embed.weight") is each.get_parameter("next_token.linear.weight")
    with pytest.raises(CompositionError, match="vectors of 5 come in, but NextToken reads input_size=4"):
        language_model(9, embedding_dim=4, hidden_size=5, tied=True)
    with pytest.raises(OptionError, match="input_size is 5, but the tied embedding has vectors of 4"):
        NextToken(Embed(9, 4), input_size=5)


def test_a_language_model_learns_what_follows() -> None:
    """Every step's target is the next id; bos is asked for too; nothing of the future reaches a score."""
    tokenize = Tokenize.train(["abc"], "characters", bos=True, eos=True)
    data = tokenize >> Shift() >> Bucket(rows=2) >> Pad()
    seed(0)
    model = language_model(tokenize.vocab_size, embedding_dim=8, hidden_size=16)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(60):
        for batch in data(["abc", "bca"]):
            learn(model(batch).loss(), optimiser)
    (answer,) = (data >> model).predict(["abc"])
    assert len(answer) == 5, "bos, a, b, c and eos are answered"
    assert tokenize.decode(answer[2:4]) == "ca" or tokenize.decode(answer[1:4]) == "bc"


@pytest.mark.parametrize("attention", ["dot", "general", "additive", "scaled_dot"])
def test_no_score_of_a_language_model_sees_the_future(attention: str) -> None:
    """Changing a row's last id changes the scores of no earlier step."""
    model = language_model(9, embedding_dim=4, hidden_size=4, attention=attention).eval()
    ids = torch.tensor([[1, 2, 3, 4]])
    other = torch.tensor([[1, 2, 3, 5]])
    before, after = (model(Padded(Ids, values, torch.tensor([4]))).values for values in (ids, other))
    assert torch.equal(before[:3], after[:3])


def test_unpack_gives_back_the_padded_width() -> None:
    """Of ids, of vectors, and of states, which come without an encoder's final states."""
    ids = Padded(Ids, torch.tensor([[1, 9, 9, 9], [2, 3, 9, 9]]), torch.tensor([1, 2]))
    assert listed(Unpack(Ids)(Pack()(ids)).values) == [[1, 0, 0, 0], [2, 3, 0, 0]]
    vectors = Padded(Vectors, torch.randn(2, 4, 3), torch.tensor([1, 2]))
    states = Encode(LSTM(3, 5))(vectors)
    assert Unpack()(states).values.shape == (2, 4, 5)
    assert Unpack(Vectors)(Pack(Vectors)(vectors)).width == 4
    with pytest.raises(ShapeError, match=r"Unpack was made for Hidden, but Ids arrived; make it Unpack\(Ids\)"):
        loosely(Unpack())(ids.packed())
    with pytest.raises(ShapeError, match=r"Pack was made for Ids, but Vectors arrived; make it Pack\(Vectors\)"):
        loosely(Pack())(vectors)
    with pytest.raises(ShapeError, match="Unpack takes Packed or States, but a Padded arrived"):
        loosely(Unpack())(vectors)


def test_encode_takes_either_layout_and_refuses_ids() -> None:
    """Packed and padded vectors give one result."""
    encode = Encode(LSTM(3, 5))
    vectors = Padded(Vectors, torch.randn(2, 4, 3), torch.tensor([1, 2]))
    assert torch.equal(encode(vectors).packed().values, encode(vectors.packed()).packed().values)
    ids = Packed(Ids, torch.tensor([1, 2]), torch.tensor([2]))
    with pytest.raises(ShapeError, match=r"Encode takes vectors, but Ids arrived; look ids up first, with Embed"):
        loosely(encode)(ids)
    with pytest.raises(CompositionError, match=r'does not know its input size yet; .* Encode\("lstm", input_size=3\)'):
        Encode("lstm", hidden_size=4)(vectors)


def test_taggers_answer_words() -> None:
    """One name a word, though words were cut into pieces, and bos and eos stand around them."""
    labels = Labels(["N", "V"])
    tokenize = TokenizeWords.train([["low", "lower"]], "bytes", bos=True, eos=True)
    pipe = tokenize >> Bucket(rows=2) >> Pad(labels=labels) >> tagger(tokenize.vocab_size, labels, hidden_size=4)
    rows = [["low", "lower", "é"], [], ["a"]]
    answers = list(pipe.predict(rows))
    assert [len(answer) for answer in answers] == [3, 0, 1]
    assert {name for answer in answers for name in answer} <= {"N", "V"}


def test_block_of_attention() -> None:
    """TypePreserving join to keeps, and to stages on either side."""
    block = AttendEarlier("dot", input_size=3) >> Dropout() >> AttendEarlier("dot", window=2, input_size=3)
    tags = block >> Tag(2, input_size=3)
    states = States.from_padded(torch.randn(2, 4, 3), torch.tensor([4, 0]))
    assert len(tags(states).values) == 4
