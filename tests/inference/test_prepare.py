"""A pipe for inference: the same predictions as the original, with fixed weights, which it does not share in training."""

import copy
import pickle
from collections.abc import Callable
from typing import Any, cast

import attrs
import pytest
import torch
from torch import nn
from typing_extensions import override

from pipeline import (
    Bucket,
    Chain,
    Classify,
    Dropout,
    Embed,
    Encode,
    Example,
    FromIds,
    Heads,
    Ids,
    Labels,
    Pad,
    Padded,
    Pool,
    Regress,
    Row,
    Shift,
    Stream,
    StreamChain,
    Tag,
    Tokenize,
    classifier,
    language_model,
    matcher,
    tagger,
)
from pipeline.core.inference import Difference, InferenceReport
from pipeline.errors import CompositionError, ExportError, InferenceError, OptionError, ShapeError, TextError
from pipeline.extend import Batch, InferenceOptions, ModuleStage, Pooled, StageBase
from pipeline_recurrent import LSTM
from support.needs import KERNELS
from support.records import make_ids
from support.untyped import seed

ROWS = [[1, 2, 3], [4], [], [5, 6, 7, 8, 1, 1]]


def make_pipe(model: Any) -> StreamChain[Any, Any]:
    """Return a pipe of ids."""
    return cast("StreamChain[Any, Any]", FromIds() >> Bucket(rows=2) >> Pad() >> model)


def score(pipe: Any, rows: Any = ROWS) -> list[torch.Tensor]:
    """Return the scores of each row."""
    return [prediction.scores for prediction in pipe.predict(rows, scores=True)]


@KERNELS
def test_predictions_are_those_of_the_original() -> None:
    """Whole models, in both settings, with a report of the differences; dropout and padding of rows change nothing."""
    seed(1)
    labels = Labels(["a", "b", "c"])
    model = classifier(9, labels, embedding_dim=4, hidden_size=5, dropout=0.5)
    for deterministic in (False, True):
        pipe = make_pipe(model)
        fast = pipe.for_inference(deterministic=deterministic, examples=ROWS)
        torch.testing.assert_close(score(fast), score(pipe), rtol=1e-4, atol=1e-5)
        assert list(fast.predict(ROWS)) == list(pipe.predict(ROWS))
        report = fast.inference_report
        assert report is not None
        assert (report.rows, report.predictions, report.changed, report.numbers) == (4, 4, 0, None)
        assert report.probabilities is not None
        assert 0 <= report.probabilities.mean <= report.probabilities.largest < 1e-5
        assert str(fast).endswith(f"with fixed weights. Compared with the original {report}.")
        assert "Dropout" not in repr(fast)
        assert repr(fast).endswith("(for inference, float32)")
        assert pipe.prepared is None
        assert pipe.training


@pytest.mark.parametrize("inputs", [[ROWS[0]], ([],), [Example(ROWS[3], target="?")]])
def test_a_lone_input_is_predicted_as_among_others(inputs: Any) -> None:
    """By the path for one request, which knows no iterators."""
    seed(2)
    for pipe in (make_pipe(tagger(9, 3, hidden_size=4)), make_pipe(tagger(9, 3, hidden_size=4)).for_inference()):
        (alone,) = pipe.predict(inputs, scores=True)
        first, _ = pipe.predict([*inputs, [8, 8]], scores=True)
        assert [(each.label, each.step, each.span) for each in alone] == [
            (each.label, each.step, each.span) for each in first
        ]
        for one, other in zip(alone, first, strict=True):
            torch.testing.assert_close(one.scores, other.scores, rtol=1e-4, atol=1e-5)


def test_a_lone_row_is_truncated_as_among_others() -> None:
    """The bucket says itself when its output for one row is not the row."""
    pipe = FromIds() >> Bucket(max_padded_steps=2, too_long="truncate") >> Pad() >> tagger(9, 3, hidden_size=4)
    assert [len(tags) for tags in pipe.predict([[1, 2, 3]])] == [2]
    with pytest.raises(CompositionError, match="stage 2 `Lost`: it returned 0 rows for 1|row 0 of 1 was not predicted"):
        list((FromIds() >> Lost() >> Bucket(rows=1) >> Pad() >> tagger(9, 3, hidden_size=4)).predict([[1, 2]]))


class Lost(Stream[Any, Any]):
    """A stream that loses its rows."""

    @override
    def __call__(self, values: Any, /) -> Any:
        return iter([] if list(values) else [])


