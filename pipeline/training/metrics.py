"""The metrics of a pipe: chosen by its head, or given by name or as objects; their results by name."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol, TypeAlias, TypeVar, cast, final

import attrs
from torch import distributed
from typing_extensions import TypeIs

from pipeline.builtin.class_metrics import has_class_scores, has_step_scores
from pipeline.builtin.span_f1 import has_span_tags
from pipeline.checks.hints import describe
from pipeline.core.chain import Chain
from pipeline.core.naming import make_default_name
from pipeline.core.stage import StageBase
from pipeline.data.decoded import Decoded
from pipeline.data.scores import Predictions
from pipeline.data.values import Joint, MultiLabelScores, Values
from pipeline.errors import OptionError, TargetError
from pipeline.parts.metric import Metric
from pipeline.registry import registry
from pipeline.stages.classify_multi_label import ClassifyMultiLabel
from pipeline.stages.heads import Classify, NextToken, Tag
from pipeline.stages.regress import Regress
from pipeline.stages.several_heads import Heads
from pipeline.text import suggest_name
from pipeline.training.torch_metric import TorchMetric, UpdatesAndComputes, is_torch_metric

A = TypeVar("A")

MetricLike: TypeAlias = Metric | UpdatesAndComputes | str
"""A metric: a registered name, an object, or a metric of torchmetrics."""

MetricsOption: TypeAlias = Sequence[MetricLike] | Mapping[str, MetricLike]
"""The option `metrics`: a list, or a mapping with the names under which to report them."""

LOSS: Final = "loss"
"""The name of the loss, which can be monitored like a metric."""

# Typed here, because torch's own function is untyped.
_all_gather: Final[Callable[[list[object], object], None]] = getattr(
    distributed, "all_gather_object", lambda found, value: found.__setitem__(0, value)
)


class HasStages(Protocol):
    """A pipe or a model."""

    @property
    def stages(self) -> Mapping[str, StageBase]:
        """The stages in order, by name."""
        ...


@final
@attrs.frozen
class Monitor:
    """The number by which the best epoch is chosen.

    Attributes:
        name: the name of a metric, or `loss`.
        higher_is_better: the direction.

    Example:
        >>> Monitor("accuracy", higher_is_better=True).is_better(0.9, than=0.8)
        True
    """

    name: str
    higher_is_better: bool = attrs.field(kw_only=True)

    def is_better(self, value: float, *, than: float | None) -> bool:
        """Return whether a value is better than another; any number is better than None or NaN."""
        if than is None or than != than:  # noqa: PLR0124 - true for NaN only
            return value == value  # noqa: PLR0124
        return value > than if self.higher_is_better else value < than


@final
class MetricGroup:
    """The metrics of a pipe by name, of all its heads. Of several heads, names begin with that of the head.

    Use `choose_metrics` to create it. Without given metrics, and if the head is not one of this library's, the first
    batch of predictions decides.

    Args:
        metrics: the metrics by name.
        heads: the names of the heads if there are several; empty for one head; None if that is not known yet.
        is_chosen: whether the metrics are final; otherwise the first batch decides.

    Example:
        >>> from pipeline import classifier
        >>> group = choose_metrics(classifier(9, 2))
        >>> list(group.metrics), group.monitor
        (['accuracy', 'macro_f1'], Monitor(name='accuracy', higher_is_better=True))
    """

    def __init__(
        self, metrics: Mapping[str, Metric], heads: Sequence[str] | None = (), *, is_chosen: bool = True
    ) -> None:
        # The given objects stay as they are, so that each epoch begins with metrics to which nothing was added.
        self._given: Final = dict(metrics)
        self.metrics: dict[str, Metric] = copy.deepcopy(self._given)
        self.heads: Final = heads
        self._is_lazy: Final = not is_chosen
        self.is_chosen: bool = is_chosen

    def empty(self) -> "MetricGroup":
        """Return the same metrics without what was added to them, for example for the next epoch."""
        return MetricGroup(self._given, self.heads, is_chosen=not self._is_lazy)

    def update(self, predictions: Predictions[object, object], /) -> None:
        """Add a batch of predictions with its targets.

        Raises:
            TargetError: naming the metric, if it is not for such predictions, or they have no targets.
        """
        if not self.is_chosen:
            self.metrics = {name: _make(name, each) for name, each in _choose_by_predictions(predictions).items()}
            self.is_chosen = True
        for name, metric in self.metrics.items():
            try:
                metric.update(_select_head(predictions, name))
            except TargetError as error:
                raise _name_error(name, error) from error

    def compute(self) -> dict[str, float]:
        """Return the results of all metrics by name. A metric with several results has several names.

        Raises:
            TargetError: naming the metric, if no target was added to it.
        """
        found: dict[str, float] = {}
        for name, metric in self.metrics.items():
            try:
                results = metric.results()
            except TargetError as error:
                raise _name_error(name, error) from error
            found |= {".".join(part for part in (name, key) if part): value for key, value in results.items()}
        return found

    def merge(self, other: "MetricGroup", /) -> None:
        """Add everything that was added to another group with the same metrics.

        Raises:
            OptionError: if a metric cannot be merged.
        """
        for name, metric in other.metrics.items():
            if name in self.metrics:
                self.metrics[name].merge(metric)
            else:
                # A part of the data without any batch has not chosen its metrics yet.
                self.metrics[name] = copy.deepcopy(metric)
        self.is_chosen = self.is_chosen or other.is_chosen

    def merge_over_ranks(self) -> "MetricGroup":
        """Return the metrics of all ranks together; every rank must call this. Without ranks, the group itself.

        They are merged in the order of the ranks, so that the numbers are equal on all of them to the last bit.

        Raises:
            OptionError: if a metric cannot be merged.
        """
        if not distributed.is_available() or not distributed.is_initialized():
            return self
        total = self.empty()
        for group in gather_over_ranks(self):
            total.merge(group)
        return total

    @property
    def monitor(self) -> Monitor:
        """The name monitored by default: the metric that was chosen or given first; of several heads the loss."""
        return self.choose_monitor(None)

    def choose_monitor(self, name: str | None) -> Monitor:
        """Return what to monitor.

        Args:
            name: `loss`, or a metric; None for the default.

        Raises:
            OptionError: if there is no such metric, or it does not say whether higher is better.
        """
        if name is None:
            first = next(iter(self.metrics), LOSS)
            has_one = not self.heads and first != LOSS and self.metrics[first].higher_is_better is not None
            name = first if has_one else LOSS
        if name == LOSS:
            return Monitor(LOSS, higher_is_better=False)
        # One of several results is named after its metric.
        named = (metric for each, metric in self.metrics.items() if name == each or name.startswith(f"{each}."))
        metric = next(named, None)
        if metric is None:
            known = [LOSS, *self.metrics]
            msg = f"monitor must be one of {', '.join(known)}, got {name!r}.{suggest_name(name, known)}"
            raise OptionError(msg, monitor=name)
        if metric.higher_is_better is None:
            msg = f"metric {name!r} does not say whether higher is better, so that it cannot be monitored; use another."
            raise OptionError(msg, monitor=name)
        return Monitor(name, higher_is_better=metric.higher_is_better)


def choose_metrics(pipe: HasStages, metrics: MetricsOption | None = None) -> MetricGroup:
    """Return the metrics of a pipe: those given, or else those of its head.

    | head | metrics |
    | --- | --- |
    | `Classify` | accuracy, macro_f1 |
    | `Tag` with the tags of spans | span_f1, accuracy |
    | other `Tag` | accuracy, macro_f1 |
    | `NextToken` | perplexity |
    | `ClassifyMultiLabel` | multi_label_f1 |
    | `Regress` | mae |
    | `Heads` | those of each head, as `head.metric` |
    | one of a plugin | those of its attribute `default_metrics`; without it, those of its predictions |

    The first one is monitored by default, and the loss if there are several heads.

    Args:
        pipe: the pipe, or its model.
        metrics: a list of registered names, `Metric` objects and metrics of torchmetrics, or a mapping with the names
            under which to report them. With several heads, names begin with that of the head: `["label.accuracy"]` or
            `{"label.auroc": AUROC(...)}`.

    Raises:
        OptionError: if a metric is something else, two have one name, or there is no such head.
        UnknownNameError: if no plugin registers a metric of the name.

    Example:
        >>> from pipeline import Labels, tagger
        >>> list(choose_metrics(tagger(9, Labels(["O", "B-per", "I-per"]))).metrics)
        ['span_f1', 'accuracy']
    """
    heads = find_heads(pipe.stages)
    is_known = heads is not None
    several: tuple[str, ...] = () if heads is None or set(heads) == {""} else tuple(heads)
    if metrics is None:
        chosen = {
            f"{head}.{name}" if head else name: _make(name, name)
            for head, stage in (heads or {}).items()
            for name in _choose_by_head(stage)
        }
        return MetricGroup(chosen, several if is_known else None, is_chosen=bool(chosen))
    named = _name_metrics(metrics)
    first = next(iter(several), "")
    for name in named if several else ():
        if name.partition(".")[0] not in several:
            msg = (
                f"metrics must be for one of the heads {', '.join(several)}, got {name!r}; begin its name with that of "
                f"a head: '{first}.{name}'."
            )
            raise OptionError(msg, metric=name)
    made = {name: _make(name, each) for name, each in named.items()}
    return MetricGroup(made, several if is_known else None)


def is_joint(predictions: Predictions[object, object]) -> TypeIs[Joint[object, object]]:
    """Return whether predictions are those of several heads."""
    return isinstance(predictions, Joint)


def gather_over_ranks(value: A) -> list[A]:
    """Return the value of every rank, in the order of the ranks; every rank must call this.

    Without `torch.distributed`, this is only the value itself. Values are pickled, so they should be small.
    """
    if not distributed.is_available() or not distributed.is_initialized():
        return [value]
    found: list[object] = [None] * distributed.get_world_size()
    _all_gather(found, value)
    return cast("list[A]", found)


def find_heads(stages: Mapping[str, StageBase]) -> Mapping[str, StageBase] | None:
    """Return the head of a pipe under the empty name, or several by name; None if none of them is known."""
    for stage in reversed([*stages.values()]):
        if isinstance(stage, Heads):
            # A head may be a chain that ends with it.
            branches = {name: find_heads({"": branch}) for name, branch in stage.branches.items()}
            return {name: (found or {}).get("", stage.branches[name]) for name, found in branches.items()}
        head = stage
        if isinstance(stage, Chain):
            inner = find_heads(stage.stages)
            if inner is not None:
                return inner
        if isinstance(stage, Classify | Tag | NextToken | ClassifyMultiLabel | Regress) or _list_declared(head):
            return {"": head}
    return None


def _list_declared(head: object) -> Sequence[str]:
    """Return the names of the metrics that a head of a plugin declares in `default_metrics`."""
    names: object = getattr(head, "default_metrics", ())
    return [str(name) for name in cast("Sequence[object]", names)] if isinstance(names, list | tuple) else []


def _choose_by_head(head: object) -> Sequence[str]:
    """Return the names of the metrics of a head, the one to monitor first."""
    if declared := _list_declared(head):
        return declared
    if isinstance(head, NextToken):
        return ["perplexity"]
    if isinstance(head, ClassifyMultiLabel):
        return ["multi_label_f1"]
    if isinstance(head, Regress):
        return ["mae"]
    if isinstance(head, Tag) and has_span_tags(head.names):
        return ["span_f1", "accuracy"]
    return ["accuracy", "macro_f1"] if isinstance(head, Classify | Tag) else []


def _choose_by_predictions(predictions: Predictions[object, object]) -> dict[str, str]:
    """Return the registered names of the metrics of predictions, by the names under which to report them."""
    if is_joint(predictions):
        parts = predictions.parts
        return {
            f"{head}.{name}": each
            for head, part in parts.items()
            for name, each in _choose_by_predictions(part).items()
        }
    simple: Mapping[type, Sequence[str]] = {
        MultiLabelScores: ["multi_label_f1"],
        Values: ["mae"],
        Decoded: ["perplexity", "accuracy", "exact_match"],
    }
    found = next((names for cls, names in simple.items() if isinstance(predictions, cls)), None)
    if found is not None:
        return {name: name for name in found}
    if has_step_scores(predictions) and has_span_tags(predictions.names):
        return {"span_f1": "span_f1", "accuracy": "accuracy"}
    if has_class_scores(predictions):
        return {"accuracy": "accuracy", "macro_f1": "macro_f1"}
    return {}


def _name_metrics(metrics: MetricsOption) -> dict[str, MetricLike]:
    """Return the given metrics by name.

    Raises:
        OptionError: if it is one metric instead of several, or two have one name.
    """
    if isinstance(metrics, str) or is_torch_metric(metrics) or isinstance(cast("object", metrics), Metric):
        msg = f"metrics must be a list or a mapping, got {describe(metrics)}; pass [{metrics!r:.60}]."
        raise OptionError(msg, metrics=metrics)
    if isinstance(metrics, Mapping):
        return dict(metrics)
    named: dict[str, MetricLike] = {}
    for metric in metrics:
        name = metric if isinstance(metric, str) else make_default_name(type(metric))
        if name in named:
            msg = f"metrics must have different names, got two {name!r}; pass a mapping with a name for each."
            raise OptionError(msg, metric=name)
        named[name] = metric
    return named


def _make(name: str, metric: object) -> Metric:
    """Return a metric to which nothing was added.

    Raises:
        OptionError: if it is not a metric.
    """
    if isinstance(metric, Metric):
        return metric
    if isinstance(metric, str):
        known = registry().metrics
        # "label.accuracy" is the accuracy of a head.
        head, _, last = metric.rpartition(".")
        return known.make(last if head and metric not in known.names() else metric)
    if is_torch_metric(metric):
        return TorchMetric(metric)
    msg = (
        f"metric {name!r} must be a registered name, a Metric, or a metric of torchmetrics, got {describe(metric)}; "
        "pass an object, not a class."
    )
    raise OptionError(msg, metric=name)


def _select_head(predictions: Predictions[object, object], name: str) -> Predictions[object, object]:
    """Return the predictions that a metric is for.

    Raises:
        OptionError: if its name does not begin with that of one of several heads.
    """
    if not is_joint(predictions):
        return predictions
    parts = predictions.parts
    head = name.partition(".")[0]
    if head not in parts:
        msg = f"metric {name!r} must begin with the name of a head, {', '.join(parts)}: '{next(iter(parts))}.{name}'."
        raise OptionError(msg, metric=name)
    return parts[head]


def _name_error(name: str, error: TargetError) -> TargetError:
    return TargetError(f"metric {name!r}: {error}", **{**error.details, "metric": name})
