"""Test that the laws hold for every part of the library, and that each law catches exactly the parts that break it."""

from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from broken import TRIALS
from broken.attentions import Closest
from broken.conditions import Frozen, Sized, WithDropout, WithOwnDropout
from broken.encoders import Bidirectional, Leaky
from broken.modules import Scores, Smoothed
from broken.pools import DividesByZeroLengths
from broken.tokenizers import Letters, LosesSpaces
from broken.trial import Trial, get_name, is_broken
from pipeline import (
    AttendEarlier,
    Attention,
    Batch,
    Encode,
    Encoder,
    Ids,
    MaybeCausal,
    Packed,
    Padded,
    Pooling,
    States,
    Tokenizer,
    Vectors,
)
from pipeline.builtin.pools import MeanPool
from pipeline.data.batches import Layout
from pipeline.errors import OptionError
from pipeline.laws.parts import draw_rows
from pipeline.registry import registry
from pipeline.testing import (
    ATTENTION_LAWS,
    ENCODER_LAWS,
    MODULE_LAWS,
    POOL_LAWS,
    TOKENIZER_LAWS,
    Law,
    LawBrokenError,
    PlainModule,
    check_against_oracle,
    check_attention,
    check_decoding_round_trip,
    check_encoder,
    check_module,
    check_packing_round_trip,
    check_pool,
    check_tokenizer,
)
from pipeline_attention import Additive, Concat, Dot, General, MultiHead, ScaledDot
from pipeline_recurrent import GRU, LSTM
from support.needs import SLOW
from support.untyped import seed, untyped

ROWS = draw_rows((4, 0, 1, 6), 3)
TEXTS = ["The quick brown fox", "jumps over\nthe lazy dog.", "naïve café — 東京 🦊", "<pad> <unk> is text"]

ENCODERS: dict[str, Callable[[], Encoder[MaybeCausal]]] = {
    "lstm": lambda: LSTM(3, 4),
    "lstm, one feature": lambda: LSTM(1, 1),
    "lstm, stacked": lambda: LSTM(3, 4, num_layers=3, dropout=0.5),
    "lstm, no bias": lambda: LSTM(3, 4, bias=False),
    "bilstm, concat": lambda: LSTM(3, 4, bidirectional=True),
    "bilstm, mean": lambda: LSTM(3, 4, bidirectional=True, merge="mean"),
    "bilstm, max": lambda: LSTM(3, 4, bidirectional=True, merge="max"),
    "bilstm, mul, stacked": lambda: LSTM(3, 4, bidirectional=True, merge="mul", num_layers=2),
    "gru": lambda: GRU(3, 4),
    "gru, stacked": lambda: GRU(3, 4, num_layers=2, dropout=0.5),
    "bigru, concat, stacked": lambda: GRU(3, 4, bidirectional=True, num_layers=2),
    "bigru, sum": lambda: GRU(3, 4, bidirectional=True, merge="sum"),
    "leaky": Leaky,
    "leaky, torch's dropout": WithDropout,
    "leaky, dropout of its own": WithOwnDropout,
    "leaky, any size": Sized,
    "leaky, frozen": Frozen,
}
ATTENTIONS: dict[str, Callable[[], Attention]] = {
    "dot": lambda: Dot(3),
    "scaled dot": lambda: ScaledDot(3),
    "general": lambda: General(3),
    "general, no bias": lambda: General(3, bias=False),
    "additive": lambda: Additive(3, hidden_size=2),
    "concat": lambda: Concat(3, hidden_size=2),
    "multi-head": lambda: MultiHead(6, num_heads=3),
    "dot, sparsemax": lambda: Dot(3, normalize="sparsemax"),
    "general, entmax15": lambda: General(3, normalize="entmax15"),
    "multi-head, sparsemax": lambda: MultiHead(4, num_heads=2, normalize="sparsemax"),
}
POOLS = ("final", "first", "last", "max", "sum", "attention")
LAWS: tuple[Sequence[Callable[..., None]], ...] = (
    ENCODER_LAWS,
    ATTENTION_LAWS,
    POOL_LAWS,
    TOKENIZER_LAWS,
    MODULE_LAWS,
)
KINDS = ("words", "characters", "bytes", "bpe", "whole")


class Tagger(nn.Module):
    """torch's LSTM over packed rows, as its documentation shows it; empty rows are not allowed."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 4, bidirectional=True, batch_first=True)

    def forward(self, values: Tensor, lengths: Tensor) -> Tensor:
        """Return hidden vectors of steps."""
        packed = nn.utils.rnn.pack_padded_sequence(values, lengths, batch_first=True, enforce_sorted=False)
        hidden, _ = nn.utils.rnn.pad_packed_sequence(
            self.lstm(packed)[0], batch_first=True, total_length=values.shape[1]
        )
        return hidden


class Whole(nn.Module):
    """A model of the library inside a plain module, as a script without batches calls it."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = Encode(LSTM(3, 4))
        self.attend = AttendEarlier(General(4))

    def forward(self, values: Tensor, lengths: Tensor) -> Tensor:
        """Return contexts of steps."""
        return self.attend(self.encode(Padded(Vectors, values, lengths))).padded().values