@KERNELS
def test_weights_are_fixed() -> None:
    """Everything that would change them, or move them, is rejected; the original can still be trained."""
    pipe = make_pipe(classifier(9, 2, embedding_dim=4, hidden_size=5))
    fast = pipe.for_inference()
    calls: list[Callable[[], object]] = [
        fast.train,
        fast.double,
        fast.requires_grad_,
        lambda: fast.to("cpu"),
        lambda: fast.load_state_dict({}),
        lambda: fast.fit([Example([1], target=0)]),
        lambda: Shift() >> cast("Any", fast),
    ]
    for call in calls:
        with pytest.raises(InferenceError, match="the weights of a pipe for inference are fixed, but .* was called"):
            call()
    with pytest.raises(ExportError, match="a pipe for inference cannot be exported"):
        fast.export("model.onnx")
    assert fast.eval() is fast
    assert not any(weight.requires_grad for weight in fast.parameters())
    before = score(fast)
    pipe.fit([Example([1, 2], target=0), Example([3], target=1)], epochs=2, learning_rate=0.5, progress=False)
    assert all(map(torch.equal, score(fast), before))
    assert not any(map(torch.equal, score(pipe), before))
    again = fast.for_inference(deterministic=True)
    torch.testing.assert_close(score(again), before, rtol=1e-4, atol=1e-5)


@KERNELS
def test_copies_and_pickles_predict_the_same_bits() -> None:
    """They are for inference too, and know the original."""
    fast = make_pipe(classifier(9, 2, embedding_dim=4, hidden_size=5)).for_inference(deterministic=True, examples=ROWS)
    for other in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert all(map(torch.equal, score(other), score(fast)))
        assert other.inference_report == fast.inference_report
        with pytest.raises(InferenceError, match="weights of a pipe for inference"):
            other.train()
        assert other.for_inference().prepared is not None


@pytest.mark.parametrize("name", ["embed", "dropout", "encode", "encode.encoder"])
@pytest.mark.parametrize("before", [False, True])
def test_hooks_of_stages_that_would_be_replaced_run(name: str, *, before: bool) -> None:
    """They might change the answers."""
    pipe = make_pipe(Embed(9, 4) >> Dropout(0.5) >> Encode(LSTM(4, 5)) >> Pool("max") >> Classify(Labels(["a", "b"])))
    module, called = pipe.get_submodule(name), list[nn.Module]()

    def see(owner: nn.Module, *given: object) -> None:
        assert given
        called.append(owner)

    (module.register_forward_pre_hook if before else module.register_forward_hook)(see)
    made = pipe.for_inference()
    list(made.predict(ROWS))
    assert called
    assert all(owner is made.get_submodule(name) for owner in called)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_kernels_read_no_initial_states_of_another_dtype(dtype: torch.dtype) -> None:
    """The engines reject them, as those of the original do."""
    model = (Embed(9, 4) >> Encode(LSTM(4, 5)) >> Tag(Labels(["a", "b"]))).eval()
    batch = Padded(Ids, torch.tensor([[1, 2], [0, 0], [3, 0]]), torch.tensor([2, 0, 1]))
    states = tuple(torch.randn(1, 3, 5, dtype=dtype) for _ in range(2))
    for each in (model, model.for_inference()):
        with pytest.raises((RuntimeError, ShapeError), match="dtype|same|float32"):
            each(attrs.evolve(batch, initial_carry=states))


@pytest.mark.parametrize("deterministic", [False, pytest.param(True, marks=KERNELS)])
def test_it_steps_and_generates(*, deterministic: bool) -> None:
    """As the original does, from the embedding to tied weights."""
    seed(3)
    tokenize = Tokenize.train(["to be or not to be"], bos=True)
    model = language_model(tokenize.vocab_size, embedding_dim=6, hidden_size=6, tied=True)
    pipe = tokenize >> Shift() >> Bucket(rows=8) >> Pad() >> model
    fast = pipe.for_inference(deterministic=deterministic)
    texts = [list(each.generate(["to be", ""], max_new_tokens=5, top_k=1, seed=0)) for each in (pipe, fast)]
    assert texts[0] == texts[1]
    carry = other = None
    for token in (1, 2, 3, 2):
        prediction, carry = pipe.step(token, carry)
        found, other = fast.step(token, other)
        torch.testing.assert_close(found.scores, prediction.scores, rtol=1e-4, atol=1e-5)
    alone = model.for_inference()
    scores, _ = alone.step(torch.tensor([1, 2]))
    torch.testing.assert_close(scores.values, model.eval().step(torch.tensor([1, 2]))[0].values, rtol=1e-4, atol=1e-5)


