"""Read a saved folder, and make its pipe. No byte of it is used before its digest is checked."""

import os
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Final, cast

import torch

from pipeline.checks.options import check_path
from pipeline.core.stream_chain import StreamChain
from pipeline.errors import FolderError, LoadError, MissingExtraError, OptionError, PipelineError
from pipeline.registry import registry
from pipeline.registry.catalogue import PluginWarning
from pipeline.registry.choice import normalize_name
from pipeline.saving.decoding import decode_pipe
from pipeline.saving.files import FileContent, read_regular_file
from pipeline.saving.folders import open_folder, was_replaced
from pipeline.saving.inference import INFERENCE, prepare_again
from pipeline.saving.json_files import Json, parse_json
from pipeline.saving.manifest import MANIFEST, MAX_MANIFEST, Manifest, SavedPlugin, parse_manifest
from pipeline.saving.records import Records
from pipeline.saving.save import CARD, CONFIG, WEIGHTS
from pipeline.saving.saved_types import check_types
from pipeline.saving.tensors import parse_tensors
from pipeline.saving.tokenizer_files import make_tokenizer
from pipeline.saving.weights import put_weights
from pipeline.text import escape_control_characters, format_error, to_one_line

_ATTEMPTS: Final = 20
"""How often a folder is read again because it was replaced meanwhile. A replacement takes longer than a reading."""


def load_pipe(
    folder: str | os.PathLike[str],
    *,
    takes: object,
    gives: object,
    records: Iterable[type],
    device: torch.device | str | None,
) -> StreamChain[Any, Any]:
    """Load a pipe; see `pipeline.load`."""
    check_path("folder", folder)
    value = cast("object", records)
    listed = list(cast("Iterable[object]", value)) if isinstance(value, Iterable) else [value]
    classes = [each for each in listed if isinstance(each, type)]
    if len(classes) < len(listed):
        msg = f"records must be a list of classes, such as [Event], got {records!r:.200}."
        raise OptionError(msg, records=records)
    manifest, files = _read_patiently(folder)
    check_types(takes, gives, manifest.takes, manifest.gives)
    check_plugins(manifest.plugins)
    given = [*classes, *(each for each in (takes, gives) if isinstance(each, type))]
    try:
        pipe, inference = _make_pipe(files, Records(given))
    except (LoadError, MissingExtraError):
        raise
    except Exception as error:
        # Of a part, of torch or of a plugin's code: the options of the file may be anything, and so may the text be.
        reason = to_one_line(error, 300) if isinstance(error, PipelineError) else format_error(error, 300)
        shown = escape_control_characters(reason).removesuffix(".")
        msg = f"{os.fspath(folder)!r} cannot be loaded: {shown}; save the pipe again."
        raise LoadError(msg, folder=os.fspath(folder)) from error
    pipe = pipe if device is None else pipe.to(device)
    return pipe if inference is None else prepare_again(pipe, inference)


def read_folder(folder: str | os.PathLike[str]) -> tuple[Manifest, dict[str, FileContent]]:
    """Return the manifest of a saved folder and the content of its files, after checking their sizes and digests.

    Raises:
        LoadError: if a file is damaged, or not a regular one.
        FolderError: if a file is missing or cannot be read.
    """
    with open_folder(folder) as handle:
        try:
            return _read_files(folder, handle)
        except (LoadError, FolderError) as error:
            if was_replaced(folder, handle):
                raise _ReplacedError from error
            raise


