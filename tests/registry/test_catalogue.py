"""Parts are made by name: what is unknown, missing or wrong is said at once, and whose fault it is."""

import re
from importlib.metadata import distribution, version
from pathlib import Path

import pytest
import torch

from pipeline import Attend, AttendEarlier, Encode, Padded, Pool, States, Tokenize, Vectors
from pipeline.data.tensors import to_ints
from pipeline.errors import CompositionError, OptionError, PluginError, UnknownNameError, UnknownOptionError
from pipeline.registry import Registry, discover_plugins
from support.fakes import Fakes, returning, untried

OURS = discover_plugins([distribution("ragged-pipeline")])
RECURRENT = f"ragged-pipeline {version('ragged-pipeline')} (entry point 'recurrent')"
LSTM_TAKES = "input_size, hidden_size, num_layers, bias, dropout, bidirectional, layer_norm, residual, merge, engine"


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fakes:
    """An empty folder of distributions."""
    return Fakes(tmp_path / "site", monkeypatch)


def test_an_unknown_name_lists_those_that_exist() -> None:
    """Sorted, and of the kind that was asked for."""
    with pytest.raises(UnknownNameError) as refused:
        OURS.encoders.make("bilstn", input_size=3)
    assert str(refused.value) == "'bilstn' is no encoder that is installed; there are: bigru, bilstm, gru, lstm, rnn."
    assert refused.value.details == {"name": "bilstn", "known": ["bigru", "bilstm", "gru", "lstm", "rnn"]}
    with pytest.raises(UnknownNameError, match=r"^'lstm' is no tokenizer that is installed; there are: bpe, bytes, "):
        OURS.tokenizers.offer("lstm")
    with pytest.raises(UnknownNameError, match=r"^'dot' is no attention that is installed; there are: none\.$"):
        Registry().attentions.offer("dot")


def test_stages_refuse_unknown_names_when_they_are_made() -> None:
    """Not first when data flows."""
    with pytest.raises(UnknownNameError, match="^'nothing' is no encoder"):
        Encode("nothing")
    with pytest.raises(UnknownNameError, match="^'nothing' is no attention"):
        Attend("nothing")
    with pytest.raises(UnknownNameError, match="^'nothing' is no attention"):
        AttendEarlier("nothing")
    with pytest.raises(UnknownNameError, match="^'nothing' is no pool"):
        Pool("nothing")
    with pytest.raises(UnknownNameError, match="^'nothing' is no tokenizer"):
        Tokenize.train(["text"], "nothing")


def test_an_unknown_option_lists_what_is_taken() -> None:
    """With the package at fault named."""
    with pytest.raises(UnknownOptionError) as refused:
        Encode("lstm", hidden_size=4, hiden=5)
    assert str(refused.value) == f"encoder 'lstm' of {RECURRENT} takes no option 'hiden'; it takes: {LSTM_TAKES}."
    assert refused.value.details == {"option": "hiden", "known": LSTM_TAKES.split(", ")}
    with pytest.raises(
        UnknownOptionError, match=r"^attention 'dot' .* takes no option 'bias'; it takes: input_size\.$"
    ):
        Attend("dot", bias=True)
    with pytest.raises(UnknownOptionError, match=r"^pool 'mean' .* takes no option 'input_size'; it takes: none\.$"):
        Pool("mean", input_size=3)
    with pytest.raises(UnknownOptionError, match=r"^tokenizer 'bpe' .* takes no option 'lower'; it takes: texts, voc"):
        Tokenize.train(["text"], "bpe", lower=True)


def test_a_missing_option_lists_what_is_taken() -> None:
    """What a stage fills in later may be missing; not when the part is made."""
    with pytest.raises(UnknownOptionError) as refused:
        Encode("lstm")
    assert str(refused.value) == f"encoder 'lstm' of {RECURRENT} needs option 'hidden_size'; it takes: {LSTM_TAKES}."
    OURS.encoders.check("lstm", ["hidden_size"])
    with pytest.raises(UnknownOptionError, match=r"^encoder 'lstm' of .* needs option 'input_size'; it takes: "):
        OURS.encoders.make("lstm", hidden_size=4)
    with pytest.raises(UnknownOptionError, match=r"^tokenizer 'words' of .* needs option 'texts'; it takes: "):
        OURS.tokenizers.make("words")


