"""The transformer encoder equals a plain loop over each row, and torch's own encoder with the same weights."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import cast

import attrs
import pytest
import torch
from hypothesis import given
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, linear, relu, silu

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
    language_model,
    load,
)
from pipeline.core.contexts import seeded
from pipeline.errors import CompositionError, LengthError, OptionError
from pipeline.registry import registry
from pipeline.testing import ENCODER_LAWS, Law, adapt_encoder, check_against_oracle, check_encoder, make_batch
from pipeline_transformer import Transformer, causal_transformer, products, varlen
from pipeline_transformer.layer import Layer
from pipeline_transformer.layout import RowLayout
from pipeline_transformer.transformer import BaseTransformer
from support.attention_loop import attend_one
from support.needs import SLOW, needs
from support.strategies import ragged_rows
from support.untyped import as_any, seed, to_list

Options = Mapping[str, object]
SMALL: Options = {"input_size": 3, "hidden_size": 8, "num_heads": 2, "feedforward_size": 5, "dropout": 0.0}
OPTIONS: Mapping[str, Options] = {
    "default": {},
    "post": {"norm": "post", "positions": None, "activation": "relu", "bias": False},
    "causal, grouped": {"causal": True, "num_kv_heads": 1, "activation": "swiglu", "num_layers": 1},
    "learned": {"positions": "learned", "max_length": 700, "final_norm": False},
    "rotary, equal sizes": {"positions": "rotary", "causal": True, "input_size": 8},
    "alibi": {"positions": "alibi", "num_kv_heads": 1},
    "alibi, causal, three heads": {"positions": "alibi", "causal": True, "num_heads": 3, "hidden_size": 9},
    "relative": {"positions": "relative"},
    "relative, causal": {"positions": "relative", "causal": True, "window": 3},
    "window": {"window": 1, "norm": "post", "final_norm": True},
}


def make_encoder(name: str = "default", **options: object) -> BaseTransformer[MaybeCausal]:
    """Return a small encoder in float64, the same at every call, with random norms and biases."""
    with seeded(7):
        made = registry().encoders.make("transformer", **{**SMALL, **OPTIONS[name], **options})
        assert isinstance(made, Transformer)
        encoder = made
        for weight in encoder.parameters():
            if weight.ndim == 1:
                nn.init.normal_(weight, 1, 0.5)
    return encoder.double()


def normalize(norm: nn.Module, steps: Tensor) -> Tensor:
    """Return normalized steps."""
    if isinstance(norm, nn.Identity):
        return steps
    assert isinstance(norm, nn.LayerNorm)
    return layer_norm(steps, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def make_sinusoid(time: int, size: int) -> Tensor:
    """Return the vector of one time, feature by feature."""
    halves = (size + 1) // 2
    angles = [time / 10_000 ** (feature // 2 / halves) for feature in range(size)]
    turned = [torch.tensor(angle, dtype=torch.float64) for angle in angles]
    return torch.stack([angle.cos() if feature % 2 else angle.sin() for feature, angle in enumerate(turned)])


def rotate_pairs(vector: Tensor, time: int) -> Tensor:
    """Rotate the pairs of features of one head, as complex numbers."""
    half = len(vector) // 2
    powers = torch.arange(half, dtype=torch.float64) / half
    turns = torch.polar(torch.ones(half, dtype=torch.float64), time / 10_000**powers)
    turned = torch.complex(vector[:half], vector[half:]) * turns
    return torch.cat([turned.real, turned.imag])


def make_bias(encoder: BaseTransformer[MaybeCausal], length: int) -> Tensor | None:
    """Return the bias of each pair of steps, pair by pair."""
    heads = encoder.num_heads
    if encoder.positions == "alibi":
        slopes = {2: [2**-4, 2**-8], 3: [2**-4, 2**-8, 2**-2]}[heads]
        return torch.tensor(
            [[[-slope * abs(i - j) for j in range(length)] for i in range(length)] for slope in slopes]
        ).double()
    if encoder.relative_bias is None:
        return None
    # Rows of tests are so short that every distance has a number of its own.
    weight = encoder.relative_bias.weight
    late = 0 if encoder.causal else 16
    columns = [
        torch.stack([weight[:, i - j] if i >= j else weight[:, late + j - i] for j in range(length)], 1)
        for i in range(length)
    ]
    return torch.stack(columns, 1)


def run_layer(layer: Layer, encoder: BaseTransformer[MaybeCausal], row: Tensor, bias: Tensor | None) -> Tensor:
    """Run one layer over one row."""
    form = encoder.form

    def attend(steps: Tensor) -> Tensor:
        projected = linear(steps, layer.projection.weight, layer.projection.bias)
        if encoder.positions == "rotary":
            turned = (form.heads + form.kv_heads) * form.size
            parts = [
                torch.cat(
                    [rotate_pairs(part, time) for part in torch.chunk(step[:turned], form.heads + form.kv_heads)]
                    + [step[turned:]]
                )
                for time, step in enumerate(projected)
            ]
            projected = torch.stack(parts)
        return linear(attend_one(projected, form, bias), layer.output.weight, layer.output.bias)

    def feed(steps: Tensor) -> Tensor:
        parts = layer.feed_forward
        found = linear(steps, parts.expand.weight, parts.expand.bias)
        if encoder.activation == "swiglu":
            found = found[:, :5] * silu(found[:, 5:])
        else:
            found = gelu(found) if encoder.activation == "gelu" else relu(found)
        return linear(found, parts.contract.weight, parts.contract.bias)

    if encoder.norm == "pre":
        row = row + attend(normalize(layer.attention_norm, row))
        return row + feed(normalize(layer.feed_forward_norm, row))
    row = normalize(layer.attention_norm, row + attend(row))
    return normalize(layer.feed_forward_norm, row + feed(row))


def run_loop(encoder: BaseTransformer[MaybeCausal], row: Tensor) -> Tensor:
    """Return one row's hidden vectors and, below them, its final state."""
    if not len(row):
        return row.new_zeros(1, encoder.output_size) + 0 * row.sum()
    steps = row if isinstance(encoder.input, nn.Identity) else linear(row, encoder.input.weight, encoder.input.bias)
    if encoder.positions == "sinusoidal":
        steps = steps + torch.stack([make_sinusoid(time, encoder.hidden_size) for time in range(len(row))])
    if encoder.position_weight is not None:
        steps = steps + encoder.position_weight[: len(row)]
    for layer in encoder.layers:
        assert isinstance(layer, Layer)
        steps = run_layer(layer, encoder, steps, make_bias(encoder, len(row)))
    steps = normalize(encoder.norm_after, steps)
    final = steps[-1:] if encoder.causal else steps.mean(0, keepdim=True)
    return torch.cat([steps, final])


