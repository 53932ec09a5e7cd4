"""Check validation data before the first epoch, so that its errors are not found after hours of training."""

from collections.abc import Iterable
from itertools import islice
from typing import Any, Final, cast

from pipeline.core.join import join
from pipeline.core.running import locate_errors
from pipeline.core.stage import StageBase, Stream
from pipeline.core.stream_chain import StreamChain
from pipeline.data.batches import is_batch
from pipeline.data.iteration import check_ordered, find_length, iterate
from pipeline.data.metadata import has_target
from pipeline.errors import OptionError, PipelineError, TargetError
from pipeline.sources.source import Source
from pipeline.stages.input_stage import to_examples
from pipeline.training.split_pipe import SplitPipe

ROWS: Final = 1_000
"""The number of rows that are checked: more could take long."""


def check_validation(pipe: StreamChain[Any, Any], train: Iterable[object], valid: Iterable[object]) -> None:
    """Run the first rows of validation data through the data stages of a pipe, without its model.

    Only data and stages that are the same each time they are read are checked: lists and sources, and stages of this
    library. Anything else may draw at random, so that reading it once more would change the training. Windows
    (`BPTTWindows`) are not checked, since they count their epochs.

    Raises:
        OptionError: if there are no rows.
        TargetError: if no row has a target, but those to train on have.
        PipelineError: as the data stages.
    """
    check_ordered(valid)
    # As an object: a check of its type would leave the rows without a type.
    given: object = valid
    # The length of a source may be known only after the whole file was read.
    if not isinstance(given, Source) and find_length(valid) == 0:
        raise _make_empty_error()
    split = SplitPipe.of(pipe)
    stages = [stage for _, stage in split.data]
    if split.windows is not None or not isinstance(given, list | tuple | Source) or not all(map(_is_fixed, stages)):
        return
    chain = cast("Stream[Any, Any]", join(*stages) if len(stages) > 1 else stages[0])
    rows, has_any = 0, False
    try:
        for batch in locate_errors(chain.predict_batches(islice(iterate(valid), ROWS)), valid):
            if not is_batch(batch):
                return
            rows += batch.report().rows
            targets = [batch.metadata.targets, *(batch.metadata.named_targets or {}).values()]
            has_any = has_any or any(bool(has_target(each).any()) for each in targets if each is not None)
    except PipelineError as error:
        error.args = (f"{error} This is in valid, which is checked before the first epoch.", *error.args[1:])
        raise
    if not rows:
        raise _make_empty_error()
    # Beyond the rows that were read, there may be targets. A pipe that is trained without any does not need them here.
    if not has_any and rows < ROWS and _has_target(train):
        msg = (
            f"valid must have at least one target in a row with steps, got none in {rows:,} rows; pass "
            "Example(input, target=...), and check that the inputs are not empty."
        )
        raise TargetError(msg, rows=rows)


def _make_empty_error() -> OptionError:
    return OptionError("valid must have at least one row, got none; pass examples, or leave it out.")


def _is_fixed(stage: StageBase) -> bool:
    """Return whether a stage makes the same of the same rows, without anything random of its own."""
    if type(stage).__module__.partition(".")[0] != "pipeline":
        return False
    get_key: object = getattr(getattr(stage, "tokenizer", None), "cache_key", None)
    return not callable(get_key) or get_key() is not None


def _has_target(train: Iterable[object]) -> bool:
    """Return whether the first example to train on has a target; False if it cannot be read without a change."""
    given: object = train
    if not isinstance(given, list | tuple | Source):
        return False
    return any(example.target is not None for example in to_examples(islice(iterate(train), 1)))
