"""Perplexity of a language model."""

from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from pipeline.builtin.class_metrics import get_class_targets, get_token_scores, has_step_scores
from pipeline.builtin.sums import Counted, SumMetric, make_kind_error
from pipeline.data.metadata import IGNORED
from pipeline.data.scores import Predictions


@final
class Perplexity(SumMetric):
    """The exponential of the mean cross-entropy per step: of next tokens, the perplexity of a language model.

    Its logarithm is the loss over all steps with a target, not the mean of the losses of batches. Perplexities can be
    compared only for the same tokenizer. It is infinite if a target has the probability 0.

    Source: Jelinek, Mercer, Bahl and Baker 1977, "Perplexity: a measure of the difficulty of speech recognition tasks",
    doi:10.1121/1.2016299.
    """

    higher_is_better: bool | None = False

    @override
    def count(self, predictions: Predictions[object, object], /) -> Counted:
        name = type(self).__name__
        predictions = get_token_scores(predictions)
        if not has_step_scores(predictions):
            raise make_kind_error(name, "scores of steps, StepScores", predictions)
        scores, targets = get_class_targets(predictions, name)
        # In float32 or more: bfloat16 has three digits.
        values = scores.values.to(torch.promote_types(scores.values.dtype, torch.float32))
        losses = scores.with_values(values).loss(reduction="none")
        return losses.sum(dtype=get_sum_type(losses.device)).unsqueeze(0), (targets != IGNORED).sum()

    @override
    def summarize(self, sums: Tensor, targets: int, /) -> Tensor:
        # torch's exponential is infinite for large numbers, where that of `math` raises an error.
        return (sums[0].double() / targets).exp()


def get_sum_type(device: torch.device) -> torch.dtype:
    """Return the type in which sums over many rows or steps are accumulated: float64 where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64