def test_a_broken_promise_is_refused_at_once() -> None:
    """`causal=True` is a promise to the type checker, so it has to be kept before anything is joined."""
    promised = "was promised to be causal, but it is not"
    for name in ("bilstm", "bigru"):
        with pytest.raises(CompositionError, match=f"^encoder '{name}' {promised}"):
            Encode(name, causal=True, hidden_size=4)
        with pytest.raises(CompositionError, match=f"^encoder '{name}' {promised}"):
            Encode(name, causal=True, input_size=3, hidden_size=4)
    with pytest.raises(CompositionError, match=f"^encoder 'lstm' {promised}"):
        Encode("lstm", causal=True, bidirectional=True, hidden_size=4)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_a_kept_promise_is_taken(name: str) -> None:
    """A forward encoder is causal, whether its input size is known yet or not."""
    assert Encode(name, causal=True, hidden_size=4).is_lazy
    encode = Encode(name, causal=True, input_size=3, hidden_size=4)
    assert encode.encoder is not None
    assert encode.encoder.causal


@pytest.mark.parametrize("name", OURS.encoders.names())
def test_every_encoder_can_be_made(name: str) -> None:
    """By name and sizes alone; it gives what it says."""
    encode = Encode(name, input_size=3, hidden_size=4)
    assert encode.encoder is not None
    states = encode(Padded(Vectors, torch.ones(3, 5, 3), torch.tensor([3, 0, 1])))
    assert (encode.encoder.input_size, encode.encoder.causal) == (3, not name.startswith("bi"))
    assert states.packed().values.shape == (4, encode.encoder.output_size)
    assert states.final.shape == (3, encode.encoder.output_size)
    assert states.width == 5


@pytest.mark.parametrize("name", OURS.attentions.names())
def test_every_attention_can_be_made(name: str) -> None:
    """By name and size alone, for either stage."""
    states = States.from_padded(torch.ones(3, 5, 2), torch.tensor([3, 0, 1]))
    assert Attend(name, input_size=2)(states).packed().values.shape == (4, 2)
    assert AttendEarlier(name, input_size=2)(states).packed().values.shape == (4, 2)
    assert OURS.attentions.is_lazy(name)


@pytest.mark.parametrize("name", OURS.pools.names())
def test_every_pool_can_be_made(name: str) -> None:
    """By name alone, and by size where it has weights."""
    states = States.from_padded(torch.ones(3, 5, 2), torch.tensor([3, 0, 1]))
    pool = Pool(name, input_size=2) if OURS.pools.is_lazy(name) else Pool(name)
    assert pool(states).values.shape == (3, 2)
    assert OURS.pools.is_lazy(name) == (name == "attention")


@pytest.mark.parametrize("name", OURS.tokenizers.names())
def test_every_tokenizer_can_be_made(name: str) -> None:
    """By name and texts alone; its ids are within its vocabulary."""
    tokenize = Tokenize.train(["to be", "or not"], name)
    ids = to_ints(tokenize("or not").sequence.values)
    assert ids
    assert max(ids) < tokenize.vocab_size


def test_a_size_with_a_default_is_not_waited_for(fakes: Fakes) -> None:
    """Such a part can be made at once."""
    fakes.add("mine", returning("{'mine': lambda input_size=3: LSTM(input_size, 4)}"))
    encoders = fakes.registry().encoders
    assert not encoders.is_lazy("mine")
    assert encoders.make("mine").input_size == 3


WRONG = {
    "raising": ("lambda input_size: 1 / 0", "failed: ZeroDivisionError: division by zero."),
    "other": ("lambda input_size: [input_size]", "made a list, which is no Encoder."),
    "abstract": ("type('Half', (Encoder,), {'__init__': lambda self, input_size: None})", "failed: TypeError: "),
    "silent": (
        "type('Half', (Encoder,), {'__init__': lambda self, input_size: super(Encoder, self).__init__(),"
        " 'forward': None})",
        "made a Half that does not say its input_size, output_size, causal.",
    ),
    "sizeless": ("lambda hidden_size: None", "does not take 'input_size', which every encoder is given."),
    "greedy": ("lambda **options: None", "does not take 'input_size', which every encoder is given."),
    "unreadable": (
        "type('Odd', (), {'__call__': print, '__signature__': 3})()",
        "has a factory whose options cannot be read; offer a function.",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_factory_is_its_plugins_fault(fakes: Fakes, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it could not be tried before: package, entry point and hook are named in the line that names the part."""
    factory, reason = WRONG[case]
    fakes.add("wrong", returning(f"{{'mine': {factory}}}"))
    monkeypatch.setattr("pipeline.registry.discovery.probed", untried)
    found = fakes.registry()
    told = f"encoder 'mine' of wrong 1.0 (entry point 'wrong'), from hook pipeline_encoders, {reason}"
    with pytest.raises(PluginError, match=f"^{re.escape(told)}") as refused:
        found.encoders.make("mine", input_size=3)
    assert refused.value.details == {"name": "mine", "package": "wrong"}


def test_an_error_of_ours_passes_through_a_factory() -> None:
    """An option out of range is the user's mistake, and said as such."""
    with pytest.raises(OptionError, match=r"^hidden_size must be 1 or more, but 0 arrived\.$"):
        OURS.encoders.make("lstm", input_size=3, hidden_size=0)
