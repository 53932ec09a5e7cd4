"""The measured peak memory of a training step grows with its tensors, and measuring leaves the model as it was."""

from collections.abc import Callable
from typing import final

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from pipeline import (
    Chain,
    Classify,
    EachStep,
    Embed,
    EmbedFields,
    Encode,
    Identity,
    Ids,
    ModuleStage,
    Pack,
    Padded,
    Pool,
    Scores,
    Vectors,
    classifier,
    language_model,
    plan,
    tagger,
    through,
)
from pipeline.batching import Boundaries, Budget
from pipeline.errors import OptionError
from pipeline.forecast import Memory
from pipeline.forecast.memory import measure_memory
from pipeline_recurrent import LSTM
from support.records import Event, Word
from support.untyped import as_any, seed, to_list, untyped

MIB = 2**20


@final
class Holding(ModuleStage[Padded[Ids], Tensor]):
    """Keeps pairs of tensors of rows x steps x 64 for the backward pass."""

    def __init__(self, tensors: int) -> None:
        super().__init__()
        self.tensors = tensors
        self.weight = nn.Parameter(torch.ones(64))

    @override
    def forward(self, value: Padded[Ids]) -> Tensor:
        ones = torch.ones(*value.values.shape, 64)
        sines = [torch.sin(ones * self.weight) for _ in range(self.tensors)]
        return torch.stack([tensor.sum() for tensor in sines])


def test_memory_grows_with_the_kept_tensors() -> None:
    """Each sine keeps its argument and its result; with twice the steps, the memory doubles."""
    size = 32 * 128 * 64 * 4
    few, many = (measure_memory(Holding(tensors), 32, 128).peak for tensors in (2, 6))
    assert few is not None
    assert many is not None
    assert many - few == pytest.approx(4 * 2 * size, rel=0.05)
    longer = measure_memory(Holding(6), 32, 256).peak
    assert longer is not None
    assert longer == pytest.approx(2 * many, rel=0.05)


def test_weights_and_gradients_count() -> None:
    """A large embedding counts twice: weights and gradient."""
    # A small encoder: what its engine needs in between must not be the peak of the small model.
    small, large = (
        measure_memory(classifier(entries, 2, embedding_dim=64, hidden_size=8), 2, 3).peak
        for entries in (1_000, 33_768)
    )
    assert small is not None
    assert large is not None
    assert large - small == pytest.approx(2 * 32_768 * 64 * 4, rel=0.02)


