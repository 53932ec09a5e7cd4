"""Of a deterministic pipe, each row has the same bits alone and in any batch, in any order, with 1 to 4 threads."""

import os
import random
from collections.abc import Iterator, Sequence
from typing import Any, Final, cast

import pytest
import torch
from torch import Tensor
from typing_extensions import override

from pipeline import (
    Attend,
    Classify,
    ClassifyMultiLabel,
    ClassPrediction,
    EachStep,
    Embed,
    Encode,
    Encoder,
    Heads,
    Ids,
    Join,
    JointPrediction,
    MultiLabelPrediction,
    Nested,
    NextToken,
    Pack,
    Pad,
    Padded,
    Pool,
    Regress,
    Row,
    States,
    Tag,
    TextPair,
)
from pipeline.extend import Batch, Causal, Predictions, Vectors, last_by_row
from pipeline.stages.attend_earlier import AttendEarlier
from support.needs import KERNELS
from support.records import make_ids, make_nested
from support.untyped import seed

BATCHES: Final = 10_000 if os.environ.get("PIPELINE_TESTS_LONG") == "1" else 100
"""The number of random batches, of all models together."""

SIZE: Final = 39
POOLINGS = ("final", "last", "first", "mean", "max", "sum", "attention")
ATTENTIONS = ("dot", "scaled_dot", "general", "additive", "concat", "multi_head")


class Pointwise(Encoder[Causal]):
    """An encoder whose steps do not depend on each other, so that it is deterministic itself."""

    def __init__(self) -> None:
        super().__init__()
        self.input_size = self.output_size = SIZE
        self.causal = True
        self.layouts = ("packed", "padded")

    @override
    def forward(self, batch: Batch[Vectors]) -> States[Causal]:
        steps = batch.with_values(batch.values.tanh())
        return self.make_states(steps, last_by_row(steps))


def encode(*, pack: bool) -> Any:
    """Return the stages up to the states, which are packed or padded."""
    embed = Embed(50, SIZE) >> Encode(Pointwise())
    return Pack() >> embed if pack else embed


def make_model(name: str) -> Any:
    """Return a model by the name of the part that is tested."""
    part, _, layout = name.partition(" ")
    states = encode(pack=layout != "padded")
    if part in POOLINGS:
        return states >> Pool(part) >> Classify(7)
    options: dict[str, Any] = {"num_heads": 3} if part.startswith("multi_head") else {}
    if part in ATTENTIONS:
        return states >> Attend(part, memory=9_000, **options) >> Tag(5)
    if part.startswith("output_"):
        return (
            states >> AttendEarlier("general", output="concat" if part == "output_concat" else "tanh") >> NextToken(50)
        )
    if part.endswith("_earlier"):
        attention, window = ("general", None) if part == "all_earlier" else (part.removesuffix("_earlier"), 4)
        return states >> AttendEarlier(attention, window=window, memory=9_000, **options) >> NextToken(50)
    return make_joined_model(part, states)


def make_joined_model(part: str, states: Any) -> Any:
    """Return a model with branches, or with inner rows."""
    if part in {"bilstm", "gru"}:
        return Pack() >> Embed(50, 20) >> Encode(part, hidden_size=19) >> Pool("max") >> Classify(3)
    if part == "heads":
        return states >> Pool("mean") >> Heads(Classify(3), Regress(2), ClassifyMultiLabel(9), names=["a", "b", "c"])
    if part == "join":
        return states >> Join(Pool("attention"), Pool("sum")) >> Classify(3)
    if part == "matcher":
        reader = Embed(50, SIZE) >> Encode(Pointwise()) >> Pool("mean")
        return Pack(TextPair) >> Join(TextPair.first >> reader, TextPair.second >> reader, how="compare") >> Classify(3)
    spell = EachStep(Embed(26, SIZE) >> Encode(Pointwise()) >> Pool("attention"))
    return Pack(Nested[Ids]) >> spell >> Encode(Pointwise()) >> Pool("mean") >> Classify(4)


