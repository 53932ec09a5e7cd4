"""Tests of the neural cache against a loop over steps."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline import Bucket, FromIds, Ids, Pad, Padded, Shift, language_model, load
from pipeline.errors import OptionError
from pipeline.export.program import run_onnx
from pipeline_attention import NeuralCache
from support.needs import SLOW, needs
from support.saved import compute_answers
from support.stepping import list_rows, make_ids
from support.untyped import as_any, seed

TOKENS = 6
ROWS = [[1, 2, 3, 1, 2, 4, 1], [5, 5, 5], [], [2]]


def make_model(**options: Any) -> NeuralCache:
    """Return a language model with a cache, in float64 and in evaluation mode."""
    seed(0)
    model = language_model(TOKENS, embedding_dim=4, hidden_size=4)
    chosen: dict[str, Any] = {"share": 0.3, "theta": 2.0, **options}
    return NeuralCache.wrap(model, **chosen).double().eval()


def predict_by_loop(model: NeuralCache, ids: list[int]) -> Tensor:
    """Return the log-probabilities of each step of one row, from the definition."""
    if not ids:
        return torch.zeros(0, TOKENS, dtype=torch.float64)
    states = model.states(make_ids([ids]))
    plain = model.head(states).values.softmax(-1)
    vectors, found = states.packed().values, list[Tensor]()
    for step in range(len(ids)):
        first = 0 if model.size is None else max(0, step - model.size)
        powers = [torch.exp(model.theta * (vectors[step] @ vectors[j])) for j in range(first, step)]
        cache = torch.zeros(TOKENS, dtype=torch.float64)
        for j, power in zip(range(first, step), powers, strict=True):
            cache[ids[j + 1]] += power / sum(powers)
        found.append((1 - model.share) * plain[step] + model.share * cache if step else plain[step])
    return torch.stack(found).log()


@pytest.mark.parametrize("size", [None, 1, 3])
def test_probabilities_equal_the_loop(size: int | None) -> None:
    """They sum to 1, and an empty row has none."""
    model = make_model(size=size)
    for found, ids in zip(list_rows(model(make_ids(ROWS))), ROWS, strict=True):
        torch.testing.assert_close(found, predict_by_loop(model, ids))
        torch.testing.assert_close(found.exp().sum(-1), torch.ones(len(ids), dtype=torch.float64))


@pytest.mark.parametrize("size", [None, 2])
def test_steps_equal_the_whole_rows(size: int | None) -> None:
    """With chunks of different lengths per row, and rows that end."""
    model: Any = make_model(size=size)
    wanted = list_rows(model(make_ids(ROWS)))
    carry: Any = None
    found = [list[Tensor]() for _ in ROWS]
    for cuts in ([2, 1, 0, 1], [1, 2, 0, 0], [3, 0, 0, 0], [1, 0, 0, 0]):
        done = [sum(len(part) for part in parts) for parts in found]
        chunk = [ids[at : at + cut] for ids, at, cut in zip(ROWS, done, cuts, strict=True)]
        scores, carry = model.step(make_ids(chunk), carry)
        for parts, part in zip(found, list_rows(scores), strict=True):
            parts.append(part)
    for parts, row in zip(found, wanted, strict=True):
        torch.testing.assert_close(torch.cat(parts), row)
    again, _ = model.step(make_ids([[1], [2]]), carry.select(torch.tensor([0, 0])))
    torch.testing.assert_close(again.values[0], predict_by_loop(as_any(model), [*ROWS[0], 1])[-1])


def test_a_repeated_word_becomes_likely() -> None:
    """A word that occurred often is likely again."""
    ids = make_ids([[5, 5, 5, 5, 5]])
    model = make_model(theta=0.0)
    assert model(ids).values[-1].exp()[5] > 0.3 > as_any(model.head(model.states(ids))).values[-1].softmax(-1)[5]


def test_training_uses_the_head_alone() -> None:
    """And so does a cache with no share."""
    ids = make_ids([[5, 4, 5]])
    model = make_model()
    plain = model.head(model.states(ids)).values
    assert torch.equal(make_model(share=0.0)(ids).values, plain)
    assert torch.equal(model.train()(ids).values, plain)


def test_a_pipe_is_trained_evaluated_saved_and_generates(tmp_path: Path) -> None:
    """As one without a cache."""
    pipe: Any = FromIds() >> Shift() >> Bucket(rows=2, seed=0) >> Pad() >> make_model().float()
    rows = [[1, 2, 3], [4, 5]]
    pipe.fit(rows, epochs=1, seed=0, progress=False)
    assert math.isfinite(pipe.evaluate(rows).metrics["perplexity"])
    pipe.save(tmp_path / "pipe")
    loaded = as_any(load(tmp_path / "pipe"))
    assert compute_answers(loaded, rows) == compute_answers(pipe, rows)
    written = list(pipe.generate(rows, max_new_tokens=3, seed=0))
    assert written == list(loaded.generate(rows, max_new_tokens=3, seed=0))


def test_prompts_of_unequal_lengths_are_continued_as_alone() -> None:
    """Also if the shortest prompt has a single token; without its share, a cache changes no token."""
    model = make_model(share=0.0)
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(5)  # so that the next token depends on the step
    pipe = FromIds() >> Shift() >> Bucket(rows=4) >> Pad() >> model
    plain = FromIds() >> Shift() >> Bucket(rows=4) >> Pad() >> model.states >> model.head
    prompts = [[1, 2, 3, 4, 5, 1, 2], [1], [3, 3], [4, 5, 4]]
    together = list(pipe.generate(prompts, max_new_tokens=4, temperature=0))
    alone = [next(iter(pipe.generate([prompt], max_new_tokens=4, temperature=0))) for prompt in prompts]
    assert together == alone == list(plain.generate(prompts, max_new_tokens=4, temperature=0))


def test_invalid_options_raise() -> None:
    """Each with its range."""
    for options, message in (
        ({"size": 0}, "size must be an integer of at least 1, got 0; pass None to keep all earlier steps"),
        ({"size": 2.5}, "size must be an integer of at least 1, got 2.5"),
        ({"theta": -1.0}, "theta must be a finite number of 0 or more, got -1.0; 0 counts words"),
        ({"theta": "1"}, "theta must be a finite number of 0 or more, got '1'"),
        ({"theta": float("inf")}, "theta must be a finite number of 0 or more, got inf"),
        ({"share": 1.0}, "share must be a probability, 0 <= share < 1, got 1.0"),
        ({"share": None}, "share must be a probability, 0 <= share < 1, got None"),
    ):
        with pytest.raises(OptionError, match=message):
            as_any(make_model)(**options)


def test_padding_has_no_effect() -> None:
    """Ids in it are no words of the row."""
    model = make_model()
    one = Padded(Ids, torch.tensor([[1, 2, 0, 0]]), torch.tensor([2]))
    other = Padded(Ids, torch.tensor([[1, 2, 5, 5]]), torch.tensor([2]))
    assert torch.equal(model(one).values, model(other).values)


@needs("onnx", "onnxruntime", "onnxscript")
@pytest.mark.parametrize("size", [None, pytest.param(2, marks=SLOW)])
def test_scores_in_onnx_equal_the_loop(size: int | None, tmp_path: Path) -> None:
    """Whatever is in the padding, which has zeros as scores; the kind and the number of ids are found inside."""
    model = make_model(size=size)
    pipe: Any = FromIds() >> Shift() >> Bucket(rows=2) >> Pad() >> make_model(size=size).float()
    exported = pipe.export(tmp_path / "model.onnx", batches=5)
    assert exported.inputs[0].size == TOKENS
    ids = torch.full((len(ROWS), 8), 3)
    for row, real in zip(ids, ROWS, strict=True):
        row[: len(real)] = torch.tensor(real, dtype=torch.int64)
    (found,) = run_onnx(tmp_path / "model.onnx")([ids, torch.tensor([len(row) for row in ROWS])])
    for scores, row in zip(found, ROWS, strict=True):
        torch.testing.assert_close(scores[: len(row)].double(), predict_by_loop(model, row), rtol=1e-4, atol=1e-5)
        assert not scores[len(row) :].any()
