"""Folders of an attacker, by the names in the table of docs/security.md.

Digests are valid, since an attacker can compute them.
"""

import json
import os
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from support.hostile import (
    change_config,
    change_header,
    change_manifest,
    change_tokenizer,
    find_part,
    sign,
    write_signed,
)


def set_item(value: dict[str, Any], key: str, item: object) -> None:
    """Set an item, as a function."""
    value[key] = item


def change_options(folder: Path, kind: str, name: str, **options: object) -> None:
    """Change the options of a stage."""
    change_config(folder, lambda config: find_part(config, kind, name)["options"].update(options))


def list_file(folder: Path, name: str) -> None:
    """List another file in the manifest, with valid size and digest."""
    described = {"size": 1, "sha256": "0" * 63 + "1"}
    change_manifest(folder, lambda manifest: set_item(manifest["files"], name, described))


def replace_stage(folder: Path, node: dict[str, Any]) -> None:
    """Replace the first stage."""

    def change(config: dict[str, Any]) -> None:
        config["pipe"]["chain"][0] = node

    change_config(folder, change)


def write_config(folder: Path, text: str) -> None:
    """Write the text of the configuration, and sign."""
    (folder / "pipeline.json").write_text(text)
    sign(folder)


def add_fields(folder: Path, name: str, fields: object) -> None:
    """Use a class of fields of the attacker."""

    def change(config: dict[str, Any]) -> None:
        config["records"] = {name: {"base": "Fields", "fields": fields}}
        config["pipe"]["chain"][0] = {"stage": "from_fields", "options": {"record": {"record": name}}}

    change_config(folder, change)


def replace_by_fifo(folder: Path, name: str) -> None:
    """Replace a file by a FIFO, for which a reader would wait."""
    (folder / name).unlink()
    os.mkfifo(folder / name)


def replace_by_link(folder: Path, name: str, target: str) -> None:
    """Replace a file by a symbolic link."""
    (folder / name).unlink()
    (folder / name).symlink_to(target)


def claim_header(folder: Path, size: int) -> None:
    """Claim another size of the weights' header."""
    content = (folder / "weights.safetensors").read_bytes()
    (folder / "weights.safetensors").write_bytes(struct.pack("<Q", size) + content[8:])
    sign(folder)


def write_pickle(folder: Path) -> None:
    """Write a pickle, whose loading would run a command, instead of the weights."""
    (folder / "weights.safetensors").write_bytes(b"\x80\x04cos\nsystem\n(S'true'\ntR.")
    sign(folder)


def double_key(folder: Path) -> None:
    """Write a key of the manifest twice: readers may disagree which one counts."""
    text = json.dumps({**json.loads((folder / "manifest.json").read_text()), "sha256": "0" * 64})
    write_signed(folder, text.replace('"gives"', '"gives": "int", "gives"'))


def write_nested(folder: Path, name: str) -> None:
    """Nest a JSON file 10,000 levels deep."""
    (folder / name).write_text("[" * 10_000 + "]" * 10_000)
    if name != "manifest.json":
        sign(folder)


def chain_of(node: dict[str, Any], count: int) -> dict[str, Any]:
    """Return chains within chains."""
    for _ in range(count):
        node = {"chain": [node]}
    return node


def set_size(file: Path, size: int) -> None:
    """Make a file large, without using the disk."""
    with file.open("r+b") as stream:
        stream.truncate(size)


PLUGINS: Final[list[dict[str, object]]] = [{"distribution": "x; rm -rf ~", "version": "1", "parts": []}]

