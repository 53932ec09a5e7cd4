"""Causal models to run step by step, and rows cut into chunks."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pipeline import AttendEarlier, Dropout, Embed, Encode, Ids, NextToken, Padded, StepScores
from pipeline.core.contexts import seeded
from support.untyped import to_list

TOKENS = 7


def make_language_model(
    encoder: str = "lstm",
    *,
    attention: str | None = "general",
    window: int | None = None,
    num_layers: int = 1,
    tied: bool = False,
    tokens: int = TOKENS,
) -> Any:
    """Make a language model in float64, with dropout that must have no effect."""
    with seeded(0):
        embed = Embed(tokens, 4)
        options: dict[str, Any] = {"num_layers": num_layers, **({"dropout": 0.3} if num_layers > 1 else {})}
        model: Any = embed >> Dropout(0.5) >> Encode(encoder, causal=True, hidden_size=4, **options)
        if attention is not None:
            model = model >> AttendEarlier(attention, window=window)
        return (model >> NextToken(embed if tied else tokens)).double()


def make_ids(rows: Sequence[Sequence[int]]) -> Padded[Ids]:
    """Pad rows of ids, with an id in the padding that would raise an error."""
    width = max(map(len, rows))
    values = torch.tensor([[*row, *[-9] * (width - len(row))] for row in rows], dtype=torch.int64)
    return Padded(Ids, values.reshape(len(rows), width), torch.tensor([len(row) for row in rows]))


def list_rows(scores: StepScores[Any]) -> list[Tensor]:
    """Return the scores of each row's steps."""
    order = scores.order
    values = scores.values.index_select(0, order.reading_order)
    return list(values.split_with_sizes(to_list(scores.lengths)))


def run_whole(model: Any, rows: Sequence[Sequence[int]]) -> list[Tensor]:
    """Return the scores of each row by one whole pass over the row alone, in evaluation mode."""
    found: list[Tensor] = []
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for row in rows:
            found += list_rows(model(make_ids([row])))
    model.train(was_training)
    return found


def run_in_chunks(model: Any, rows: Sequence[Sequence[int]], cuts: Sequence[Sequence[int]]) -> list[Tensor]:
    """Return the scores of each row, whose steps are passed in several calls: `cuts[call][row]` of them in a call."""
    parts: list[list[Tensor]] = [[] for _ in rows]
    done, carry = [0] * len(rows), None
    for counts in cuts:
        chunk = [list(row[at : at + count]) for row, at, count in zip(rows, done, counts, strict=True)]
        scores, carry = model.step(make_ids(chunk), carry)
        done = [at + len(part) for at, part in zip(done, chunk, strict=True)]
        for part, found in zip(parts, list_rows(scores), strict=True):
            part.append(found)
        assert to_list(carry.steps) == done
    return [torch.cat(part) for part in parts]


def count_encoder_steps(model: Any) -> list[int]:
    """Return a list to which each pass of the model's encoder adds the number of steps that it reads."""
    counted: list[int] = []

    def count(_: object, __: object, states: Any) -> None:
        counted.append(states.order.steps)

    model.stages["encode"].encoder.register_forward_hook(count)
    return counted
