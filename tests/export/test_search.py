"""Decoders are exported as two graphs, which score tokens as the model does; those that cannot are rejected."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, final

import pytest
import torch
from torch import Tensor, nn

from pipeline import Classify, Decoded, Embed, Encode, Heads, Ids, Pool, StreamChain
from pipeline.errors import ExportError
from pipeline.export.check import Run
from pipeline.export.decoder import find_decoder
from pipeline.export.files import compute_digest, reject_step_of_others
from pipeline.export.inputs import BatchInputs
from pipeline.export.search import SearchGraphs
from pipeline.export.write import Exported
from pipeline_decoders import RecurrentDecoder, TransformerDecoder
from support.decoding import KINDS, SIZE, TARGET, make_decoder, make_text_pipe
from support.needs import SLOW, mark_slow, needs
from support.untyped import as_any, seed

NEEDS_ONNX = needs("onnx", "onnxruntime", "onnxscript")
# More steps than any row on which the graphs are compared; an empty one; an unknown word.
TEXTS = ["a b c d " * 7, "", "a", "c d", "d c b a", "b a d c", "x y", "d d"]
BOS, EOS = TARGET.first_ids[0], TARGET.last_ids[0]


def make_graphs(kind: str, **search: object) -> SearchGraphs:
    """Return the graphs of a small model in float64."""
    seed(0)
    head = make_decoder(kind).float()
    head.set_search(**as_any(search))
    model = Embed(9, 4) >> Encode("bigru", hidden_size=SIZE // 2) >> head
    stages = dict(as_any(model).double().eval().stages)
    decoder = find_decoder(stages)
    assert decoder is not None
    return SearchGraphs(stages, decoder, BatchInputs(Ids, list(stages.values()), {}, torch.float64))


def run_eagerly(graphs: SearchGraphs) -> list[Run]:
    """Return functions that run the modules of the graphs as they are."""

    def make_run(module: nn.Module) -> Run:
        @torch.no_grad()
        def run(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
            found: Sequence[Tensor] = module(*tensors)
            return found

        return run

    return [make_run(each.module) for each in graphs.graphs]


@final
class Programs:
    """The two programs of an exported decoder, and a loop that takes the most probable tokens."""

    def __init__(self, exported: Exported, pipe: StreamChain[Any, Any]) -> None:
        load: Callable[..., Any] = as_any(torch.export).load
        self.programs = [load(each.file) for each in exported.graphs]
        self.source, self.step = (each.module() for each in self.programs)
        self.names = [each.name for each in exported.graphs[1].inputs[1:]]
        self.changing = [each.name.removeprefix("next_") for each in exported.graphs[1].outputs[1:]]
        self.tokenize: Any = pipe.stages["tokenize"]

    def generate(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of each text."""
        rows = [self.tokenize(text).sequence.values for text in texts]
        lengths = torch.tensor([len(row) for row in rows])
        # One row more, since no axis may be empty.
        padded = nn.utils.rnn.pad_sequence([*rows, torch.zeros(1, dtype=torch.int64)], batch_first=True)[:-1]
        memory = dict(zip(self.names, self.source(padded, lengths), strict=True))
        ids = torch.full((len(rows),), BOS)
        found: list[Tensor] = []
        for _ in range(8):
            scores, *after = self.step(ids, *memory.values())
            memory |= dict(zip(self.changing, after, strict=True))
            ids = scores.index_fill(1, torch.tensor([0, BOS]), -torch.inf).argmax(1)
            found.append(ids)
        columns = [[int(each) for each in row] for row in torch.stack(found, 1)]
        return [row[: row.index(EOS) + 1] if EOS in row else row for row in columns]


@pytest.mark.parametrize("kind", KINDS)
def test_the_modules_of_the_graphs_score_tokens_as_the_model(kind: str) -> None:
    """What a decoder remembers is the same after it has been tensors between two steps."""
    graphs = make_graphs(kind)
    assert graphs.compare(run_eagerly(graphs), 12, 1e-12) <= 1e-12


