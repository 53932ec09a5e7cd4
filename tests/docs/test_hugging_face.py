"""The plugin for encoders of `transformers`: its answers are those of the model itself, row by row."""

import doctest
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn

from pipeline import (
    Bucket,
    Classify,
    Example,
    FromIds,
    Ids,
    JoinedPair,
    Labels,
    Pack,
    Packed,
    Pad,
    Padded,
    Pool,
    StreamChain,
    Tokenize,
    TokenizeJoined,
    load,
)
from pipeline.data.tensors import to_ints
from pipeline.errors import LengthError, OptionError, ShapeError, ValuesError
from pipeline.extend import MaybeCausal, Plugin, States, registry
from support.needs import needs
from support.untyped import seed, to_list, untyped

if TYPE_CHECKING or find_spec("transformers") is not None:
    import hugging_face
    from hugging_face import HuggingFaceEncoder

pytestmark = needs("transformers")

SIZES: dict[str, object] = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 40,
}
MODERN = {
    "local_attention": 6,
    "global_attn_every_n_layers": 2,
    "pad_token_id": 0,
    "cls_token_id": 1,
    "sep_token_id": 2,
}
CONFIGS: dict[str, dict[str, object]] = {
    "bert": SIZES,
    "roberta": SIZES,
    "modernbert": {**SIZES, **MODERN, "bos_token_id": 1, "eos_token_id": 2},
}
LENGTHS = (7, 0, 20, 3, 7, 1)

each_model = pytest.mark.parametrize("kind", CONFIGS)


def make_model(kind: str, dtype: torch.dtype = torch.float64, **options: object) -> Any:
    """Make a small model with random weights, with the attention of torch."""
    transformers = import_module("transformers")
    seed(0)
    config = transformers.CONFIG_MAPPING[kind](**CONFIGS[kind], **options)
    model = transformers.AutoModel.from_config(config, attn_implementation="sdpa")
    # Larger than the initial ones, so that attention is not even.
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.to(dtype).eval()


def make_rows() -> list[Tensor]:
    """Make rows of ids; none is that of padding."""
    seed(1)
    return [torch.randint(3, 50, (length,)) for length in LENGTHS]


def pad(rows: list[Tensor], filler: int = 0) -> Padded[Ids]:
    """Return a batch."""
    width = max(map(len, rows)) + 2
    values = torch.stack([torch.cat([row, row.new_full((width - len(row),), filler)]) for row in rows])
    return Padded(Ids, values, torch.tensor(list(map(len, rows))))


def run_rows(model: Any, rows: list[Tensor]) -> list[Tensor]:
    """Run the model on each row by itself."""
    return [model(input_ids=row.unsqueeze(0)).last_hidden_state[0] for row in rows if len(row)]


def list_rows(states: States[MaybeCausal]) -> list[Tensor]:
    """Return the states of each row that is not empty."""
    padded = states.padded()
    return [padded.values[row, :length] for row, length in enumerate(to_ints(padded.lengths)) if length]


@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@each_model
def test_states_and_gradients_equal_those_of_the_model_row_by_row(
    kind: str, dtype: torch.dtype, allowed: float
) -> None:
    """With empty rows, and rows longer than a window of local attention."""
    model, rows = make_model(kind, dtype), make_rows()
    stage = HuggingFaceEncoder.from_model(make_model(kind, dtype))
    states = stage(pad(rows))
    expected = run_rows(model, rows)
    for found, wanted in zip(list_rows(states), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=allowed)
    assert states.final[1].count_nonzero() == 0
    torch.testing.assert_close(states.final[2], expected[1][0], rtol=0, atol=allowed)
    torch.autograd.backward(states.steps.values.square().sum())
    torch.autograd.backward(torch.cat(expected).square().sum())
    theirs = dict(model.named_parameters())
    compared = 0
    for name, parameter in stage.model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=1e3 * allowed, atol=1e3 * allowed)
            compared += 1
    assert compared == sum(parameter.grad is not None for parameter in theirs.values()) >= 20


@each_model
def test_padding_and_batchmates_have_no_effect(kind: str) -> None:
    """Padding may hold any id, and a row alone has the same states."""
    stage, rows = HuggingFaceEncoder.from_model(make_model(kind)), make_rows()
    plain = stage(pad(rows)).steps.values
    assert torch.equal(stage(pad(rows, filler=-7)).steps.values, plain)
    assert torch.equal(stage(pad(rows).packed()).steps.values, plain)
    alone = stage(pad(rows[2:3])).steps.values
    torch.testing.assert_close(list_rows(stage(pad(rows)))[1], alone, rtol=0, atol=1e-12)


@each_model
def test_batches_without_steps_are_legal(kind: str) -> None:
    """Their final states are zeros."""
    states = HuggingFaceEncoder.from_model(make_model(kind))(
        Packed(Ids, torch.tensor([], dtype=torch.int64), torch.tensor([0, 0]))
    )
    assert states.steps.values.shape == (0, 16)
    assert to_list(states.final) == [[0.0] * 16] * 2


def test_dropout_acts_in_training_only() -> None:
    """Also that of attention weights."""
    options: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.5}
    stage, batch = HuggingFaceEncoder.from_model(make_model("bert", **options)), pad(make_rows())
    assert torch.equal(stage(batch).steps.values, stage(batch).steps.values)
    stage.train()
    assert not torch.equal(stage(batch).steps.values, stage(batch).steps.values)


def write_tokenizer(folder: Path) -> Path:
    """Write a small tokenizer as the Hub has it."""
    tokens = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "good", "bad", "film", "a", "very"]
    library = Tokenizer(models.WordLevel({token: place for place, token in enumerate(tokens)}, "[UNK]"))
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    library.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    library.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