@pytest.mark.parametrize("name", OPTIONS)
@given(rows=ragged_rows(features=8))
def test_every_option_equals_the_loop(name: str, rows: list[Tensor]) -> None:
    """Hidden vectors, final states and all gradients."""
    encoder = make_encoder(name)
    rows = [row[:, : encoder.input_size] for row in rows]
    check_against_oracle(adapt_encoder(encoder), lambda row: run_loop(encoder, row), rows, list(encoder.parameters()))


QUICK = [law for law in ENCODER_LAWS if "compiled" not in str(law) and "exported" not in str(law)]


@pytest.mark.parametrize("law", QUICK)
def test_obeys_the_laws(law: Law[Encoder[MaybeCausal]]) -> None:
    """All but those about graphs, which take long."""
    law(lambda: Transformer(3, 4, causal=True, num_heads=2, num_kv_heads=1, num_layers=1, dropout=0.0))


@SLOW
@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_obeys_the_laws(name: str) -> None:
    """Those about graphs too."""
    check_encoder(lambda: make_encoder(name))


@pytest.mark.parametrize("name", ["default", "causal, grouped"])
def test_dropout_is_scaled(name: str) -> None:
    """The laws about training hold with dropout."""
    for law in ENCODER_LAWS:
        if "dropout" in str(law) or "training" in str(law):
            law(lambda: make_encoder(name, dropout=0.1))


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("bias", [False, True])
def test_weights_come_from_torchs_encoder(first: bool, activation: str, bias: bool) -> None:
    """Each row gives what torch's encoder gives for the row alone."""
    layer = nn.TransformerEncoderLayer(
        8, 2, 12, activation=activation, norm_first=first, batch_first=True, bias=bias, layer_norm_eps=1e-3
    )
    norm = nn.LayerNorm(8, 1e-3, bias=bias) if first else None
    module = nn.TransformerEncoder(layer, 2, norm, enable_nested_tensor=False).double().eval()
    for weight in module.parameters():
        nn.init.normal_(weight, std=0.5)
    encoder = Transformer.from_torch(module)
    assert not encoder.training
    rows = [torch.randn(length, 8, dtype=torch.float64) for length in (3, 1, 6, 3)]
    states = encoder(make_batch(rows))
    for index, row in enumerate(rows):
        torch.testing.assert_close(states.padded().values[index, : len(row)], module(row.unsqueeze(0))[0])