@pytest.mark.parametrize("kind", ["fed", "transformer"])
def test_a_graph_with_other_scores_is_rejected(kind: str) -> None:
    """One that forgets its state has the right scores of the first token only."""
    graphs = make_graphs(kind)
    source, step = run_eagerly(graphs)
    count = len(graphs.graphs[1].outputs) - 1

    def forget(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        return [step(tensors)[0], *tensors[-count:]]

    with pytest.raises(ExportError, match="gives other scores than the model: they differ by .* at token 1 on a batch"):
        graphs.compare([source, forget], 12, 1e-9)
    with pytest.raises(ExportError, match=r"fails on a batch of \{'batch': 1, 'time': 1\}, where the model does not"):
        graphs.compare([source, lambda _: as_any(None)[0]], 12, 1e-9)


def test_differences_are_relative_to_the_largest_score_of_a_row() -> None:
    """Rounding is in proportion to it, in scores near 0 too."""
    graphs = make_graphs("gru")
    with torch.no_grad():
        as_any(graphs.graphs[1].module).decoder.linear.weight.mul_(1000)
    source, step = run_eagerly(graphs)

    def round_scores(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        scores, *state = step(tensors)
        return [scores + 1e-6 * scores.abs().amax(1, keepdim=True), *state]

    assert graphs.compare([source, round_scores], 4, 1e-5) == pytest.approx(1e-6)


@pytest.mark.parametrize("kind", mark_slow(KINDS, quick={"plain"}))
def test_programs_of_torch_generate_the_texts_of_the_pipe(kind: str, tmp_path: Path) -> None:
    """For rows together, alone and in pairs, longer than any in the comparison: until eos, or the maximum."""
    pipe = make_text_pipe(kind)
    exported = pipe.export(tmp_path / "text.pt2", batches=4)
    names = ["text.json", "text.pt2", "text.step.pt2", "text.target.tokenizer.json", "text.tokenizer.json"]
    assert sorted(each.name for each in exported.files) == sorted(each.name for each in tmp_path.iterdir()) == names
    wanted = [list(each[0].ids) for each in pipe.predict(TEXTS, scores=True)]
    assert {row[-1] == EOS for row in wanted} == {True, False}
    assert len({str(row) for row in wanted}) > 1
    found = Programs(exported, pipe)
    assert found.generate(TEXTS) == wanted
    assert [found.generate([text])[0] for text in TEXTS] == wanted
    assert found.generate(TEXTS[2:4]) == wanted[2:4]
    # A graph holds the weights that it reads.
    assert [each.state_dict["decoder.linear.weight"].numel() > 0 for each in found.programs] == [False, True]
    assert "; " + str(tmp_path / "text.step.pt2") + ": ids (batch), " in str(exported)


def test_the_description_is_that_of_the_graphs(tmp_path: Path) -> None:
    """Names and axes, and the options of the search."""
    graphs = make_graphs("gru", num_beams=3, length_penalty=0.5, max_new_tokens=7, num_return_sequences=2)
    found: Any = graphs.describe_search(tmp_path, Path("text.onnx"))
    assert [each.name for each in graphs.graphs[0].outputs] == ["source", "mask", "h"]
    assert [each["name"] for each in found["inputs"]] == ["ids", "source", "mask", "h"]
    assert [each["axes"] for each in found["inputs"]] == [("batch",), *[("batch", "time")] * 2, ("", "batch")]
    assert [each["name"] for each in found["outputs"]] == ["scores", "next_h"]
    options = ("file", "first_id", "last_ids", "max_new_tokens", "num_beams", "length_penalty", "num_return_sequences")
    assert [found[name] for name in options] == ["text.step.onnx", BOS, [EOS], 7, 3, 0.5, 2]
    assert found["blocked_ids"] == [0, BOS]
    assert found["max_positions"] is None
    limited = make_graphs("learned").describe_search(tmp_path, Path("text.onnx"))
    assert limited["max_positions"] == 12
    assert found["tokenizer"]["file"] == "text.target.tokenizer.json"
    assert (tmp_path / "text.target.tokenizer.json").is_file()


@NEEDS_ONNX
@pytest.mark.parametrize("attention", mark_slow(["dot", "scaled_dot", "concat", "multi_head"], quick=()))
def test_every_attention_is_exported(attention: str, tmp_path: Path) -> None:
    """In ONNX, with input feeding; the others are among the kinds of decoders."""
    seed(0)
    options: Any = {"embedding_size": 4, "hidden_size": 8, "attention": attention, "input_feeding": True}
    model = Embed(9, 4) >> Encode("lstm", hidden_size=3) >> RecurrentDecoder(TARGET, **options)
    assert model.export(tmp_path / "text.onnx", batches=12).difference <= 1e-5


@NEEDS_ONNX
@pytest.mark.parametrize("encoder", mark_slow(["cnn", "transformer", "bilstm"], quick=()))
@pytest.mark.parametrize("kind", ["lstm", "tied"])
def test_every_encoder_can_be_before_a_decoder(encoder: str, kind: str, tmp_path: Path) -> None:
    """In ONNX; a decoder whose scores share the weights of its embeddings too."""
    seed(0)
    heads: Any = {"hidden_size": 8, "num_heads": 2}
    decoder = make_decoder("lstm").float() if kind == "lstm" else TransformerDecoder(TARGET, **heads, tied=True)
    sizes: Any = {
        "bilstm": {"hidden_size": SIZE // 2},
        "cnn": {"hidden_size": SIZE, "kernel_sizes": [3]},
        "transformer": {"hidden_size": SIZE, "num_heads": 2},
    }
    model = Embed(9, SIZE) >> Encode(encoder, **sizes[encoder]) >> as_any(decoder)
    assert model.export(tmp_path / "text.onnx", batches=12, tolerance=1e-4).difference <= 1e-4


@SLOW
def test_double_precision_is_kept(tmp_path: Path) -> None:
    """The dtype of states is that of the weights."""
    model = Embed(9, 4) >> Encode("gru", hidden_size=SIZE) >> make_decoder("transformer").float()
    exported: Exported = as_any(model).double().export(tmp_path / "text.pt2", batches=5, tolerance=1e-12)
    dtypes = {each.name: each.dtype for each in exported.graphs[1].inputs}
    assert dtypes["past_keys"] == "float64"
    assert dtypes["mask"] == "bool"


def export(pipe: StreamChain[Any, Decoded[str]], file: Path, **options: object) -> None:
    """Export with options that may be wrong."""
    as_any(pipe).export(file, **options)


def test_a_decoder_that_draws_is_an_error(tmp_path: Path) -> None:
    """The error says what to set. With these options the decoder can be exported."""
    pipe = make_text_pipe("gru", do_sample=True, top_p=0.5)
    with pytest.raises(ExportError, match=r"its search draws tokens at random .*set_search\(do_sample=False, temp"):
        export(pipe, tmp_path / "text.pt2")
    assert not list(tmp_path.iterdir())
    decoder = as_any(pipe.stages["recurrent_decoder"])
    decoder.set_search(do_sample=False, temperature=1.0, top_k=None, top_p=None)
    assert decoder.explain_not_exportable() is None


def test_a_decoder_among_heads_is_an_error(tmp_path: Path) -> None:
    """The script would not know which output is a text."""
    heads = Heads(as_any(make_decoder("gru").float()), Pool("max") >> Classify(2, name="first"))
    model = Embed(9, 4) >> Encode("gru", hidden_size=SIZE) >> heads
    with pytest.raises(
        ExportError, match="of stage 'heads', RecurrentDecoder, cannot be exported inside another stage"
    ):
        model.export(tmp_path / "text.pt2")


def test_one_step_alone_is_an_error(tmp_path: Path) -> None:
    """It is written beside the graph of the source anyway."""
    with pytest.raises(ExportError, match=r"causal models, got one that ends in RecurrentDecoder; use form='rows'"):
        export(make_text_pipe("gru"), tmp_path / "text.pt2", form="step")


def test_a_model_of_that_name_is_never_replaced_by_a_step(tmp_path: Path) -> None:
    """An export `text.step.pt2` of another model."""
    file = tmp_path / "text.step.pt2"
    file.write_text("mine")
    with pytest.raises(ExportError, match=r"'.*text\.step\.pt2' beside the model, but this file is not of an export"):
        export(make_text_pipe("gru"), tmp_path / "text.pt2")
    assert file.read_text() == "mine"
    described: dict[str, object] = {
        "format": 1,
        "inputs": [],
        "outputs": [],
        "files": {file.name: compute_digest(file)},
    }
    (tmp_path / "text.json").write_text(json.dumps(described))
    reject_step_of_others(tmp_path / "text.pt2")  # now it is of an earlier export


def test_no_file_is_left_after_an_error(tmp_path: Path) -> None:
    """If the second graph cannot be traced, the first one is not kept."""
    model = Embed(9, 4) >> Encode("gru", hidden_size=SIZE) >> make_decoder("plain").float()
    (tmp_path / "text.pt2").write_text("before")

    def count(tokens: Tensor, memory: object) -> tuple[Tensor, object]:
        return torch.tensor(len({int(token) for token in tokens})), memory

    as_any(model.stages["recurrent_decoder"]).step = count
    with pytest.raises(ExportError, match="cannot be traced"):
        model.export(tmp_path / "text.pt2")
    assert [file.name for file in tmp_path.iterdir()] == ["text.pt2"]
    assert (tmp_path / "text.pt2").read_text() == "before"
