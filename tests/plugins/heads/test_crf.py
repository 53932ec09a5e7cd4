"""CRF: its loss, predictions and probabilities, alone and in a pipe."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import attrs
import pytest
import torch
from torch import Tensor

from pipeline import Bucket, Embed, Encode, Example, FromIds, Labels, Pack, Pad, States, StepScores, load
from pipeline.errors import CompositionError, OptionError, TargetError
from pipeline.extend import IGNORED, BatchMetadata, MaybeCausal, registry
from pipeline.testing import HEAD_LAWS, Law
from pipeline_heads import CRF, PathScores
from pipeline_recurrent import LSTM
from support.untyped import as_any, seed, to_list

TAGS = ["O", "B-x", "I-x"]
LABELS = Labels(TAGS)
LENGTHS = torch.tensor([3, 0, 4, 1])

TARGETS = torch.tensor(
    [[0, 1, 2, IGNORED], [IGNORED] * 4, [1, IGNORED, IGNORED, 2], [IGNORED] * 4],
)
"""All, an empty row, some, and none."""


def make_paths(
    targets: Tensor | None = None, *, constraints: bool = True, dtype: torch.dtype = torch.float64
) -> PathScores[str]:
    """Return the scores of drawn states."""
    seed(0)
    crf = CRF(LABELS, constraints="bio" if constraints else None, input_size=2).to(dtype)
    metadata = BatchMetadata(torch.tensor([7, 8, 9, 10]), targets=targets)
    states = States.from_padded(torch.randn(4, 4, 2, dtype=dtype), LENGTHS)
    steps = attrs.evolve(states.steps, metadata=metadata)
    return crf(States(steps, states.final))


def list_paths(paths: PathScores[str], row: int) -> tuple[list[tuple[int, ...]], Tensor]:
    """Return all paths of a row, and their scores."""
    emissions = paths.values[paths.order.row_of_step == row]
    found = list(itertools.product(range(3), repeat=len(emissions)))
    scores: list[Tensor] = []
    for path in found:
        score = paths.start[path[0]] + paths.end[path[-1]]
        for step, tag in enumerate(path):
            score = score + emissions[step, tag]
        for before, after in itertools.pairwise(path):
            score = score + paths.transitions[before, after]
        scores.append(score)
    return found, torch.stack(scores)


def compute_loss(paths: PathScores[str], row: int, targets: Sequence[int]) -> Tensor:
    """Return the loss of a row from a list of its paths."""
    found, scores = list_paths(paths, row)
    correct = [all(target in {IGNORED, tag} for target, tag in zip(targets, path, strict=False)) for path in found]
    return scores.logsumexp(0) - scores[torch.tensor(correct)].logsumexp(0)


@pytest.mark.parametrize("law", HEAD_LAWS)
def test_obeys_the_laws(law: Law[CRF[int]]) -> None:
    """Those of all heads."""
    law(lambda: CRF(2, input_size=3))


def test_the_loss_equals_a_list_of_all_paths() -> None:
    """A step without a target may have any class; a row without targets has no loss."""
    paths = make_paths(TARGETS)
    zero = paths.values.new_zeros(())
    expected = torch.stack(
        [compute_loss(paths, 0, [0, 1, 2]), zero, compute_loss(paths, 2, [1, IGNORED, IGNORED, 2]), zero]
    )
    torch.testing.assert_close(paths.loss(reduction="none"), expected)
    torch.testing.assert_close(paths.loss(reduction="sum"), expected.sum())
    torch.testing.assert_close(paths.loss(), expected.sum() / 5)
    torch.testing.assert_close(paths.loss(over=10), expected.sum() / 10)


def test_the_loss_of_complete_targets_equals_that_of_the_same_targets_one_by_one() -> None:
    """Both ways to score targets have the same gradients."""
    complete = torch.tensor([[0, 1, 2, IGNORED], [IGNORED] * 4, [1, 2, 2, 2], [0, IGNORED, IGNORED, IGNORED]])
    partial = complete.clone()
    partial[2, 3] = IGNORED
    grads: list[tuple[Tensor, ...]] = []
    for targets in (complete, partial):
        paths = make_paths(targets)
        losses = paths.loss(reduction="none")
        expected = [compute_loss(paths, row, to_list(targets[row])) for row in (0, 2, 3)]
        torch.testing.assert_close(losses[torch.tensor([0, 2, 3])], torch.stack(expected))
        leaves = (paths.values, paths.transitions, paths.start, paths.end)
        grads.append(torch.autograd.grad(losses[0], leaves))
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)


def test_a_batch_without_targets_has_no_loss_but_a_gradient() -> None:
    """Of zeros, as other heads."""
    paths = make_paths(torch.full((4, 4), IGNORED))
    loss = paths.loss()
    assert loss.item() == 0
    (grad,) = torch.autograd.grad(loss, paths.values)
    assert not grad.any()


def test_predictions_are_the_best_path() -> None:
    """And probabilities those of each step over all paths."""
    paths = make_paths()
    rows, scored = dict(paths.rows()), dict(paths.scored_rows())
    assert [*rows] == [7, 8, 9, 10]
    assert rows[8] == []
    for row, row_id in ((0, 7), (2, 9), (3, 10)):
        found, scores = list_paths(paths, row)
        best = found[int(scores.argmax())]
        assert rows[row_id] == [TAGS[tag] for tag in best]
        shares = scores.detach().softmax(0)
        for step, prediction in enumerate(scored[row_id]):
            assert prediction.label == TAGS[best[step]]
            chosen = torch.tensor([path[step] == best[step] for path in found])
            assert prediction.probability == pytest.approx(float(shares[chosen].sum()))


def test_predictions_keep_the_constraints() -> None:
    """Whatever the scores are."""
    paths = make_paths()
    paths = paths.with_values(torch.tensor([0.0, 0.0, 99.0], dtype=torch.float64).expand(8, -1))
    rows = dict(paths.rows())
    assert rows.pop(10)[0] in {"O", "B-x"}
    assert rows == {7: ["B-x", "I-x", "I-x"], 8: [], 9: ["B-x", "I-x", "I-x", "I-x"]}


def test_steps_that_need_no_prediction_are_left_out_of_paths() -> None:
    """Such as bos and eos: the path of the other steps is that of a row without them."""
    paths = make_paths(TARGETS)
    mask = torch.tensor([[False, True, True, True], [True] * 4, [True, False, True, True], [True] * 4])
    masked = attrs.evolve(paths, metadata=attrs.evolve(paths.metadata, answer_mask=mask))
    place = paths.order.row_of_step
    kept = torch.tensor([bool(mask[row, time]) for row, time in zip(place, paths.order.time_of_step, strict=True)])
    lengths = torch.tensor([2, 0, 3, 1])
    targets = torch.tensor([[1, 2, IGNORED], [IGNORED] * 3, [1, IGNORED, 2], [IGNORED] * 3])
    rows = [paths.values[(place == row) & kept] for row in range(4)]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    shorter = PathScores(
        States.from_padded(padded, lengths).packed().values,
        lengths,
        paths.names,
        metadata=BatchMetadata(paths.row_ids, targets=targets),
        transitions=paths.transitions,
        start=paths.start,
        end=paths.end,
    )
    # The first target is at a step that is left out.
    torch.testing.assert_close(masked.loss(reduction="none"), shorter.loss(reduction="none"))
    assert dict(masked.rows()) == dict(shorter.rows())
    one, other = dict(masked.scored_rows()), dict(shorter.scored_rows())
    for row_id, row in one.items():
        assert [each.probability for each in row] == pytest.approx([each.probability for each in other[row_id]])
    assert [each.step for each in one[9]] == [0, 2, 3]


def test_forbidden_targets_name_their_row() -> None:
    """The loss would be infinite."""
    paths = make_paths(torch.tensor([[0, 1, 2, 0], [IGNORED] * 4, [0, 2, 0, 0], [IGNORED] * 4]))
    with pytest.raises(TargetError, match="targets of row 9 are a forbidden path"):
        paths.loss()


def test_targets_of_a_length_without_any_path_are_forbidden() -> None:
    """Where each span has two steps, no row of three steps has a path: the loss was NaN."""
    crf = CRF(Labels(["B-x", "E-x"]), constraints="bioes", input_size=2)
    states = States.from_padded(torch.ones(1, 3, 2), torch.tensor([3]))
    targets = BatchMetadata(torch.tensor([4]), torch.tensor([[0, 1, 0]]))
    paths = attrs.evolve(crf(states), metadata=targets)
    with pytest.raises(TargetError, match="targets of row 4 are a forbidden path"):
        paths.loss()


def test_targets_that_are_no_classes_name_their_row() -> None:
    """As for other heads."""
    with pytest.raises(TargetError, match="got 3 in row 9"):
        make_paths(torch.tensor([[0, 1, 2, 0], [IGNORED] * 4, [0, 3, 0, 0], [IGNORED] * 4])).loss()
    with pytest.raises(TargetError, match="needs one target per step"):
        make_paths().loss()


def test_options_of_classes_do_not_apply() -> None:
    """They are an error, not ignored."""
    with pytest.raises(OptionError, match="label_smoothing"):
        make_paths(TARGETS).loss(label_smoothing=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_types_are_close_to_float64(dtype: torch.dtype) -> None:
    """Paths are summed in float32 at least."""
    paths = make_paths(TARGETS)
    low = attrs.evolve(paths, values=paths.values.to(dtype))
    loss = low.loss()
    tolerance = 1e-5 if dtype is torch.float32 else 0.05
    torch.testing.assert_close(loss.double(), paths.loss(), rtol=tolerance, atol=tolerance)
    assert torch.autograd.grad(loss, paths.values)[0].isfinite().all()


def test_metrics_are_chosen_by_its_labels() -> None:
    """As for Tag."""
    assert CRF(LABELS).default_metrics == ["span_f1", "accuracy"]
    assert CRF(3).default_metrics == ["accuracy", "macro_f1"]


def test_it_is_offered_by_name() -> None:
    """With its options."""
    assert isinstance(registry().heads.make("crf", classes=LABELS, constraints="bio"), CRF)


def test_it_learns_an_order_that_steps_alone_do_not_show(tmp_path: Path) -> None:
    """The second of two equal ids is inside. Saved and loaded, a pipe predicts the same."""
    model = Pack() >> Embed(3, 4) >> Encode(LSTM(4, 6)) >> CRF(LABELS, constraints="bio")
    pipe = FromIds() >> Bucket(rows=4) >> Pad(labels=LABELS) >> model
    rows = [Example([1, 1, 2][: 1 + row % 3], ["B-x", "I-x", "O"][: 1 + row % 3]) for row in range(24)]
    result = pipe.fit(rows, valid=rows, epochs=12, seed=0, learning_rate=0.05, progress=False)
    assert list(result.epochs[-1].metrics) == ["span_f1", "accuracy"]
    inputs = [[1, 1, 2], [], [1]]
    expected = [["B-x", "I-x", "O"], [], ["B-x"]]
    assert list(pipe.predict(inputs)) == expected
    pipe.save(tmp_path / "saved")
    loaded = load(tmp_path / "saved", takes=list[int], gives=list[str])
    assert list(loaded.predict(inputs)) == expected
    before = [each.probability for row in pipe.predict(inputs, scores=True) for each in row]
    after = [each.probability for row in as_any(loaded).predict(inputs, scores=True) for each in row]
    assert before == after


def test_the_scores_are_step_scores() -> None:
    """So that whatever reads scores of steps reads these."""
    crf = CRF(3, input_size=2)
    states: States[MaybeCausal] = States.from_padded(torch.ones(1, 2, 2), torch.tensor([2]))
    assert isinstance(crf(states), StepScores)


def test_it_is_not_run_step_by_step() -> None:
    """Each step was a path of its own, without transitions: "I-x" could never follow "B-x"."""
    model = Embed(3, 4) >> Encode(LSTM(4, 6)) >> CRF(LABELS, constraints="bio")
    pipe = FromIds() >> Bucket(rows=4) >> Pad(labels=LABELS) >> model
    with pytest.raises(CompositionError, match="best path through the whole row; use Tag"):
        as_any(pipe).step(1, None)