def test_a_causal_encoder_loads_torchs_weights() -> None:
    """It equals torch's encoder with the mask of a triangle."""
    module = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 32, 0.0, batch_first=True), 1).eval()
    encoder = Transformer(8, 8, causal=True, num_heads=2, num_layers=1, norm="post", activation="relu", positions=None)
    encoder.load_torch(module)
    row = torch.randn(5, 8)
    mask = torch.ones(5, 5, dtype=torch.bool).triu(1)
    torch.testing.assert_close(encoder(make_batch([row])).packed().values, module(row.unsqueeze(0), mask=mask)[0])


def test_modules_that_do_not_fit_are_rejected() -> None:
    """Other options, activations and classes of layers."""

    def make(
        activation: str | Callable[[Tensor], Tensor] = "relu", norm: nn.Module | None = None
    ) -> nn.TransformerEncoder:
        layer = nn.TransformerEncoderLayer(8, 2, 32, activation=activation, batch_first=True)
        return nn.TransformerEncoder(layer, 1, norm, enable_nested_tensor=False)

    with pytest.raises(
        OptionError, match="num_layers must be 1, as in the module, got 2; or use Transformer.from_torch"
    ):
        Transformer(8, 8, num_heads=2).load_torch(make())
    with pytest.raises(OptionError, match="the activation must be relu or gelu, got"):
        Transformer.from_torch(make(torch.tanh))
    with pytest.raises(OptionError, match="module.norm must be an nn.LayerNorm or None, got RMSNorm"):
        Transformer.from_torch(make(norm=nn.RMSNorm(8)))
    with pytest.raises(OptionError, match=r"all norms must have one eps, got 1e-05 and 0.001"):
        Transformer.from_torch(make(norm=nn.LayerNorm(8, 1e-3)))
    unequal = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 32), 2, enable_nested_tensor=False)
    as_any(unequal.layers[1]).norm_first = True
    with pytest.raises(OptionError, match=r"all layers must have one norm, got 'post' in layer 0 and 'pre' in layer 1"):
        Transformer.from_torch(unequal)
    layer = nn.TransformerEncoderLayer(8, 2, 32, bias=False)
    with pytest.raises(OptionError, match=r"module.norm has a bias, but the layers have none"):
        Transformer.from_torch(nn.TransformerEncoder(layer, 1, nn.LayerNorm(8), enable_nested_tensor=False))


def test_a_norm_without_weights_replaces_those_of_the_encoder() -> None:
    """A final norm of torch's without weights is loaded as ones and zeros."""
    layer = nn.TransformerEncoderLayer(8, 2, 32, batch_first=True)
    norm = nn.LayerNorm(8, elementwise_affine=False)
    module = nn.TransformerEncoder(layer, 1, norm, enable_nested_tensor=False).eval()
    encoder = Transformer.from_torch(nn.TransformerEncoder(layer, 1, nn.LayerNorm(8), enable_nested_tensor=False))
    with torch.no_grad():
        for weight in encoder.norm_after.parameters():
            weight.fill_(5)
    row = torch.randn(3, 8)
    torch.testing.assert_close(encoder.load_torch(module)(make_batch([row])).packed().values, module(row[None])[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_layers": 0}, "num_layers must be an integer of at least 1, got 0"),
        ({"window": -1}, "window must be an integer of at least 0, got -1"),
        ({"window": 2.5}, "window must be an integer of at least 0, got 2.5"),
        ({"layer_norm_eps": -1.0}, "layer_norm_eps must be a finite number above 0, got -1.0"),
        ({"num_heads": 3}, "num_heads must divide hidden_size=8, got 3"),
        ({"num_heads": 4, "num_kv_heads": 3}, "num_kv_heads must divide num_heads=4, got 3"),
        ({"dropout": 1.0}, "dropout must be a probability, 0 <= dropout < 1, got 1.0"),
        ({"attention_dropout": -0.5}, "attention_dropout must be a probability, 0 <= attention_dropout < 1, got -0.5"),
        ({"activation": "tanh"}, "activation must be one of gelu, relu, swiglu, got 'tanh'"),
        ({"norm": "layer"}, "norm must be one of pre, post, got 'layer'"),
        ({"positions": "fixed"}, "positions must be one of sinusoidal, learned, rotary, alibi, relative, None, got"),
        ({"positions": "rotary", "num_heads": 8}, "rotates pairs of features, but a head has 1"),
    ],
)
def test_bad_options_are_rejected(options: dict[str, object], message: str) -> None:
    """The message has the rule and the value."""
    with pytest.raises(OptionError, match=message):
        registry().encoders.make("transformer", **{**SMALL, **options})


