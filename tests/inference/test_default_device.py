"""Torch's default device and dtype have no effect: batches, indices and random numbers are made on the CPU, in float32."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Final

import pytest
import torch

from pipeline import Bucket, Embed, Encode, FromIds, Labels, Pack, Pad, Padded, Texts, Tokenize, language_model
from pipeline.core.contexts import seeded
from pipeline.data.kinds import Ids
from pipeline_decoders import MaskedToken, MaskTokens, RecurrentDecoder, TransformerDecoder
from pipeline_heads import CRF
from support.untyped import as_any

TEXTS: Final = ["a fine film", "dull", "a dull and fine film"]


@contextmanager
def other_defaults() -> Generator[None]:
    """Make tensors on the meta device and in float64 where nothing else is stated, as on a machine with an accelerator."""
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        as_any(torch).set_default_device(None)


def run_steps(encoder: str) -> Any:
    """Return a function that runs a language model step by step, over rows and over a prompt."""
    model = language_model(9, encoder=encoder, embedding_dim=4, hidden_size=4)
    prompt = Padded(Ids, torch.tensor([[1, 2, 3], [4, 0, 0]]), torch.tensor([3, 1]))
    token = torch.tensor([5, 6])

    def run() -> object:
        _, carry = model.step(prompt)
        scores, _ = model.step(token, carry)
        return scores.values

    return run


def generate(**options: object) -> Any:
    """Return a function that generates texts with a language model."""
    tokenize = Tokenize.train(TEXTS, bos=True, eos=True)
    model = language_model(tokenize.vocab_size, embedding_dim=4, hidden_size=4)
    pipe: Any = tokenize >> Bucket(rows=2) >> Pad() >> model
    return lambda: list(pipe.generate(TEXTS, max_new_tokens=4, seed=0, **options))


def decode(decoder: type[RecurrentDecoder | TransformerDecoder]) -> Any:
    """Return a function that predicts texts with a decoder."""
    tokenize = Tokenize.train(TEXTS, bos=True, eos=True)
    states = Pack() >> Embed(tokenize.vocab_size, 8) >> Encode("bigru", hidden_size=8)
    pipe: Any = tokenize >> Bucket(rows=2) >> Pad(targets=Texts(tokenize)) >> states >> decoder(tokenize, hidden_size=8)
    return lambda: list(pipe.predict(TEXTS))


def tag_with_crf() -> Any:
    """Return a function that predicts best paths."""
    labels = Labels(["O", "B-x", "I-x"])
    states = Pack() >> Embed(9, 4) >> Encode("bilstm", hidden_size=4)
    pipe: Any = FromIds() >> Bucket(rows=2) >> Pad(labels=labels) >> states >> CRF(labels, constraints="bio")
    return lambda: list(pipe.predict([[1, 2, 3], [4]]))


def mask_tokens() -> Any:
    """Return a function that computes a loss of pretraining."""
    embed = Embed(10, 4)
    states = Pack() >> embed >> Encode("bilstm", hidden_size=4)
    model = MaskTokens(9, mask_id=9) >> states >> MaskedToken(embed, inner_size=4)
    batch = Padded(Ids, torch.tensor([[2, 3, 4], [5, 0, 0]]), torch.tensor([3, 1]))

    def run() -> object:
        with seeded(0):
            return model(batch).loss()

    return run


RUNS: Final[dict[str, Callable[[], Any]]] = {
    "steps of an LSTM": lambda: run_steps("lstm"),
    "steps of a transformer": lambda: run_steps("causal_transformer"),
    "greedy": generate,
    "samples": lambda: generate(do_sample=True),
    "beams": lambda: generate(num_beams=2),
    "recurrent decoder": lambda: decode(RecurrentDecoder),
    "transformer decoder": lambda: decode(TransformerDecoder),
    "crf": tag_with_crf,
    "masked tokens": mask_tokens,
}


@pytest.mark.parametrize("name", RUNS)
def test_default_device_and_dtype_have_no_effect(name: str) -> None:
    """With models and inputs that were made before."""
    with seeded(0):
        run = RUNS[name]()
    wanted = run()
    with other_defaults():
        found = run()
    if isinstance(wanted, torch.Tensor):
        torch.testing.assert_close(found, wanted)
    else:
        assert found == wanted