MODULES: dict[str, Callable[[], PlainModule]] = {
    "scores, declared per row": lambda: PlainModule(Scores(), input_size=3, each="row"),
    "smoothed": lambda: PlainModule(Smoothed(), input_size=3, exportable=True),
    "tagger": lambda: PlainModule(Tagger(), input_size=3, each="step", empty_rows=False),
    "whole": lambda: PlainModule(Whole(), input_size=3, causal=True),
}


@pytest.mark.parametrize("law", ENCODER_LAWS)
@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_obey(name: str, law: Law[Encoder[MaybeCausal]]) -> None:
    """The library's encoders with many options obey, and so do the correct bases of the broken ones."""
    law(ENCODERS[name])


@pytest.mark.parametrize("law", ATTENTION_LAWS)
@pytest.mark.parametrize("name", ATTENTIONS)
def test_attentions_obey(name: str, law: Law[Attention]) -> None:
    """The library's attentions obey."""
    law(ATTENTIONS[name])


@pytest.mark.parametrize("law", POOL_LAWS)
@pytest.mark.parametrize("name", POOLS)
def test_pools_obey(name: str, law: Law[Pooling]) -> None:
    """The pools that the library registers obey."""
    options: dict[str, object] = {"input_size": 3} if name == "attention" else {}
    law(lambda: registry().pools.make(name, **options))


@pytest.mark.parametrize("law", TOKENIZER_LAWS)
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        *((kind, {}) for kind in KINDS),
        ("words", {"lowercase": True, "normalization": "NFC"}),
        ("characters", {"lowercase": True, "normalization": "NFD"}),
        ("bpe", {"vocab_size": 300, "normalization": "NFKC"}),
    ],
)
def test_tokenizers_obey(kind: str, options: dict[str, object], law: Law[Tokenizer]) -> None:
    """All tokenizers that the library registers obey, trained on many, few and no texts."""
    some: tuple[list[str], ...] = (TEXTS, ["a"], [])
    for texts in some:
        law(partial(registry().tokenizers.make, kind, texts=texts, **options))


@pytest.mark.parametrize("law", MODULE_LAWS)
@pytest.mark.parametrize("name", MODULES)
def test_modules_obey(name: str, law: Law[PlainModule]) -> None:
    """Modules that do not use the library obey, and so does a model of the library in a plain module."""
    law(MODULES[name])


@SLOW
@pytest.mark.parametrize("each", TRIALS, ids=[each.name for each in TRIALS])
def test_broken_parts_break_exactly_their_laws(each: Trial) -> None:
    """A part breaks the listed laws and no others; a part that breaks several gives a reason."""
    assert each.found() == each.breaks
    assert each.because or len(each.breaks) == 1


def test_every_law_is_broken_by_a_part() -> None:
    """No law is true of everything. That of options, which parts of tests do not keep, is tested in `test_configs`."""
    found = {get_name(law) for laws in LAWS for law in laws} - {"config_makes_an_equal_part"}
    assert found == {name for each in TRIALS for name in each.breaks}


def test_laws_have_unique_names_and_docstrings() -> None:
    """Names are unique per kind, and the first line of a docstring is a sentence."""
    for laws in LAWS:
        assert len({get_name(law) for law in laws}) == len(laws)
        assert all((law.__doc__ or "").split("\n")[0].endswith(".") for law in laws)


def test_correct_parts_pass_all_laws_in_one_call() -> None:
    """There is one such call per kind; it is the test of these parts, most of which are bases of the broken ones."""
    check_encoder(Bidirectional)
    check_attention(Closest)
    check_pool(MeanPool)
    check_tokenizer(Letters)
    check_module(Scores, input_size=3, exportable=True)


def test_all_broken_laws_are_reported_together() -> None:
    """The error lists each law with its finding and a fix, and the first one is its cause."""
    with pytest.raises(LawBrokenError) as caught:
        check_pool(DividesByZeroLengths)
    assert caught.value.details == {
        "laws": (
            "empty_rows_give_zeros",
            "packed_and_padded_agree",
            "empty_rows_have_no_effect",
            "training_without_randomness_equals_evaluation",
            "low_precision_agrees",
        )
    }
    assert isinstance(caught.value.__cause__, LawBrokenError)
    lines = str(caught.value).split("\n")
    assert lines[0] == (
        f"5 of {len(POOL_LAWS)} laws of poolings are broken; to run one by itself, take it from "
        "pipeline.testing.POOL_LAWS."
    )
    assert lines[1] == (
        "- empty_rows_give_zeros: among lengths (3, 0, 2), an empty row gives [nan, nan, nan] instead of zeros; divide by "
        "lengths.clamp(min=1), and fill results that have no steps."
    )
    assert lines[3].startswith("- empty_rows_have_no_effect: rows of lengths [4, 2, 0] give results that are not fin")


