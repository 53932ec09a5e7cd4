"""Test the creation of parts by name, and the errors about unknown names, options and wrong factories."""

import re
from collections.abc import Callable, Mapping
from importlib.metadata import distribution, version
from pathlib import Path

import pytest
import torch

from pipeline import Attend, AttendEarlier, Encode, Padded, Pool, States, Tokenize, Vectors
from pipeline.data.tensors import to_ints
from pipeline.errors import CompositionError, OptionError, PluginError, UnknownNameError, UnknownOptionError
from pipeline.registry import Registry, discover_plugins
from support.fakes import Fakes, returning

OURS = discover_plugins([distribution("ragged-pipeline")])
RECURRENT = f"ragged-pipeline {version('ragged-pipeline')} (entry point 'recurrent')"
LSTM_OPTIONS = (
    "input_size, hidden_size, bidirectional, num_layers, bias, dropout, layer_norm, residual, merge, engine, highway, "
    "dropout_per, weight_dropout, zoneout, zoneout_cell, proj_size"
)


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fakes:
    """An empty folder of distributions."""
    return Fakes(tmp_path / "site", monkeypatch)


def test_unknown_name_lists_installed_names() -> None:
    """The list is sorted, and contains only the requested kind."""
    names = OURS.encoders.names()
    assert names == sorted(names)
    with pytest.raises(UnknownNameError) as caught:
        OURS.encoders.make("bilstn", input_size=3)
    assert (
        str(caught.value)
        == f"'bilstn' is not the name of an installed encoder; installed: {', '.join(names)}. Did you mean 'bilstm'?"
    )
    assert caught.value.details == {"name": "bilstn", "known": names}
    with pytest.raises(
        UnknownNameError, match=r"^'lstm' is not the name of an installed tokenizer; installed: bpe, bytes, "
    ):
        OURS.tokenizers.offer("lstm")
    with pytest.raises(UnknownNameError, match=r"^'dot' is not the name of an installed attention; installed: none\.$"):
        Registry().attentions.offer("dot")


def test_stages_reject_unknown_names_when_they_are_created() -> None:
    """The error is not delayed until data flows."""
    with pytest.raises(UnknownNameError, match="^'nothing' is not the name of an installed encoder"):
        Encode("nothing")
    with pytest.raises(UnknownNameError, match="^'nothing' is not the name of an installed attention"):
        Attend("nothing")
    with pytest.raises(UnknownNameError, match="^'nothing' is not the name of an installed attention"):
        AttendEarlier("nothing")
    with pytest.raises(UnknownNameError, match="^'nothing' is not the name of an installed pool"):
        Pool("nothing")
    with pytest.raises(UnknownNameError, match="^'nothing' is not the name of an installed tokenizer"):
        Tokenize.train(["text"], "nothing")


def test_unknown_option_lists_the_options() -> None:
    """The error names the distribution."""
    with pytest.raises(UnknownOptionError) as caught:
        Encode("lstm", hidden_size=4, hiden=5)
    assert (
        str(caught.value) == f"encoder 'lstm' of {RECURRENT} does not take option 'hiden'; its options: {LSTM_OPTIONS}."
        " Did you mean 'hidden_size'?"
    )
    assert caught.value.details == {"option": "hiden", "known": LSTM_OPTIONS.split(", ")}
    with pytest.raises(
        UnknownOptionError,
        match=r"^attention 'dot' .* does not take option 'bias'; its options: input_size, normalize\.$",
    ):
        Attend("dot", bias=True)
    with pytest.raises(
        UnknownOptionError, match=r"^pool 'mean' .* does not take option 'input_size'; its options: none\.$"
    ):
        Pool("mean", input_size=3)
    with pytest.raises(
        UnknownOptionError, match=r"^tokenizer 'bpe' .* does not take option 'lower'; its options: texts, voc"
    ):
        Tokenize.train(["text"], "bpe", lower=True)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gru", {"hidden_size": 4, "bidirectional": "no"}),
        ("transformer", {"hidden_size": 4, "causal": 0}),
        ("cnn", {"hidden_size": 4, "causal": None}),
    ],
)
def test_an_option_that_is_true_or_false_is_nothing_else(name: str, options: Mapping[str, object]) -> None:
    """Text from a file, such as "no", was True."""
    with pytest.raises(OptionError, match=r"^(bidirectional|causal) must be True or False, got ('no'|0|None)\.$"):
        OURS.encoders.make(name, input_size=4, **options)


