"""Checkpoints of a training: each a folder that is written completely or not at all, and read without pickle."""

import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, cast, final

import attrs
from torch import Tensor, nn
from typing_extensions import override

from pipeline.batching.builder import describe_policy
from pipeline.core.contexts import preserve_random_state
from pipeline.core.stream_chain import StreamChain
from pipeline.data.iteration import find_length, iterate
from pipeline.errors import FolderError, LoadError, OptionError
from pipeline.saving.files import read_regular_file
from pipeline.saving.folders import write_folder
from pipeline.saving.json_files import read_json, write_json
from pipeline.saving.tensors import MAX_FILE, parse_tensors, write_tensors
from pipeline.training.loop import Training, Watcher
from pipeline.training.optimizers import list_sparse
from pipeline.training.split_pipe import SplitPipe
from pipeline.training.state import get_tensors, join_tensors, split_tensors

FORMAT: Final = 1
"""The number of the format of checkpoints, which readers compare."""

_STATE, _TENSORS = "state.json", "tensors.safetensors"
_PREFIX: Final = "checkpoint-"
_MAX_JSON: Final = 1 << 30


BUCKET: Final = "Bucket"
"""The name of the batches' description among the options of a fingerprint."""


@attrs.frozen
class Fingerprint:
    """What a training depends on: options, model and data, as text. Resuming with another one is rejected.

    Attributes:
        options: the options of `fit` that change the weights.
        model: the type and shape of each weight.
        data: the digest of the examples to train on and to validate with.
    """

    options: Mapping[str, str]
    model: Mapping[str, str]
    data: Mapping[str, str]

    @classmethod
    def of(
        cls, options: Mapping[str, str], pipe: nn.Module, train: Iterable[object], valid: Iterable[object] | None
    ) -> "Fingerprint":
        """Compute the fingerprint of a training. Reads the examples once, unless their source knows its digest."""
        model = {name: f"{tensor.dtype} {tuple(tensor.shape)}" for name, tensor in get_tensors(pipe).items()}
        # They are trained by another optimizer.
        model |= {f"{name}.sparse": "True" for name in list_sparse(pipe)}
        given = {"train": train, "valid": valid}
        data = {name: "None" if examples is None else digest_examples(examples) for name, examples in given.items()}
        return cls(options, model, data)

    def check(self, saved: Mapping[str, Mapping[str, str]], folder: Path) -> None:
        """Reject the fingerprint of a checkpoint if it differs.

        Raises:
            OptionError: with all differences.
        """
        own = cast("Mapping[str, Mapping[str, str]]", attrs.asdict(self))
        found: list[str] = []
        for part, values in own.items():
            theirs = saved.get(part, {})
            for name in dict.fromkeys([*values, *theirs]):
                if name == BUCKET and name not in theirs:
                    # Earlier versions did not write it; the state of the data is compared besides.
                    continue
                if name == "epochs" and not (name in theirs and name in values):
                    # Their number decides with a schedule only, and the difference of the schedules is named.
                    continue
                before, now = theirs.get(name, "nothing"), values.get(name, "nothing")
                if before != now:
                    # Digests say nothing to a reader.
                    found.append(f"{name} has other rows" if part == "data" else f"{name} was {before}, is {now}")
        if found:
            msg = (
                f"{str(folder)!r} belongs to another training: {'; '.join(found[:8])}; resume with the same options, "
                "model and data, or choose another folder of checkpoints."
            )
            raise OptionError(msg, folder=str(folder), differences=found)


@final
class Checkpoints(Watcher):
    """Writes checkpoints into a folder, and deletes old ones.

    Args:
        folder: the folder of all checkpoints of a training.
        fingerprint: that of the training.
        keep: the number of newest checkpoints to keep; that of the best epoch is kept besides.
        every: the number of optimizer steps between checkpoints within an epoch; None for none.
    """

    def __init__(self, folder: Path, fingerprint: Fingerprint, *, keep: int, every: int | None) -> None:
        self.folder: Final = folder
        self._fingerprint: Final = fingerprint
        self._keep: Final = keep
        self._every: Final = every

    def list_all(self) -> list[Path]:
        """Return all checkpoints, the oldest first."""
        return sorted(path for path in self.folder.glob(f"{_PREFIX}*") if (path / _STATE).is_file())

    def resume(self, training: Training, resume: bool | str | os.PathLike[str]) -> None:
        """Continue a training from its newest checkpoint, or a given one. Without any, it starts at the beginning.

        Raises:
            OptionError: if the folder has checkpoints, but the training should not continue from one; or if the
                checkpoint belongs to a training with other options, data or model.
            LoadError: if the checkpoint is damaged.
            FolderError: if it cannot be read.
        """
        # Rank 0 reads for all: others may not have the folder, and all must continue from the same checkpoint.
        content = training.ranks.share_from_first(lambda: self._read(resume))
        if content is not None:
            training.set_state(content)

    def _read(self, resume: bool | str | os.PathLike[str]) -> Mapping[str, Any] | None:
        # Found now, not when the first epoch ends.
        if self.folder.exists() and not self.folder.is_dir():
            msg = f"checkpoints must be a folder, got the file {str(self.folder)!r}; choose another path."
            raise FolderError(msg, folder=str(self.folder))
        found = self.list_all()
        if resume is False:
            if found:
                msg = (
                    f"{str(self.folder)!r} has checkpoints of an earlier training; pass resume=True to continue it, "
                    "or choose another folder."
                )
                raise OptionError(msg, folder=str(self.folder))
            return None
        if resume is True and not found:
            return None
        folder = found[-1] if resume is True else Path(resume)
        content = read_checkpoint(folder)
        self._fingerprint.check(content["fingerprint"], folder)
        return cast("Mapping[str, Any]", content["training"])

    @override
    def after_optimizer_step(self, training: Training) -> None:
        if self._every is not None and training.optimizer_steps % self._every == 0:
            self.write(training)

    @override
    def after_epoch(self, training: Training) -> None:
        self.write(training)

    def write(self, training: Training) -> None:
        """Write a checkpoint, and delete those that are not needed any more.

        Raises:
            SaveError: if the state of an optimizer or a scheduler cannot be stored without pickle.
            FolderError: if the folder cannot be written.
        """
        path = self._make_path(training.optimizer_steps)
        # All ranks are in it, but only one writes.
        state = training.get_state()
        if not training.ranks.is_first:
            return
        write_checkpoint(path, {"fingerprint": attrs.asdict(self._fingerprint), "training": state})
        best = self._make_path(training.history.best.optimizer_steps) if len(training.history) else None
        for old in self.list_all()[: -self._keep]:
            if old != best:
                # Renamed first: a folder that is deleted by halves must not look like a checkpoint.
                hidden = old.with_name(f".{old.name}.deleted")
                with suppress(OSError):
                    old.rename(hidden)
                shutil.rmtree(hidden, ignore_errors=True)

    def _make_path(self, optimizer_steps: int) -> Path:
        return self.folder / f"{_PREFIX}{optimizer_steps:010d}"


