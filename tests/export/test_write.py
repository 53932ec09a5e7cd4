"""Exported models give the results of the model; those that cannot are rejected, and leave no file."""

import json
import os
from importlib import import_module
from pathlib import Path
from typing import Any, final

import pytest
import torch
from torch import Tensor
from typing_extensions import override

from pipeline import (
    Batch,
    Bucket,
    Chain,
    Classify,
    ClassifyMultiLabel,
    Embed,
    Encode,
    Encoder,
    FromIds,
    Identity,
    Ids,
    Labels,
    MaybeCausal,
    ModuleStage,
    Pad,
    Pool,
    Pooled,
    Scores,
    States,
    Tokenize,
    Vectors,
    classifier,
)
from pipeline.data.kinds import Kind
from pipeline.errors import ExportError, OptionError
from pipeline.export.files import compute_digest
from pipeline.export.write import Exported
from pipeline_recurrent import LSTM
from support.exported import MODELS, Event, make_model
from support.needs import needs
from support.untyped import as_any, seed

# Many batches take minutes: a quarter of an hour for all models.
LONG = os.environ.get("PIPELINE_TESTS_LONG") == "1"
BATCHES = 1_000 if LONG else 12
# Without those that differ from another one in the kind of attention alone.
WRITTEN = [name for name in MODELS if LONG or name not in {"attention pool", "additive language model"}]
NEEDS_ONNX = needs("onnx", "onnxruntime", "onnxscript")


@NEEDS_ONNX
@pytest.mark.parametrize("name", WRITTEN)
def test_a_model_in_onnx_gives_the_same_results(name: str, tmp_path: Path) -> None:
    """On random ragged batches of any size, empty rows included, whatever is in the padding."""
    exported = make_model(name).export(tmp_path / "model.onnx", batches=BATCHES)
    assert exported.difference <= 1e-5
    assert exported.batches == BATCHES
    assert exported.files[0] == tmp_path / "model.onnx"


@pytest.mark.parametrize("name", MODELS if LONG else ["classifier", "letters"])
def test_a_program_of_torch_gives_the_same_results(name: str, tmp_path: Path) -> None:
    """Read from its file again; no extra is needed."""
    model = make_model(name)
    exported = model.export(tmp_path / "model.pt2", batches=20)
    assert exported.difference <= 1e-6
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.json", "model.pt2"]


@NEEDS_ONNX
def test_the_graph_has_the_operator_of_onnx_and_named_axes(tmp_path: Path) -> None:
    """An LSTM, with the number of rows and steps left open."""
    make_model("tagger").export(tmp_path / "model.onnx", batches=2)
    graph = as_any(import_module("onnx")).load(tmp_path / "model.onnx").graph
    assert [node.op_type for node in graph.node].count("GRU") == 1
    axes = {
        each.name: [axis.dim_param or axis.dim_value for axis in each.type.tensor_type.shape.dim]
        for each in (*graph.input, *graph.output)
    }
    assert axes == {"ids": ["batch", "time"], "lengths": ["batch"], "scores": ["batch", "time", 3]}


def test_the_model_is_not_changed(tmp_path: Path) -> None:
    """Neither its mode, nor its weights, nor what it gives."""
    model = make_model("classifier").train()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    model.export(tmp_path / "model.pt2", batches=2)
    assert model.training
    torch.testing.assert_close(model.state_dict(), before)
    assert all(weight.requires_grad for weight in model.parameters())


def test_the_description_says_what_goes_in_and_comes_out(tmp_path: Path) -> None:
    """Names, axes, sizes and classes."""
    model = (
        Embed(9, 4) >> Encode(LSTM(4, 3)) >> Pool("max") >> ClassifyMultiLabel(Labels(["new", "spam"]), {"new": 0.25})
    )
    exported = model.export(tmp_path / "model.pt2", batches=2)
    found: Any = json.loads((tmp_path / "model.json").read_text())
    assert [(each["name"], each["role"], each["axes"], each["size"]) for each in found["inputs"]] == [
        ("ids", "ids", ["batch", "time"], 9),
        ("lengths", "lengths", ["batch"], None),
    ]
    (output,) = found["outputs"]
    assert (output["meaning"], output["names"], output["thresholds"]) == ("labels", ["new", "spam"], [0.25, 0.5])
    assert "ids (batch x time), lengths (batch) -> scores (batch); 2 random batches" in str(exported)


def test_a_size_that_no_stage_states_is_asked_for(tmp_path: Path) -> None:
    """By the input's name, which `sizes` takes."""
    model = as_any(Identity() >> _Sum())
    with pytest.raises(ExportError, match=r"the number of features of input 'vectors' .* sizes=\{'vectors': ...\}"):
        model.export(tmp_path / "model.pt2", kind=Vectors)
    with pytest.raises(ExportError, match="sizes must be of the inputs vectors, got 'x'; leave it out"):
        model.export(tmp_path / "model.pt2", kind=Vectors, sizes={"vectors": 3, "x": 3})
    exported: Exported = model.export(tmp_path / "model.pt2", kind=Vectors, sizes={"vectors": 3}, batches=2)
    assert exported.inputs[0].size == 3


