"""Beam search, beside a search of all continuations."""

import itertools
from typing import Any

import pytest
import torch

from pipeline import Bucket, FromIds, Generation, Pad
from support.stepping import make_language_model, run_whole
from support.untyped import to_list

TOKENS, EOS, LONGEST = 4, 3, 4


def search_all(model: Any, prompt: list[int], penalty: float) -> list[tuple[float, list[int]]]:
    """Return all continuations of at most `LONGEST` tokens with their scores, best first."""
    found: list[tuple[float, list[int]]] = []
    for length in range(1, LONGEST + 1):
        for ids in itertools.product(range(TOKENS), repeat=length):
            is_whole = ids[-1] == EOS or length == LONGEST
            if EOS in ids[:-1] or not is_whole:
                continue
            (scores,) = run_whole(model, [[*prompt, *ids]])
            steps = scores.log_softmax(-1)[len(prompt) - 1 : -1]
            total = float(steps.gather(1, torch.tensor(ids).unsqueeze(1)).sum())
            found.append((total / length**penalty, list(ids)))
    return sorted(found, key=lambda scored: -scored[0])


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.5, -1.0])
@pytest.mark.parametrize("encoder", ["gru", "lstm"])
def test_a_wide_search_finds_the_best_of_all_continuations(encoder: str, penalty: float) -> None:
    """With as many beams as there are continuations it is exhaustive."""
    model = make_language_model(encoder, tokens=TOKENS)
    pipe = FromIds() >> Bucket(rows=3) >> Pad() >> model
    prompts = [[1, 2], [0]]
    options: Any = {"eos_token_id": EOS, "num_beams": TOKENS**LONGEST, "length_penalty": penalty}
    found = list(pipe.generate(prompts, max_new_tokens=LONGEST, num_return_sequences=5, scores=True, **options))
    for prompt, best in zip(prompts, (found[:5], found[5:]), strict=True):
        wanted = search_all(model, prompt, penalty)[:5]
        assert [each.ids for each in best] == [ids for _, ids in wanted]
        for each, (score, ids) in zip(best, wanted, strict=True):
            assert each.log_probability / len(ids) ** penalty == pytest.approx(score, abs=1e-10)
            assert each.ended == (ids[-1] == EOS)


def search_by_definition(model: Any, prompt: list[int], beams: int) -> list[tuple[float, list[int]]]:
    """Return the finished continuations of a beam search that runs every continuation from its beginning."""
    live: list[tuple[float, list[int]]] = [(0.0, [])]
    done: list[tuple[float, list[int]]] = []
    for _ in range(LONGEST):
        candidates: list[tuple[float, list[int]]] = []
        for total, ids in live:
            (scores,) = run_whole(model, [[*prompt, *ids]])
            steps = to_list(scores[-1].log_softmax(-1))
            candidates += [(total + steps[token], [*ids, token]) for token in range(TOKENS)]
        candidates.sort(key=lambda scored: -scored[0])
        done += [(total / len(ids), ids) for total, ids in candidates[:beams] if ids[-1] == EOS]
        live = [each for each in candidates if each[1][-1] != EOS][:beams]
    done += [(total / len(ids), ids) for total, ids in live]
    return sorted(done, key=lambda scored: -scored[0])


@pytest.mark.parametrize("beams", [2, 3, 5])
def test_a_narrow_search_follows_its_definition(beams: int) -> None:
    """Ending early does not change the result."""
    model = make_language_model("gru", tokens=TOKENS)
    pipe = FromIds() >> Bucket(rows=3) >> Pad() >> model
    prompts = [[1, 2], [0], [2, 2, 1]]
    options: Any = {"eos_token_id": EOS, "num_beams": beams, "num_return_sequences": beams}
    found = list(pipe.generate(prompts, max_new_tokens=LONGEST, scores=True, **options))
    for number, prompt in enumerate(prompts):
        wanted = search_by_definition(model, prompt, beams)[:beams]
        assert [each.ids for each in found[number * beams : (number + 1) * beams]] == [ids for _, ids in wanted]


def test_suppressed_tokens_are_not_found() -> None:
    """And the log-probabilities stay those of the model."""
    model = make_language_model(tokens=TOKENS)
    pipe = FromIds() >> Bucket(rows=3) >> Pad() >> model
    options: Any = {"num_beams": 3, "suppress_tokens": [0, 2], "max_new_tokens": 3}
    (found,) = pipe.generate([[1]], scores=True, **options)
    assert isinstance(found, Generation)
    assert not set(found.ids) & {0, 2}
    (scores,) = run_whole(model, [[1, *found.ids]])
    own = scores.log_softmax(-1)[:-1].gather(1, torch.tensor(found.ids).unsqueeze(1))
    assert found.log_probabilities == pytest.approx(to_list(own.flatten()))
