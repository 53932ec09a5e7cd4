"""Decoders and sources for tests."""

from typing import TypeAlias

import attrs
import torch
from torch import Tensor

from pipeline import Bucket, Decoded, Embed, Encode, Example, Pack, Pad, Row, States, StreamChain, Texts, Tokenize
from pipeline.extend import BatchMetadata, Ids
from pipeline_decoders import RecurrentDecoder, TransformerDecoder
from support.untyped import as_any, seed

AnyDecoder: TypeAlias = RecurrentDecoder | TransformerDecoder

TARGET = Tokenize.train(["a b c d"], bos=True, eos=True)
SIZE = 6
LENGTHS = (3, 0, 5, 1)
TARGETS = ("a b c", "d", None, "b a d c a")
KINDS = ("lstm", "gru", "additive", "plain", "fed", "two_layers", "transformer", "post_norm", "learned")


def make_decoder(kind: str, *, max_new_tokens: int = 8) -> AnyDecoder:
    """Return a decoder in float64 with large weights, so that different rows have different texts."""
    seed(3)
    decoder: AnyDecoder
    if kind in {"transformer", "post_norm", "learned"}:
        decoder = TransformerDecoder(
            TARGET,
            hidden_size=8,
            num_heads=2,
            num_layers=2,
            feedforward_size=12,
            norm_first=kind != "post_norm",
            activation="gelu" if kind == "learned" else "relu",
            positions="learned" if kind == "learned" else "sinusoidal",
            max_positions=12,
            input_size=SIZE,
            search={"max_new_tokens": max_new_tokens},
        )
    else:
        decoder = RecurrentDecoder(
            TARGET,
            embedding_size=4,
            hidden_size=5,
            cell="gru" if kind == "gru" else "lstm",
            num_layers=2 if kind == "two_layers" else 1,
            attention=None if kind == "plain" else "additive" if kind == "additive" else "general",
            input_feeding=kind == "fed",
            input_size=SIZE,
            search={"max_new_tokens": max_new_tokens},
        )
    for weight in decoder.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.7)
    return decoder.double().eval()


def make_states(
    lengths: tuple[int, ...] = LENGTHS,
    targets: tuple[str | None, ...] | None = TARGETS,
    *,
    extra: int = 0,
    packed: bool = False,
    rows: list[int] | None = None,
) -> States:
    """Return states of rows with target texts, and NaN in the padding. A row has the same values in every batch."""
    numbers = list(range(len(lengths))) if rows is None else rows
    width = max((*lengths, 0)) + extra
    drawn = [
        torch.randn(length + 1, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(number))
        for number, length in zip(numbers, lengths, strict=True)
    ]
    values = torch.full((len(lengths), width, SIZE), torch.nan, dtype=torch.float64)
    for row, length in enumerate(lengths):
        values[row, :length] = drawn[row][:length]
    metadata = BatchMetadata(torch.tensor(numbers))
    if targets is not None:
        # Lengths of one: a target of a row without steps would not count.
        made = Pad(targets=Texts(TARGET), missing="ignore")([Row(Ids(torch.tensor([4])), target) for target in targets])
        metadata = attrs.evolve(made.metadata, row_ids=torch.tensor(numbers))
    final = torch.stack([each[-1] for each in drawn])
    states = States.from_padded(values, torch.tensor(lengths), final=final)
    steps = attrs.evolve(states.steps, metadata=metadata)
    return attrs.evolve(states, steps=steps.packed() if packed else steps)


def make_examples(count: int, start: int = 0) -> list[Example[str]]:
    """Return letters, with the same ones in reverse as target."""
    generator = torch.Generator().manual_seed(start)
    found: list[Example[str]] = []
    for _ in range(count):
        length = int(torch.randint(1, 4, (), generator=generator))
        letters = ["abcd"[int(index)] for index in torch.randint(0, 4, (length,), generator=generator)]
        found.append(Example(" ".join(letters), target=" ".join(reversed(letters))))
    return found


def list_target_ids(states: States) -> list[list[int]]:
    """Return the ids of each row's target, with eos."""
    targets, lengths = states.metadata.targets, states.metadata.target_lengths
    assert isinstance(targets, Tensor)
    assert lengths is not None
    return [[int(each) for each in row[:length]] for row, length in zip(targets, lengths[""], strict=True)]


def make_text_pipe(kind: str, **search: object) -> StreamChain[str | Example[str], Decoded[str]]:
    """Return a pipe in float32 with large weights, so that different texts have different outputs."""
    decoder = make_decoder(kind).float()
    decoder.set_search(**as_any(search))
    source = Tokenize.train(["a b c d"])
    states = Pack() >> Embed(source.vocab_size, 4) >> Encode("bigru", hidden_size=SIZE // 2)
    for weight in as_any(states).parameters():
        torch.nn.init.normal_(weight, std=1.0)
    # Some texts end in eos, and others do not.
    decoder.linear.bias.data[TARGET.last_ids[0]] = {"gru": 1.0, "two_layers": 0.5, "learned": -1.0}.get(kind, 0.0)
    return source >> Bucket(rows=4) >> Pad(targets=Texts(TARGET)) >> states >> decoder
