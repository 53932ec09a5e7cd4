"""Scores of whole paths of classes: of each class at each step, and of each class after another."""

import attrs
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from typing_extensions import TypeVar, Unpack, override

from pipeline.errors import TargetError
from pipeline.extend import (
    IGNORED,
    ClassLossOptions,
    PackingOrder,
    ReductionOptions,
    StepScores,
    as_pytree,
    check_classes,
    check_loss_options,
    checked,
    reduce_losses,
)
from pipeline_heads.chains import Chain, compute_marginals, find_best_paths, sum_paths

N = TypeVar("N", default=int)
"""The type of a predicted class: its id, or its name."""


@as_pytree
@checked
@attrs.frozen(eq=False)
class PathScores(StepScores[N]):
    """The scores of a linear chain for each row: predictions are the classes on the row's best path.

    The score of a path is the sum of the scores of its classes, `values`, and of its transitions. A path runs over the
    steps that need a prediction: other steps, such as bos and eos, are left out of it.

    Attributes:
        values: the score of each class at each step, in packed order.
        transitions: the score of each class (column) after each class (row); -inf if it is forbidden.
        start: the score of each class at the first step of a row.
        end: the score of each class at the last step of a row.

    Example:
        >>> scores = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        >>> change = torch.tensor([[0.0, -9.0], [-9.0, 0.0]])
        >>> ends = {"start": torch.zeros(2), "end": torch.zeros(2)}
        >>> paths = PathScores(scores, torch.tensor([2]), "ab", transitions=change, **ends)
        >>> list(paths.rows()), [round(float(p), 2) for p in paths.log_softmax()[1].exp()]
        ([(0, ['a', 'a'])], [0.73, 0.27])
    """

    transitions: Float[Tensor, "classes classes"] = attrs.field(kw_only=True, repr=False)
    start: Float[Tensor, " classes"] = attrs.field(kw_only=True, repr=False)
    end: Float[Tensor, " classes"] = attrs.field(kw_only=True, repr=False)

    @property
    @override
    def best(self) -> Int64[Tensor, " steps"]:
        """The number of the class of each step on the best path of its row, by the Viterbi algorithm."""
        chain, order, places = self._get_chain()
        best = find_best_paths(chain, _list_sizes(order))
        if places is None:
            return best
        return self.values.argmax(1).index_copy(0, places, best)

    @property
    @override
    def class_scores(self) -> Float[Tensor, "steps classes"]:
        """The logarithm of the probability of each class at each step, over all paths."""
        return self.log_softmax()

    @override
    def log_softmax(self) -> Float[Tensor, "steps classes"]:
        """Return the logarithm of the probability of each class at each step, over all paths; without gradients.

        Classes that are best one by one may be no valid path; `rows` has those of the best path.
        """
        chain, order, places = self._get_chain()
        probabilities = compute_marginals(chain, _list_sizes(order)).log()
        if places is None:
            return probabilities
        return self.values.detach().to(probabilities).log_softmax(1).index_copy(0, places, probabilities)

    @override
    def loss(self, **options: Unpack[ClassLossOptions]) -> Float[Tensor, " *batch"]:
        """Return the negative log-likelihood of the targets, divided by the number of steps that have a target.

        A step without a target may have any class: all paths through the other targets count as correct. A row without
        targets has the loss 0.

        Args:
            options: `reduction` and `over`; with `reduction="none"`, one loss per row. Others do not apply.

        Raises:
            OptionError: if a path's loss does not have an option.
            TargetError: if the batch has no targets per step, a target is not a class, or the targets of a row are a
                forbidden path.
        """
        targets = self.packed_targets
        if targets is None:
            return super().loss(**options)
        check_loss_options(options, ReductionOptions)
        check_classes(targets, self.values.shape[1], self.row_ids, lambda: self.order.locate_steps(self.values)[0])
        chain, order, places = self._get_chain()
        targets = targets if places is None else targets.index_select(0, places)
        known = targets != IGNORED
        rows = len(self.lengths)
        place_of_row = order.sorted_indices[: order.nonempty_count].to(targets.device)
        counts = known.new_zeros(rows, dtype=torch.int64).index_add_(0, order.row_of_step, known.long())
        sizes = _list_sizes(order)
        scores = self._score_targets(chain, targets, known, order)
        # -inf less -inf, if a row of this length has no allowed path at all, would be NaN.
        likelihoods = (scores - sum_paths(chain, sizes)).masked_fill(scores == -torch.inf, -torch.inf)
        losses = (-likelihoods).new_zeros(rows).index_copy(0, place_of_row, -likelihoods)
        losses = losses.masked_fill(counts == 0, 0)
        self._check_paths(losses)
        return reduce_losses(losses, counts, options.get("reduction", "mean"), options.get("over"))

    def _check_paths(self, losses: Tensor) -> None:
        """Reject targets without an allowed path. On a device they are not read, and the loss is infinite."""
        if losses.device.type != "cpu" or torch.compiler.is_compiling():
            return
        is_forbidden = losses.detach() == torch.inf
        if is_forbidden.any():
            row_id = int(self.row_ids[int(is_forbidden.nonzero()[0])])
            msg = (
                f"the targets of row {row_id} are a forbidden path; write them in the scheme of the head's constraints "
                "(a span begins with B in BIO), or pass constraints=None."
            )
            raise TargetError(msg, row=row_id)

    def _score_targets(self, chain: Chain, targets: Tensor, known: Tensor, order: PackingOrder) -> Tensor:
        """Return the log-sum of the paths through the targets of each row, the longest row first."""
        emissions, transitions, start, end = chain
        # On the CPU only: elsewhere this would wait for the device.
        if targets.device.type != "cpu" or not bool(known.all()):
            is_other = torch.arange(emissions.shape[1], device=targets.device) != targets.unsqueeze(1)
            # Filled, so that the gradient of other classes is 0.
            allowed = emissions.masked_fill(is_other & known.unsqueeze(1), -torch.inf)
            return sum_paths(Chain(allowed, transitions, start, end), _list_sizes(order))
        rows = order.nonempty_count
        rank_of_row = torch.empty_like(order.sorted_indices)
        rank_of_row[order.sorted_indices] = torch.arange(len(rank_of_row), device=rank_of_row.device)
        rank = rank_of_row[order.row_of_step]
        scores = emissions.gather(1, targets.unsqueeze(1)).squeeze(1)
        total = scores.new_zeros(rows).index_add(0, rank, scores)
        moves = targets.index_select(0, order.previous_steps) * emissions.shape[1] + targets[rows:]
        total = total.index_add(0, rank[rows:], transitions.flatten().index_select(0, moves))
        return total + start[targets[:rows]] + end[targets.index_select(0, order.sorted_last_steps)]

    def _get_chain(self) -> tuple[Chain, PackingOrder, Tensor | None]:
        """Return the scores of the paths, the order of their steps, and the places of these steps; None for all."""
        dtype = torch.promote_types(torch.promote_types(self.values.dtype, self.transitions.dtype), torch.float32)
        emissions, transitions, start, end = (
            each.to(dtype) for each in (self.values, self.transitions, self.start, self.end)
        )
        mask, order = self.metadata.answer_mask, self.order
        if mask is None or not len(self.lengths):
            return Chain(emissions, transitions, start, end), order, None
        is_step = torch.arange(mask.shape[1], device="cpu") < self.lengths.unsqueeze(1)
        lengths = (mask & is_step).sum(1)
        if torch.equal(lengths, self.lengths):
            return Chain(emissions, transitions, start, end), order, None
        chosen = PackingOrder(lengths, self.values.device)
        # Steps in reading order: those of the row that are on its path, and their places on it.
        found = order.reading_order.index_select(0, mask[is_step].nonzero().squeeze(1).to(self.values.device))
        places = torch.empty_like(found).index_copy_(0, chosen.reading_order, found)
        return Chain(emissions.index_select(0, places), transitions, start, end), chosen, places


def _list_sizes(order: PackingOrder) -> list[int]:
    """Return the number of rows at each time."""
    return order.batch_size_list if len(order.lengths) else []
