"""Save a pipe as a folder of plain files."""

import os
import platform
from collections.abc import Callable, Mapping
from hashlib import file_digest
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, cast

import attrs
import torch
from torch import Tensor, nn

from pipeline.checks.options import check_bool, check_path
from pipeline.core.stage import StageBase
from pipeline.core.stream_chain import StreamChain
from pipeline.errors import FolderError, OptionError, PipelineError, SaveError
from pipeline.parts.tokenizer import Tokenizer
from pipeline.saving.card import format_card
from pipeline.saving.decoding import decode_pipe
from pipeline.saving.encoding import Encoded, encode_pipe
from pipeline.saving.files import explain_os_errors
from pipeline.saving.folders import check_target, write_folder
from pipeline.saving.inference import INFERENCE, describe_inference, get_original
from pipeline.saving.json_files import Json, write_json
from pipeline.saving.manifest import MANIFEST, Manifest, SavedFile, SavedPlugin, format_manifest, parse_manifest
from pipeline.saving.records import Records
from pipeline.saving.saved_types import describe_pipe
from pipeline.saving.tensors import write_tensors
from pipeline.saving.tokenizer_files import describe_tokenizer, name_tokenizer_file
from pipeline.saving.weights import check_complete, list_saved_tensors
from pipeline.text import format_error

CONFIG: Final = "pipeline.json"
WEIGHTS: Final = "weights.safetensors"
CARD: Final = "README.md"


def save_pipe(
    pipe: StreamChain[Any, Any], folder: str | os.PathLike[str], *, replace: bool = True, card: str | None = None
) -> None:
    """Save a pipe; see `StreamChain.save`.

    Raises:
        SaveError: if something of the pipe would be lost.
        FolderError: if the folder cannot be written.
        OptionError: if an argument is of a wrong type.
    """
    check_path("folder", folder)
    check_bool("replace", replace)
    if card is not None and not isinstance(cast("object", card), str):
        msg = f"card must be text in Markdown, or None, got {card!r:.200}."
        raise OptionError(msg, card=card)
    prepared, pipe = pipe.prepared, get_original(pipe)
    encoded = encode_pipe(pipe)
    if prepared is not None:
        encoded.config[INFERENCE] = describe_inference(prepared)
    files = _describe_tokenizers(encoded)
    tensors = _check_pipe(pipe, encoded)
    takes, gives = describe_pipe(pipe.stages)
    versions = {
        "ragged-pipeline": version("ragged-pipeline"),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }
    plugins = [SavedPlugin(each.package, each.version, parts) for each, parts in _merge_plugins(encoded).items()]
    check_folder(folder, replace=replace, has_card=card is not None)
    with write_folder(folder, replace=replace, marker=MANIFEST) as new:
        write_json(new / CONFIG, encoded.config)
        write_tensors(new / WEIGHTS, tensors)
        files[CARD] = format_card(
            pipe.stages,
            name=Path(os.path.realpath(folder)).name,
            takes=takes,
            gives=gives,
            versions=versions,
            plugins=plugins,
            results=_list_results(pipe),
            has_tokenizer=bool(encoded.tokenizers),
            inference=None if prepared is None else str(prepared),
            text=card,
        )
        with explain_os_errors(folder, "write"):
            for name, text in files.items():
                (new / name).write_text(text, encoding="utf-8", newline="\n")
            saved = {file.name: _describe_file(file) for file in sorted(new.iterdir())}
            manifest = Manifest(versions, takes, gives, plugins, saved)
            (new / MANIFEST).write_text(format_manifest(manifest), encoding="utf-8", newline="\n")


@attrs.frozen
class _Distribution:
    """A distribution and its version: several plugins may be of one."""

    package: str
    version: str


def _merge_plugins(encoded: Encoded) -> dict[_Distribution, list[str]]:
    found: dict[_Distribution, list[str]] = {}
    for plugin, parts in encoded.plugins.items():
        # This library's own plugins come with it, and its version is in the manifest already.
        if not plugin.ships_with_library:
            found.setdefault(_Distribution(plugin.package, plugin.version), []).extend(parts)
    return found


