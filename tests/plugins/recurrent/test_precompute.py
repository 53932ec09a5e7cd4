"""A pipe with precomputed input products equals the original pipe, and a loop over each row."""

import copy
from collections.abc import Callable
from itertools import product
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from pipeline import (
    Bucket,
    Chain,
    Classify,
    Dropout,
    Embed,
    Encode,
    Encoder,
    Ids,
    Pack,
    Packed,
    Pad,
    Padded,
    Pool,
    Scores,
    States,
    StepScores,
    Tokenize,
    Vectors,
    set_padding_check,
)
from pipeline.errors import CompositionError, OptionError, ShapeError, ValuesError
from pipeline.extend import Batch, Carry, MaybeCausal, StageBase
from pipeline.models import classifier, language_model
from pipeline_recurrent import GRU, LSTM, RNN, EngineName, precompute_inputs
from pipeline_recurrent.native import available
from pipeline_recurrent.recurrent import Recurrent
from support.oracles import run_recurrent
from support.untyped import seed

LENGTHS = (3, 0, 5, 1, 5)
HIDDEN = 5
"""Not a multiple of any machine's vector size."""

KINDS: dict[str, Callable[[int, bool, bool], Recurrent[MaybeCausal]]] = {
    "lstm": lambda layers, both, bias: LSTM(3, HIDDEN, num_layers=layers, bidirectional=both, bias=bias),
    "gru": lambda layers, both, bias: GRU(3, HIDDEN, num_layers=layers, bidirectional=both, bias=bias),
    "rnn_tanh": lambda layers, both, bias: RNN(3, HIDDEN, num_layers=layers, bidirectional=both, bias=bias),
    "rnn_relu": lambda layers, both, bias: RNN(
        3, HIDDEN, nonlinearity="relu", num_layers=layers, bidirectional=both, bias=bias
    ),
}


class Case(NamedTuple):
    """A stack and a kind of batch."""

    cell: str
    layers: int
    both: bool
    bias: bool
    initial: bool
    padded: bool


CASES = [
    Case(*options) for options in product(KINDS, (1, 2), (False, True), (True, False), (True, False), (True, False))
]
ENGINES: tuple[EngineName, ...] = ("auto", "plain", "packed", "dense", *(() if available() else ("native",)))


class ForeignEncoder(Encoder[MaybeCausal]):
    """An encoder of another package."""

    def __init__(self) -> None:
        super().__init__()
        self.input_size, self.output_size, self.causal = 3, 3, True

    @override
    def forward(self, batch: Batch[Vectors]) -> States[MaybeCausal]:
        steps = batch.packed().with_values(batch.packed().values)
        return States(steps, steps.values.new_zeros(len(batch.lengths), 3))


def make_ids(*, padded: bool = False, initial: Carry | None = None) -> Packed[Ids] | Padded[Ids]:
    """Return rows of ids, one of them empty; the padding holds an id that is out of range."""
    generator = torch.Generator().manual_seed(3)
    values = torch.randint(0, 7, (len(LENGTHS), 6), generator=generator)
    lengths = torch.tensor(LENGTHS)
    values = values.where(torch.arange(6) < lengths.unsqueeze(1), 999)
    batch = Padded(Ids, values, lengths, initial_carry=initial)
    return batch if padded else batch.packed()


def make_initial(case: Case) -> Carry | None:
    """Return a different initial state for each row."""
    if not case.initial:
        return None
    generator = torch.Generator().manual_seed(4)
    shape = (case.layers * (2 if case.both else 1), len(LENGTHS), HIDDEN)
    states = 2 if case.cell == "lstm" else 1
    return tuple(torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(states))


