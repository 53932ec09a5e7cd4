"""What cannot be saved completely is rejected before anything is written, with the part and the remedy."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from pipeline import (
    Bucket,
    Classify,
    Embed,
    Encode,
    Encoder,
    FromFeatures,
    FromIds,
    Heads,
    Labels,
    MaybeCausal,
    Pad,
    Pool,
    Pooling,
    Regress,
    States,
    StreamChain,
    Tokenize,
    Tokenizer,
    load,
)
from pipeline.data.batches import Batch
from pipeline.data.kinds import Vectors
from pipeline.errors import FolderError, OptionError, SaveError
from pipeline.parts.tokenizer import Tokens
from pipeline_recurrent import LSTM
from support.saved import LABELS, TEXTS, compute_answers, make_classifier, make_events
from support.untyped import as_any


class Half(Pooling):
    """A pooling that no plugin offers."""

    @override
    def forward(self, states: States[MaybeCausal]) -> Float[Tensor, "batch hidden"]:
        return states.final


class Own(Encoder[MaybeCausal]):
    """An encoder that no plugin offers."""

    def __init__(self) -> None:
        super().__init__()
        self.input_size, self.output_size, self.causal = 3, 3, False

    @override
    def forward(self, batch: Batch[Vectors]) -> States[MaybeCausal]:
        raise NotImplementedError


class Letters(Tokenizer):
    """A tokenizer that no plugin offers."""

    vocabulary: Mapping[str, int] = {"a": 0, "b": 1}
    pad_token = unk_token = bos_token = eos_token = None

    @override
    def encode(self, texts: Sequence[str], *, offsets: bool = True) -> list[Tokens]:
        return [Tokens([self.vocabulary[letter] for letter in text]) for text in texts]

    @override
    def encode_words(self, rows: Sequence[Sequence[str]], *, offsets: bool = True) -> list[Tokens]:
        raise NotImplementedError

    @override
    def decode(self, ids: Sequence[int]) -> str:
        raise NotImplementedError


def make_pipe(pooling: Any = "max", encoder: Any = None) -> StreamChain[Any, Any]:
    """Return a small pipe."""
    encode = Encode(LSTM(3, 4)) if encoder is None else Encode(encoder)
    return (
        FromIds() >> Bucket(rows=2) >> Pad() >> Embed(9, 3, name="embed") >> encode >> Pool(pooling) >> Classify(LABELS)
    )


def join_two(first: float, second: float) -> float:
    """Join two predictions."""
    return first + second


def make_joint() -> StreamChain[Any, Any]:
    """Return a pipe whose predictions a function joins."""
    heads = Heads(Regress(name="one"), Regress(name="two"), into=join_two)
    return FromIds() >> Bucket(rows=2) >> Pad() >> Embed(9, 3) >> Encode(LSTM(3, 4)) >> Pool("max") >> heads


def make_lazy() -> StreamChain[Any, Any]:
    """Return a pipe with an encoder that does not know its input size."""
    return FromFeatures() >> Bucket(Vectors, rows=2) >> Pad(Vectors) >> Encode("lstm", hidden_size=3)


def change(path: str, name: str, value: object) -> Callable[[], StreamChain[Any, Any]]:
    """Return a function that makes a small pipe, and sets an attribute of a module."""

    def make() -> StreamChain[Any, Any]:
        pipe = make_pipe()
        setattr(pipe.get_submodule(path), name, value)
        return pipe

    return make


def do_nothing(*_: object) -> None:
    """Do nothing, where a hook could do anything."""


def add_hook() -> StreamChain[Any, Any]:
    """Return a pipe with a hook, which could change an output."""
    pipe = make_pipe()
    pipe.get_submodule("classify.linear").register_forward_hook(do_nothing)
    return pipe


def normalize() -> StreamChain[Any, Any]:
    """Return a pipe whose head is normalized."""
    pipe = make_pipe()
    nn.utils.parametrizations.weight_norm(pipe.get_submodule("classify.linear"))
    return pipe


def tie_labels() -> StreamChain[Any, Any]:
    """Return a pipe with a stage whose settings its configuration does not have."""
    return (
        Tokenize(Letters())
        >> Bucket(rows=2)
        >> Pad()
        >> Embed(9, 3)
        >> Encode(LSTM(3, 4))
        >> Pool("max")
        >> Classify(LABELS)
    )


REFUSALS: dict[str, tuple[Callable[[], StreamChain[Any, Any]], str]] = {
    "a pooling without a name": (lambda: make_pipe(Half()), r"pipe\.pool\[0\] cannot be saved: the part \S*Half has no registered name; offer the class in a plugin"),
    "an encoder without a name": (lambda: make_pipe(encoder=Own()), r"pipe\.encode\[0\] cannot be saved: the part \S*Own has no registered name"),
    "a tokenizer without a name": (tie_labels, "tokenizer Letters cannot be saved: its class needs get_config"),
    "a function of predictions": (make_joint, r"into must be an attrs class, a dataclass or a named tuple"),
    "a part that is not made": (make_lazy, "pipe.encode: encoder 'lstm' does not know its input size yet"),
    "a replaced module": (change("classify", "linear", nn.Sequential(nn.Linear(4, 2))), r"pipe\.classify cannot be saved: its options cannot be read, AttributeError"),
    "a module too much": (change("classify", "extra", nn.Linear(1, 1)), r"module 'classify\.extra' is Linear, but .* has no module"),
    "a deleted module": (change("classify", "linear", None), "Classify does not know its input size yet"),
    "a weight of another shape": (change("classify.linear", "bias", nn.Parameter(torch.zeros(3))), r"tensor 'classify\.linear\.bias' is \(3,\) of float32, but .* has a tensor of \(2,\)"),
    "a weight of integers": (change("classify.linear", "bias", nn.Parameter(torch.zeros(2, dtype=torch.int8), requires_grad=False)), "is \\(2,\\) of int8"),
    "a setting that was changed": (change("classify", "classes", 3), r"options 'classes'|the pipe cannot be made again|attribute 'classes'|tensor 'classify"),
    "a setting that no option has": (change("embed", "scale", 2.0), "attribute 'scale' of module 'embed' is 2.0, but 'nothing' in the pipe made from"),
    "a forward hook": (add_hook, r"module 'classify\.linear' has a forward hook, which is code"),
    "a parametrization": (normalize, r"module 'classify\.linear' is ParametrizedLinear"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_what_would_be_lost_is_rejected(tmp_path: Path, name: str) -> None:
    """And nothing is written."""
    make, match = REFUSALS[name]
    with pytest.raises(SaveError, match=match):
        make().save(tmp_path / "pipe")
    assert list(tmp_path.iterdir()) == []


def test_classes_of_one_name_are_rejected(tmp_path: Path) -> None:
    """They are saved by name."""
    pipe = make_events()
    other = make_events()
    renamed = type("Event", (as_any(pipe.stages["pack"]).kind,), {})
    as_any(other.stages["pack"]).kind = renamed
    with pytest.raises(SaveError, match="two classes are named 'Event'"):
        other.save(tmp_path / "pipe")


def test_settings_that_options_have_may_be_changed(tmp_path: Path) -> None:
    """The engine and the dropout of an encoder, the threshold of a head, the probability of a dropout."""
    pipe = make_classifier()
    encoder: Any = pipe.get_submodule("encode.encoder")
    encoder.engine = "packed"
    as_any(pipe.stages["dropout"]).p = 0.75
    pipe.save(tmp_path / "pipe")
    loaded = load(tmp_path / "pipe")
    assert as_any(loaded.get_submodule("encode.encoder")).engine == "packed"
    assert as_any(loaded.stages["dropout"]).p == 0.75
    assert compute_answers(loaded, TEXTS) == compute_answers(pipe, TEXTS)


def test_low_precision_and_frozen_weights_are_kept(tmp_path: Path) -> None:
    """A model in bfloat16 is saved in it."""
    pipe = make_classifier().to(torch.bfloat16)
    pipe.get_submodule("embed").requires_grad_(requires_grad=False)
    pipe.save(tmp_path / "pipe")
    loaded = load(tmp_path / "pipe")
    assert {tensor.dtype for tensor in loaded.parameters()} == {torch.bfloat16}
    assert [name for name, tensor in loaded.named_parameters() if not tensor.requires_grad] == ["embed.weight"]


def test_a_loaded_pipe_can_be_trained(tmp_path: Path) -> None:
    """Its weights are its own, and get gradients."""
    make_classifier().save(tmp_path / "pipe")
    loaded = load(tmp_path / "pipe").train()
    before = {name: tensor.detach().clone() for name, tensor in loaded.named_parameters()}
    batch = next(iter(as_any(loaded)([*TEXTS])))
    batch.values.sum().backward()
    as_any(torch.optim.SGD(loaded.parameters(), lr=1.0)).step()
    assert all(not torch.equal(before[name], tensor) for name, tensor in loaded.named_parameters())
    again = load(tmp_path / "pipe")
    assert all(torch.equal(before[name], tensor) for name, tensor in again.named_parameters())


def test_saving_and_loading_keep_the_random_state(tmp_path: Path) -> None:
    """Training continues with the same numbers."""
    pipe = make_classifier()
    state = torch.get_rng_state()
    pipe.save(tmp_path / "pipe")
    load(tmp_path / "pipe")
    assert torch.equal(torch.get_rng_state(), state)


def test_files_of_a_user_are_not_deleted(tmp_path: Path) -> None:
    """A saved folder with notes, or one under version control, is not replaced."""
    make_classifier().save(tmp_path / "pipe")
    (tmp_path / "pipe" / "notes.txt").write_text("mine")
    with pytest.raises(FolderError, match=r"has files that are not of a saved pipe, such as 'notes\.txt'"):
        make_classifier().save(tmp_path / "pipe")
    assert (tmp_path / "pipe" / "notes.txt").read_text() == "mine"


def test_an_existing_folder_can_be_protected(tmp_path: Path) -> None:
    """With `replace=False`."""
    make_classifier().save(tmp_path / "pipe", replace=False)
    with pytest.raises(FolderError, match="exists already"):
        make_classifier().save(tmp_path / "pipe", replace=False)


def test_labels_with_any_signs_are_kept(tmp_path: Path) -> None:
    """Also those that mean something in JSON or in a terminal."""
    labels = Labels(['"', "\\", "\n", "\x1b[31m", "é", "\U0001f600"])
    pipe = (
        FromIds()
        >> Bucket(rows=2)
        >> Pad(labels=labels)
        >> Embed(9, 3)
        >> Encode(LSTM(3, 4))
        >> Pool("max")
        >> Classify(labels)
    )
    pipe.save(tmp_path / "pipe")
    assert as_any(load(tmp_path / "pipe").stages["classify"]).names == labels


def test_arguments_of_wrong_types_are_named(tmp_path: Path) -> None:
    """Before anything is written."""
    pipe = as_any(make_classifier())
    for folder in (None, 3, b"x", "", "a\0b"):
        for call in (pipe.save, as_any(load)):
            with pytest.raises(OptionError, match="folder must be a path, as text or a Path, got"):
                call(folder)
        with pytest.raises(OptionError, match="file must be a path, as text or a Path, got"):
            pipe.export(folder)
    with pytest.raises(FolderError, match="'/' has other files"):
        pipe.save("/")
    with pytest.raises(OptionError, match="card must be text in Markdown, or None, got 3"):
        pipe.save(tmp_path / "pipe", card=3)
    with pytest.raises(OptionError, match="replace must be True or False, got 'no'"):
        pipe.save(tmp_path / "pipe", replace="no")
    for records in ([3], 3):
        with pytest.raises(OptionError, match="records must be a list of classes, such as"):
            as_any(load)(tmp_path, records=records)
    assert list(tmp_path.iterdir()) == []