def test_missing_option_lists_the_options() -> None:
    """An option that a stage fills in may be missing until the part is created."""
    with pytest.raises(UnknownOptionError) as caught:
        Encode("lstm")
    assert (
        str(caught.value)
        == f"encoder 'lstm' of {RECURRENT} requires option 'hidden_size'; its options: {LSTM_OPTIONS}."
    )
    OURS.encoders.check("lstm", ["hidden_size"])
    with pytest.raises(UnknownOptionError, match=r"^encoder 'lstm' of .* requires option 'input_size'; its options: "):
        OURS.encoders.make("lstm", hidden_size=4)
    with pytest.raises(UnknownOptionError, match=r"^tokenizer 'words' of .* requires option 'texts'; its options: "):
        OURS.tokenizers.make("words")


def test_broken_causal_promise_raises_at_once() -> None:
    """`causal=True` is a promise to the type checker, so it is checked before stages are joined."""
    promised = "must be causal, but its steps depend on later ones"
    for name in ("bilstm", "bigru"):
        with pytest.raises(CompositionError, match=f"^encoder '{name}' {promised}"):
            Encode(name, causal=True, hidden_size=4)
        with pytest.raises(CompositionError, match=f"^encoder '{name}' {promised}"):
            Encode(name, causal=True, input_size=3, hidden_size=4)
    with pytest.raises(CompositionError, match=f"^encoder 'lstm' {promised}"):
        Encode("lstm", causal=True, bidirectional=True, hidden_size=4)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_kept_causal_promise_is_accepted(name: str) -> None:
    """A forward encoder is causal, with and without a known input size."""
    assert Encode(name, causal=True, hidden_size=4).is_lazy
    encode = Encode(name, causal=True, input_size=3, hidden_size=4)
    assert encode.encoder is not None
    assert encode.encoder.causal


@pytest.mark.parametrize("name", OURS.encoders.names())
def test_every_encoder_can_be_created(name: str) -> None:
    """A name and sizes are enough, and the output has the declared size."""
    encode = Encode(name, input_size=3, hidden_size=4)
    assert encode.encoder is not None
    states = encode(Padded(Vectors, torch.ones(3, 5, 3), torch.tensor([3, 0, 1])))
    sees_later_steps = name.startswith("bi") or name in {"cnn", "gated_cnn", "transformer"}
    assert (encode.encoder.input_size, encode.encoder.causal) == (3, not sees_later_steps)
    assert states.packed().values.shape == (4, encode.encoder.output_size)
    assert states.final.shape == (3, encode.encoder.output_size)
    assert states.width == 5


@pytest.mark.parametrize("name", OURS.attentions.names())
def test_every_attention_can_be_created(name: str) -> None:
    """A name and a size are enough, for both stages."""
    states = States.from_padded(torch.ones(3, 5, 4), torch.tensor([3, 0, 1]))
    assert Attend(name, input_size=4)(states).packed().values.shape == (4, 4)
    assert AttendEarlier(name, input_size=4)(states).packed().values.shape == (4, 4)
    assert OURS.attentions.is_lazy(name)