def write_checkpoint(folder: Path, content: object) -> None:
    """Write a checkpoint: one file of JSON, and one of tensors with its digest in the other.

    Raises:
        SaveError: if something cannot be stored without pickle.
        FolderError: if the folder cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    state = split_tensors(content, tensors, "")
    with write_folder(folder, marker=_STATE) as temporary:
        write_tensors(temporary / _TENSORS, tensors)
        with (temporary / _TENSORS).open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        write_json(temporary / _STATE, {"format": FORMAT, "sha256": digest, "content": state})


def read_checkpoint(folder: Path) -> Any:  # noqa: ANN401 - what was written
    """Read a checkpoint. No code in it runs.

    Raises:
        LoadError: if it is damaged, or of an unknown format.
        FolderError: if it cannot be read.
    """
    match read_json(folder / _STATE, limit=_MAX_JSON):
        case {"format": int(number), "sha256": str(digest), "content": state, **rest} if not rest:
            pass
        case _:
            msg = f"{str(folder)!r} must have format, sha256 and content in {_STATE}; use another checkpoint."
            raise LoadError(msg, folder=str(folder))
    if number != FORMAT:
        msg = (
            f"{str(folder)!r} has the format {number}, but this version reads {FORMAT}; use the version that wrote it."
        )
        raise LoadError(msg, folder=str(folder), format=number)
    content = read_regular_file(folder / _TENSORS, limit=MAX_FILE)
    if content.digest != digest:
        msg = f"{str(folder / _TENSORS)!r} is damaged: its digest is not that in {_STATE}; use another checkpoint."
        raise LoadError(msg, folder=str(folder))
    return join_tensors(state, parse_tensors(content.data, str(folder / _TENSORS)))


def describe_bucket(pipe: StreamChain[Any, Any], seed: int | None) -> dict[str, str]:
    """Return the limits and the seed of a pipe's bucket, to name a difference; nothing without one.

    Args:
        pipe: the pipe.
        seed: the option of `fit`, which replaces the seed of a bucket that shuffles.
    """
    bucket = SplitPipe.of(pipe).bucket
    if bucket is None:
        return {}
    limits = "automatic" if bucket.automatic else str(describe_policy(bucket.policy)[1:])
    return {BUCKET: f"{limits} with seed={bucket.seed if seed is None or bucket.seed is None else seed}"}


def digest_examples(examples: Iterable[object]) -> str:
    """Return a digest of examples that is the same in every process; "unknown" for data without a known length.

    Example:
        >>> from pipeline import Example
        >>> digest_examples([Example("to be", target=1)]) == digest_examples([Example("to be", target=2)])
        False
    """
    known: object = getattr(examples, "fingerprint", None)
    if isinstance(known, str):
        return known
    if find_length(examples) is None:
        return "unknown"
    digest = hashlib.blake2b(digest_size=16)
    # A source may draw while it is read. Training then draws the same with checkpoints and without.
    with preserve_random_state():
        for example in iterate(examples):
            digest.update(_describe(example).encode("utf-8", "surrogatepass"))
            digest.update(b"\0")
    return digest.hexdigest()


def _describe(value: object) -> str:  # noqa: PLR0911 - one per type
    """Return text that is equal for equal values, in every process: without addresses, and with sets in order."""
    if value is None or isinstance(value, str | int | float):
        return repr(value)
    if isinstance(value, Tensor):
        array = value.detach().cpu().double().numpy() if value.is_floating_point() else value.detach().cpu().numpy()
        return f"{value.dtype}{tuple(value.shape)}{hashlib.blake2b(array.tobytes(), digest_size=16).hexdigest()}"
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value).items()
        return f"{{{','.join(f'{_describe(key)}:{_describe(each)}' for key, each in items)}}}"
    if isinstance(value, set | frozenset):
        return f"{{{','.join(sorted(map(_describe, cast('set[object]', value))))}}}"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_describe, cast('list[object]', value)))}]"
    if attrs.has(type(value)):
        return _describe(attrs.asdict(cast("attrs.AttrsInstance", value), recurse=False))
    to_list: Any = getattr(value, "tolist", None)
    if to_list is not None:
        return _describe(to_list())
    attributes: Mapping[str, object] = getattr(value, "__dict__", {})
    return f"{type(value).__qualname__}{_describe(attributes)}"