def _describe_tokenizers(encoded: Encoded) -> dict[str, str]:
    """Add the descriptions of the tokenizers to the configuration, and return their files."""
    files: dict[str, str] = {}
    described: list[Json] = []
    for index, tokenizer in enumerate(encoded.tokenizers):
        file = name_tokenizer_file(index, len(encoded.tokenizers))
        description, text = describe_tokenizer(tokenizer, file)
        described.append(description)
        if text is not None:
            files[file] = text
    encoded.config["tokenizers"] = described
    return files


def _check_pipe(pipe: StreamChain[Any, Any], encoded: Encoded) -> dict[str, Tensor]:
    """Make the pipe again from its configuration, without weights, and return the tensors that fit it.

    Raises:
        SaveError: if the two differ.
    """
    made = _make_again(encoded)
    assert isinstance(made, nn.Module)
    check_complete(made)
    tensors = list_saved_tensors(pipe, made)
    again = encode_pipe(made).config
    if any(again[key] != encoded.config[key] for key in ("pipe", "labels", "records", "outcomes")):
        # Modules were compared already, so that this is a stage without weights.
        names = [name for name, stage in pipe.stages.items() if not isinstance(stage, nn.Module)]
        msg = (
            f"the pipe cannot be saved completely: one of the stages {', '.join(names)} would have other options when "
            "it is loaded; fix its get_config, or its attributes. Nothing was written."
        )
        raise SaveError(msg)
    return tensors


def _make_again(encoded: Encoded) -> StageBase:
    tokenizers: list[Tokenizer] = encoded.tokenizers
    records = Records(encoded.classes)
    try:
        return decode_pipe(encoded.config, tokenizers=tokenizers, records=records, largest=1 << 62, tensors=1 << 62)
    except PipelineError as error:
        msg = f"the pipe cannot be made again from its configuration: {error} Nothing was written."
        raise SaveError(msg, **error.details) from error
    except Exception as error:
        # Of a part's own code, for example one that reads the values of its new weights: they have none here.
        msg = (
            f"the pipe cannot be made again from its configuration: {format_error(error)}. Parts are made on torch's "
            "meta device, so that their code must not read the values of weights. Nothing was written."
        )
        raise SaveError(msg) from error


def _describe_file(file: Path) -> SavedFile:
    with file.open("rb") as stream:
        return SavedFile(file.stat().st_size, file_digest(stream, "sha256").hexdigest())


def check_folder(folder: str | os.PathLike[str], *, replace: bool = True, has_card: bool = False) -> None:
    """Reject a folder in which no pipe can be saved, before a long training for example.

    Raises:
        FolderError: if it is a file, or has files of the user. A model card that was edited is one, unless `has_card`
            says that there is a new text for it.
    """
    with explain_os_errors(folder, "read"):
        check_target(Path(os.path.realpath(folder)), replace=replace, marker=MANIFEST)
        _check_own_files(Path(folder), has_card=has_card)


def _check_own_files(folder: Path, *, has_card: bool) -> None:
    """Reject a folder to replace that has files of the user beside those of a saved pipe."""
    if not (folder / MANIFEST).is_file():
        return
    card: SavedFile | None = None
    try:
        saved = parse_manifest((folder / MANIFEST).read_bytes(), MANIFEST).files
        known, card = {MANIFEST, *saved}, saved.get(CARD)
    except PipelineError:
        # A damaged one may be replaced, as far as its files can be those of a saved pipe.
        known = {MANIFEST, CONFIG, WEIGHTS, CARD, *(file.name for file in folder.glob("tokenizer*.json"))}
    others = sorted(file.name for file in folder.iterdir() if file.name not in known)
    if others:
        msg = (
            f"{str(folder)!r} has files that are not of a saved pipe, such as {others[0]!r}; move them, or choose "
            "another folder."
        )
        raise FolderError(msg, folder=str(folder), files=others)
    # With a damaged manifest, nobody knows whether the card was edited.
    if not has_card and (folder / CARD).is_file() and _describe_file(folder / CARD) != card:
        msg = (
            f"{str(folder / CARD)!r} was edited, and would be replaced; move it to another folder, or pass the text "
            "for the new one: save(folder, card=...)."
        )
        raise FolderError(msg, folder=str(folder), files=[CARD])


def _list_results(pipe: object) -> Mapping[str, str]:
    """Return what the history of training says about data and metrics, if there is one."""
    describe = cast("Callable[[], Mapping[str, str]] | None", getattr(getattr(pipe, "history", None), "describe", None))
    return {} if describe is None else describe()