@pytest.fixture(scope="module")
def offered() -> Iterator[None]:
    """Register the plugin, once."""
    if "hugging_face" not in registry().stages.names():
        registry().register(hugging_face, Plugin("hugging-face-example", "1.0", "hugging_face"))
    return iter([None])


@pytest.mark.usefixtures("offered")
@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_a_pipe_learns_and_is_loaded_with_equal_bits(kind: str, tmp_path: Path) -> None:
    """From texts to classes; the saved configuration names no code."""
    tokenize, labels = Tokenize.read(write_tokenizer(tmp_path)), Labels(["no", "yes"])
    config = {"model_type": kind, **CONFIGS[kind]}
    seed(0)
    model = Pack() >> HuggingFaceEncoder(config) >> Pool("first") >> Classify(labels)
    pipe = tokenize >> Bucket(rows=4, seed=0) >> Pad(labels=labels) >> model
    texts = ["a good film", "a bad film", "very good", "very very bad", "good", "bad"]
    examples = [Example(text, target="yes" if "good" in text else "no") for text in texts * 4]
    pipe.fit(examples, epochs=8, learning_rate=0.003)
    assert list(pipe.predict(texts)) == ["yes", "no"] * 3
    pipe.save(tmp_path / "saved")
    assert "auto_map" not in (tmp_path / "saved" / "pipeline.json").read_text()
    loaded = load(tmp_path / "saved", takes=str, gives=str)
    for one, other in zip(
        pipe.predict([*texts, ""], scores=True), loaded.predict([*texts, ""], scores=True), strict=True
    ):
        assert (one.label, one.probability) == (other.label, other.probability)


@pytest.mark.usefixtures("offered")
def test_pairs_have_segments(tmp_path: Path) -> None:
    """The states are those of the model with token type ids; a pipe with them is saved too."""
    tokenize = TokenizeJoined(Tokenize.read(write_tokenizer(tmp_path)))
    stage = HuggingFaceEncoder({"model_type": "bert", **CONFIGS["bert"]}, JoinedPair)
    pipe: StreamChain[Any, Any] = (
        tokenize
        >> Bucket(JoinedPair, rows=4)
        >> Pad(JoinedPair)
        >> Pack(JoinedPair)
        >> stage
        >> Pool("final")
        >> Classify(2)
    )
    pairs = [("a good film", "very bad"), ("good", "")]
    pipe.save(tmp_path / "saved")
    assert list(load(tmp_path / "saved").predict(pairs)) == list(pipe.predict(pairs))
    rows = list(tokenize.map(pairs))
    states = stage.eval()(Pad(JoinedPair)(rows))
    model = make_model("bert", torch.float32)
    model.load_state_dict(stage.model.state_dict(), strict=False)
    for row, found in zip(rows, list_rows(states), strict=True):
        ids, segments = row.sequence.token.values, row.sequence.segment.values
        expected = model(input_ids=ids.unsqueeze(0), token_type_ids=segments.unsqueeze(0)).last_hidden_state[0]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_a_model_is_read_from_its_folder(tmp_path: Path) -> None:
    """As `transformers` wrote it."""
    model = make_model("modernbert", torch.float32)
    model.save_pretrained(tmp_path)
    stage, rows = HuggingFaceEncoder.from_pretrained(tmp_path), make_rows()
    for found, wanted in zip(list_rows(stage.eval()(pad(rows))), run_rows(model, rows), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


def test_pipes_for_inference_give_the_same() -> None:
    """Results cannot be deterministic; mixed precision is as near as in the model."""
    config = {"model_type": "bert", **CONFIGS["bert"]}
    pipe = FromIds() >> Bucket(rows=3) >> Pad() >> Pack() >> HuggingFaceEncoder(config) >> Pool("mean") >> Classify(2)
    rows = [to_ints(row) for row in make_rows()]
    wanted = [each.probability for each in pipe.predict(rows, scores=True)]
    frozen = [each.probability for each in pipe.for_inference().predict(rows, scores=True)]
    assert frozen == pytest.approx(wanted, abs=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = [each.probability for each in pipe.predict(rows, scores=True)]
    assert half == pytest.approx(wanted, abs=0.02)
    with pytest.raises(OptionError, match="deterministic=True is not supported by HuggingFaceEncoder"):
        pipe.for_inference(deterministic=True)


def test_wrong_uses_raise() -> None:
    """With the rule, the value and the remedy."""
    with pytest.raises(OptionError, match="config must have a model_type that transformers knows, .* got 'mine'"):
        HuggingFaceEncoder({"model_type": "mine"})
    with pytest.raises(OptionError, match="kind must be Ids for ModernBertModel, which takes no segments"):
        HuggingFaceEncoder({"model_type": "modernbert", **CONFIGS["modernbert"]}, JoinedPair)
    with pytest.raises(OptionError, match="the attention of .* cannot be replaced"):
        HuggingFaceEncoder({"model_type": "squeezebert"})
    stage = HuggingFaceEncoder.from_model(make_model("roberta"))
    with pytest.raises(LengthError, match="row 0 has 39 steps, but the model has 38 positions"):
        stage(pad([torch.full((39,), 3)]))
    with pytest.raises(ValuesError, match="ids must be 0 to 49, got 3 to 50; read the tokenizer"):
        stage(pad([torch.tensor([3, 50])]))
    with pytest.raises(ShapeError, match="the batch must be of Ids, got Hidden"):
        untyped(stage)(pad(make_rows()).with_values(torch.zeros(6, 22, 3)))


def test_the_examples_of_the_docstrings_are_right() -> None:
    """They are not among the doctests of the packages."""
    assert doctest.testmod(import_module("hugging_face.encoder")).failed == 0
