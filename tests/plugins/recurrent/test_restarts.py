"""Documents inside a row are encoded as if each were a row by itself."""

from collections.abc import Callable
from pathlib import Path
from typing import final

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipeline import (
    BPTTWindows,
    Bucket,
    Causal,
    Embed,
    Encode,
    Encoder,
    FromIds,
    Ids,
    MaybeCausal,
    NextToken,
    Pack,
    Packed,
    Pad,
    Padded,
    Shift,
    States,
    Tag,
    Vectors,
    load,
)
from pipeline.errors import ExportError, OptionError, ShapeError
from pipeline.export.options import Form
from pipeline.export.program import run_onnx
from pipeline.extend import Batch, derive_vectors, registry
from pipeline.testing import check_encoder, make_batch
from pipeline_recurrent import GRU, LRU, LSTM, MarkRestarts, Restarting
from support.needs import SLOW, needs
from support.strategies import ragged_rows
from support.untyped import seed


@final
class Unmarked(Encoder[Causal]):
    """`Restarting` without any mark, to be tested by the laws, which draw marks at random otherwise."""

    stateful = True

    def __init__(self, *, exportable: bool = False) -> None:
        super().__init__()
        self.exportable = exportable
        self.inner: Restarting[Causal] = Restarting(LSTM(3, 4))
        self.input_size, self.output_size, self.causal = 3, 4, True

    def forward(self, batch: Batch[Vectors]) -> States[Causal]:
        """Return the states of rows of one document each."""
        marks = torch.zeros_like(batch.values[..., :1])
        return self.inner(derive_vectors(torch.cat([batch.values, marks], -1), batch, batch.initial_carry))


def test_without_marks_it_obeys_the_laws() -> None:
    """It is then the encoder of whole rows."""
    check_encoder(Unmarked)


@SLOW
def test_it_obeys_the_laws_of_graphs() -> None:
    """In a graph, the number of documents is known only when it runs."""
    check_encoder(lambda: Unmarked(exportable=True))


INNER: dict[str, Callable[[], Encoder[MaybeCausal]]] = {
    "lstm": lambda: LSTM(3, 4, num_layers=2),
    "gru in both directions": lambda: GRU(3, 4, bidirectional=True),
    "lru": lambda: LRU(3, 4),
}


def mark(row: Tensor, generator: torch.Generator) -> Tensor:
    """Return a row with marks at random steps."""
    return torch.cat([row, (torch.rand(len(row), 1, generator=generator) < 0.4).double()], 1)


def cut(row: Tensor) -> list[Tensor]:
    """Return the documents of a marked row, without their marks."""
    if not len(row):
        return []
    starts = [step for step in range(len(row)) if step == 0 or float(row[step, -1]) > 0.5]
    return [row[start:end, :-1] for start, end in zip(starts, [*starts[1:], len(row)], strict=True)]


@pytest.mark.parametrize("name", INNER)
@given(rows=ragged_rows(), number=st.integers(0, 99))
def test_it_equals_the_documents_as_rows(name: str, rows: list[Tensor], number: int) -> None:
    """Hidden vectors, final states and gradients."""
    seed(2)
    inner = INNER[name]().double()
    generator = torch.Generator().manual_seed(number)
    marked = [mark(row, generator) for row in rows]
    states = Restarting(inner)(make_batch(marked, extra=1))
    found = [states.padded().values[row, : len(steps)] for row, steps in enumerate(marked)]
    wanted: list[Tensor] = []
    finals: list[Tensor] = []
    for row in marked:
        parts = [inner(make_batch([part])) for part in cut(row)] or [inner(make_batch([row[:, :-1]]))]
        wanted.append(torch.cat([part.packed().values for part in parts]))
        finals.append(parts[-1].final[0])
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(states.final, torch.stack(finals))
    weights = list(inner.parameters())
    gradients = [
        torch.autograd.grad(torch.cat(each).square().sum() + last.sum(), weights, allow_unused=True)
        for each, last in ((found, states.final), (wanted, torch.stack(finals)))
    ]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_row_continues_from_its_carry_unless_it_begins_with_a_mark() -> None:
    """In windows, a document may begin in one window and end in the next."""
    seed(2)
    encoder = Restarting(LSTM(3, 4))
    whole = torch.randn(2, 6, 4)
    whole[..., -1] = torch.tensor([[0.0, 1, 0, 0, 0, 1], [0.0, 0, 0, 1, 0, 0]])
    lengths = torch.tensor([3, 3])
    first = encoder(Padded(Vectors, whole[:, :3], lengths))
    second = encoder(Padded(Vectors, whole[:, 3:], lengths, initial_carry=first.carry))
    wanted = encoder(Padded(Vectors, whole, lengths * 2))
    torch.testing.assert_close(torch.cat([each.padded().values for each in (first, second)], 1), wanted.padded().values)
    torch.testing.assert_close(second.carry, wanted.carry)