def test_one_fault_is_reported_once() -> None:
    """A factory that raises breaks every law, and is reported on one line."""

    def failing() -> Pooling:
        raise ZeroDivisionError("no such luck")

    with pytest.raises(LawBrokenError) as caught:
        check_pool(failing)
    assert caught.value.details["laws"] == tuple(map(get_name, POOL_LAWS))
    assert str(caught.value).count("\n") == 1
    assert str(caught.value).endswith(": it raised ZeroDivisionError: no such luck")


def test_error_from_a_part_breaks_the_law() -> None:
    """Any Exception breaks the law, and is its cause; KeyboardInterrupt and pytest.skip pass through."""

    def failing(error: BaseException) -> Callable[[], Encoder[MaybeCausal]]:
        def make() -> Encoder[MaybeCausal]:
            raise error

        return make

    (law, *_) = ENCODER_LAWS
    with pytest.raises(LawBrokenError, match="it raised RecursionError: too deep") as caught:
        law(failing(RecursionError("too deep")))
    assert isinstance(caught.value.__cause__, RecursionError)
    assert caught.value.details == {"law": "declared_attributes_are_valid"}
    for error in (KeyboardInterrupt(), pytest.skip.Exception("not here")):
        with pytest.raises(type(error)):
            law(failing(error))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"output_size": 0}, "output_size must be a number of features, 1 or more, got 0"),
        ({"input_size": None}, "input_size must be a number of features, 1 or more, got None"),
        ({"stateful": None}, "stateful must be True or False, got None"),
        ({"layouts": ()}, r"layouts must be a tuple of one or both of \('packed', 'padded'\), got \(\)"),
        ({"layouts": "padded"}, "layouts must be .*, got 'padded'"),
        ({"bidirectional": True}, "causal and bidirectional exclude each other, got both"),
    ],
)
def test_declared_attributes_are_checked(change: dict[str, object], message: str) -> None:
    """Each attribute has a rule."""

    def made() -> Leaky:
        encoder = Leaky()
        for name, value in change.items():
            setattr(encoder, name, value)
        return encoder

    with pytest.raises(LawBrokenError, match=f"^law broken: declared_attributes_are_valid: {message}"):
        ENCODER_LAWS[0](made)


@pytest.mark.parametrize("layouts", [("packed",), ("padded",), ("packed", "padded"), ("padded", "packed")])
def test_layouts_may_be_one_or_both(layouts: tuple[Layout, ...]) -> None:
    """The order of the layouts does not matter."""
    ENCODER_LAWS[0](type("Some", (Leaky,), {"layouts": layouts}))


def test_empty_rows_are_not_tried_if_they_are_not_allowed() -> None:
    """An encoder that rejects empty rows breaks the laws that try them, unless it declares that."""

    class RejectsEmptyRows(Leaky):
        def rows(self, batch: Padded[Vectors]) -> Padded[Vectors]:
            if not bool(batch.lengths.all()):
                raise ValueError("no empty rows, please")
            return super().rows(batch)

    class DeclaresIt(RejectsEmptyRows):
        empty_rows = False

    assert {get_name(law) for law in ENCODER_LAWS if is_broken(law, RejectsEmptyRows)} == {
        "packed_and_padded_agree",
        "training_without_randomness_equals_evaluation",
        "low_precision_agrees",
        "empty_rows_have_no_effect",
        "empty_rows_return_initial_carry",
        "every_weight_is_used",
    }
    check_encoder(DeclaresIt)


def test_errors_in_batches_of_empty_rows_only_are_explained() -> None:
    """Many operations of torch reject tensors without steps, and their errors do not say why there are none."""

    class NeedsSteps(Leaky):
        def rows(self, batch: Padded[Vectors]) -> Padded[Vectors]:
            batch.values.amax(1)
            return super().rows(batch)

    every_weight_is_used = next(each for each in ENCODER_LAWS if get_name(each) == "every_weight_is_used")
    with pytest.raises(LawBrokenError, match="of empty rows only, without any step, raised IndexError: amax"):
        every_weight_is_used(NeedsSteps)


def test_random_generator_is_restored() -> None:
    """Random numbers in a law, and a factory that seeds and so breaks a law, change no later random number."""
    before = torch.get_rng_state()
    check_encoder(lambda: LSTM(3, 4, num_layers=2, dropout=0.5))

    def seeded() -> Leaky:
        seed(3)
        return Leaky()

    with pytest.raises(LawBrokenError, match="global_state_is_preserved: creating the part seeds the random generator"):
        check_encoder(seeded)
    assert torch.equal(torch.get_rng_state(), before)


