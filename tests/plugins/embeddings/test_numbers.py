"""Tests of the embedders of numbers and times: `EmbedNumbers`, `Standardize`, `Time2Vec`, `TimeSinceLast`."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, cast

import attrs
import pytest
import torch
from torch import Tensor

from pipeline import (
    Bucket,
    Classify,
    EmbedFields,
    Encode,
    Example,
    Fields,
    FromColumns,
    FromFeatures,
    Identity,
    Pack,
    Pad,
    Padded,
    Pool,
    Vectors,
    load,
    read,
    through,
)
from pipeline.core.stage import ModuleStage
from pipeline.data.batches import Batch
from pipeline.errors import CompositionError, OptionError, ShapeError, ValuesError
from pipeline.registry import registry
from pipeline.testing import STAGE_LAWS, Law
from pipeline_embeddings import EmbedNumbers, Standardize, Time2Vec, TimeSinceLast
from support.untyped import as_any, to_list

LENGTHS: Final = torch.tensor([3, 0, 4, 1])

MAKE: Final[dict[str, Callable[[], ModuleStage[Batch[Vectors], Batch[Vectors]]]]] = {
    "linear": lambda: EmbedNumbers(3),
    "periodic": lambda: EmbedNumbers(3, kind="periodic", frequencies=5, input_size=2),
    "standardize": lambda: Standardize(4),
    "log": lambda: Standardize(4, log=True),
    "time2vec": lambda: Time2Vec(3),
    "times": lambda: Time2Vec(3, input_size=2),
    "since": TimeSinceLast,
}


def make_batch(size: int = 2, filling: float = math.nan) -> Padded[Vectors]:
    """Return random rows with invalid padding."""
    values = torch.randn(4, 5, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    padding = (torch.arange(5) >= LENGTHS.unsqueeze(1)).unsqueeze(2)
    return Padded(Vectors, values.masked_fill(padding, filling), LENGTHS)


def check(stage: ModuleStage[Batch[Vectors], Batch[Vectors]], embed: Callable[[Tensor], Tensor]) -> None:
    """Compare a stage with a function of one row, in both layouts, with its gradients."""
    batch, parameters = make_batch(), list(stage.double().parameters())
    both: tuple[Batch[Vectors], ...] = (batch, batch.packed())
    for each in both:
        found = stage(each).padded().values
        wanted = torch.zeros_like(found)
        for row, length in enumerate(to_list(LENGTHS)):
            if length:
                wanted[row, :length] = embed(batch.values[row, :length])
        torch.testing.assert_close(found, wanted)
        if parameters:
            weights = torch.rand_like(found)
            gradients = torch.autograd.grad((found * weights).sum(), parameters)
            torch.testing.assert_close(gradients, torch.autograd.grad((wanted * weights).sum(), parameters))


@pytest.mark.parametrize("law", STAGE_LAWS)
@pytest.mark.parametrize("name", MAKE)
def test_obeys_the_laws(name: str, law: Law[ModuleStage[Batch[Vectors], Batch[Vectors]]]) -> None:
    """All of them."""
    law(MAKE[name])


def test_linear_numbers_equal_a_loop() -> None:
    """A linear layer per number, and ReLU."""
    stage = EmbedNumbers(3, input_size=2)

    def embed(row: Tensor) -> Tensor:
        weight, bias = stage.weight, stage.bias
        assert weight is not None
        assert bias is not None
        parts = [row[:, number : number + 1] * weight[number] + bias[number] for number in range(2)]
        return torch.cat(parts, dim=1).relu()

    check(stage, embed)


def test_periodic_numbers_equal_a_loop() -> None:
    """Cosines and sines, a linear layer per number, and ReLU."""
    stage = EmbedNumbers(3, kind="periodic", frequencies=5, sigma=1.0, input_size=2)

    def embed(row: Tensor) -> Tensor:
        assert stage.weight is not None
        assert stage.bias is not None
        assert stage.frequency is not None
        parts: list[Tensor] = []
        for number in range(2):
            angles = 2 * math.pi * row[:, number : number + 1] * stage.frequency[number]
            parts.append(torch.cat([angles.cos(), angles.sin()], 1) @ stage.weight[number] + stage.bias[number])
        return torch.cat(parts, dim=1).relu()

    check(stage, embed)


def test_initial_frequencies_have_the_stated_deviation() -> None:
    """Sigma, by which the smoothness is chosen."""
    frequency = EmbedNumbers(2, kind="periodic", frequencies=500, sigma=0.3, input_size=4).frequency
    assert frequency is not None
    assert float(frequency.detach().std()) == pytest.approx(0.3, rel=0.1)


def test_times_equal_a_loop() -> None:
    """One feature is linear, the others are sines."""
    stage = Time2Vec(3, input_size=2)

    def embed(row: Tensor) -> Tensor:
        lines = [row[:, [number]] * stage.weight[number] + stage.bias[number] for number in range(2)]
        return torch.cat([torch.cat([line[:, :1], line[:, 1:].sin()], 1) for line in lines], dim=1)

    check(stage, embed)


def test_time_since_last_equals_a_loop() -> None:
    """The first step of each row gives 0."""
    check(TimeSinceLast(), lambda row: row - torch.cat([row[:1], row[:-1]]))


def test_time_since_last_steps() -> None:
    """Run in parts, in which a row may have no step."""
    stage, batch = TimeSinceLast(), make_batch(filling=0)
    whole = stage(batch).padded().values
    start = torch.tensor([2, 0, 1, 1])
    found, memory = stage.step(Padded(Vectors, batch.values[:, :2], start), None)
    torch.testing.assert_close(found.padded().values[0, :2], whole[0, :2])
    nothing, memory = stage.step(Padded(Vectors, batch.values[:, :0], torch.zeros(4, dtype=torch.int64)), memory)
    assert nothing.values.shape == (4, 0, 2)
    rows = torch.tensor([2, 0])
    later = torch.stack([batch.values[2, 1:4], batch.values[0, 2:5]])
    found, memory = stage.step(Padded(Vectors, later, torch.tensor([3, 1])), memory.select(rows))
    values = found.padded().values
    torch.testing.assert_close(values[0], whole[2, 1:4])
    torch.testing.assert_close(values[1, :1], whole[0, 2:3])
    assert to_list(memory.seen) == [True, True]


@pytest.mark.parametrize("log", [False, True])
def test_standardized_training_data_has_mean_0_and_deviation_1(log: bool) -> None:
    """Rows are read once, one after the other; a constant feature is left at 0."""
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(length, 3, generator=generator) * 50 + 200 for length in (5, 0, 40, 1)]
    for row in rows:
        row[:, 2] = 7
    stage = Standardize.from_values(iter(rows), log=log).double()
    values = torch.cat(rows).double()
    found = stage(Padded(Vectors, values.unsqueeze(0), torch.tensor([46]))).values[0]
    torch.testing.assert_close(found.mean(0), torch.zeros(3).double(), atol=2e-5, rtol=0)
    torch.testing.assert_close(found.std(0, correction=0)[:2], torch.ones(2).double(), atol=2e-5, rtol=0)
    assert float(stage.std[2]) == 1
    if log:
        torch.testing.assert_close(stage.mean[0], values[:, 0].log1p().mean(), rtol=1e-6, atol=0)


def test_logarithm_keeps_the_sign() -> None:
    """Numbers near 0 stay as they are."""
    values = torch.tensor([[[-99.0], [0.0], [99.0]]])
    found = Standardize(1, log=True)(Padded(Vectors, values, torch.tensor([3]))).values
    assert to_list(found.flatten()) == pytest.approx([-math.log(100), 0, math.log(100)])


@attrs.frozen(eq=False)
class Sale(Fields):
    """The fields of a step."""

    amount: Vectors
    day: Vectors


def test_pipe_of_events_trains_saves_and_loads(tmp_path: Path) -> None:
    """Numbers and times as fields, with sizes that the stages determine, and the same bits alone on request."""
    inputs = [{"amount": [1.0, 30.0], "day": [0.0, 2.5]}, {"amount": [400.0], "day": [7.0]}]
    train = [Example(one, target=number) for number, one in enumerate(inputs)]
    rows = FromColumns(Sale, amount=read(FromFeatures()), day=read(FromFeatures()))
    amount = Standardize.from_values((one["amount"] for one in inputs), log=True)
    fields = EmbedFields(
        Sale,
        amount=through(amount >> EmbedNumbers(4, kind="periodic", frequencies=3)),
        day=through(Identity(1) >> TimeSinceLast() >> Time2Vec(5)),
    )
    model = Pack(Sale) >> fields >> Encode("lstm", hidden_size=3) >> Pool("max") >> Classify(2)
    pipe = rows >> Bucket(Sale, rows=2, seed=0) >> Pad(Sale) >> model
    pipe.fit(train, epochs=1, progress=False)
    pipe.save(tmp_path / "saved")
    loaded = load(tmp_path / "saved")
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in pipe.state_dict().items())
    assert list(loaded.predict(inputs)) == list(pipe.predict(inputs))
    fast = pipe.for_inference(deterministic=True)
    together = [found.probability for found in fast.predict(inputs, scores=True)]
    assert [found.probability for one in inputs for found in fast.predict([one], scores=True)] == together


def test_options_larger_than_any_weight_are_loaded(tmp_path: Path) -> None:
    """`frequencies` is 48 by default, also for `linear`, which has no weights for them."""
    numbers = EmbedNumbers(3, input_size=1)
    model = numbers >> Encode("gru", hidden_size=2) >> Pool("max") >> Classify(2)
    pipe = FromFeatures() >> Bucket(Vectors, rows=2) >> Pad(Vectors) >> model
    pipe.save(tmp_path / "saved")
    inputs = [[[1.0], [2.0]], [[3.0]]]
    assert list(load(tmp_path / "saved").predict(inputs)) == list(pipe.predict(inputs))


def test_registered_by_name() -> None:
    """Embedders and stages."""
    found = registry()
    assert isinstance(found.embedders.make("embed_numbers", embedding_dim=3), EmbedNumbers)
    assert isinstance(found.embedders.make("time2vec", embedding_dim=3), Time2Vec)
    assert isinstance(found.stages.make("standardize", input_size=3), Standardize)
    assert isinstance(found.stages.make("time_since_last"), TimeSinceLast)


def test_wrong_options_and_inputs_raise() -> None:
    """With the rule."""
    with pytest.raises(OptionError, match=r"kind must be one of linear, periodic, got 'bins'"):
        EmbedNumbers(3, kind=cast("Literal['linear']", "bins"))
    with pytest.raises(OptionError, match=r"embedding_dim must be an integer of at least 1, got 0"):
        EmbedNumbers(0)
    with pytest.raises(OptionError, match=r"sigma must be a finite number above 0, got 0; try 0.01"):
        EmbedNumbers(3, sigma=0)
    with pytest.raises(OptionError, match=r"sigma must be a finite number above 0, got '1'"):
        EmbedNumbers(3, sigma=as_any("1"))
    with pytest.raises(OptionError, match=r"embedding_dim must be an integer of at least 1, got None"):
        Time2Vec(as_any(None))
    with pytest.raises(OptionError, match=r"log must be True or False, got 'no'"):
        Standardize(2, log=as_any("no"))
    with pytest.raises(CompositionError, match=r"the input size of EmbedNumbers is not known; pass input_size=2"):
        EmbedNumbers(3)(make_batch())
    with pytest.raises(CompositionError, match=r"the input has size 2 along 'feature', but Time2Vec has input_size=1"):
        _ = Identity(2) >> Time2Vec(3)
    with pytest.raises(ShapeError, match=r"Standardize has input_size=3, got vectors of 2 features"):
        Standardize(3)(make_batch())
    with pytest.raises(ValuesError, match=r"rows must have a step, got none"):
        Standardize.from_values([[], []])
    with pytest.raises(ValuesError, match=r"row 1, step 0, feature 0 is nan"):
        Standardize.from_values([[1.0], [math.nan]])