def test_a_language_model_restarts_at_ids(tmp_path: Path) -> None:
    """Joined documents have the loss of single ones, in windows too; it is saved, and it generates."""
    seed(2)
    encode = Encode(Restarting(LSTM(4, 5)))
    model = Pack() >> MarkRestarts(Embed(9, 4), at=[0]) >> encode >> NextToken(9)
    documents = [[0, 3, 4, 5], [0, 7], [0, 2, 2, 8, 1]]
    joined = [[each for document in documents for each in document]]
    pipe = FromIds() >> Shift() >> Bucket(max_padded_steps=99) >> Pad() >> model
    windows = FromIds() >> Shift() >> BPTTWindows(rows=1, steps=3) >> Pad() >> model
    assert windows.evaluate(joined).loss == pytest.approx(pipe.evaluate(joined).loss, rel=1e-5)
    alone = [str(scored) for row in pipe.predict(documents) for scored in row]
    assert alone == [str(scored) for row in pipe.predict(joined) for scored in row]
    pipe.save(tmp_path / "pipe")
    again = load(tmp_path / "pipe")
    assert str(list(again.predict(joined, scores=True))) == str(list(pipe.predict(joined, scores=True)))
    assert len(list(pipe.generate(joined, max_new_tokens=4, seed=0))) == 1


def test_it_is_made_by_name() -> None:
    """With the name and the options of another encoder."""
    encode = Encode("restarting", input_size=4, encoder="gru", hidden_size=6, options={"num_layers": 2})
    assert isinstance(encode.encoder, Restarting)
    assert isinstance(encode.encoder.encoder, GRU)
    assert (encode.encoder.encoder.input_size, encode.encoder.encoder.num_layers) == (3, 2)


def test_wrong_sizes_are_rejected() -> None:
    """The message says what to join, or to leave out."""
    with pytest.raises(OptionError, match="input_size must be 4, those of the encoder and the mark, got 3"):
        Restarting(LSTM(3, 4), input_size=3)
    with pytest.raises(OptionError, match="input_size must be 2 or more for encoder='gru'"):
        Restarting("gru", hidden_size=4)
    with pytest.raises(OptionError, match="hidden_size and options are for an encoder by name"):
        registry().encoders.make("restarting", input_size=4, encoder=LSTM(3, 4), hidden_size=4)
    with pytest.raises(ShapeError, match="values have 3 features per step, but the encoder reads 4"):
        Restarting(LSTM(3, 4))(Packed(Vectors, torch.zeros(1, 3), torch.tensor([1])))
    with pytest.raises(OptionError, match="at must be one id or more"):
        MarkRestarts(Embed(3, 2), at=[])


@needs("onnx", "onnxruntime", "onnxscript")
def test_documents_in_onnx_equal_documents_as_rows(tmp_path: Path) -> None:
    """Of rows of all kinds: of one document, that begin with a mark or in a document, empty ones; padding has none."""
    seed(2)
    model = MarkRestarts(Embed(9, 4), at=[0, 3]) >> Encode(Restarting(LSTM(4, 5)))
    model.export(tmp_path / "model.onnx", batches=5)
    rows = [[[0, 4, 4], [0], [3, 5]], [[7], [0]], [], [[1, 2, 2, 8, 2]]]
    ids = torch.zeros(4, 7, dtype=torch.int64)
    for row, documents in zip(ids, rows, strict=True):
        joined = [each for document in documents for each in document]
        row[: len(joined)] = torch.tensor(joined, dtype=torch.int64)
    (found,) = run_onnx(tmp_path / "model.onnx")([ids, torch.tensor([6, 2, 0, 5])])
    for steps, documents in zip(found, rows, strict=True):
        alone = [
            model(Padded(Ids, torch.tensor([each]), torch.tensor([len(each)]))).padded().values[0] for each in documents
        ]
        wanted = torch.cat([*alone, torch.zeros(7 - sum(map(len, documents)), 5)])
        torch.testing.assert_close(steps, wanted)


@SLOW
@needs("onnx", "onnxruntime", "onnxscript")
@pytest.mark.parametrize("form", ["rows", "step"])
@pytest.mark.parametrize("suffix", ["pt2", "onnx"])
@pytest.mark.parametrize("name", ["lstm", "lru", "gru in both directions"])
def test_exported_models_restart(name: str, suffix: str, form: Form, tmp_path: Path) -> None:
    """`export` compares them on random batches; step by step too, if the encoder is causal."""
    seed(2)
    inner = INNER[name]()
    if form == "step" and not inner.causal:
        pytest.skip("it reads later steps")
    model = Pack() >> MarkRestarts(Embed(9, 3), at=[0, 3]) >> Encode(Restarting(inner)) >> Tag(2)
    assert model.export(tmp_path / f"model.{suffix}", form=form).difference <= 1e-5


def test_an_encoder_that_cannot_be_exported_is_named(tmp_path: Path) -> None:
    """With the reason."""
    model = MarkRestarts(Embed(9, 4), at=[0]) >> Encode(Restarting(LSTM(4, 5, proj_size=2))) >> NextToken(9)
    with pytest.raises(ExportError, match="because its encoder LSTM cannot be exported; wrap one that declares"):
        model.export(tmp_path / "model.pt2")
