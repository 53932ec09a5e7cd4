"""`python -m pipeline train FILE`: train a model on a file, and save it."""

import argparse
import sys
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from pipeline.cli.data import AnySource, Choice, add_data_arguments, get_suffix, open_source
from pipeline.cli.outputs import check_parent
from pipeline.core.contexts import seeded
from pipeline.core.stream_chain import StreamChain
from pipeline.errors import OptionError, TargetError
from pipeline.labels import Labels, get_scalar, is_step_target, to_steps
from pipeline.models import classifier, language_model, tagger
from pipeline.registry import registry
from pipeline.saving.save import check_folder
from pipeline.stages.bucket import Bucket
from pipeline.stages.pad import Pad
from pipeline.stages.shift import Shift
from pipeline.stages.tokenize import Tokenize
from pipeline.stages.tokenize_words import TokenizeWords
from pipeline.text import escape_control_characters
from pipeline.training.options import Settings

Model: TypeAlias = Literal["classifier", "tagger", "language_model"]
Pipe: TypeAlias = StreamChain[Any, Any]

NONE: Final = "none"
"""Stands for a model without attention."""

_VOCABULARY: Final = 20_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    add_example_arguments(parser)
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", required=True, help="folder for the model; an older model is replaced"
    )
    model = parser.add_argument_group("model").add_argument
    model("--encoder", metavar="NAME", help="registered encoder (default: bilstm; lstm for a language model)")
    model("--attention", metavar="NAME", help="registered attention, or none (default: that of the model)")
    model("--pooling", metavar="NAME", help="registered pooling of a classifier (default: max)")
    model("--head", metavar="NAME", help="registered head of a tagger, such as crf (default: tag)")
    model("--constraints", choices=["bio", "bioes"], help="rules of spans that a tagger's head keeps, as crf can")
    add_size_arguments(model)
    training = parser.add_argument_group("training").add_argument
    add_training_arguments(training)
    training("--seed", type=int, metavar="N", default=0, help="fixes everything random (default: 0)")
    training("--checkpoints", type=Path, metavar="FOLDER", help="folder for checkpoints")
    training("--resume", action="store_true", help="continue from the newest checkpoint, if there is one")
    training("--log-csv", type=Path, metavar="PATH", help="write a line per epoch to this file")
    training("--quiet", action="store_true", help="show no progress")


def add_example_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say which examples a model is trained on, and of which kind it is."""
    add = parser.add_argument
    add("file", type=Path, metavar="FILE", help="examples: .csv, .tsv, .jsonl, .parquet, .arrow, .conllu or .txt")
    add_data_arguments(parser, target=True)
    add(
        "--model",
        choices=["classifier", "tagger", "language_model"],
        help="default: tagger for CoNLL-U and --words, language_model for .txt, else classifier",
    )
    add(
        "--missing-target",
        choices=["raise", "skip"],
        default="raise",
        help="treatment of rows without a target; skip leaves them out (default: raise)",
    )
    add("--valid", type=Path, metavar="FILE", help="examples for validation (default: a part of FILE)")
    add("--split", type=float, metavar="SHARE", default=0.9, help="share of FILE to train on, without --valid (0.9)")


def add_size_arguments(model: Callable[..., object]) -> None:
    """Add the arguments of a model's tokenizer and sizes to a group, by its `add_argument`."""
    model("--tokenizer", metavar="NAME", help="registered tokenizer (default: words; whole for lists of words)")
    model("--vocab-size", type=int, metavar="N", help=f"largest number of tokens (default: {_VOCABULARY})")
    model("--max-length", type=int, metavar="N", help="cut texts after this number of tokens (default: no limit)")
    model("--embedding-dim", type=int, metavar="N", default=100, help="features per token (default: 100)")
    model("--hidden-size", type=int, metavar="N", default=128, help="features of the encoder (default: 128)")
    model("--dropout", type=float, metavar="P", default=0.0, help="dropout probability (default: 0)")


