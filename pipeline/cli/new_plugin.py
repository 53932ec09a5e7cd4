"""`python -m pipeline new-plugin`: write a working package with one encoder, for the author of a plugin."""

import keyword
import os
import re
import secrets
import shutil
import sys
from collections.abc import Mapping
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from string import Template
from types import MappingProxyType
from typing import Final, Self

import attrs

from pipeline.errors import OptionError
from pipeline.registry.choice import normalize_name
from pipeline.text import format_error

# Each file of a package, with its template; None for an empty file.
_FILES: Final = {
    "pyproject.toml": "pyproject.toml.in",
    "README.md": "README.md.in",
    "$module/__init__.py": "module.py.in",
    "$module/py.typed": None,
    "tests/test_$name.py": "test.py.in",
}


@attrs.frozen
class Names:
    """Names of a new package and its parts.

    Attributes:
        name: the encoder's registered name.
        package: the distribution, and the folder that holds it.
        module: the import package.
        encoder: the class.
    """

    name: str
    package: str
    module: str
    encoder: str

    @classmethod
    def parse(cls, name: str, taken: Mapping[str, str] = MappingProxyType({})) -> Self:
        """Derive all names from one, which may be the name of an encoder, a package or a module.

        Args:
            name: the name from the command line.
            taken: the installed encoders: the plugin that offers each, by name.

        Raises:
            OptionError: if the name is not allowed, or taken.

        Example:
            >>> names = Names.parse("leaky-mean")
            >>> names.name, names.package, names.module, names.encoder
            ('leaky_mean', 'pipeline-leaky-mean', 'pipeline_leaky_mean', 'LeakyMeanEncoder')
        """
        short = re.sub(r"(?i)^pipeline[-_.]+", "", name)
        hyphened = normalize_name(short)
        encoder = hyphened.replace("-", "_")
        module = f"pipeline_{encoder}"
        rule = None
        if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", encoder):
            rule = "must start with a letter, and consist of letters a to z, digits, and single - or _ between them"
        elif keyword.iskeyword(encoder) or encoder in sys.stdlib_module_names:
            rule = "must not be a keyword of Python, or a module of its standard library"
        elif find_spec(module) is not None:
            rule = f"is taken: module {module} is already installed"
        elif encoder in taken:
            rule = f"is taken: an encoder of that name is already installed, by {taken[encoder]}"
        if rule is not None:
            msg = f"name {name!r} {rule}; choose another name, such as leaky_mean."
            raise OptionError(msg, name=name)
        # Capitals are kept: LSTMCell stays LSTMCell.
        camel = "".join(word[0].upper() + word[1:] for word in re.split(r"[-_.]+", short))
        # A plugin called "encoder" becomes EncoderEncoder, since the module imports the base class Encoder.
        return cls(encoder, f"pipeline-{hyphened}", module, f"{camel.removesuffix('Encoder') or camel}Encoder")


def write_plugin(name: str, into: Path, taken: Mapping[str, str] = MappingProxyType({})) -> Path:
    """Write a package with one encoder, its hook and its tests: completely, or not at all.

    Args:
        name: the name from the command line.
        into: the folder in which the package's folder is created.
        taken: the installed encoders: the plugin that offers each, by name.

    Returns:
        The package's folder.

    Raises:
        OptionError: if the name is not allowed, something of that name exists, or it cannot be written.
    """
    names = Names.parse(name, taken)
    if not into.is_dir():
        msg = f"into must be an existing folder, got {str(into)!r}; create it first."
        raise OptionError(msg, into=str(into))
    target = into / names.package
    # In the same folder, so that the final rename is atomic. Not by `mkdtemp`, whose folders only their owner can read.
    unfinished = into / f".{names.package}-{secrets.token_hex(4)}"
    try:
        _write_files(unfinished, names)
        # A dangling link counts as existing.
        if os.path.lexists(target):
            msg = f"{str(target)!r} already exists, so nothing was written; move it, or choose another name."
            raise OptionError(msg, target=str(target))
        unfinished.rename(target)
    except OSError as error:
        msg = f"{str(target)!r} cannot be written: {format_error(error).rstrip('.')}; nothing is left of it."
        raise OptionError(msg, target=str(target)) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return target


def _write_files(folder: Path, names: Names) -> None:
    templates, values = files("pipeline.cli") / "template", attrs.asdict(names)
    for path, template in _FILES.items():
        file = folder / Template(path).substitute(values)
        file.parent.mkdir(parents=True, exist_ok=True)
        text = "" if template is None else (templates / template).read_text(encoding="utf-8")
        file.write_text(Template(text).substitute(values), encoding="utf-8", newline="\n")