def check_plugins(plugins: Sequence[SavedPlugin]) -> None:
    """Reject a pipe whose plugins are not installed, and warn of another major version.

    Raises:
        LoadError: naming the distribution to install.
    """
    installed = {normalize_name(plugin.package): plugin for plugin in registry().plugins}
    for needed in plugins:
        found = installed.get(normalize_name(needed.distribution))
        parts = ", ".join(needed.parts)
        if found is None:
            msg = (
                f"the pipe needs {parts} of {needed.distribution} {needed.version}, which is not installed; "
                f"pip install {needed.distribution}."
            )
            raise LoadError(msg, distribution=needed.distribution, version=needed.version)
        if found.failure is not None or found.skipped is not None:
            reason = f"failed to load: {found.failure}" if found.failure else f"was not loaded: {found.skipped}"
            msg = f"the pipe needs {parts} of {found}, which {reason}."
            raise LoadError(msg, distribution=needed.distribution)
        if found.version.split(".")[0] != needed.version.split(".")[0]:
            msg = (
                f"the pipe was saved with {needed.distribution} {needed.version}, and {found.version} is installed; "
                "compare its predictions, or install the saved version."
            )
            warnings.warn(msg, PluginWarning, stacklevel=4)


class _ReplacedError(Exception):
    """The folder was replaced while it was read."""


def _read_patiently(folder: str | os.PathLike[str]) -> tuple[Manifest, dict[str, FileContent]]:
    for _ in range(_ATTEMPTS):
        try:
            return read_folder(folder)
        except _ReplacedError:
            continue
    msg = f"{os.fspath(folder)!r} was replaced again and again while it was read; try again, or copy the folder."
    raise FolderError(msg, folder=os.fspath(folder))


def _read_files(folder: str | os.PathLike[str], handle: int | None) -> tuple[Manifest, dict[str, FileContent]]:
    manifest = parse_manifest(_read(folder, handle, MANIFEST, MAX_MANIFEST).data, MANIFEST)
    missing = {CONFIG, WEIGHTS} - manifest.files.keys()
    if missing:
        msg = f"the manifest does not list {min(missing)!r}; save the pipe again."
        raise LoadError(msg, missing=sorted(missing))
    files: dict[str, FileContent] = {}
    for name, saved in manifest.files.items():
        # It is for people, who may edit it; nothing here reads it.
        if name == CARD:
            continue
        content = _read(folder, handle, name, saved.size)
        if len(content.data) != saved.size or content.digest != saved.sha256:
            msg = (
                f"{name!r} is damaged: it has {len(content.data):,} bytes with the SHA-256 {content.digest[:16]}..., "
                f"the manifest states {saved.size:,} and {saved.sha256[:16]}...; save the pipe again, or copy it again."
            )
            raise LoadError(msg, file=name)
        files[name] = content
    return manifest, files


def _read(folder: str | os.PathLike[str], handle: int | None, name: str, limit: int) -> FileContent:
    path = os.path.join(folder, name) if handle is None else name  # noqa: PTH118 - both are texts
    return read_regular_file(path, limit=limit, folder=handle)


def _make_pipe(files: dict[str, FileContent], records: Records) -> tuple[StreamChain[Any, Any], Json]:
    """Return the pipe, and how it is to be prepared for inference; None if it is not."""
    config = parse_json(files[CONFIG].data, CONFIG)
    if not isinstance(config, dict):
        raise LoadError("the configuration is not a JSON object; save the pipe again.")
    tensors = parse_tensors(files[WEIGHTS].data, WEIGHTS)
    contents = {name: content.data for name, content in files.items()}
    described = config.get("tokenizers")
    tokenizers = [make_tokenizer(each, contents) for each in (described if isinstance(described, list) else [])]
    largest = max((size for tensor in tensors.values() for size in tensor.shape), default=0)
    pipe = decode_pipe(config, tokenizers=tokenizers, records=records, largest=largest, tensors=len(tensors))
    if not isinstance(cast("object", pipe), StreamChain):
        raise LoadError("the configuration is not that of a pipe with a stream, such as Bucket; save the pipe again.")
    found = cast("StreamChain[Any, Any]", pipe)
    put_weights(found, tensors, _get_frozen(config))
    return found.eval(), config.get(INFERENCE)


def _get_frozen(config: dict[str, Json]) -> frozenset[str]:
    names = config.get("frozen")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise LoadError("the configuration does not list the frozen tensors; save the pipe again.")
    return frozenset(cast("list[str]", names))
