"""Tests of `Positions`."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, cast

import attrs
import pytest
import torch
from torch import Tensor

from pipeline import Bucket, Classify, Embed, Encode, Example, FromIds, Pack, Pad, Padded, Pool, Vectors, load
from pipeline.data.batches import Batch
from pipeline.data.metadata import BatchMetadata
from pipeline.errors import CompositionError, LengthError, OptionError, ShapeError
from pipeline.testing import STAGE_LAWS, Law
from pipeline_embeddings import Positions
from support.untyped import as_any, to_list

LENGTHS: Final = torch.tensor([3, 0, 1, 4])
STARTS: Final = torch.tensor([5, 0, 0, 2])

MAKE: Final[dict[str, Callable[[], Positions]]] = {
    "sinusoidal": Positions,
    "learned": lambda: Positions("learned", max_length=9, input_size=4),
}


def make_batch(starts: Tensor | None = None, size: int = 4, filling: float = math.nan) -> Padded[Vectors]:
    """Return random rows with invalid padding."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(4, 5, size, dtype=torch.float64, generator=generator)
    values = values.masked_fill((torch.arange(5) >= LENGTHS.unsqueeze(1)).unsqueeze(2), filling)
    metadata = BatchMetadata(torch.tensor([7, 8, 9, 10]), start_steps=starts)
    return Padded(Vectors, values, LENGTHS, metadata=metadata)


def get_vector(positions: Positions, position: int, size: int) -> Tensor:
    """Return the vector of one position, from the definition."""
    if positions.weight is not None:
        return positions.weight[position]
    angles = [position / 10_000 ** (2 * (feature // 2) / size) for feature in range(size)]
    waves = [math.cos(angle) if feature % 2 else math.sin(angle) for feature, angle in enumerate(angles)]
    return torch.tensor(waves, dtype=torch.float64)


@pytest.mark.parametrize("law", STAGE_LAWS)
@pytest.mark.parametrize(
    "make", [Positions, lambda: Positions("learned", max_length=30)], ids=["sinusoidal", "learned"]
)
def test_obeys_the_laws(make: Callable[[], Positions], law: Law[Positions]) -> None:
    """Both kinds."""
    law(make)


@pytest.mark.parametrize("starts", [None, STARTS], ids=["whole", "cut"])
@pytest.mark.parametrize("name", MAKE)
def test_adds_the_vector_of_each_position(name: str, starts: Tensor | None) -> None:
    """In both layouts; rows that were cut continue to count. The padding is zeros."""
    positions, batch = MAKE[name]().double(), make_batch(starts)
    wanted = torch.zeros_like(batch.values)
    for row, length in enumerate(to_list(LENGTHS)):
        for time in range(length):
            first = 0 if starts is None else int(starts[row])
            wanted[row, time] = batch.values[row, time] + get_vector(positions, first + time, 4)
    both: tuple[Batch[Vectors], ...] = (batch, batch.packed())
    for each in both:
        torch.testing.assert_close(positions(each).padded().values, wanted)


def test_odd_sizes_have_one_sine_more() -> None:
    """The last feature is a sine."""
    added = Positions()(make_batch(size=3)).values[0, 1] - make_batch(size=3).values[0, 1]
    torch.testing.assert_close(added, get_vector(Positions(), 1, 3))


def test_learned_vectors_get_the_gradient_of_real_steps() -> None:
    """Padding gives none, though it is wider than the longest row."""
    positions = MAKE["learned"]().double()
    total = positions(make_batch()).values.sum()
    (gradient,) = torch.autograd.grad(total, list(positions.parameters()))
    assert to_list(gradient[:, 0]) == [3, 2, 2, 1, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("name", MAKE)
def test_steps_equal_whole_rows(name: str) -> None:
    """Run in parts, with a memory of which rows are selected."""
    positions, batch = MAKE[name]().double(), make_batch(filling=0)
    whole = positions(batch).padded().values
    first = Padded(Vectors, batch.values[:, :2], LENGTHS.clamp(max=2))
    found, memory = positions.step(first, None)
    torch.testing.assert_close(found.padded().values, whole[:, :2])
    rows = torch.tensor([3, 0])
    later = Padded(Vectors, batch.values[rows, 2:4], torch.tensor([2, 1]))
    found, memory = positions.step(later, memory.select(rows))
    torch.testing.assert_close(found.padded().values, whole[rows, 2:4])
    assert to_list(memory.counts) == [4, 3]


def test_sinusoids_fit_any_size() -> None:
    """One stage may stand in two chains; learned vectors have one size."""
    for positions, sizes in ((Positions(), {4, 6}), (Positions("learned", max_length=3), {4})):
        for size in sizes:
            assert (Embed(9, size) >> positions)(Pad()(list(FromIds().map([[1, 2]])))).values.shape == (1, 2, size)


def test_low_precision_keeps_its_dtype() -> None:
    """Large positions are exact before they are rounded."""
    batch = attrs.evolve(make_batch(torch.full((4,), 1_000_000), filling=0), values=torch.zeros(4, 5, 4).bfloat16())
    values = Positions()(batch).values
    assert values.dtype == torch.bfloat16
    assert float(values[0, 0, 0]) == pytest.approx(math.sin(1_000_000), abs=0.01)


def test_pipe_trains_saves_and_loads(tmp_path: Path) -> None:
    """The size comes from the stage before."""
    embedded = Pack() >> Embed(9, 4) >> Positions("learned", max_length=6)
    model = embedded >> Encode("lstm", hidden_size=3) >> Pool("mean") >> Classify(2)
    pipe = FromIds() >> Bucket(rows=2, seed=0) >> Pad() >> model
    pipe.fit([Example([1, 2, 3], target=1), Example([4, 2], target=0)], epochs=1, progress=False)
    pipe.save(tmp_path / "saved")
    assert "positions.weight" in pipe.state_dict()
    inputs = [[1, 2, 3], [], [8]]
    assert list(load(tmp_path / "saved").predict(inputs)) == list(pipe.predict(inputs))
    with pytest.raises(LengthError, match=r"row 0 has 7 steps, but Positions has learned vectors for 6; raise"):
        list(pipe.predict([[1] * 7]))


def test_wrong_options_and_inputs_raise() -> None:
    """With the rule."""
    with pytest.raises(OptionError, match=r"kind must be one of sinusoidal, learned, got 'rotary'"):
        Positions(cast("Literal['learned']", "rotary"))
    with pytest.raises(OptionError, match=r"max_length must be 1 or more for kind='learned', and is for it only"):
        Positions("learned")
    with pytest.raises(OptionError, match=r"max_length must be 1 or more"):
        Positions(max_length=3)
    with pytest.raises(OptionError, match=r"input_size must be an integer of at least 1, got 0; pass the number"):
        Positions(input_size=0)
    with pytest.raises(OptionError, match=r"max_length must be an integer of at least 1, got 2.5"):
        Positions("learned", max_length=as_any(2.5))
    with pytest.raises(CompositionError, match=r"the input has size 4 along 'feature', but Positions has size 3"):
        _ = Embed(9, 4) >> Positions(input_size=3)
    with pytest.raises(ShapeError, match=r"Positions has size 3, got vectors of 4 features"):
        Positions(input_size=3)(make_batch())
    with pytest.raises(CompositionError, match=r"number of features of Positions is not known"):
        Positions("learned", max_length=9)(make_batch())
    with pytest.raises(LengthError, match=r"row 7 has 8 steps, but Positions has learned vectors for 6"):
        Positions("learned", max_length=6, input_size=4)(make_batch(STARTS))