def test_a_first_stage_without_its_input_size_is_named(tmp_path: Path) -> None:
    """A size of the input would not be enough."""
    model = Encode("lstm", hidden_size=4) >> Pool("max") >> Classify(2)
    with pytest.raises(ExportError, match=r"since Encode does not know its input size yet; pass it there: Encode\("):
        as_any(model).export(tmp_path / "model.pt2", kind=Vectors)


@final
class _Sum(ModuleStage[Batch[Vectors], Pooled]):
    """The sum of each row's steps."""

    @override
    def forward(self, value: Batch[Vectors]) -> Pooled:
        """Return the sums."""
        return Pooled(value.padded().fill_padding(0).values.sum(1), metadata=value.metadata)


@final
class _Differs(ModuleStage[States[MaybeCausal], Pooled]):
    """In a graph its results are others."""

    @override
    def forward(self, value: States[MaybeCausal]) -> Pooled:
        """Return the final states, or in a graph twice these."""
        factor = 2 if torch.compiler.is_compiling() else 1
        return Pooled(value.final * factor, metadata=value.metadata)


def test_a_model_with_other_results_is_rejected(tmp_path: Path) -> None:
    """And no file is left, nor is an earlier one touched."""
    (tmp_path / "model.pt2").write_text("before")
    model = Embed(9, 4) >> Encode(LSTM(4, 3)) >> _Differs() >> Classify(2, input_size=3)
    with pytest.raises(ExportError, match="the exported model gives other results than the model"):
        model.export(tmp_path / "model.pt2")
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt2"]
    assert (tmp_path / "model.pt2").read_text() == "before"


@final
class _Loops(Encoder[MaybeCausal]):
    """Loops over time in Python."""

    layouts = ("padded",)

    def __init__(self) -> None:
        super().__init__()
        self.input_size, self.output_size, self.causal = 4, 4, False

    @override
    def forward(self, batch: Batch[Vectors]) -> States[MaybeCausal]:
        """Return the steps as they are."""
        rows = batch.padded()
        return States(rows.with_values(rows.values), rows.values[:, 0])


def test_a_part_that_cannot_be_exported_is_named_before_torch_is_asked(tmp_path: Path) -> None:
    """By what it declares."""
    model = Embed(9, 4) >> Encode(_Loops()) >> Pool("max") >> Classify(2)
    with pytest.raises(ExportError, match="'encoder' of stage 'encode', _Loops, cannot be exported") as caught:
        model.export(tmp_path / "model.pt2")
    assert caught.value.details["part"] == "_Loops"


def test_a_changed_encoder_is_named_with_its_reason(tmp_path: Path) -> None:
    """Hooks on torch's module compute its weights before each batch."""
    encoder = LSTM(4, 3)
    as_any(encoder.rnn).register_forward_pre_hook(print)
    model = Embed(9, 4) >> Encode(encoder) >> Pool("max") >> Classify(2)
    with pytest.raises(ExportError, match="LSTM, cannot be exported, because its rnn has hooks"):
        model.export(tmp_path / "model.pt2")


@pytest.mark.parametrize(
    ("file", "options", "message"),
    [
        ("model.txt", {}, "the suffix of file must be one of .onnx, .pt2"),
        ("model.pt2", {"form": "rows "}, "form must be one of rows, step"),
        ("model.pt2", {"batches": 0}, "batches must be an integer of at least 1"),
        ("model.pt2", {"tolerance": "small"}, "tolerance must be a finite number of 0 or more, got 'small'"),
        ("model.pt2", {"tolerance": -1}, "tolerance must be a finite number of 0 or more, got -1"),
        ("model.pt2", {"sizes": [3]}, r"sizes must be a mapping from names of inputs to numbers, got \[3\]; write {'v"),
        ("model.pt2", {"sizes": {"ids": "3"}}, r"sizes\['ids'\] must be an integer of at least 1, got '3'"),
        ("model.pt2", {"kind": "ids"}, "kind must be a kind of rows, such as Ids or Vectors, got 'ids'"),
        ("model.pt2", {"opset": 18}, "export has no option 'opset'; its options are form"),
    ],
)
def test_a_wrong_option_is_an_error(file: str, options: dict[str, object], message: str, tmp_path: Path) -> None:
    """Which names the rule."""
    with pytest.raises(OptionError, match=message):
        as_any(make_model("classifier")).export(tmp_path / file, **options)


