"""Tests of convolutional encoders: loops over single rows, laws, layouts, saving and training."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import given
from torch import Tensor, nn

from pipeline import (
    Bucket,
    Classify,
    Embed,
    Encode,
    Encoder,
    Example,
    FromIds,
    MaybeCausal,
    NextToken,
    Pad,
    Padded,
    Pool,
    Shift,
    Vectors,
    load,
)
from pipeline.errors import OptionError
from pipeline.testing import adapt_encoder, check_against_oracle, check_encoder
from pipeline_convolutional import CNN, GatedCNN
from pipeline_convolutional.convolution import Convolutional
from pipeline_convolutional.layout import lay_out
from support.needs import mark_slow
from support.strategies import ragged_rows
from support.untyped import as_any, seed, to_list, untyped

ENCODERS: dict[str, Callable[[], Convolutional[MaybeCausal]]] = {
    "cnn": lambda: CNN(3, 2),
    "cnn, stacked": lambda: CNN(
        3, 2, kernel_sizes=(1, 4), num_layers=3, dilation=(1, 3, 2), residual=True, dropout=0.5
    ),
    "cnn, causal": lambda: CNN(3, 2, kernel_sizes=(2, 3), causal=True, num_layers=2, dilation=2, activation="gelu"),
    "gated": lambda: GatedCNN(3, 4, kernel_size=2, num_layers=2, residual=True),
    "gated, causal": lambda: GatedCNN(3, 4, causal=True, num_layers=2, dilation=(1, 2)),
}


def convolve(layer: nn.Conv1d, row: Tensor, *, causal: bool) -> Tensor:
    """Return one convolution of one row, step by step: a product for each entry of the kernel inside the row."""
    (width,), (dilation,) = layer.kernel_size, layer.dilation
    assert layer.bias is not None
    found: list[Tensor] = []
    for time in range(len(row)):
        total = layer.bias
        for entry in range(width):
            place = time + dilation * (entry - (width - 1 if causal else (width - 1) // 2))
            if 0 <= place < len(row):
                total = total + layer.weight[:, :, entry] @ row[place]
        found.append(total)
    return torch.stack(found)


def encode(encoder: Convolutional[MaybeCausal], row: Tensor) -> Tensor:
    """Return the states of one row, and its final state."""
    if not len(row):
        return row.new_zeros(1, encoder.output_size)
    for number, layer in enumerate(encoder.layers):
        assert isinstance(layer, nn.ModuleList)
        parts: list[Tensor] = []
        for each in layer:
            assert isinstance(each, nn.Conv1d)
            values = convolve(each, row, causal=encoder.causal)
            if isinstance(encoder, GatedCNN):
                size = encoder.hidden_size
                parts.append(values[:, :size] * torch.sigmoid(values[:, size:]))
            else:
                assert isinstance(encoder, CNN)
                parts.append(nn.functional.gelu(values) if encoder.activation == "gelu" else values.clamp(min=0))
        found = torch.cat(parts, dim=1)
        row = found + row if encoder.residual and number else found
    return torch.cat([row, row[-1:]])


@pytest.mark.parametrize("name", ENCODERS)
@given(rows=ragged_rows())
def test_encoders_equal_the_loop(name: str, rows: list[Tensor]) -> None:
    """Values and gradients of rows and weights equal those of a loop over rows and steps."""
    seed(1)
    encoder = ENCODERS[name]().double().eval()
    check_against_oracle(adapt_encoder(encoder), lambda row: encode(encoder, row), rows, list(encoder.parameters()))


@pytest.mark.parametrize("name", mark_slow(ENCODERS, quick={"cnn, causal"}))
def test_encoders_obey_the_laws(name: str) -> None:
    """Those of encoders, all of them."""
    check_encoder(ENCODERS[name])


LENGTHS: Mapping[str, list[int]] = {
    "one line": [9, 1, 2, 0],
    "rectangle": [4, 3, 4, 4],
    "no padding": [3, 3],
    "a row": [5],
    "no steps": [0, 0],
}


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_layouts_agree(name: str, lengths: list[int]) -> None:
    """Packed and padded, among others and alone; NaN in padding has no effect."""
    seed(2)
    encoder = ENCODERS[name]().double().eval()
    values = torch.randn(len(lengths), max(lengths) + 1, 3).double()
    for row, length in zip(values, lengths, strict=True):
        row[length:] = torch.nan
    batch = Padded(Vectors, values, torch.tensor(lengths))
    padded, packed = encoder(batch), encoder(batch.packed())
    torch.testing.assert_close(packed.padded().values, padded.padded().values)
    torch.testing.assert_close(packed.final, padded.final)
    for index, length in enumerate(lengths):
        alone = encoder(Padded(Vectors, values[index : index + 1, :length], torch.tensor([length])))
        torch.testing.assert_close(padded.padded().values[index, :length], alone.padded().values[0])


def test_the_layout_with_fewer_cells_is_taken() -> None:
    """One line with gaps, unless a rectangle is as small."""
    ragged, even = (Padded(Vectors, torch.ones(3, 9, 1), torch.tensor(each)) for each in ([9, 1, 2], [9, 8, 9]))
    assert lay_out(ragged, 2).values.shape == (1, 18, 1)
    assert lay_out(even, 2).values.shape == (3, 9, 1)


@pytest.mark.parametrize("name", ENCODERS)
def test_states_have_the_same_bits_in_every_batch(name: str) -> None:
    """In a pipe for inference that says so; they equal the plain ones up to rounding."""
    seed(0)
    pipe = FromIds() >> Bucket(rows=4) >> Pad() >> Embed(9, 3) >> Encode(ENCODERS[name]()) >> Pool("max") >> Classify(3)
    frozen = pipe.for_inference(deterministic=True)
    rows = [[1, 2, 3, 4], [5], [], [7, 8]]
    together, alone = list(frozen.vectors(rows)), [next(iter(frozen.vectors([row]))) for row in rows]
    assert torch.equal(torch.stack(together), torch.stack(alone))
    torch.testing.assert_close(torch.stack(together), torch.stack(list(pipe.vectors(rows))))


@pytest.mark.parametrize("name", ["cnn", "gated_cnn", "causal_cnn", "causal_gated_cnn"])
def test_pipes_are_trained_saved_and_loaded(name: str, tmp_path: Path) -> None:
    """By name, with equal vectors."""
    examples = [Example([number, 1 + number % 3][: 1 + number % 2], target=number % 3) for number in range(8)]
    encode_by_name = Encode(name, hidden_size=3, num_layers=2, dilation=(1, 2), dropout=0.1)
    pipe = FromIds() >> Bucket(rows=4) >> Pad() >> Embed(9, 4) >> encode_by_name >> Pool("max") >> Classify(3)
    pipe.fit(examples, epochs=1, progress=False)
    pipe.save(tmp_path / "pipe")
    found, wanted = (torch.stack(list(each.vectors([[1, 2, 3], []]))) for each in (load(tmp_path / "pipe"), pipe))
    assert torch.equal(found, wanted)


def test_encoders_given_as_objects_are_saved(tmp_path: Path) -> None:
    """With causality, widths and activation."""
    encoder = CNN(4, 3, causal=True, kernel_sizes=(2,), activation="tanh")
    pipe = FromIds() >> Shift() >> Bucket(rows=4) >> Pad() >> Embed(9, 4) >> Encode(encoder) >> NextToken(9)
    pipe.fit([[1, 2, 3], [4, 5]], epochs=1, progress=False)
    pipe.save(tmp_path / "pipe")
    loaded = load(tmp_path / "pipe")
    made = next(part for part in loaded.modules() if hasattr(part, "kernel_sizes"))
    assert as_any(made).get_config() == encoder.get_config()
    assert list(loaded.predict([[1, 2]])) == list(pipe.predict([[1, 2]]))


def test_kims_model_learns_words_in_a_row() -> None:
    """Which class a row has depends on two ids in a row, wherever they are."""
    generator = torch.Generator().manual_seed(0)
    rows: list[list[int]] = to_list(torch.randint(3, 9, (120, 7), generator=generator))
    examples: list[Example[list[int]]] = []
    for number, row in enumerate(rows):
        place = number % 6
        pair = [1, 2] if number % 2 else [2, 1]
        examples.append(Example([*row[:place], *pair, *row[place:]], target=number % 2))
    model = Embed(9, 8) >> Encode(CNN(8, 8, kernel_sizes=(2, 3))) >> Pool("max") >> Classify(2)
    pipe = FromIds() >> Bucket(rows=16) >> Pad() >> model
    pipe.fit(examples, epochs=15, learning_rate=0.02, progress=False, seed=0)
    assert [*pipe.predict([[3, 1, 2, 4], [5, 2, 1], [2, 1, 3, 4, 5, 6]])] == [1, 0, 0]


def test_hooks_and_parametrizations_act_on_the_layers() -> None:
    """Pruned weights stay pruned: the layers are called, as `nn.Conv1d`."""
    encoder: Encoder[MaybeCausal] = CNN(3, 2, kernel_sizes=(3,))
    batch = Padded(Vectors, torch.randn(1, 4, 3), torch.tensor([4]))
    calls: list[nn.Module] = []
    layer = next(part for part in encoder.modules() if isinstance(part, nn.Conv1d))

    def note(module: nn.Module, *_: object) -> None:
        calls.append(module)

    as_any(layer).register_forward_hook(note)
    encoder(batch)
    assert calls == [layer]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel_sizes": ()}, "kernel_sizes must have a width or more"),
        ({"kernel_sizes": 3}, "kernel_sizes must be a sequence of widths, got 3; write"),
        ({"kernel_sizes": (0,)}, "kernel_sizes must be an integer of at least 1, got 0"),
        ({"dilation": (1, 2)}, "dilation must be a number, or one for each of 1 layers, got 2 numbers"),
        ({"dilation": 0}, "dilation must be an integer of at least 1, got 0"),
        ({"dropout": 0.5}, "dropout=0.5 acts between layers, but num_layers is 1"),
        ({"dropout": 1.0}, "dropout must be a probability"),
        ({"residual": True}, "residual=True acts between layers"),
        ({"activation": "sine"}, "activation must be relu, gelu or tanh, got 'sine'"),
        ({"hidden_size": 0}, "hidden_size must be an integer of at least 1, got 0"),
        ({"kernel_sizes": None}, r"kernel_sizes must be a sequence of widths, got None; write \(3,\)"),
        ({"kernel_sizes": (2.5,)}, "kernel_sizes must be an integer of at least 1, got 2.5"),
        ({"dilation": None}, "dilation must be an integer of at least 1, got None"),
        ({"dilation": "2"}, "dilation must be an integer of at least 1, got '2'"),
        ({"num_layers": "2"}, "num_layers must be an integer of at least 1, got '2'"),
        ({"num_layers": 2, "dropout": "0.1"}, "dropout must be a probability, 0 <= dropout < 1, got '0.1'"),
    ],
)
def test_wrong_options_raise(options: dict[str, object], message: str) -> None:
    """Each error names the option and its range."""
    with pytest.raises(OptionError, match=message):
        as_any(Encode)("cnn", input_size=3, **{"hidden_size": 2, **options})


@pytest.mark.parametrize("encoder", [CNN, GatedCNN])
def test_switches_are_true_or_false(encoder: type[CNN[MaybeCausal] | GatedCNN[MaybeCausal]]) -> None:
    """Any text, "no" too, would count as True."""
    for option in ("causal", "residual"):
        with pytest.raises(OptionError, match=f"{option} must be True or False, got 'no'"):
            untyped(encoder)(3, 2, num_layers=2, **{option: "no"})


def test_a_gated_encoder_has_one_width() -> None:
    """The error names its own option."""
    with pytest.raises(OptionError, match=r"kernel_size must be an integer of at least 1, got \(3,\)"):
        as_any(Encode)("gated_cnn", input_size=3, hidden_size=2, kernel_size=(3,))