def add_training_arguments(training: Callable[..., object]) -> None:
    """Add the arguments of `fit` to a group, by its `add_argument`."""
    training("--epochs", type=int, metavar="N", default=10, help="number of epochs (default: 10)")
    training("--learning-rate", type=float, metavar="R", help="default: 0.001")
    training("--schedule", choices=["constant", "linear", "cosine"], default="constant", help="default: constant")
    training("--warmup", type=float, metavar="X", default=0.0, help="optimizer steps, or their share (default: 0)")
    training("--patience", type=int, metavar="N", help="stop after this number of epochs without a better one")
    training("--max-padded-steps", type=int, metavar="N", help="largest batch (default: chosen from the lengths)")
    training("--accumulate", type=int, metavar="N", default=1, help="batches per optimizer step (default: 1)")
    training("--precision", metavar="NAME", default="float32", help="float32 or bfloat16 (default: float32)")
    training("--device", metavar="NAME", help="such as cuda (default: cpu)")


def read_fit_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options of `fit` that `add_training_arguments` reads, without the number of epochs.

    Raises:
        OptionError: if one is out of its range.
    """
    names = ("learning_rate", "schedule", "warmup", "patience", "accumulate", "precision", "device")
    found = {name: getattr(options, name) for name in names}
    # Now, not after the file is read.
    Settings.of(options.epochs, found)
    return found


def train_model(options: argparse.Namespace) -> None:
    """Train a model, save it, and print how good it is.

    Raises:
        PipelineError: if an option, the file or an example is wrong.
    """
    output: Path = options.output
    # Now, not after hours of training.
    check_parent("--output", output)
    check_parent("--log-csv", options.log_csv)
    check_folder(output)
    fit_options = read_fit_options(options)
    model = choose_model(options)
    train, valid = read_examples(options, model)
    pipe = make_pipe(options, model, train, valid)
    history = pipe.fit(
        train,
        valid=valid,
        epochs=options.epochs,
        seed=options.seed,
        checkpoints=options.checkpoints,
        resume=options.resume,
        log_csv=options.log_csv,
        progress=False if options.quiet else None,
        **fit_options,
    )
    pipe.save(output)
    best = history.best
    results = ", ".join(f"{name} {value:.4g}" for name, value in best.metrics.items())
    folder = escape_control_characters(str(output))
    sys.stdout.write(f"saved the model of epoch {best.number} to {folder}{': ' if results else ''}{results}\n")


def choose_model(options: argparse.Namespace) -> Model:
    """Return the model that the options name, or that fits the file.

    Raises:
        OptionError: if it does not fit the file.
    """
    suffix = get_suffix(options.file)
    model: Model | None = options.model
    has_words = suffix == ".conllu" or options.words is not None
    if model is None:
        model = "tagger" if has_words else "language_model" if suffix == ".txt" else "classifier"
    if (model == "tagger") != has_words:
        rule = "a tagger needs words with a target each, from CoNLL-U or --words NAME"
        msg = f"{rule}, got --model {model} for {options.file.name!r}; change one of them."
        raise OptionError(msg, model=model)
    if model == "classifier" and suffix == ".txt":
        msg = f"a classifier needs targets, which {options.file.name!r} has none of; use .csv, .jsonl or .parquet."
        raise OptionError(msg, model=model)
    return model


def read_examples(options: argparse.Namespace, model: Model) -> tuple[AnySource, AnySource]:
    """Return the examples for training and for validation.

    Raises:
        TargetError: for a row without a target, unless such rows are left out.
        OptionError: if there are too few rows.
    """
    target: str | None = options.target or ("upos" if get_suffix(options.file) == ".conllu" else "label")
    choice = Choice(text=options.text, words=options.words, target=None if model == "language_model" else target)
    reading: dict[str, Any] = {"encoding": options.encoding, "on_bad_record": options.on_bad_record}
    whole = open_source(options.file, choice, **reading)
    if choice.target is not None:
        whole = _check_targets(whole, options.file, choice.target, options.missing_target)
    if options.valid is not None:
        valid = open_source(options.valid, choice, **reading)
        if choice.target is not None:
            valid = _check_targets(valid, options.valid, choice.target, options.missing_target)
        return whole, valid
    count = len(whole)
    if count < 2:
        got = f"{str(options.file)!r} has {'one row' if count else 'no rows'}"
        msg = f"{got}, but one to train on and one to validate with are needed; add rows, or pass --valid FILE."
        raise OptionError(msg, rows=count)
    return whole.split(options.split, seed=options.seed)


def _check_targets(source: AnySource, file: Path, target: str, treatment: str) -> AnySource:
    """Return the rows with a target, and say on standard error how many there are without one."""
    kept: list[int] = []
    for number, found in enumerate(source.targets()):
        if found is not None:
            kept.append(number)
        elif treatment == "raise":
            msg = (
                f"{source.where(number)}: a row must have a target, but {target!r} is empty; fill it in, or leave such "
                "rows out with --missing-target skip."
            )
            raise TargetError(msg, file=str(file), row=number)
    count = len(source) - len(kept)
    if not kept and count:
        msg = f"no row of {str(file)!r} has a target, since {target!r} is empty in all {count:,}; check --target."
        raise TargetError(msg, file=str(file))
    if not count:
        return source
    sys.stderr.write(f"left out {count:,} rows of {escape_control_characters(str(file))} without a target\n")
    return source.select(kept)


def make_pipe(options: argparse.Namespace, model: Model, train: AnySource, *held_out: AnySource) -> Pipe:
    """Return the pipe with random weights, which follow from the seed. Its classes are those of all examples.

    Raises:
        PipelineError: if an option is out of range, or the examples have no targets.
    """
    chosen: dict[str, Any] = {"max_length": options.max_length}
    if options.vocab_size is not None or _takes_size(options.tokenizer):
        chosen["vocab_size"] = _VOCABULARY if options.vocab_size is None else options.vocab_size
    shape: dict[str, Any] = {
        "embedding_dim": options.embedding_dim,
        "hidden_size": options.hidden_size,
        "dropout": options.dropout,
        **({} if options.encoder is None else {"encoder": options.encoder}),
    }
    if options.attention is not None:
        shape["attention"] = None if options.attention == NONE else options.attention
    if options.pooling is not None:
        if model != "classifier":
            msg = f"--pooling is for classifiers, got --model {model}; leave it out."
            raise OptionError(msg, pooling=options.pooling)
        shape["pooling"] = options.pooling
    # `compare` has no such arguments.
    head, constraints = getattr(options, "head", None), getattr(options, "constraints", None)
    if model == "tagger":
        shape |= {"head": head or "tag", "constraints": constraints}
    elif head is not None or constraints is not None:
        msg = f"--head and --constraints are for taggers, got --model {model}; leave them out."
        raise OptionError(msg, head=head, constraints=constraints)
    bucket = Bucket() if options.max_padded_steps is None else Bucket(max_padded_steps=options.max_padded_steps)
    with seeded(options.seed):
        if model == "language_model":
            texts = Tokenize.train(train.inputs(), options.tokenizer, bos=True, eos=True, **chosen)
            return texts >> Shift() >> bucket >> Pad() >> language_model(texts.vocab_size, **shape)
        classes = collect_classes(train, *held_out)
        pad = Pad() if isinstance(classes, int) else Pad(labels=classes)
        if model == "tagger":
            words = TokenizeWords.train(train.inputs(), options.tokenizer, **chosen)
            return words >> bucket >> pad >> tagger(words.vocab_size, classes, **shape)
        texts = Tokenize.train(train.inputs(), options.tokenizer, **chosen)
        return texts >> bucket >> pad >> classifier(texts.vocab_size, classes, **shape)


def _takes_size(tokenizer: str | None) -> bool:
    """Return whether a registered tokenizer has a size to choose; that of bytes has not."""
    tokenizers = registry().tokenizers
    return tokenizer is None or "vocab_size" in tokenizers.parameters(tokenizers.offer(tokenizer))


def collect_classes(*sources: AnySource) -> Labels | int:
    """Return the classes in the targets of some sources: their names, or their number if targets are class numbers.

    All sources, since a class that only the validation examples have would be an error there.

    Raises:
        LabelError: if targets are neither, or are missing.

    Example:
        >>> from pipeline.sources import Records
        >>> examples = [{"text": "dull", "stars": 0}, {"text": "fine", "stars": 4}]
        >>> collect_classes(Records(examples, text="text", target="stars"))
        5
    """
    largest = -1
    for target in chain.from_iterable(source.targets() for source in sources):
        for entry in to_steps(target) if is_step_target(target) else [target]:
            number = get_scalar(entry)
            if isinstance(number, int):
                largest = max(largest, number)
    if largest >= 0:
        return largest + 1
    return Labels.from_targets(chain.from_iterable(source.targets() for source in sources))