def test_rows_longer_than_learned_positions_are_rejected() -> None:
    """The message says what to do."""
    encoder = make_encoder("learned", max_length=4)
    with pytest.raises(LengthError, match="at most max_length=4 steps, since each position is learned, got 5; raise"):
        encoder(make_batch([torch.zeros(5, 3).double()]))


def test_registered_names_have_all_options() -> None:
    """The names and defaults of both factories are those of the class."""
    found = [inspect.signature(make).parameters for make in (Transformer, causal_transformer)]
    assert {name: each.default for name, each in found[0].items() if name != "causal"} == {
        name: each.default for name, each in found[1].items()
    }
    assert registry().encoders.make("causal_transformer", input_size=3, hidden_size=8).causal


def test_a_mask_is_checked_by_type() -> None:
    """Only the causal encoder may be used where causality is needed."""
    assert Encode("causal_transformer", causal=True, hidden_size=8).name is None
    with pytest.raises(CompositionError, match="must be causal"):
        Encode("transformer", causal=True, hidden_size=8)


def test_a_step_sees_its_window_only() -> None:
    """One layer with a window of 1 reads the steps beside it; two layers read two steps further."""
    rows = [torch.randn(6, 3, dtype=torch.float64)]
    changed = [rows[0].clone()]
    changed[0][0] += 1
    for layers in (1, 2):
        encoder = make_encoder("window", num_layers=layers)
        before, after = (encoder(make_batch(each)).packed().values for each in (rows, changed))
        assert to_list((before != after).any(1)) == [True] * (layers + 1) + [False] * (5 - layers)


def test_autocast_computes_in_bfloat16() -> None:
    """Products are in half precision, and results and gradients are close to those in float32."""
    encoder = make_encoder("alibi").float()
    batch = make_batch([torch.randn(length, 3) for length in (4, 0, 2)])
    wanted = encoder(batch).packed().values
    with torch.autocast("cpu", torch.bfloat16):
        found = encoder(batch).packed().values
        torch.autograd.backward(found.float().sum())
    torch.testing.assert_close(found.float(), wanted, rtol=0.1, atol=0.1)
    assert found.ne(wanted).any()
    assert all(weight.grad is not None and bool(weight.grad.isfinite().all()) for weight in encoder.parameters())


def test_function_transforms_give_the_same_gradients() -> None:
    """`torch.func` differentiates the operations on a rectangle."""
    encoder = make_encoder()
    lengths = torch.tensor([3, 1])
    values = torch.randn(2, 3, 3, dtype=torch.float64)

    def compute(values: Tensor) -> Tensor:
        return encoder(Padded(Vectors, values, lengths)).final.square().sum()

    leaf = values.clone().requires_grad_()
    torch.autograd.backward(compute(leaf))
    transform = cast("Callable[[Callable[[Tensor], Tensor]], Callable[[Tensor], Tensor]]", torch.func.grad)
    torch.testing.assert_close(transform(compute)(values), leaf.grad)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # by torch's own forward mode
def test_forward_mode_gives_the_same_derivatives() -> None:
    """`torch.func.jvp`, and the second derivative by `torch.func`, agree with reverse mode in float64."""
    encoder = make_encoder()
    lengths = torch.tensor([3, 1])
    values, direction = torch.randn(2, 2, 3, 3, dtype=torch.float64)

    def compute(values: Tensor) -> Tensor:
        return encoder(Padded(Vectors, values, lengths)).final.square().sum()

    leaf = values.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(compute(leaf), leaf, create_graph=True)
    (second,) = torch.autograd.grad((gradient * direction).sum(), leaf)
    slope = torch.func.jvp(compute, (values,), (direction,))[1]
    torch.testing.assert_close(slope, (gradient.detach() * direction).sum())
    found = torch.func.jvp(torch.func.grad(compute), (values,), (direction,))[1]
    torch.testing.assert_close(found, second)


