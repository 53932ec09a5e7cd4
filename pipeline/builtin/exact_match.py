"""Exact match of generated texts."""

from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from pipeline.builtin.sums import Counted, SumMetric, make_kind_error, make_missing_error
from pipeline.data.decoded import Decoded
from pipeline.data.scores import Predictions
from pipeline.data.tensors import to_ints


@final
class ExactMatch(SumMetric):
    """The share of target texts whose tokens, eos included, are exactly those that the decoder generated."""

    higher_is_better: bool | None = True

    @override
    def count(self, predictions: Predictions[object, object], /) -> Counted:
        name = type(self).__name__
        if not isinstance(predictions, Decoded):
            raise make_kind_error(name, "generated texts, Decoded", predictions)
        targets, lengths = predictions.metadata.targets, (predictions.metadata.target_lengths or {}).get("")
        if targets is None or lengths is None or predictions.generated is None:
            raise make_missing_error(name, "a text per row", predictions.metadata)
        matches = rows = 0
        for ids, length, generated in zip(targets.cpu(), to_ints(lengths), predictions.generated, strict=True):
            rows += length > 0
            matches += length > 0 and to_ints(ids[:length]) == list(generated[0].ids)
        return torch.tensor([float(matches)]), torch.tensor(rows)

    @override
    def summarize(self, sums: Tensor, targets: int, /) -> Tensor:
        return sums[0].double() / targets