def test_a_model_is_compared_on_batches() -> None:
    """Heads of several kinds: classes and numbers have differences of their own."""
    seed(4)
    body = Embed(9, 4) >> Dropout(0.5) >> Encode(LSTM(4, 5)) >> Pool("mean")
    model: Chain[Batch[Ids], Any] = body >> Heads(Classify(3), Regress(), names=["kind", "amount"])
    batch = Pad()([Row(make_ids(ids)) for ids in ROWS])
    report = model.for_inference(examples=[batch, batch]).inference_report
    assert report is not None
    assert (report.rows, report.predictions) == (8, 8)
    assert report.numbers is not None
    with pytest.raises(OptionError, match="examples must have one input or more, got none"):
        model.for_inference(examples=[])
    with pytest.raises(OptionError, match="examples need a model that ends with a head"):
        body.for_inference(examples=[batch])


def test_the_report_counts_changes() -> None:
    """It can state another prediction, and a difference."""
    report = InferenceReport(2, 4, 1, Difference(0.5, 0.125), Difference(2.0, 1.0))
    assert str(report) == (
        "on 2 rows: 1 of 4 predictions changed (25.00%); probabilities differ by 5.0e-01 at most and 1.2e-01 on average; "
        "predicted numbers differ by 2.0e+00 at most and 1.0e+00 on average"
    )
    model = Recorder() >> Classify(2, input_size=2)
    made = model.for_inference(examples=[Pooled(torch.tensor([[3.0, -1.0], [0.5, 2.0]]))])
    assert made.inference_report is not None
    assert made.inference_report.probabilities is not None
    assert made.inference_report.probabilities.largest > 0.1


class Recorder(ModuleStage[Pooled, Pooled]):
    """A stage that takes part: it fuses with another of its class, and doubles its weight when it is prepared."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = factor
        self.calls: list[str] = []
        self.weight = nn.Parameter(torch.ones(()))

    @override
    def forward(self, value: Pooled) -> Pooled:
        return value.with_values(value.values * self.factor)

    def prepare_for_inference(self, options: InferenceOptions, /) -> None:
        """Compute something else, so that the comparison has something to find."""
        assert not self.training
        assert not self.weight.requires_grad
        self.calls.append(options.precision)
        self.factor *= 2

    def fuse_for_inference(self, before: StageBase, options: InferenceOptions, /) -> StageBase | None:
        """Return one stage for both."""
        del options
        return Recorder(self.factor * before.factor) if isinstance(before, Recorder) else None


def test_stages_are_fused_and_prepared_once() -> None:
    """The fused stage has the place and the name of the later one; a stage within others takes part too."""
    first, second = Recorder(3.0), Recorder(5.0)
    first.name, second.name = "first", "second"
    model = first >> Dropout(0.5) >> second
    made = model.for_inference(precision="bfloat16")
    assert list(made.stages) == ["second"]
    fused = made.stages["second"]
    assert isinstance(fused, Recorder)
    assert (fused.factor, fused.calls) == (30.0, ["bfloat16"])
    assert (first.factor, first.calls, list(model.stages)) == (3.0, [], ["first", "dropout", "second"])
    reader = matcher(9, 2, embedding_dim=3, hidden_size=3).for_inference()
    embeds = [module for module in reader.modules() if isinstance(module, Embed)]
    assert len(embeds) == 1


def test_wrong_options_are_rejected() -> None:
    """Options with other values, weights of float64, stages that wait for a size, and layers with hooks."""
    pipe = make_pipe(classifier(9, 2, embedding_dim=4, hidden_size=5))
    with pytest.raises(OptionError, match="got 'float16'; float16 is not offered, but bfloat16 is"):
        pipe.for_inference(precision=cast("Any", "float16"))
    with pytest.raises(OptionError, match="deterministic must be True or False, got 1"):
        pipe.for_inference(deterministic=cast("Any", 1))
    with pytest.raises(OptionError, match="needs weights of float32 or less, but 'embed.weight' is float64"):
        copy.deepcopy(pipe).double().for_inference(deterministic=True)
    with pytest.raises(TextError, match="one text"):
        pipe.for_inference(examples=cast("Any", "a text"))
    with pytest.raises(CompositionError, match="stage 'classify' does not know its input size yet"):
        (Pool("max") >> Classify(2)).for_inference()
    assert attrs.asdict(InferenceOptions()) == {"precision": "float32", "deterministic": False}