def test_a_pipe_exports_the_model_after_pad(tmp_path: Path) -> None:
    """Its tokenizer is written beside it."""
    tokenize = Tokenize.train(["to be or not"])
    pipe = tokenize >> Bucket(rows=2) >> Pad() >> classifier(tokenize.vocab_size, 2, embedding_dim=3, hidden_size=2)
    exported = pipe.export(tmp_path / "new" / "model.pt2", batches=2)
    assert [file.name for file in exported.files] == ["model.pt2", "model.json", "model.tokenizer.json"]
    assert all(file.is_file() for file in exported.files)
    described = json.loads(exported.files[1].read_text())
    assert described["files"] == {
        file.name: compute_digest(file) for file in exported.files if file.name != "model.json"
    }


def test_a_pipe_without_a_model_is_an_error(tmp_path: Path) -> None:
    """There is nothing to export."""
    with pytest.raises(ExportError, match="no stage after Pad"):
        (FromIds() >> Bucket(rows=2) >> Pad()).export(tmp_path / "model.pt2")


def test_a_description_of_another_program_is_never_replaced(tmp_path: Path) -> None:
    """A model `settings.pt2` would have its description in `settings.json`."""
    file = tmp_path / "settings.json"
    file.write_text('{"mine": 1}')
    pipe = FromIds() >> Bucket(rows=2) >> Pad() >> classifier(9, 2, embedding_dim=2, hidden_size=2)
    with pytest.raises(ExportError, match=r"'.*settings\.json' beside the model, but this file is not of an export"):
        pipe.export(tmp_path / "settings.pt2", batches=2)
    assert file.read_text() == '{"mine": 1}'
    assert [each.name for each in tmp_path.iterdir()] == ["settings.json"]
    file.unlink()
    for _ in range(2):  # the second one replaces the first
        pipe.export(tmp_path / "settings.pt2", batches=2)


@NEEDS_ONNX
def test_a_script_of_the_user_is_never_replaced(tmp_path: Path) -> None:
    """A model `train.onnx` would have its script in `train.py`."""
    file = tmp_path / "train.py"
    file.write_text("print('mine')")
    pipe = FromIds() >> Bucket(rows=2) >> Pad() >> classifier(9, 2, embedding_dim=2, hidden_size=2)
    with pytest.raises(ExportError, match=r"'.*train\.py' beside the model, but this file is not of an export"):
        pipe.export(tmp_path / "train.onnx", batches=2)
    assert file.read_text() == "print('mine')"
    file.unlink()
    for _ in range(2):
        pipe.export(tmp_path / "train.onnx", batches=2)


def test_double_precision_is_kept(tmp_path: Path) -> None:
    """The dtype of vectors is that of the weights."""
    seed(0)
    model: Chain[Any, Scores[int]] = as_any(Encode(LSTM(3, 4)) >> Pool("mean") >> Classify(2)).double()
    exported = model.export(tmp_path / "model.pt2", batches=5, tolerance=1e-12)
    assert exported.inputs[0].dtype == "float64"


def test_fields_are_tensors_of_their_names(tmp_path: Path) -> None:
    """With lengths that they share."""
    exported = make_model("fields").export(tmp_path / "model.pt2", batches=2)
    assert [each.name for each in exported.inputs] == ["code", "lengths", "amount"]
    assert issubclass(Event, Kind)
    loaded = as_any(torch.export).load(tmp_path / "model.pt2").module()
    (values,) = loaded(torch.zeros(2, 3, dtype=torch.int64), torch.tensor([3, 0]), torch.zeros(2, 3, 2))
    assert isinstance(values, Tensor)
    assert values.shape == (2, 2)


def test_vectors_of_steps_have_zeros_in_the_padding(tmp_path: Path) -> None:
    """If a model returns them as it got them, with NaN in the padding, they would differ from themselves."""
    model = Identity(3) >> Identity()
    assert model.export(tmp_path / "model.pt2", kind=Vectors, batches=4).difference == 0


@NEEDS_ONNX
def test_an_output_with_the_name_of_an_input_is_renamed(tmp_path: Path) -> None:
    """Such as the vectors of rows for the vectors of steps: the names of a graph in ONNX are unique."""
    model = Identity(3) >> Encode("gru", hidden_size=2) >> Pool("max")
    exported = model.export(tmp_path / "model.onnx", kind=Vectors, batches=2)
    assert [each.name for each in exported.outputs] == ["output_vectors"]
    described = json.loads((tmp_path / "model.json").read_text())
    assert [each["name"] for each in described["outputs"]] == ["output_vectors"]


def test_ids_are_the_kind_of_a_pipe_of_ids(tmp_path: Path) -> None:
    """As `Pad` states it."""
    pipe = FromIds() >> Bucket(rows=2) >> Pad(Ids) >> Embed(9, 4) >> Encode(LSTM(4, 3)) >> Pool("last") >> Classify(2)
    assert pipe.export(tmp_path / "model.pt2", batches=2).inputs[0].role == "ids"