def test_part_instead_of_a_factory_raises() -> None:
    """A module is callable too, so the mistake must be found early."""
    with pytest.raises(OptionError, match=r"takes a function that creates parts, got a Leaky; write lambda: L"):
        untyped(ENCODER_LAWS[0])(Leaky())
    with pytest.raises(OptionError, match="check_module takes a function that creates parts, got a Scores"):
        untyped(check_module)(Scores(), input_size=3)


def test_factory_must_create_new_parts() -> None:
    """Otherwise two parts of one seed would always be equal."""
    part = Leaky()
    with pytest.raises(LawBrokenError, match="same_seed_makes_equal_parts: the factory returned the same object twice"):
        check_encoder(lambda: part)


def test_object_of_another_class_is_reported() -> None:
    """The error names its class."""
    with pytest.raises(
        LawBrokenError, match="the factory created a Linear, not a pipeline.Encoder; derive from Encoder"
    ):
        untyped(ENCODER_LAWS[0])(lambda: nn.Linear(3, 4))

    class Plain(Leaky):
        def forward(self, batch: Batch[Vectors]) -> States[MaybeCausal]:
            given: States[MaybeCausal] = getattr(batch, "values")  # noqa: B009 - wrong, but hidden from type checkers
            return given

    with pytest.raises(LawBrokenError, match="forward must return pipeline.States, got a Tensor"):
        ENCODER_LAWS[1](Plain)


def test_result_of_a_module_is_per_step_or_per_row() -> None:
    """The option decides, or the axes; a result that fits neither is reported."""
    check_module(Smoothed, input_size=3, each="step")
    with pytest.raises(LawBrokenError, match="must return a result for each of 4 steps, got float64 of shape .3, 2."):
        check_module(Scores, input_size=3, each="step")
    with pytest.raises(
        LawBrokenError,
        match="must return a tensor of 3 rows for a batch of 3, got float64 of shape .1, 3.*; return rows first",
    ):
        check_module(lambda: Turned(), input_size=3)  # noqa: PLW0108 - a class is a factory as well
    with pytest.raises(OptionError, match="causal=True needs one result per step, got each='row'"):
        PlainModule(Scores(), input_size=3, each="row", causal=True)


class Turned(nn.Module):
    """Returns one row for any batch."""

    def forward(self, values: Tensor, lengths: Tensor) -> Tensor:
        """Return the sum of all values."""
        return values[:, : int(lengths.max())].sum((0, 1)).unsqueeze(0)


def sum_rows(batch: Padded[Vectors]) -> list[Tensor]:
    """Return the sum of each row's real steps, which is correct."""
    return [row[:length].sum(0) for row, length in zip(batch.values, batch.lengths, strict=True)]


def test_oracle_catches_wrong_values_and_wrong_gradients() -> None:
    """Values, gradients of rows and weights, and shapes are compared."""
    weight = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)

    def scaled(batch: Padded[Vectors]) -> Sequence[Tensor]:
        return [total * weight for total in sum_rows(batch)]

    check_against_oracle(scaled, lambda row: row.sum(0) * weight, ROWS, [weight])
    with pytest.raises(LawBrokenError, match="check_against_oracle: values differ from the oracle's: result 0 is "):
        check_against_oracle(scaled, lambda row: row.sum(0), ROWS)
    with pytest.raises(LawBrokenError, match="gradients differ from the oracle's"):
        check_against_oracle(scaled, lambda row: row.sum(0) * weight.detach(), ROWS, [weight])
    with pytest.raises(LawBrokenError, match=r"result 0 has shape \(3,\), expected \(4, 3\)"):
        check_against_oracle(sum_rows, lambda row: row, ROWS)


def test_round_trip_checks_catch_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packing that swaps rows and a decoder that drops spaces are caught."""
    batch = Padded(Ids, torch.tensor([[1, 2, 3], [4, 5, 0]]), torch.tensor([3, 2]))
    check_packing_round_trip(batch)
    check_decoding_round_trip(Letters(), "b a")
    with pytest.raises(
        LawBrokenError, match="check_decoding_round_trip: 'b a' has tokens .* decode to 'ba', which has"
    ):
        check_decoding_round_trip(LosesSpaces(), "b a")

    def swapped(packed: Packed[Ids]) -> Padded[Ids]:
        return Padded(Ids, batch.values.flip(0), packed.lengths)

    monkeypatch.setattr(Packed, "padded", swapped)
    with pytest.raises(LawBrokenError, match="check_packing_round_trip: packing and unpacking changed the values"):
        check_packing_round_trip(batch)
