"""Steps of a model: equal to one pass over the whole rows, whatever the calls in which the steps arrive."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close
from torch.utils import _pytree as pytree
from typing_extensions import override

from pipeline import (
    Attend,
    AttendEarlier,
    Attention,
    Causal,
    Classify,
    Embed,
    EmbedFields,
    Encode,
    Encoder,
    Fields,
    Heads,
    Hidden,
    Identity,
    Ids,
    Labels,
    ModuleStage,
    Pack,
    Pad,
    Padded,
    Pool,
    Row,
    States,
    StepCarry,
    Tag,
    Unpack,
    Vectors,
    through,
)
from pipeline.core.contexts import seeded
from pipeline.errors import CompositionError, ShapeError
from pipeline.extend import Memory, Stepping
from support.stepping import (
    TOKENS,
    count_encoder_steps,
    list_rows,
    make_ids,
    make_language_model,
    run_in_chunks,
    run_whole,
)
from support.untyped import as_any, to_list

EXACT: Any = {"rtol": 0.0, "atol": 1e-12}
ENCODERS = ("lstm", "gru", "rnn")
ATTENTIONS = ("dot", "scaled_dot", "general", "additive", "multi_head", None)


@st.composite
def cut_rows(draw: st.DrawFn) -> tuple[list[list[int]], list[list[int]]]:
    """Draw rows of ids, and for each of several calls the number of next steps of each row, which may be 0."""
    count, calls = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    cuts = [[draw(st.integers(0, 4)) for _ in range(count)] for _ in range(calls)]
    lengths = [sum(counts) for counts in zip(*cuts, strict=True)]
    ids = st.integers(0, TOKENS - 1)
    return [draw(st.lists(ids, min_size=length, max_size=length)) for length in lengths], cuts


def assert_equal_rows(found: list[Tensor], wanted: list[Tensor]) -> None:
    """Compare the scores of each row in float64."""
    for row, expected in zip(found, wanted, strict=True):
        assert_close(row, expected, **EXACT)


@given(
    cut_rows(),
    st.sampled_from(ENCODERS),
    st.sampled_from(ATTENTIONS),
    st.sampled_from([None, 1, 2, 5]),
    st.sampled_from([(1, False), (1, True), (2, False)]),
)
def test_steps_equal_the_whole_pass(
    rows_and_cuts: tuple[list[list[int]], list[list[int]]],
    encoder: str,
    attention: str | None,
    window: int | None,
    form: tuple[int, bool],
) -> None:
    """Rows of different positions in one batch, with prompts of several steps; every attention, window and encoder."""
    rows, cuts = rows_and_cuts
    model = make_language_model(encoder, attention=attention, window=window, num_layers=form[0], tied=form[1])
    assert_equal_rows(run_in_chunks(model, rows, cuts), run_whole(model, rows))


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_one_token_at_a_time_equals_the_whole_pass(attention: str | None) -> None:
    """Tensors of one id per row, over more steps than the first buffer of the attention holds."""
    model = make_language_model(attention=attention)
    ids = torch.randint(0, TOKENS, (2, 40), generator=torch.Generator().manual_seed(0))
    carry = None
    found: list[Tensor] = []
    for tokens in ids.T:
        scores, carry = model.step(tokens, carry)
        found.append(scores.values)
    assert_equal_rows(list(torch.stack(found, 1)), run_whole(model, to_list(ids)))


def test_float32_steps_equal_the_whole_pass_up_to_rounding() -> None:
    """As in use."""
    model = make_language_model(attention="dot").float()
    rows = [[1, 2, 3, 4, 5, 6], [6, 5, 4]]
    found = run_in_chunks(model, rows, [[1, 1]] * 3 + [[1, 0]] * 3)
    for row, expected in zip(found, run_whole(model, rows), strict=True):
        assert_close(row, expected, rtol=0, atol=1e-6)


def test_an_attention_of_ones_own_that_mixes_by_itself_runs_step_by_step() -> None:
    """One that overrides `forward` sees the keys themselves."""

    class Nearest(Attention):
        """Attends to the most similar key only."""

        def __init__(self, input_size: int) -> None:
            super().__init__()
            self.input_size = input_size

        @override
        def score(self, query: Tensor, key: Tensor) -> Tensor:
            return query @ key.transpose(1, 2)

        @override
        def forward(self, query: Tensor, key: Tensor, mask: Tensor) -> Tensor:
            best = self.score(query, key).masked_fill(~mask, -torch.inf).argmax(-1, keepdim=True)
            return key.gather(1, best.expand(-1, -1, key.shape[2]))

    with seeded(0):
        model: Any = (Embed(TOKENS, 4) >> Encode("gru", causal=True, hidden_size=4)).double()
        model = model >> AttendEarlier(Nearest(4)) >> make_language_model().stages["next_token"]
    rows = [[1, 2, 3, 4, 5], [6, 5, 0]]
    assert_equal_rows(run_in_chunks(model, rows, [[2, 1], [1, 2], [2, 0]]), run_whole(model, rows))


def test_a_causal_tagger_of_vectors_runs_over_a_stream() -> None:
    """A sensor: two encoders, one reading the other's states."""
    with seeded(0):
        first = Encode("lstm", causal=True, input_size=3, hidden_size=4)
        second = Encode("gru", causal=True, hidden_size=5, name="second")
        model = (first >> Unpack(Vectors) >> second >> Tag(Labels(["on", "off"]))).double()
    readings = torch.randn(2, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    whole = model(Padded(Vectors, readings, torch.tensor([6, 6])))
    carry = None
    for time in range(6):
        scores, carry = model.step(readings[:, time], carry)
        assert_close(scores.values, torch.stack([row[time] for row in list_rows(whole)]), **EXACT)
        assert [tags for _, tags in scores.rows()] == [[tags[time]] for _, tags in whole.rows()]


@attrs.frozen(eq=False)
class Event(Fields):
    """A step with two fields."""

    code: Ids
    amount: Vectors


def test_events_with_fields_run_step_by_step() -> None:
    """As batches; a stage with branches runs if all of them do."""
    with seeded(0):
        embed = EmbedFields(Event, code=through(Embed(9, 3)), amount=through(Identity(1)))
        model = (embed >> Encode("gru", causal=True, hidden_size=4) >> Heads(Tag(2), Tag(3))).double()
    codes, amounts = torch.tensor([3, 1, 4, 1]), torch.randn(4, 1, dtype=torch.float64)
    whole = model(Pad(Event)([Row(Event(Ids(codes), Vectors(amounts)))]))
    carry = None
    for time in range(4):
        event = Event(Ids(codes[time : time + 1]), Vectors(amounts[time : time + 1]))
        joint, carry = model.step(Pad(Event)([Row(event)]), carry)
        for part, expected in zip(as_any(joint).parts.values(), as_any(whole).parts.values(), strict=True):
            assert_close(part.values[0], expected.values[time], **EXACT)


def test_each_step_of_the_encoder_runs_once() -> None:
    """No step of the past is run again: the encoder reads exactly the steps that are passed."""
    model = make_language_model()
    counted = count_encoder_steps(model)
    run_in_chunks(model, [[1, 2, 3, 4, 5, 6], [6, 5, 4]], [[3, 1], [1, 1], [1, 0], [1, 1]])
    assert counted == [4, 2, 1, 2]


def test_a_carry_is_a_value_from_which_several_continuations_start() -> None:
    """Two tokens after one carry, and then more after each: neither changes the other, nor the carry."""
    model = make_language_model()
    _, carry = model.step(make_ids([[1, 2, 3]]))
    ends = {}
    for token in (4, 5):
        _, ends[token] = model.step(torch.tensor([token]), carry)
    for token in (4, 5):
        scores, _ = model.step(torch.tensor([6]), ends[token])
        assert_close(scores.values[0], run_whole(model, [[1, 2, 3, token, 6]])[0][-1], **EXACT)
    again, _ = model.step(torch.tensor([0]), carry)
    assert_close(again.values[0], run_whole(model, [[1, 2, 3, 0]])[0][-1], **EXACT)


@pytest.mark.parametrize("window", [None, 2])
def test_selected_rows_continue_as_they_would_have(window: int | None) -> None:
    """Rows dropped, repeated and in another order."""
    model = make_language_model(window=window)
    rows = [[1, 2, 3], [4], [5, 6, 0, 1]]
    _, carry = model.step(make_ids(rows))
    chosen = [2, 0, 2]
    scores, carry = model.step(torch.tensor([3, 4, 5]), carry.select(torch.tensor(chosen)))
    wanted = run_whole(model, [[*rows[row], token] for row, token in zip(chosen, (3, 4, 5), strict=True)])
    assert_close(scores.values, torch.stack([row[-1] for row in wanted]), **EXACT)
    assert to_list(carry.steps) == [5, 4, 5]


def _pickle(carry: StepCarry) -> StepCarry:
    copied: StepCarry = pickle.loads(pickle.dumps(carry))
    return copied


def _move(carry: StepCarry) -> StepCarry:
    return carry.to("cpu")


def _map_to_copies(carry: StepCarry) -> StepCarry:
    copied: StepCarry = as_any(pytree.tree_map(torch.clone, carry))
    return copied


def _map_to_same(carry: StepCarry) -> StepCarry:
    same: StepCarry = as_any(pytree.tree_map(as_any, carry))
    return same


@pytest.mark.parametrize("copied", [copy.deepcopy, _pickle, _move, _map_to_copies, _map_to_same])
def test_a_copied_carry_continues_beside_the_original(copied: Callable[[StepCarry], StepCarry]) -> None:
    """Both continue with different tokens, and neither overwrites the other."""
    model = make_language_model()
    _, carry = model.step(make_ids([[1, 2, 3]]))
    other = copied(carry)
    (_, carry), (_, other) = model.step(torch.tensor([4]), carry), model.step(torch.tensor([5]), other)
    for token, each in ((4, carry), (5, other)):
        scores, _ = model.step(torch.tensor([6]), each)
        assert_close(scores.values[0], run_whole(model, [[1, 2, 3, token, 6]])[0][-1], **EXACT)


def test_a_carry_from_inference_mode_continues_outside() -> None:
    """Torch forbids to change such tensors; they are copied."""
    model = make_language_model()
    with torch.inference_mode():
        _, carry = model.step(make_ids([[1, 2, 3]]))
        _, carry = model.step(torch.tensor([4]), carry)
    scores, _ = model.step(torch.tensor([5]), carry)
    assert_close(scores.values[0], run_whole(model, [[1, 2, 3, 4, 5]])[0][-1], **EXACT)


def test_steps_have_no_gradients_and_leave_the_mode_alone() -> None:
    """The mode of each part is restored, also one that was set by hand."""
    model = make_language_model()
    model.stages["dropout"].eval()
    scores, _ = model.step(torch.tensor([1]))
    assert not scores.values.requires_grad
    assert model.training
    assert not model.stages["dropout"].training


@pytest.mark.parametrize(
    ("stages", "named"),
    [
        (lambda: Encode("gru", hidden_size=4) >> Pool("last") >> Classify(2), "stage 3 `Pool`"),
        (lambda: Encode("gru", hidden_size=4) >> Attend("dot") >> Tag(2), "stage 3 `Attend`"),
        (lambda: Encode("bigru", hidden_size=4) >> Tag(2), "stage 2 `Encode`: encoder 'bigru' must be causal"),
        (lambda: Encode("gru", hidden_size=4) >> _Shuffle() >> Tag(2, input_size=4), "stage 3 `_Shuffle`"),
        (lambda: Encode(_Forgetful(4)) >> Tag(2), "stage 2 `Encode`: encoder '_Forgetful' must be stateful"),
    ],
    ids=["a pooling", "attention to all steps", "a bidirectional encoder", "an own stage", "no carry"],
)
def test_what_cannot_run_step_by_step_is_named(stages: Any, named: str) -> None:
    """Before anything is computed wrongly."""
    model: Any = Embed(TOKENS, 4) >> stages()
    with pytest.raises(CompositionError) as caught:
        model.step(torch.tensor([1]))
    assert str(caught.value).startswith(named)


class _Shuffle(ModuleStage[States, States]):
    """A stage of one's own that declares nothing."""

    @override
    def forward(self, value: States) -> States:
        return value


class _Forgetful(Encoder[Causal]):
    """A causal encoder without a carry: each step is the mean of all so far."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.input_size = self.output_size = size
        self.causal = True

    @override
    def forward(self, batch: Any) -> Any:
        rows = batch.padded()
        sums = rows.values.cumsum(1)
        return self.make_states(rows.with_values(sums), sums[:, -1])


class _Negate(ModuleStage[States[Causal], States[Causal]]):
    """A stage whose steps depend on themselves only."""

    stepwise = True

    @override
    def forward(self, value: States[Causal]) -> States[Causal]:
        steps = value.packed()
        return value.with_values(steps.with_values(-steps.values), stage="_Negate")


@attrs.frozen(eq=False)
class _Sums(Memory):
    sums: Tensor

    @override
    def select(self, rows: Tensor) -> "_Sums":
        return _Sums(self.sums[rows])


class _Cumulate(ModuleStage[States[Causal], States[Causal]], Stepping[States[Causal], States[Causal], _Sums]):
    """A stage with a memory: the sum of all steps so far."""

    @override
    def forward(self, value: States[Causal]) -> States[Causal]:
        return self.step(value, None)[0]

    @override
    def step(self, value: States[Causal], memory: _Sums | None, /) -> tuple[States[Causal], _Sums]:
        rows = value.padded()
        sums = rows.values.cumsum(1)
        if memory is not None:
            sums = sums + memory.sums.unsqueeze(1)
        before = torch.zeros_like(sums[:, 0]) if memory is None else memory.sums
        last = (value.lengths - 1).clamp(min=0).reshape(-1, 1, 1).expand(-1, 1, sums.shape[2])
        ended = torch.where((value.lengths > 0).unsqueeze(1), sums.gather(1, last).squeeze(1), before)
        return value.with_values(rows.with_values(sums), stage="_Cumulate"), _Sums(ended)


def test_stages_of_ones_own_run_step_by_step() -> None:
    """One declares `stepwise`, the other derives from `Stepping`."""
    with seeded(0):
        states = Embed(TOKENS, 4) >> Encode("gru", causal=True, hidden_size=4) >> _Negate() >> _Cumulate()
        model: Any = (states >> Tag(3, input_size=4)).double()
    rows = [[1, 2, 3, 4], [5, 6]]
    assert_equal_rows(run_in_chunks(model, rows, [[2, 1], [1, 1], [1, 0]]), run_whole(model, rows))


def test_an_error_inside_a_step_names_the_stage() -> None:
    """As in a whole pass."""
    model = make_language_model()
    with pytest.raises(ShapeError, match=r"^stage 2 `Encode`: .*input_size=4"):
        (Identity() >> model.stages["encode"]).step(torch.zeros(1, 3, dtype=torch.float64))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.tensor([1, 2]), "one row for each of the 1 rows of the carry, got 2 rows"),
        (torch.tensor([[1]]), "must be one int64 id per row"),
        (torch.tensor([True]), "must be one int64 id per row"),
        ([1], "must be a tensor or a batch, got a list"),
    ],
    ids=["another number of rows", "two axes", "booleans", "a list"],
)
def test_values_that_do_not_continue_the_rows_are_rejected(value: Any, message: str) -> None:
    """With what to pass instead."""
    model = make_language_model()
    _, carry = model.step(torch.tensor([1]))
    with pytest.raises(ShapeError, match=message):
        model.step(value, carry)


def test_the_carry_of_another_model_is_rejected() -> None:
    """Its stages have other memories."""
    _, carry = make_language_model(attention=None).step(torch.tensor([1]))
    with pytest.raises(CompositionError, match=r"with the memory of attend_earlier, encode, got one of encode"):
        make_language_model().step(torch.tensor([1]), carry)


def test_a_batch_that_is_packed_already_continues_rows() -> None:
    """Models may begin with either layout."""
    model = make_language_model()
    _, carry = model.step(make_ids([[1, 2], [3]]).packed())
    scores, _ = model.step(make_ids([[4], [5]]).packed(), carry)
    wanted = run_whole(model, [[1, 2, 4], [3, 5]])
    assert_close(scores.values, torch.stack([row[-1] for row in wanted]), **EXACT)


def test_a_hidden_input_and_pack_run_step_by_step() -> None:
    """Stages that convert layouts and kinds have no memory."""
    with seeded(0):
        states = Pack() >> Embed(TOKENS, 4) >> Encode("gru", causal=True, hidden_size=4) >> Unpack()
        model: Any = (states >> Encode("rnn", Hidden, hidden_size=3, name="second") >> Tag(2)).double()
    rows = [[1, 2, 3, 4], [5, 6]]
    assert_equal_rows(run_in_chunks(model, rows, [[2, 1], [1, 1], [1, 0]]), run_whole(model, rows))
