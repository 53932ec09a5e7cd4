"""Stages around a stream: from an iterable of inputs to batches, with everything that a whole pipe can do."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from os import PathLike
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeVar, cast, final, overload

import torch
from torch import Tensor
from typing_extensions import Unpack, override

from pipeline.core.chain_base import ChainBase
from pipeline.core.inference import InferenceOptions, Precision
from pipeline.core.row_counts import number_rows
from pipeline.core.running import (
    NumberedStage,
    Observer,
    locate_errors,
    map_stages,
    map_together,
    naming_stage,
    read_inputs,
    run_stages,
    run_stream,
    show_rows,
)
from pipeline.core.stage import I_contra, O_co, Stage, Stream, is_stream
from pipeline.data.iteration import SizedIterator, check_ordered, is_map_style, iterate
from pipeline.data.rows import reject_single_text
from pipeline.data.scores import N, Predictions, StepScores
from pipeline.errors import UnknownOptionError

if TYPE_CHECKING:
    from pipeline.data.generation import Generation
    from pipeline.data.kinds import Kind
    from pipeline.data.predictions import StepPrediction
    from pipeline.functional.generation.options import GenerateOptions
    from pipeline.inference.attention_weights import AttentionWeights
    from pipeline.inference.files import FileOutputOptions, WrittenFile
    from pipeline.inference.generation.step import StepCarry
    from pipeline.summary.inspection import Inspection
    from pipeline.training.evaluation import Evaluation
    from pipeline.training.history import History
    from pipeline.training.metrics import MetricsOption
    from pipeline.training.options import FitOptions

A = TypeVar("A")
D = TypeVar("D")
R = TypeVar("R")


@final
class StreamChain(ChainBase, Stream[I_contra, O_co], border=False):
    """Stages around a stream: an iterable of inputs to an iterator of outputs, lazily.

    A call yields outputs in the order of the stream, for example batches in the order of `Bucket`. `predict` yields
    one prediction per input, in the order of the inputs.

    Attributes:
        history: what happened in the last training; None before.
    """

    history: "History | None" = None

    if TYPE_CHECKING:

        @override
        def __call__(self, values: Iterable[I_contra], /) -> Iterator[O_co]: ...

    def forward(self, values: Iterable[I_contra]) -> Iterator[O_co]:
        """Yield the outputs in the order of the stream.

        Raises:
            TextError: if `values` is one text.
            StageError: if a stage raises StopIteration.
            CompositionError: if a stage loses or doubles values.
        """
        return self._run(values, predicts=False)

    @override
    def predict_batches(self, values: Iterable[I_contra], /) -> Iterator[O_co]:
        """Yield the outputs for prediction: without shuffling, and buffering little."""
        return self._predict(values)

    @override
    def predict_alone(self, value: Any, /, observer: Observer | None = None) -> Any:
        """Return the output for a prediction with one input; None if that of a stream is not known without others."""
        stages = list(enumerate(self.stages.values(), start=1))
        streams = [index for index, (_, stage) in enumerate(stages) if is_stream(stage)]
        if len(streams) != 1:
            return None
        at, device = streams[0], self._find_device()
        number, stream = stages[at]
        row = run_stages(stages[:at], value, device, predicts=True, observer=observer)
        with naming_stage(number, stream):
            alone = cast("Stream[Any, Any]", stream).predict_alone(row)
        if alone is None:
            return None
        if observer is not None:
            observer.see_row(row)
        return run_stages(stages[at + 1 :], alone, device, predicts=True, observer=observer)

    def _find_device(self) -> torch.device | None:
        """Return the device of the weights; None without weights."""
        if self.prepared is not None:
            return self.prepared.device
        return next((tensor.device for tensor in self.parameters()), None)

    def _predict(self, values: Iterable[Any], observer: Observer | None = None) -> Iterator[Any]:
        return self._run(values, predicts=True, observer=observer)

    @overload
    def predict(
        self: "StreamChain[A, Predictions[R]]", inputs: Iterable[A], *, scores: Literal[False] = False
    ) -> Iterator[R]: ...
    @overload
    def predict(
        self: "StreamChain[A, Predictions[object, D]]", inputs: Iterable[A], *, scores: Literal[True]
    ) -> Iterator[D]: ...
    def predict(
        self: "StreamChain[A, Predictions[R, D]]", inputs: Iterable[A], *, scores: bool = False
    ) -> Iterator[R | D]:
        """Yield one prediction per input, in the order of the inputs, lazily.

        Runs in evaluation mode without gradients, and restores the mode. Buffers at most as many predictions as the
        bucket reads ahead. Targets of the inputs are ignored.

        Args:
            inputs: the inputs, with or without targets.
            scores: yield each prediction as an object with the scores that it follows from: a `ClassPrediction`, a
                list of `StepPrediction`, a `MultiLabelPrediction` or a `JointPrediction`. A number has no scores.

        Raises:
            TextError: if `inputs` is one text.
            StageError: if a stage raises StopIteration.
            CompositionError: if a stage lost a row or returned one twice.
        """
        from pipeline.inference.predict import predict, predict_with_scores  # noqa: PLC0415 - as in `_summarize`

        return (predict_with_scores if scores else predict)(self, self._predict, inputs)

    def for_inference(
        self,
        *,
        precision: Precision = "float32",
        deterministic: bool = False,
        examples: Iterable[I_contra] | None = None,
    ) -> Self:
        """Return a copy of this pipe for inference, with fixed weights that are packed for the kernels.

        It predicts, evaluates, generates and steps as this pipe does, but faster; and it can be saved. It has the
        weights of this moment. To train or load others, use this pipe, and call the method again.

        Args:
            precision: the precision of products of inputs and weights. Parts without kernels of this precision compute
                in float32.
            deterministic: whether a row's prediction has the same bits alone and in any batch, in any order and with
                any number of threads.
            examples: inputs on which to compare the copy with this pipe. The result is `inference_report` of the copy,
                which is printed and saved with it.

        Raises:
            CompositionError: if a stage waits for its input size.
            OptionError: if an option does not suit the weights, or there are no examples.

        Example:
            >>> from pipeline import Bucket, FromIds, Pad, classifier
            >>> pipe = FromIds() >> Bucket(rows=2) >> Pad() >> classifier(9, 2, hidden_size=3)
            >>> fast = pipe.for_inference(examples=[[1, 2], [3]])
            >>> fast.inference_report.changed, list(fast.predict([[1, 2]])) == list(pipe.predict([[1, 2]]))
            (0, True)
        """
        from pipeline.inference.predict import score_inputs  # noqa: PLC0415 - as in `_summarize`
        from pipeline.inference.prepare import prepare  # noqa: PLC0415

        return prepare(self, InferenceOptions(precision, deterministic), examples, score_inputs)

    def step(
        self: "StreamChain[A, StepScores[N]]",
        token: "int | Sequence[float] | Tensor | Kind",
        carry: "StepCarry | None" = None,
    ) -> "tuple[StepPrediction[N], StepCarry]":
        """Predict the next step of one row without running earlier ones again; return the prediction and a new carry.

        The row may be endless, such as the readings of a sensor. Predictions equal those of `predict` with
        `scores=True`. For several rows at once, or several steps, use `Chain.step` of the model.

        Args:
            token: the next step: an id, a vector of features, or a sequence of one step, such as an event with fields.
                Texts are not split here: pass the ids of a tokenizer one by one, bos first if the pipe adds it.
            carry: the carry that the call before returned; None at the beginning of the row.

        Raises:
            CompositionError: if a stage cannot run step by step, or the carry is of another model.
            ShapeError: if the token is not one step.
            ValuesError: if a feature is NaN or infinite, or an id is out of range.

        Example:
            >>> from pipeline import Bucket, Encode, FromFeatures, Labels, Pad, Tag, Vectors
            >>> model = Encode("gru", input_size=2, hidden_size=3) >> Tag(Labels(["on", "off"]))
            >>> pipe, carry = FromFeatures() >> Bucket(Vectors, rows=8) >> Pad(Vectors) >> model, None
            >>> for reading in ([0.5, 1.0], [0.25, 2.0]):
            ...     prediction, carry = pipe.step(reading, carry)
            >>> prediction.step, prediction.label in ("on", "off")
            (1, True)
        """
        from pipeline.inference.generation.step_row import step_row  # noqa: PLC0415 - as in `_summarize`

        return step_row(self, token, carry)

    def fit(
        self: "StreamChain[A, Predictions[object, object]]",
        train: Iterable[A],
        *,
        valid: Iterable[A] | None = None,
        epochs: int = 10,
        **options: "Unpack[FitOptions]",
    ) -> "History":
        """Train the weights on examples with targets, and return what happened in each epoch.

        With validation data, the pipe has the weights of the best epoch afterwards, else those of the last one. The
        mode of the pipe and the global random generators are restored. Everything random follows from the seed: on a
        CPU, two runs have the same weights to the last bit.

        Args:
            train: the examples. They are read again in each epoch.
            valid: examples for validation after each epoch.
            epochs: the number of epochs.
            options: see `FitOptions`.

        Raises:
            UnknownOptionError: for an option that does not exist.
            OptionError: for an option outside its range, or if there are no rows to train on.
            CompositionError: if the pipe has no model after its batches, or does not end with a head.
            TargetError: if examples have no targets, or not those of the head.
            TrainingError: if the loss or a gradient is NaN or infinite, with the batch and its rows.
            InferenceError: if this pipe is for inference.

        Example:
            >>> from pipeline import Bucket, Example, FromIds, Pad, classifier
            >>> examples = [Example([2, 3], target=0), Example([4, 5, 6], target=1)] * 8
            >>> pipe = FromIds() >> Bucket(rows=4) >> Pad() >> classifier(9, 2, hidden_size=8)
            >>> history = pipe.fit(examples, valid=examples, epochs=5, learning_rate=0.02, progress=False)
            >>> len(history), history.best.metrics["accuracy"], list(pipe.predict([[2, 3], [4, 5, 6]]))
            (5, 1.0, [0, 1])
        """
        from pipeline.training.fit import fit  # noqa: PLC0415 - as in `_summarize`

        self.reject_if_prepared("fit")
        return fit(self, train, valid=valid, epochs=epochs, options=options)

    def evaluate(
        self: "StreamChain[A, Predictions[object, object]]",
        examples: Iterable[A],
        *,
        metrics: "MetricsOption | None" = None,
        over_ranks: bool = False,
    ) -> "Evaluation":
        """Compute the loss and metrics on examples with targets.

        Runs in evaluation mode without gradients, and restores the mode. Batches are those of prediction: a row that
        exceeds the budget is alone. Rows without a target, or without steps, do not count; their number is stated.

        Args:
            examples: the examples.
            metrics: a list of registered names, `Metric` objects and metrics of torchmetrics, or a mapping with the
                names under which to report them. By default they follow from the head; see the page on training. With
                several heads, names begin with that of the head: `["label.accuracy"]`.
            over_ranks: share the batches among the ranks of `torch.distributed`, and return the result of all batches
                on each of them. All ranks must call this with the same examples.

        Raises:
            TargetError: if no example has a target, or they are not those of the head or of a metric.
            OptionError: if a metric is something else.
            CompositionError: if the pipe does not end with a head.

        Example:
            >>> from pipeline import Bucket, Example, FromIds, Labels, Pad, classifier
            >>> labels = Labels(["ham", "spam"])
            >>> pipe = FromIds() >> Bucket(rows=4) >> Pad(labels=labels) >> classifier(9, labels, hidden_size=8)
            >>> evaluation = pipe.evaluate([Example([2, 3], "ham"), Example([4, 5], "spam"), Example([6], "ham")])
            >>> evaluation.rows, list(evaluation.metrics), evaluation.confusion.counts.sum().item()
            (3, ['accuracy', 'macro_f1'], 3)
        """
        from pipeline.training.evaluate import evaluate  # noqa: PLC0415 - as in `_summarize`

        return evaluate(self, examples, metrics=metrics, over_ranks=over_ranks)

    @overload
    def generate(
        self: "StreamChain[str, StepScores[int]]",
        prompts: Iterable[str],
        *,
        scores: Literal[False] = False,
        **options: "Unpack[GenerateOptions]",
    ) -> Iterator[str]: ...
    @overload
    def generate(
        self: "StreamChain[str, StepScores[int]]",
        prompts: Iterable[str],
        *,
        scores: Literal[True],
        **options: "Unpack[GenerateOptions]",
    ) -> "Iterator[Generation[str]]": ...
    @overload
    def generate(
        self: "StreamChain[list[int], StepScores[int]]",
        prompts: "Iterable[Sequence[int] | Tensor]",
        *,
        scores: Literal[False] = False,
        **options: "Unpack[GenerateOptions]",
    ) -> Iterator[list[int]]: ...
    @overload
    def generate(
        self: "StreamChain[list[int], StepScores[int]]",
        prompts: "Iterable[Sequence[int] | Tensor]",
        *,
        scores: Literal[True],
        **options: "Unpack[GenerateOptions]",
    ) -> "Iterator[Generation[list[int]]]": ...
    def generate(
        self: "StreamChain[Any, StepScores[int]]",
        prompts: Iterable[object],
        *,
        scores: bool = False,
        **options: "Unpack[GenerateOptions]",
    ) -> Iterator[Any]:
        """Yield the continuation of each prompt by a language model, in the order of the prompts, lazily.

        Each token is drawn from the model's scores after the ones before it. The past is not run again: a prompt is
        read once, and then a step costs the same however long the row is, but for attention without a `window`, which
        reads all earlier steps. Runs in evaluation mode without gradients, and restores the mode.

        A prompt begins with bos if the pipe adds it. It is not truncated, and may be empty only with bos.

        Args:
            prompts: texts; or sequences of ids, if the pipe takes ids.
            scores: yield a `Generation`, with the log-probability of each token.
            options: see `GenerateOptions`; `max_new_tokens` is required.

        Raises:
            CompositionError: if a stage cannot run step by step, or the pipe does not end in scores per step.
            OptionError: if an option is out of its range, or two exclude each other.
            TextError: if `prompts` is one text, or a prompt has no tokens.

        Example:
            >>> from pipeline import Bucket, Pad, Shift, Tokenize, language_model
            >>> tokenize = Tokenize.train(["to be or not to be"], bos=True, eos=True)
            >>> pipe = tokenize >> Shift() >> Bucket(rows=8) >> Pad() >> language_model(tokenize.vocab_size)
            >>> texts = list(pipe.generate(["to be", ""], max_new_tokens=5, top_k=3, seed=0))
            >>> len(texts), all(len(text.split()) <= 5 for text in texts)
            (2, True)
        """
        from pipeline.inference.generation.generate import generate  # noqa: PLC0415 - as in `_summarize`

        found = generate(self, prompts, **options)
        return found if scores else (each.output for each in found)

    def predict_file(
        self: "StreamChain[A, Predictions[R, D]]",
        source: Iterable[A],
        output: "str | PathLike[str]",
        **options: "Unpack[FileOutputOptions]",
    ) -> "WrittenFile":
        r"""Predict all records of a source, and write them to a file with their predictions.

        All columns of a file are kept, and `prediction` and `probability` are added; of other sources, and of parts of
        files, the input and the target are kept. Several classes of a row, or one per word, are lists, with a
        probability for each. With several heads, the columns have the names of the heads at their end. CoNLL-U gets the
        predictions in one of its columns. Malformed records are treated as the source says (`on_bad_record`): skipped
        ones are not in the output.

        Records are read, predicted and written some thousand at a time, to a file beside the output (`OUTPUT.partial`),
        which is moved to its place when it is complete. The same call continues an interrupted run; its result is that
        of an uninterrupted run.

        Args:
            source: a source, or a list of inputs.
            output: the file to write: .csv, .jsonl, .parquet (needs the extra `arrow`) or .conllu. A file that
                exists is replaced with `resume=False` only, at the end.
            options: see `FileOutputOptions`.

        Raises:
            OptionError: if the output has no known suffix, exists, or is unfinished and of another model.
            UnknownOptionError: for an option that does not exist.
            RecordError: if a record is malformed, or does not fit the format.
            SourceError: if a file cannot be read or written, or the input differs from that of the interrupted run.

        Example:
            >>> import pathlib
            >>> from pipeline import Bucket, Labels, Pad, Tokenize, classifier
            >>> from pipeline.sources import Csv
            >>> folder = pathlib.Path(getfixture("tmp_path"))
            >>> _ = (folder / "new.csv").write_text("id,text\n7,a fine film\n8,dull\n")
            >>> tokenize, labels = Tokenize.train(["a fine dull film"]), Labels(["bad", "good"])
            >>> pipe = tokenize >> Bucket(rows=8) >> Pad() >> classifier(tokenize.vocab_size, labels)
            >>> written = pipe.predict_file(Csv(folder / "new.csv"), folder / "out.csv")
            >>> written.rows, (folder / "out.csv").read_text().splitlines()[0]
            (2, 'id,text,prediction,probability')
        """
        from pipeline.inference.files import FileOutputOptions, predict_file  # noqa: PLC0415 - as in `_summarize`

        unknown = options.keys() - FileOutputOptions.__annotations__.keys()
        if unknown:
            names = ", ".join(FileOutputOptions.__annotations__)
            msg = f"predict_file has no option {min(unknown)!r}; its options are {names}."
            raise UnknownOptionError(msg, option=min(unknown))
        return predict_file(self, source, output, **options)

    def vectors(self, inputs: Iterable[I_contra]) -> Iterator[Tensor]:
        """Yield the vector of each input, in the order of the inputs, lazily: the output of the last pooling.

        The vector is on the CPU. Stages such as `Dropout` after `Pool` count as a part of it, heads do not.

        Raises:
            CompositionError: if no stage returns pooled vectors; or as in `predict`.

        Example:
            >>> from pipeline import Bucket, FromIds, Pad, classifier
            >>> pipe = FromIds() >> Bucket(rows=2) >> Pad() >> classifier(9, 2, hidden_size=3)
            >>> [vector.shape for vector in pipe.vectors([[1, 2], [], [3]])]
            [torch.Size([6]), torch.Size([6]), torch.Size([6])]
        """
        from pipeline.inference.vectors import compute_vectors  # noqa: PLC0415

        return compute_vectors(self, self._predict, inputs)

    def attention_weights(self, inputs: Iterable[I_contra]) -> Iterator["AttentionWeights"]:
        """Yield the weights of all attentions for each input, in the order of the inputs, lazily.

        They are computed for this call only: of `Attend` and `AttendEarlier` the weight of each step in each step's
        context, and of `Pool("attention")` the weight of each step in the row's vector. Inner chains of `EachStep` are
        left out. Up to as many rows as the bucket reads ahead are kept, each with a number per pair of steps.

        Raises:
            CompositionError: if the pipe has no attention; or as in `predict`.

        Example:
            >>> from pipeline import Attend, Bucket, Embed, Encode, Pad, Pool, Tokenize
            >>> tokenize = Tokenize.train(["to be"])
            >>> model = Embed(9, 4) >> Encode("gru", hidden_size=4) >> Attend("dot") >> Pool("attention")
            >>> found = next((tokenize >> Bucket(rows=2) >> Pad() >> model).attention_weights(["to be"]))
            >>> found.spans, {name: weights.shape for name, weights in found.weights.items()}
            ([(0, 2), (3, 5)], {'attend': torch.Size([2, 2]), 'pool': torch.Size([2])})
        """
        from pipeline.inference.attention_weights import compute_attention_weights  # noqa: PLC0415

        return compute_attention_weights(self, self._predict, inputs)

    def save(self, folder: str | PathLike[str], *, replace: bool = True, card: str | None = None) -> None:
        """Save the pipe as a folder of plain files: configuration, weights, tokenizer and a model card.

        The folder is complete or as before, whatever happens, and can be read while it is replaced. `pipeline.load`
        reads it. Parts of one's own are saved by the name under which a plugin offers them.

        Args:
            folder: the folder to write.
            replace: whether a saved pipe that is there may be replaced.
            card: text for the model card, in Markdown: what the model is for, and its limits. With it, a model card
                that was edited may be replaced.

        Raises:
            SaveError: if something of the pipe would be lost, such as a hook, or a part without a registered name.
            FolderError: if the folder cannot be written, or has other files, or a model card that was edited.

        Example:
            >>> import tempfile
            >>> from pipeline import Bucket, FromIds, Pad, classifier, load
            >>> pipe = FromIds() >> Bucket(rows=2) >> Pad() >> classifier(9, 2, hidden_size=3)
            >>> folder = tempfile.mkdtemp()
            >>> pipe.save(folder)
            >>> list(load(folder, takes=list[int], gives=int).predict([[1]])) == list(pipe.predict([[1]]))
            True
        """
        from pipeline.saving.save import save_pipe  # noqa: PLC0415 - as in `_summarize`

        save_pipe(self, folder, replace=replace, card=card)

    def inspect(self, value: I_contra) -> "Inspection":
        """Run one input through every stage, and return a table of each stage's output."""
        return self._inspect(next(number_rows([value])))

    def _run(self, values: Iterable[Any], *, predicts: bool, observer: Observer | None = None) -> Iterator[Any]:
        reject_single_text(values)
        device = self._find_device()
        check_ordered(values)
        flow: Iterable[Any] = read_inputs(iterate(values) if is_map_style(values) else values)
        has_length = not predicts
        has_rows = False
        # Neighbors that take one value at a time run in one loop: fewer nested generators.
        for takes_one, group in groupby(self._numbered(), key=_takes_one_value):
            if takes_one:
                flow = map_stages(list(group), flow, device, predicts=predicts, observer=observer)
                continue
            for numbered in group:
                if is_stream(numbered[1]):
                    if observer is not None and not has_rows:
                        flow, has_rows = show_rows(flow, observer), True
                    if has_length:
                        # The stages so far map one value to one: the stream may use the length of the input.
                        flow, has_length = SizedIterator(iter(flow), values), False
                    flow = run_stream(numbered, flow, predicts=predicts)
                else:
                    flow = map_together(numbered, flow)
        return locate_errors(iter(flow), values)


_DEFAULT_MAP: Final[object] = cast("Any", Stage).map


def _takes_one_value(numbered: NumberedStage) -> bool:
    """Return whether a stage has no implementation of its own for several values."""
    stage: object = numbered[1]
    return not isinstance(stage, Stream) and getattr(type(stage), "map", _DEFAULT_MAP) is _DEFAULT_MAP