def test_hooks_of_layers_run() -> None:
    """Hooks on linear layers see packed steps."""
    encoder, seen = make_encoder(), list[torch.Size]()
    linear_layer = next(module for module in encoder.modules() if isinstance(module, nn.Linear))
    linear_layer.register_forward_hook(lambda _module, _inputs, output: seen.append(output.shape))
    encoder(make_batch([torch.zeros(4, 3).double(), torch.zeros(2, 3).double()]))
    assert seen == [torch.Size([6, 8])]


@pytest.mark.parametrize(
    "part", ["layers.0", "layers.1", "layers.1.attention_norm", "layers.0.feed_forward", "norm_after"]
)
def test_a_module_with_hooks_is_called(part: str) -> None:
    """Its parts, and the norm after it, are else computed without calling it; results are the same."""
    encoder = Transformer(16, 16, num_heads=2, dropout=0.0)
    batch = make_batch([torch.randn(length, 16) for length in (4, 2)])
    wanted, calls = encoder(batch).packed().values, list[object]()
    encoder.get_submodule(part).register_forward_hook(lambda _module, _inputs, output: calls.append(output))
    torch.testing.assert_close(encoder(batch).packed().values, wanted)
    assert len(calls) == 1


@pytest.mark.parametrize("sizes", [(6, 4), (4, 6)])
def test_gradients_of_the_weights_of_many_steps(sizes: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """They lie in memory as the weights do, whichever way round they are computed; second derivatives exist."""
    for name, value in (("_LEAST_WORK", 0), ("_MANY_STEPS", 0), ("_PRODUCT", None)):
        monkeypatch.setattr(products, name, value)
    steps, found = torch.randn(9, sizes[0]), list[Tensor]()
    linear = nn.Linear(*sizes)
    for result in (products.apply_linear(linear, steps), nn.functional.linear(steps, linear.weight, linear.bias)):
        total = result.pow(3).sum()
        (first,) = torch.autograd.grad(total, [linear.weight], create_graph=True)
        found += [first, *torch.autograd.grad(first.square().sum(), [linear.weight, linear.bias])]
    for one, other in zip(found[:3], found[3:], strict=True):
        torch.testing.assert_close(one, other)
    assert found[0].is_contiguous()
    assert torch.autograd.grad(products.apply_linear(linear, steps).sum(), [linear.weight])[0].is_contiguous()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_backward_hooks_of_layers_run(dtype: torch.dtype) -> None:
    """Those on linear layers and norms get gradients that nothing overwrites later."""
    encoder = Transformer(64, 64, num_heads=2, num_layers=1, feedforward_size=2**12).to(dtype)
    kept: list[tuple[Tensor, Tensor]] = []

    def keep(_module: nn.Module, inputs: Sequence[Tensor | None], _outputs: object) -> None:
        kept.extend((each, each.clone()) for each in inputs if each is not None)

    layers = [each for each in encoder.modules() if isinstance(each, (nn.Linear, nn.LayerNorm))]
    for each in layers:
        each.register_full_backward_hook(as_any(keep))
    states = encoder(make_batch([torch.ones(length, 64, dtype=dtype, requires_grad=True) for length in (40, 30)]))
    torch.autograd.backward([states.final.square().sum()])
    assert len(kept) == len(layers)
    assert all(torch.equal(one, other) for one, other in kept)


def test_the_layout_lists_rows_one_after_another() -> None:
    """Steps of a row are neighbors, and the way back restores packed order."""
    batch = make_batch([torch.full((length, 1), float(length)) for length in (2, 5, 0, 2, 1)]).packed()
    layout = RowLayout.of(batch.order)
    assert to_list(layout.arrange(batch.values).flatten()) == [5.0] * 5 + [2.0] * 4 + [1.0]
    assert torch.equal(layout.restore(layout.arrange(batch.values)), batch.values)
    assert to_list(layout.make_offsets()) == [0, 5, 7, 9, 10]
    assert [one.stop for one, _ in pairwise(layout.groups)] == [other.start for _, other in pairwise(layout.groups)]


def test_on_a_gpu_torchs_kernel_gets_rows_and_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is called with offsets and the window; its results are used. Here a stand-in computes them on the CPU."""
    calls: list[dict[str, object]] = []

    def stand_in(query: Tensor, key: Tensor, values: Tensor, *args: object, **options: object) -> Tensor:
        calls.append({**options, "offsets": args[0]})
        return query + 0 * (key.sum() + values.sum())

    monkeypatch.setattr(varlen, "_find_kernel", lambda: stand_in)
    encoder = make_encoder("relative, causal")
    layout = RowLayout.of(make_batch([torch.zeros(2, 1), torch.zeros(3, 1)]).order)
    projected = torch.randn(5, encoder.form.features)
    assert torch.equal(varlen.attend_varlen(projected, layout, encoder.form), projected[:, :8])
    (call,) = calls
    assert torch.equal(cast("Tensor", call.pop("offsets")), torch.tensor([0, 3, 5], dtype=torch.int32))
    assert call == {"scale": 0.5, "window_size": (3, 0), "enable_gqa": False}
    form = attrs.evolve(encoder.form, size=8)
    cuda = torch.device("cuda")
    assert varlen.supports_varlen(cuda, torch.bfloat16, form, plain=True)
    for device, dtype, plain in ((torch.device("cpu"), torch.bfloat16, True), (cuda, torch.float32, True)):
        assert not varlen.supports_varlen(device, dtype, form, plain=plain)
    assert not varlen.supports_varlen(cuda, torch.bfloat16, form, plain=False)


@pytest.mark.parametrize("name", ["learned", "relative, causal"])
def test_a_trained_pipe_is_saved_and_loaded(name: str, tmp_path: Path) -> None:
    """With every option, to the last bit."""
    options = {**SMALL, **OPTIONS[name], "dropout": 0.1}
    made = registry().encoders.make("transformer", **options)
    model = Embed(9, 3) >> Encode(made) >> Pool("final") >> Classify(2)
    pipe = FromIds() >> Bucket(max_padded_steps=32) >> Pad() >> model
    rows = [Example([1 + (index + step) % 8 for step in range(index % 5)], index % 2) for index in range(20)]
    pipe.fit(rows, epochs=1, seed=0)
    pipe.save(tmp_path / "pipe")
    loaded = load(tmp_path / "pipe")
    texts = [row.input for row in rows]
    assert list(loaded.predict(texts)) == list(pipe.predict(texts))
    again = cast("Mapping[str, object]", as_any(loaded).stages["encode"].encoder.get_config())
    assert again == cast("BaseTransformer[MaybeCausal]", made).get_config()


def test_a_language_model_has_it_by_name() -> None:
    """The composed model takes the name, and learns."""
    model = language_model(9, embedding_dim=8, hidden_size=8, encoder="causal_transformer")
    pipe = FromIds() >> Shift() >> Bucket(max_padded_steps=64) >> Pad() >> model
    rows = [Example([1, 2, 3, 4, 5, 6], None)] * 8
    pipe.fit(rows, epochs=1, seed=0)


@needs("onnx", "onnxruntime", "onnxscript")
@pytest.mark.parametrize("name", ["causal, grouped", pytest.param("relative", marks=SLOW)])
def test_a_model_in_onnx_gives_the_same_results(name: str, tmp_path: Path) -> None:
    """For batches of any size and width, empty rows included."""
    seed(1)
    encoder = make_encoder(name).float()
    model = Embed(9, 3) >> Encode(cast("Transformer[MaybeCausal]", encoder)) >> Pool("final") >> Classify(2)
    assert model.export(tmp_path / "model.onnx", batches=5).difference <= 1e-5


def test_a_summary_needs_no_data() -> None:
    """Sizes and causality are known before any batch."""
    pipe = (
        FromIds()
        >> Bucket(max_padded_steps=64)
        >> Pad()
        >> Embed(9, 4)
        >> Encode(Transformer(4, 8, causal=True))
        >> NextToken(9)
    )
    assert "transformer" in str(pipe.check()).lower()


def test_deterministic_inference_is_rejected() -> None:
    """Instead of a promise that the kernels do not keep."""
    model = Embed(9, 3) >> Encode(Transformer(3, 8)) >> Pool("mean") >> Classify(2)
    pipe = FromIds() >> Bucket(max_padded_steps=32) >> Pad() >> model
    list(pipe.for_inference().predict([[1, 2], []]))
    with pytest.raises(OptionError, match="deterministic=True is not supported by Transformer"):
        pipe.for_inference(deterministic=True)