@pytest.mark.parametrize("name", OURS.pools.names())
def test_every_pool_can_be_created(name: str) -> None:
    """A name is enough, with a size if the pool has weights."""
    states = States.from_padded(torch.ones(3, 5, 2), torch.tensor([3, 0, 1]), final=torch.ones(3, 2))
    pool = Pool(name, input_size=2) if OURS.pools.is_lazy(name) else Pool(name)
    assert pool(states).values.shape == (3, pool.get_part(2).output_size(2))
    assert OURS.pools.is_lazy(name) == ("attention" in name)


@pytest.mark.parametrize("name", OURS.tokenizers.names())
def test_every_tokenizer_can_be_created(name: str) -> None:
    """A name and texts are enough, and ids are within the vocabulary."""
    tokenize = Tokenize.train(["to be", "or not"], name)
    ids = to_ints(tokenize("or not").sequence.values)
    assert ids
    assert max(ids) < tokenize.vocab_size


def test_part_with_a_default_size_is_not_lazy(fakes: Fakes) -> None:
    """Such a part can be created at once."""
    fakes.add("mine", returning("{'mine': lambda input_size=3: LSTM(input_size, 4)}"))
    encoders = fakes.registry().encoders
    assert not encoders.is_lazy("mine")
    assert encoders.make("mine").input_size == 3


WRONG = {
    "raising": ("lambda input_size: 1 / 0", "failed: ZeroDivisionError: division by zero."),
    "other": ("lambda input_size: [input_size]", "created a list instead of an object of class Encoder."),
    "abstract": ("type('Half', (Encoder,), {'__init__': lambda self, input_size: None})", "failed: TypeError: "),
    "silent": (
        "type('Half', (Encoder,), {'__init__': lambda self, input_size: super(Encoder, self).__init__(),"
        " 'forward': None})",
        "created a Half that does not set input_size, output_size, causal.",
    ),
    "sizeless": ("lambda hidden_size: None", "does not take option 'input_size', which every encoder must take."),
    "greedy": ("lambda **options: None", "does not take option 'input_size', which every encoder must take."),
    "unreadable": (
        "type('Odd', (), {'__call__': print, '__signature__': 3})()",
        "has a factory without a readable signature; offer a function.",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_error_of_a_wrong_factory_names_the_plugin(fakes: Fakes, case: str) -> None:
    """The error names the distribution, the entry point, the hook and the part."""
    factory, reason = WRONG[case]
    fakes.add("wrong", returning(f"{{'mine': {factory}}}"))
    found = fakes.registry()
    message = f"encoder 'mine' of wrong 1.0 (entry point 'wrong'), from hook pipeline_encoders, {reason}"
    with pytest.raises(PluginError, match=f"^{re.escape(message)}") as caught:
        found.encoders.make("mine", input_size=3)
    assert caught.value.details == {"name": "mine", "package": "wrong", "hook": "pipeline_encoders"}


def test_library_error_in_a_factory_is_not_wrapped() -> None:
    """An option out of range is the user's mistake, not the plugin's."""
    with pytest.raises(OptionError, match=r"^hidden_size must be an integer of at least 1, got 0\.$"):
        OURS.encoders.make("lstm", input_size=3, hidden_size=0)


@pytest.mark.parametrize(
    ("make", "hint"),
    [
        (lambda: Encode("BiLSTM"), "bilstm"),
        (lambda: Encode("lstm", hidden=3), "hidden_size"),
        (lambda: Encode("lstm", hiden_size=3), "hidden_size"),
        (lambda: Encode("lstm", layers=3), "num_layers"),
        (lambda: Pool("avg"), "mean"),
        (lambda: Pool("Final"), "final"),
        (lambda: Attend("bahdanau"), "additive"),
        (lambda: Tokenize.train(["a"], "BPE"), "bpe"),
        (lambda: Tokenize.train(["a"], vocabsize=9), "vocab_size"),
    ],
)
def test_errors_suggest_similar_names_and_options(make: Callable[[], object], hint: str) -> None:
    """For parts of every kind."""
    with pytest.raises((UnknownNameError, UnknownOptionError), match=rf"Did you mean '{hint}'\?"):
        make()