MODELS = [
    *(f"{part}{layout}" for part in (*POOLINGS, *ATTENTIONS) for layout in ("", " padded")),
    *(f"{part}_earlier{layout}" for part in (*ATTENTIONS, "all") for layout in ("", " padded")),
    *(f"output_{output}{layout}" for output in ("concat", "tanh") for layout in ("", " padded")),
    "heads",
    "join",
    "matcher",
    "words",
    pytest.param("bilstm", marks=KERNELS),
    pytest.param("gru", marks=KERNELS),
]


def make_sequence(model: str, rng: random.Random) -> Any:
    """Return a random input; many have the same length."""

    def draw(most: int) -> list[int]:
        return [rng.randrange(50) for _ in range(rng.choice([0, 1, 5, 5, 5, rng.randrange(most)]))]

    if model == "matcher":
        return TextPair(make_ids(draw(9)), make_ids(draw(9)))
    if model == "words":
        return make_nested(["".join(chr(97 + number // 2) for number in draw(5)) for _ in draw(9)])
    return make_ids(draw(40))


def list_numbers(prediction: object) -> Iterator[Tensor]:
    """Yield all numbers of a prediction."""
    if isinstance(prediction, JointPrediction):
        for head in cast("JointPrediction[object, Sequence[object]]", prediction).heads:
            yield from list_numbers(head)
    elif isinstance(prediction, ClassPrediction):
        yield from (prediction.scores, torch.tensor(prediction.probability))
    elif isinstance(prediction, MultiLabelPrediction):
        yield from (prediction.scores, torch.tensor(cast("MultiLabelPrediction[int]", prediction).labels))
    elif isinstance(prediction, list) and prediction and not isinstance(prediction[0], float):
        for step in cast("list[object]", prediction):
            yield from list_numbers(step)
    else:
        yield torch.tensor(prediction)


def run(model: Any, sequences: Sequence[Any], kind: Any) -> list[list[Tensor]]:
    """Return the numbers of each row in one batch."""
    batch: Padded[Any] = Pad(kind)([Row(sequence, row_id=row) for row, sequence in enumerate(sequences)])
    output = cast("Predictions[object, object]", model(batch))
    found = dict(output.scored_rows())
    return [list(list_numbers(found[row])) for row in range(len(sequences))]


@pytest.mark.parametrize("name", MODELS)
def test_bits_do_not_depend_on_the_batch(name: str) -> None:
    """Nor on the order of its rows, or on the number of threads."""
    seed(1)
    kind: Any = {"matcher": TextPair, "words": Nested[Ids]}.get(name, Ids)
    rng, model = random.Random(name), make_model(name).for_inference(deterministic=True)
    sequences = [make_sequence(name, rng) for _ in range(40)]
    expected = [run(model, [sequence], kind)[0] for sequence in sequences]
    threads = torch.get_num_threads()
    try:
        for _ in range(BATCHES // len(MODELS)):
            torch.set_num_threads(rng.randint(1, 4))
            chosen = rng.sample(range(40), rng.choice([1, 2, 3, 4, 5, 9, 33, 40]))
            found = run(model, [sequences[row] for row in chosen], kind)
            for row, numbers in zip(chosen, found, strict=True):
                assert len(numbers) == len(expected[row])
                assert all(map(torch.equal, numbers, expected[row])), f"row {row} in {chosen}"
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("name", MODELS)
def test_predictions_are_those_of_the_original(name: str) -> None:
    """Up to rounding."""
    seed(2)
    kind: Any = {"matcher": TextPair, "words": Nested[Ids]}.get(name, Ids)
    rng, model = random.Random(name), make_model(name)
    sequences = [make_sequence(name, rng) for _ in range(9)]
    fast = model.for_inference(deterministic=True)
    with torch.no_grad():
        pairs = zip(run(model, sequences, kind), run(fast, sequences, kind), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