ATTACKS: Final[dict[str, Callable[[Path], object]]] = {
    "a format that does not exist": partial(change_manifest, change=lambda value: set_item(value, "format", 99)),
    "a format that is no number": partial(change_manifest, change=lambda value: set_item(value, "format", "1")),
    "a path out of the folder": partial(list_file, name="../secret"),
    "an absolute path": partial(list_file, name="/etc/passwd"),
    "a path with backslashes": partial(list_file, name="..\\secret"),
    "a file name with control characters": partial(list_file, name="a\x1b[2J"),
    "a manifest that lists itself": partial(list_file, name="manifest.json"),
    "a doubled key": double_key,
    "a manifest nested 10,000 levels deep": partial(write_nested, name="manifest.json"),
    "a configuration nested 10,000 levels deep": partial(write_nested, name="pipeline.json"),
    "a tokenizer nested 10,000 levels deep": partial(write_nested, name="tokenizer.json"),
    "a huge manifest": lambda folder: set_size(folder / "manifest.json", 1 << 40),
    "a huge file": lambda folder: set_size(folder / "weights.safetensors", 1 << 40),
    "NaN as a number": lambda folder: write_config(folder, (folder / "pipeline.json").read_text().replace("null", "NaN", 1)),
    "a number that is infinite": lambda folder: write_config(folder, (folder / "pipeline.json").read_text().replace("null", "1e999", 1)),
    "a key of the manifest that does not exist": partial(change_manifest, change=lambda value: set_item(value, "run", "rm")),
    "a size that is a text": partial(change_manifest, change=lambda value: set_item(value["files"]["README.md"], "size", "9")),
    "a distribution with a command": partial(
        change_manifest,
        change=lambda value: set_item(value, "plugins", PLUGINS),
    ),
    "a link to another file": partial(replace_by_link, name="weights.safetensors", target="/etc/passwd"),
    "a link to a device": partial(replace_by_link, name="pipeline.json", target="/dev/zero"),
    "a FIFO instead of a file": partial(replace_by_fifo, name="pipeline.json"),
    "a FIFO instead of the manifest": partial(replace_by_fifo, name="manifest.json"),
    "a header that claims more than the file": partial(claim_header, size=1 << 62),
    "tensors that overlap": partial(
        change_header, change=lambda value: value["embed.weight"].update(data_offsets=value["classify.linear.bias"]["data_offsets"])
    ),
    "a tensor with more elements than bytes": partial(change_header, change=lambda value: value["embed.weight"].update(shape=[1 << 40, 1 << 40])),
    "a pickle instead of weights": write_pickle,
    "an import path as a name": partial(replace_stage, node={"stage": "os:system", "options": {"command": "true"}}),
    "a part that reads files": partial(replace_stage, node={"source": "csv", "options": {"file": "/etc/passwd"}}),
    "a tokenizer that is trained": partial(replace_stage, node={"tokenizer": "words", "options": {"texts": ["a"]}}),
    "an option that does not exist": partial(change_options, kind="stage", name="dropout", hook="os.system"),
    "an option of another type": partial(change_options, kind="stage", name="pad", too_long={"mapping": {}}, max_length="long"),
    "an embedding of 10**15 rows": partial(change_options, kind="embedder", name="embed", num_embeddings=10**15),
    "10**15 classes": partial(change_options, kind="head", name="classify", classes=10**15),
    "a million layers": partial(change_options, kind="stage", name="encode", num_layers=10**6),
    "a hidden size that overflows": partial(change_options, kind="stage", name="encode", hidden_size=10**30),
    "a class with code in a field's name": partial(add_fields, name="Event", fields={"a=__import__('os')": "Ids"}),
    "a class with a keyword as name": partial(add_fields, name="class", fields={"a": "Ids"}),
    "a class with a private field": partial(add_fields, name="Event", fields={"__class__": "Ids"}),
    "a reference to itself": partial(replace_stage, node={"id": 7, "chain": [{"ref": 7}]}),
    "thousands of chains within chains": partial(replace_stage, node=chain_of({"stage": "from_ids"}, 60)),
    "an object with two meanings": partial(replace_stage, node={"stage": "from_ids", "head": "classify"}),
    "a label that occurs twice": partial(change_config, change=lambda value: set_item(value, "labels", [["a", "a"]])),
    "weights of other names": partial(change_header, change=lambda value: set_item(value, "evil", value.pop("embed.weight"))),
    "a regular expression of a megabyte": partial(
        change_tokenizer, change=lambda value: set_item(value, "pre_tokenizer", {"type": "Split", "pattern": {"Regex": "(a*)*" * 200_000}, "behavior": "Isolated", "invert": False})
    ),
    "a file that is not a tokenizer": partial(change_tokenizer, change=lambda value: value.clear()),
    "a special token that is no text": partial(
        change_config, change=lambda value: set_item(value["tokenizers"][0]["tokens"], "pad_token", 3)
    ),
    "a tokenizer in a file that is not listed": partial(
        change_config, change=lambda value: set_item(value["tokenizers"][0], "file", "/etc/passwd")
    ),
}  # fmt: skip