def run_loop(embed: Embed, module: nn.LSTM | nn.GRU | nn.RNN, initial: Carry | None) -> list[Tensor]:
    """Return each row's hidden vectors by the loop, and the carry."""
    rows, found, ended = make_ids(padded=True), list[Tensor](), list[list[Tensor]]()
    for index, time in enumerate(LENGTHS):
        row = embed.weight[rows.values[index, :time]].double()
        steps, carried = run_recurrent(module, row, initial and [state[:, index] for state in initial])
        found.append(torch.cat(steps, dim=1))
        ended.append(carried)
    return [*found, *(torch.stack(each, dim=1) for each in zip(*ended, strict=True))]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_table_equals_the_loop(case: Case) -> None:
    """Hidden vectors and carry, in float64 and float32, by every engine that looks up, from both layouts."""
    seed(5)
    embed, encoder = Embed(7, 3).double(), KINDS[case.cell](case.layers, case.both, case.bias).double()
    initial = make_initial(case)
    with torch.no_grad():
        expected = run_loop(embed, encoder.rnn, initial)
    for engine, (dtype, rounding) in product(ENGINES, ((torch.float64, 1e-12), (torch.float32, 1e-5))):
        if engine == "native" and dtype is torch.float64:
            continue
        encoder.engine = engine
        fast = precompute_inputs(Embed.from_pretrained(embed.weight) >> Encode(encoder)).to(dtype)
        begun = initial and tuple(state.to(dtype) for state in initial)
        states = fast(make_ids(padded=case.padded, initial=begun))
        assert states.engine in {"plain", "native"}
        assert states.carry is not None
        padded = states.padded().values
        results = [*(padded[row, :time] for row, time in enumerate(LENGTHS)), *states.carry]
        for ours, theirs in zip(results, expected, strict=True):
            torch.testing.assert_close(ours.double(), theirs, rtol=rounding, atol=rounding)


def test_other_stages_and_options_stay() -> None:
    """Norms, residuals, merges, dropout in evaluation, tied weights; and the predictions of a whole pipe, in order."""
    seed(6)
    stacked = LSTM(3, 4, num_layers=3, bidirectional=True, layer_norm=True, residual=True, dropout=0.4, merge="mean")
    models: list[
        Chain[Padded[Ids], Scores[int]] | Chain[Batch[Ids], Scores[int]] | Chain[Padded[Ids], StepScores[int]]
    ] = [
        Pack() >> Embed(7, 3) >> Dropout(0.3) >> Encode(stacked) >> Pool("final") >> Classify(2),
        Embed(7, 3)
        >> Dropout(0.3, per="row")
        >> Dropout(0.1)
        >> Encode("bigru", hidden_size=4)
        >> Pool("max")
        >> Classify(2),
        language_model(7, embedding_dim=4, hidden_size=4, tied=True),
    ]
    rows = make_ids(padded=True)
    assert isinstance(rows, Padded)
    for model in models:
        fast = precompute_inputs(model)
        model.eval()
        torch.testing.assert_close(fast(rows).values, model(rows).values, rtol=1e-5, atol=1e-5)
    texts = ["a fine film", "dull", "", "far from dull, and fine"]
    tokenize = Tokenize.train(texts)
    pipe = tokenize >> Bucket(max_padded_steps=64) >> Pad() >> classifier(tokenize.vocab_size, 3, dropout=0.5)
    assert list(precompute_inputs(pipe).predict(texts)) == list(pipe.predict(texts))


def test_the_pipe_and_the_copy_are_independent() -> None:
    """The copy keeps the weights of the moment, and the pipe can be trained further."""
    model = Embed(7, 3) >> Encode(LSTM(3, 4)) >> Pool("max") >> Classify(2)
    before = copy.deepcopy(model.state_dict())
    fast = precompute_inputs(model)
    expected = fast(make_ids()).values
    assert model.training
    assert all(weight.requires_grad for weight in model.parameters())
    torch.testing.assert_close(model.state_dict(), before)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(1.0)
    assert torch.equal(fast(make_ids()).values, expected)
    torch.testing.assert_close(precompute_inputs(model)(make_ids()).values, model.eval()(make_ids()).values)
    other = precompute_inputs(model)
    other.load_state_dict(fast.state_dict())
    assert torch.equal(other(make_ids()).values, expected)


