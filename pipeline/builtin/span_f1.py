"""F1 of spans, such as named entities, that are written as one tag per step."""

import re
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias, final

import attrs
import torch
from jaxtyping import Bool, Int64
from torch import Tensor
from typing_extensions import override

from pipeline.builtin.class_metrics import compute_f1, count_ids, get_class_targets, has_step_scores
from pipeline.builtin.sums import Counted, SumMetric, make_kind_error
from pipeline.data.metadata import IGNORED
from pipeline.data.scores import Predictions
from pipeline.errors import OptionError, TargetError
from pipeline.parts.metric import Metric

# Of a tag: outside, and at the begin, inside, at the end, or the only step of a span. Their numbers are their places.
_PREFIXES: Final = "OBIES"
_OUTSIDE, _BEGIN, _INSIDE, _END, _SINGLE = range(len(_PREFIXES))

# BILOU writes the last step as L and the only one, the unit, as U.
_ALIASES: Final = {"L": "E", "U": "S"}
_TAG: Final = re.compile(r"(?P<outside>O)|(?P<prefix>[BIESLU])(?:-(?P<type>.+))?", re.DOTALL)

SpanCounts: TypeAlias = Mapping[str, tuple[int, int, int]]
"""The number of spans among the targets, of predicted and of correct spans, by the type of the spans."""


@attrs.frozen(eq=False)
class SpanTags:
    """The meaning of each class of a tagger in BIO, BIOES or BILOU.

    Attributes:
        prefixes: the number of the prefix of each class.
        types: the number of the type of each class, from 1; 0 outside.
        names: the name of each type, from number 1.
    """

    prefixes: Int64[Tensor, " classes"]
    types: Int64[Tensor, " classes"]
    names: Sequence[str]

    @classmethod
    def read(cls, names: Sequence[object]) -> "SpanTags":
        """Read the names of the classes.

        Raises:
            TargetError: if one of them is not a tag of spans.

        Example:
            >>> tags = SpanTags.read(["O", "B-per", "I-per", "S-org"])
            >>> tags.types.tolist(), tags.names
            ([0, 1, 1, 2], ['per', 'org'])
        """
        prefixes: list[int] = []
        types: list[int] = []
        known: dict[str, int] = {}
        for name in names:
            match = _TAG.fullmatch(name) if isinstance(name, str) else None
            if match is None:
                msg = (
                    "span_f1 needs the tags of spans as class names (O, B-type, I-type, and E-type and S-type in "
                    f"BIOES), got {name!r}; use accuracy or macro_f1 for other tags, and Labels for names."
                )
                raise TargetError(msg, name=name)
            prefix = "O" if match["outside"] else _ALIASES.get(match["prefix"], match["prefix"])
            prefixes.append(_PREFIXES.index(prefix))
            # A tag without a type, such as "B", is of the type "".
            types.append(0 if match["outside"] else known.setdefault(match["type"] or "", len(known) + 1))
        return cls(torch.tensor(prefixes, device="cpu"), torch.tensor(types, device="cpu"), list(known))

    def to(self, device: torch.device) -> "SpanTags":
        """Return the same on a device."""
        prefixes, types = (each.to(device, non_blocking=True) for each in (self.prefixes, self.types))
        return SpanTags(prefixes, types, self.names)


def has_span_tags(names: Sequence[object]) -> bool:
    """Return whether class names are the tags of spans.

    Example:
        >>> has_span_tags(["O", "B-per", "I-per"]), has_span_tags(["NOUN", "VERB"]), has_span_tags(["O", "X"])
        (True, False, False)
    """
    matches = [_TAG.fullmatch(name) if isinstance(name, str) else None for name in names]
    # Classes such as "S" and "L" could be anything. B or I occurs in each of the schemes.
    return all(matches) and any(match is not None and match["prefix"] in {"B", "I"} for match in matches)