@pytest.mark.parametrize("make", [lambda: classifier(50, 3), lambda: tagger(50, 3), lambda: language_model(50)])
def test_the_model_is_left_as_it_was(make: Callable[[], Chain[Padded[Ids], object]]) -> None:
    """Weights, gradients, modes and the random generator's state are unchanged."""
    model = make().eval()
    model.requires_grad_(requires_grad=True)
    next(model.parameters()).grad = torch.full_like(next(model.parameters()), 3.0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    seed(3)
    wanted = to_list(torch.rand(4))
    seed(3)
    memory = measure_memory(model, 4, 6)
    assert to_list(torch.rand(4)) == wanted
    assert memory.peak is not None
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    gradients = [weight.grad for weight in model.parameters()]
    assert gradients[0] is not None
    assert set(to_list(gradients[0].flatten())) == {3.0}
    assert gradients[1:] == [None] * (len(gradients) - 1)
    assert not any(module.training for module in model.modules())


def test_buffers_are_restored() -> None:
    """A training step updates a running mean, which has its old value again afterwards."""

    class Running(ModuleStage[Padded[Vectors], Tensor]):
        input_size = 4

        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(4)

        @override
        def forward(self, value: Padded[Vectors]) -> Tensor:
            normed: Tensor = self.norm(value.values.flatten(0, 1))
            return normed

    model = Running()
    assert measure_memory(model, 3, 5).peak
    assert to_list(model.norm.running_mean if model.norm.running_mean is not None else torch.ones(4)) == [0.0] * 4


def test_a_model_over_vectors_is_measured_too() -> None:
    """Its first encoder determines the size of the vectors."""
    model: Chain[Padded[Vectors], Scores[int]] = (
        Pack(Vectors) >> Encode("lstm", input_size=5, hidden_size=4) >> Pool("max") >> Classify(2)
    )
    assert measure_memory(model, 3, 7).peak


def test_a_model_over_fields_and_inner_rows_is_measured_too() -> None:
    """Each field has the size that its stage reads, and each inner row is used."""
    spell = EachStep(Embed(26, 3) >> Encode(LSTM(3, 2)) >> Pool("max"))
    words = EmbedFields(Word, through(Embed(9, 4)), through(spell)) >> Encode(LSTM(6, 3)) >> Pool("max") >> Classify(2)
    assert as_any(measure_memory)(words, 3, 7).peak
    events = EmbedFields(Event, through(Embed(9, 4)), through(Identity(2))) >> Encode(LSTM(6, 3)) >> Pool("max")
    assert as_any(measure_memory)(Pack(Event) >> events >> Classify(2), 3, 7).peak


def test_memory_is_a_column_of_the_table() -> None:
    """For each policy it has the batch that needs most memory; the method is a note below the table."""
    forecast = plan([4, 9, 9, 30, 2, 5] * 20, [Budget(60), Budget(240)], model=tagger(50, 3))
    small, large = (policy.memory for policy in forecast.policies.values())
    assert small is not None
    assert large is not None
    assert small.peak is not None
    assert large.peak is not None
    assert small.peak < large.peak
    assert small.rows * small.steps <= 60 < large.rows * large.steps <= 240
    lines = str(forecast).splitlines()
    assert lines[1].endswith("peak memory")
    assert lines[3].endswith("MiB")
    assert lines[-1] == (
        "peak memory: measured on cpu: one training step of a full batch, without an optimizer's state."
    )
    assert forecast.to_dict()["policies"][1]["memory"] == {
        "bytes": large.peak,
        "rows": large.rows,
        "steps": large.steps,
        "method": large.method,
    }


def test_out_of_memory_is_a_result() -> None:
    """A step that runs out of memory gives `peak=None`; other errors are raised."""

    class Greedy(ModuleStage[Padded[Ids], Tensor]):
        @override
        def forward(self, value: Padded[Ids]) -> Tensor:
            return torch.empty(2**56)

    class Wrong(ModuleStage[Padded[Ids], Tensor]):
        @override
        def forward(self, value: Padded[Ids]) -> Tensor:
            msg = "not this"
            raise RuntimeError(msg)

    memory = measure_memory(Greedy(), 1, 1)
    assert memory.peak is None
    assert str(memory) == "does not fit"
    with pytest.raises(RuntimeError, match="not this"):
        measure_memory(Wrong(), 1, 1)
    assert "does not fit" in str(plan([3], Boundaries((2,), rows=2), model=Greedy()))


def test_models_that_cannot_be_measured_are_rejected() -> None:
    """The message says what to give instead."""
    with pytest.raises(OptionError, match="model must be a stage with weights that takes padded batches, such as"):
        untyped(plan)([3], 10, model="lstm")
    with pytest.raises(OptionError, match="model must take padded batches of ids, or of vectors of a known size"):
        untyped(measure_memory)(Pool("max") >> Classify(2, input_size=3), 2, 3)
    frozen = Pack() >> Embed(9, 4) >> Encode("lstm", hidden_size=4) >> Pool("max") >> Classify(2)
    with pytest.raises(OptionError, match="model needs one length per row.*, got two lengths per row"):
        plan([(3, 4)], 10, model=frozen)
    frozen.requires_grad_(requires_grad=False)
    with pytest.raises(OptionError, match="model must have an output with a gradient, but no output has one"):
        measure_memory(frozen, 2, 3)


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 * MIB, "3.0 MiB"), (2**50, "1,024.0 TiB")]
)
def test_bytes_are_written_in_a_suitable_unit(number: int, text: str) -> None:
    """Units are powers of 1024."""
    assert str(Memory(number, 1, 1, "by hand")) == text


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_memory_is_measured_on_a_gpu() -> None:
    """Other tensors on the device do not count."""
    model = Holding(6).to("cuda")
    other = torch.ones(64 * MIB, device="cuda")
    memory = measure_memory(model, 8, 16)
    assert memory.method.startswith("measured on cuda")
    assert memory.peak is not None
    assert 0 < memory.peak < other.nbytes