def test_training_is_rejected() -> None:
    """In training mode, and if weights or initial states require gradients."""
    fast = precompute_inputs(Embed(7, 3) >> Encode(LSTM(3, 4)))
    assert not any(weight.requires_grad for weight in fast.parameters())
    with pytest.raises(
        OptionError, match=r"stage 1 `PrecomputeInputs`: .* but it is in training mode; train the original pipe"
    ):
        fast.train()(make_ids())
    fast.eval().requires_grad_()
    with pytest.raises(OptionError, match="but its weights or the initial states require gradients"):
        fast(make_ids())
    with torch.no_grad():
        fast(make_ids())
    fast.requires_grad_(requires_grad=False)
    initial = tuple(torch.zeros(1, len(LENGTHS), 4, requires_grad=True) for _ in range(2))
    with pytest.raises(OptionError, match="require gradients"):
        fast(make_ids(initial=initial))


def test_bad_batches_are_rejected_as_by_embed_and_encode() -> None:
    """Ids out of range with their row and step, and wrong initial states; and engines that cannot look up."""
    model = Embed(7, 3) >> Encode(LSTM(3, 4))
    fast = precompute_inputs(model)
    wrong = Padded(Ids, torch.tensor([[1, 2], [7, 99]]), torch.tensor([2, 1]))
    with pytest.raises(ValuesError) as one, torch.no_grad():
        model(wrong)
    with pytest.raises(ValuesError) as other:
        fast(wrong)
    assert str(other.value).removeprefix("stage 1 `PrecomputeInputs`") == str(one.value).removeprefix("stage 1 `Embed`")
    assert other.value.details["row"] == 1
    with pytest.raises(ShapeError, match="initial_carry must be 2 tensor"):
        fast(make_ids(initial=(torch.zeros(1, len(LENGTHS), 4),)))
    fast.get_submodule("precompute_inputs.encoder").__dict__["engine"] = "packed"
    with pytest.raises(OptionError, match="because it cannot look up precomputed input products"):
        fast(make_ids())
    with pytest.raises(OptionError, match="but the values are torch.bfloat16"):
        precompute_inputs(model.bfloat16())(make_ids())


def test_a_pipe_without_embed_and_encode_is_rejected() -> None:
    """Or with another stage between them, or with an encoder of another package."""
    seed(8)
    pipes: list[StageBase] = [
        Embed(7, 3),
        Encode(LSTM(3, 4)),
        Encode(LSTM(3, 4)) >> Pool("max"),
        Embed(7, 3) >> Encode(ForeignEncoder()),
    ]
    for pipe in pipes:
        with pytest.raises(
            CompositionError, match="precompute_inputs takes a pipe in which Embed feeds an LSTM, GRU or RNN"
        ):
            precompute_inputs(pipe)


def test_it_prints_and_checks_like_any_pipe() -> None:
    """Look-ups are not counted as multiplications."""
    encoder = LSTM(3, 4, bidirectional=True)
    model = Pack() >> Embed(7, 3) >> Encode(encoder, name="reader") >> Pool("max") >> Classify(2)
    fast = precompute_inputs(model)
    assert repr(fast) == "Pack >> PrecomputeInputs >> Pool >> Classify"
    printed = str(fast)
    assert "reader" in printed
    assert "128 per step" in printed  # 4 gates x 4 x 4, in both directions
    assert "16 per row" in printed
    assert fast.check().problem is None
    assert {name.partition(".")[0] for name in fast.state_dict()} == {"reader", "classify"}


def test_autocast_and_the_padding_check_change_nothing() -> None:
    """The table has a dtype of its own, and padding is never looked up."""
    fast = precompute_inputs(Embed(7, 3) >> Encode(GRU(3, 4)))
    expected = fast(make_ids()).packed().values
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(fast(make_ids()).packed().values, expected)
    with set_padding_check(True):
        assert torch.equal(fast(make_ids(padded=True)).packed().values, expected)
    nothing = fast(Packed(Ids, torch.zeros(0, dtype=torch.int64), torch.tensor([0, 0])))
    assert (nothing.packed().values.shape, nothing.engine) == ((0, 4), None)
    assert not nothing.final.any()


def test_it_can_be_copied() -> None:
    """It is an ordinary module."""
    fast = precompute_inputs(Embed(7, 3) >> Encode(LSTM(3, 4)))
    states = copy.deepcopy(fast)(make_ids())
    assert isinstance(states, States)
    torch.testing.assert_close(states.final, fast(make_ids()).final)