@final
class SpanF1(SumMetric):
    """F1 of spans: a span is correct if its first step, its last step and its type are.

    Tags are in BIO (IOB2, or IOB1, where B only separates neighbors), BIOES or BILOU, and may be invalid sequences. As
    in conlleval, the script of the CoNLL shared tasks, and in seqeval's default mode, every tag belongs to a span: an I
    after O or after another type begins one, for example. Precision and recall are over the spans of all types and
    rows (micro average); `counts_by_type` has those of each type. Without any span, of targets or predicted, it is 0.

    Spans are read from the steps with a target, in their order. So if only the first token of a word has a target,
    spans are those of words. Class names must be tags: pass `Labels` to the head.

    Attributes:
        names: the class names of the predictions; None before the first update.
        tags: their meaning; None before the first update.

    Source: Tjong Kim Sang and Buchholz 2000, "Introduction to the CoNLL-2000 Shared Task: Chunking", and its script
    conlleval.pl; Ramshaw and Marcus 1995, "Text Chunking using Transformation-Based Learning", arXiv:cmp-lg/9505040.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: Sequence[object] | None = None
        self.tags: SpanTags | None = None

    @override
    def count(self, predictions: Predictions[object, object], /) -> Counted:
        name = type(self).__name__
        if not has_step_scores(predictions):
            raise make_kind_error(name, "scores of steps, StepScores", predictions)
        # Kept on the device, so that only the first update moves them there.
        tags = self.tags = self._get_tags(predictions.names).to(predictions.values.device)
        _, targets = get_class_targets(predictions, name)
        order = predictions.order.reading_order
        targets = targets.index_select(0, order)
        best = predictions.best.index_select(0, order)
        rows = predictions.order.row_of_step.index_select(0, order)
        is_known = targets != IGNORED
        # Steps with a target first, in their order. Sorting does not wait for the device, as selecting them would.
        order = is_known.logical_not().argsort(stable=True)
        is_known, rows = is_known.index_select(0, order), rows.index_select(0, order)
        # Other steps are a row of their own without spans.
        rows = rows.masked_fill(~is_known, -1)
        wanted, found = (_Spans.read(tags, each.index_select(0, order), rows, is_known) for each in (targets, best))
        is_correct = wanted.begins & found.begins & (wanted.types == found.types) & (wanted.ends == found.ends)
        counted = ((wanted.begins, wanted), (found.begins, found), (is_correct, wanted))
        number = len(tags.names) + 1
        counts = [count_ids(spans.types.masked_fill(~mask, 0), number)[1:] for mask, spans in counted]
        return torch.stack(counts), is_known.sum()

    @override
    def merge(self, other: Metric, /) -> None:
        if isinstance(other, SpanF1) and other.names is not None:
            self._get_tags(other.names)
        super().merge(other)

    @override
    def summarize(self, sums: Tensor, targets: int, /) -> Tensor:
        return compute_f1(*sums.sum(1))

    def counts_by_type(self) -> SpanCounts:
        """Return the number of spans among the targets, of predicted and of correct spans, by type."""
        if self.sums is None or self.tags is None:
            return {}
        columns: list[list[int]] = [[int(count) for count in each] for each in self.sums.cpu().unbind(1)]
        return {name: (column[0], column[1], column[2]) for name, column in zip(self.tags.names, columns, strict=True)}

    def _get_tags(self, names: Sequence[object]) -> SpanTags:
        if self.tags is None:
            self.names, self.tags = names, SpanTags.read(names)
        elif names is not self.names and list(names) != list(self.names or ()):
            msg = "SpanF1 has counts of other classes; use one for each model."
            raise OptionError(msg, names=names)
        return self.tags


@attrs.frozen(eq=False)
class _Spans:
    """Where spans begin among steps, which type each step has, and the last step of the span of each step."""

    begins: Bool[Tensor, " steps"]
    types: Int64[Tensor, " steps"]
    ends: Int64[Tensor, " steps"]

    @classmethod
    def read(
        cls,
        tags: SpanTags,
        classes: Int64[Tensor, " steps"],
        rows: Int64[Tensor, " steps"],
        is_known: Bool[Tensor, " steps"],
    ) -> "_Spans":
        """Find the spans of all rows at once.

        Args:
            tags: the meaning of the classes.
            classes: the class of each step, row after row.
            rows: the row of each step.
            is_known: which steps count; others are outside.
        """
        classes = classes.masked_fill(~is_known, 0)
        prefixes = tags.prefixes.index_select(0, classes).masked_fill(~is_known, _OUTSIDE)
        types = tags.types.index_select(0, classes).masked_fill(~is_known, 0)
        # With a step outside before and after all others: a step and its predecessor are then neighbors in `joined`.
        edge = prefixes.new_zeros(1)
        joined, joined_types = torch.cat([edge, prefixes, edge]), torch.cat([edge, types, edge])
        before, after, before_types, after_types = joined[:-1], joined[1:], joined_types[:-1], joined_types[1:]
        row = torch.cat([edge - 2, rows, edge - 2])
        is_new_type = (before_types != after_types) | (row[1:] != row[:-1])
        is_span, was_span = after != _OUTSIDE, before != _OUTSIDE
        # A span begins at B and S, after E and S, and where the type changes, as at O; the one before it ends there.
        closes = (after == _BEGIN) | (after == _SINGLE) | (before == _END) | (before == _SINGLE)
        begins = is_span & (closes | is_new_type)
        ends = was_span & (closes | is_new_type)
        # The end of the span of each step is the next one at or after it: a minimum from the end backwards.
        places = torch.arange(len(classes), device=classes.device)
        next_ends = torch.where(ends[1:], places, len(classes)).flip(0).cummin(0).values.flip(0)
        return cls(begins[:-1], types, next_ends)
