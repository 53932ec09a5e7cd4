"""Changes of a saved folder: damage, and content of an attacker under valid digests."""

import json
import struct
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

ZEROS = "0" * 64


def sign(folder: Path) -> None:
    """Write the sizes and digests of all listed files to the manifest, and its own digest, as an attacker would."""
    change_manifest(folder, lambda _: None)


def change_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest, with valid digests of the files that exist."""
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    for name, described in manifest["files"].items():
        if (folder / name).is_file():
            content = (folder / name).read_bytes()
            described["size"], described["sha256"] = len(content), sha256(content).hexdigest()
    manifest["sha256"] = ZEROS
    change(manifest)
    write_signed(folder, json.dumps(manifest, indent=1))


def write_signed(folder: Path, text: str) -> None:
    """Write the text of a manifest whose digest is zeros so far."""
    digest = sha256(text.encode()).hexdigest()
    (folder / "manifest.json").write_text(text.replace(ZEROS, digest, 1))


def change_config(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the configuration, and sign."""
    file = folder / "pipeline.json"
    config: dict[str, Any] = json.loads(file.read_text())
    change(config)
    file.write_text(json.dumps(config))
    sign(folder)


def change_tokenizer(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the tokenizer's file, and sign."""
    file = folder / "tokenizer.json"
    config: dict[str, Any] = json.loads(file.read_text())
    change(config)
    file.write_text(json.dumps(config))
    sign(folder)


def change_header(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the header of the weights, and sign."""
    file = folder / "weights.safetensors"
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header: dict[str, Any] = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
    sign(folder)


def find_part(config: dict[str, Any], kind: str, name: str) -> dict[str, Any]:
    """Return the node of a stage of the chain."""
    return next(node for node in config["pipe"]["chain"] if node.get(kind) == name)
