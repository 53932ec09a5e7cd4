"""Train several models on the same data with several seeds, and compare their scores."""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Never, cast

import attrs
from typing_extensions import Unpack

from pipeline.core.contexts import seeded
from pipeline.core.stream_chain import StreamChain
from pipeline.data.scores import Predictions
from pipeline.errors import OptionError, PipelineError
from pipeline.training.comparison import ComparedModel, Comparison
from pipeline.training.history import History
from pipeline.training.metrics import LOSS, Monitor
from pipeline.training.ngram_baseline import score_baseline
from pipeline.training.options import FitOptions

MakeModel = Callable[[], StreamChain[Never, Predictions[object, object]]]
"""Makes a pipe with random weights. It is called once per seed, after torch's generator was seeded."""

_OWN: Final = ("seed", "checkpoints", "resume", "log_csv", "log_tensorboard")
"""Options of `fit` that would be the same for all models, or that a comparison sets."""


def compare(
    models: Mapping[str, MakeModel],
    train: Iterable[object],
    valid: Iterable[object],
    *,
    test: Iterable[object] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    epochs: int = 10,
    baseline: bool = False,
    report: Callable[[str], None] | None = None,
    **options: Unpack[FitOptions],
) -> Comparison:
    """Train models on the same examples with the same seeds, and compare their scores.

    All pipes are made once before the first one is trained, so that a wrong size is an error at once. A model that
    fails later does not stop the others; its failure is in the result.

    Args:
        models: functions that make a pipe, by the name of the model.
        train: the examples to train on.
        valid: the examples by which the best epoch is chosen, and without `test` the score too.
        test: the examples of the score. The score of the examples by which an epoch was chosen is too good.
        seeds: the seeds; each model is trained with each of them.
        epochs: the number of epochs.
        baseline: whether to add the score of a linear model of n-grams, for pipes that predict a class from a text or
            a class from each word. Needs the extra `sklearn`.
        report: called with a line about each trained model, such as `print`.
        options: the options of `pipe.fit`, except `seed`, checkpoints and logs.

    Raises:
        OptionError: if there is no model or no seed, or for an option that cannot be the same for all models.
        MissingExtraError: if the baseline's package is not installed.
        PipelineError: if a pipe cannot be made.

    Example:
        >>> from pipeline import Bucket, Labels, Pad, Tokenize, classifier
        >>> from pipeline.sources import Records
        >>> texts = [("a fine film", "good"), ("a dull film", "bad")] * 8
        >>> examples = Records([{"text": text, "label": label} for text, label in texts], text="text", target="label")
        >>> tokenize, labels = Tokenize.train(examples.inputs()), Labels(["bad", "good"])
        >>> data = tokenize >> Bucket(rows=4) >> Pad(labels=labels)
        >>> sizes = {"embedding_dim": 4, "hidden_size": 4}
        >>> models = {
        ...     name: lambda name=name: data >> classifier(tokenize.vocab_size, labels, encoder=name, **sizes)
        ...     for name in ("lstm", "gru")
        ... }
        >>> found = compare(models, examples, examples, seeds=[0, 1], epochs=8, learning_rate=0.05, progress=False)
        >>> [(model.name, len(model.scores)) for model in found]
        [('lstm', 2), ('gru', 2)]
    """
    _check(models, seeds, cast("Mapping[str, object]", options))
    weights = {name: _count_weights(_make(make, seeds[0])) for name, make in models.items()}
    trained = _Training(train, valid, test, seeds, epochs, options, report or _report_nothing)
    found = [trained.train(name, make, weights[name]) for name, make in models.items()]
    monitor = trained.monitor or Monitor(LOSS, higher_is_better=False)
    notes = [] if test is not None else ["the scores are those of the examples by which the best epoch was chosen"]
    if baseline:
        start = time.perf_counter()
        scored = score_baseline(train, valid if test is None else test, monitor.name)
        if isinstance(scored, str):
            notes.append(scored)
        else:
            size, seconds = scored.weights, time.perf_counter() - start
            trained.report(f"{scored.name}: {monitor.name} {scored.score:.4f}, {seconds:.1f} s")
            found.append(ComparedModel(scored.name, [scored.score], seconds=seconds, weights=size, is_baseline=True))
    return Comparison(found, monitor, seeds=list(seeds), notes=notes)


@attrs.define
class _Training:
    """The examples and options with which each model is trained, and the score that the first one determines."""

    examples: Iterable[object]
    valid: Iterable[object]
    test: Iterable[object] | None
    seeds: Sequence[int]
    epochs: int
    options: FitOptions
    report: Callable[[str], None]
    monitor: Monitor | None = None

    def train(self, name: str, make: MakeModel, weights: int) -> ComparedModel:
        """Train a model with each seed; if one training fails, the model has no score."""
        model = ComparedModel(name, [], weights=weights)
        durations: list[float] = []
        try:
            for seed in self.seeds:
                history, score = self._train_once(make, seed)
                best, metric = history.best, history.monitor.name
                self.monitor = self.monitor or history.monitor
                durations += [epoch.seconds for epoch in history]
                found = f"{metric} {score:.4f} in epoch {best.number}, {best.seconds:.1f} s each"
                self.report(f"{name}, seed {seed}: {found}")
                model = attrs.evolve(
                    model,
                    scores=[*model.scores, score],
                    epochs=[*model.epochs, best.number],
                    seconds=statistics.fmean(durations),
                )
        except PipelineError as error:
            self.report(f"{name} failed: {error}")
            return ComparedModel(name, [], weights=weights, failure=str(error))
        return model

    def _train_once(self, make: MakeModel, seed: int) -> tuple[History, float]:
        pipe = _make(make, seed)
        options: FitOptions = {**self.options, "seed": seed}
        history = pipe.fit(self.examples, valid=self.valid, epochs=self.epochs, **options)
        if self.test is None:
            return history, history.get_monitored(history.best)
        return history, pipe.evaluate(self.test)[history.monitor.name]


def _report_nothing(_: str) -> None:
    pass


def _check(models: Mapping[str, MakeModel], seeds: Sequence[int], options: Mapping[str, object]) -> None:
    if not models:
        raise OptionError("models must have a model or more, got none.")
    if not seeds:
        raise OptionError("seeds must have a seed or more, got none.")
    for name in _OWN:
        if name in options:
            reason = "pass seeds" if name == "seed" else "all models would write to it; train the best model again"
            msg = f"{name} is not an option of a comparison: {reason}."
            raise OptionError(msg, option=name)


def _make(make: MakeModel, seed: int) -> StreamChain[Any, Any]:
    with seeded(seed):
        pipe: StreamChain[Any, Any] = make()
    if not isinstance(cast("object", pipe), StreamChain):
        msg = f"a model must be a function that makes a pipe, data >> model, got {type(pipe).__name__}."
        raise OptionError(msg)
    return pipe


def _count_weights(pipe: StreamChain[Any, Any]) -> int:
    return sum(weight.numel() for weight in pipe.parameters())
