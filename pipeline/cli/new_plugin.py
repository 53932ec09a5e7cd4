"""`python -m pipeline new-plugin`: a package to begin with, for whoever writes a plugin."""

import keyword
import os
import re
import secrets
import shutil
import sys
from collections.abc import Collection
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import Final, Self

import attrs

from pipeline.errors import OptionError
from pipeline.registry.choice import normalised
from pipeline.registry.offers import told

_FILES: Final = {
    "pyproject.toml": "pyproject.toml.in",
    "README.md": "README.md.in",
    "$module/__init__.py": "module.py.in",
    "$module/py.typed": None,
    "tests/test_$name.py": "test.py.in",
}
"""Each file of a package, and the template that it is made of; None for an empty one."""


@attrs.frozen
class Names:
    """What a new package and its parts are called.

    Attributes:
        name: what the encoder is asked for by.
        package: the distribution, and the folder that it is written in.
        module: what is imported.
        encoder: the class.
    """

    name: str
    package: str
    module: str
    encoder: str

    @classmethod
    def of(cls, said: str, taken: Collection[str] = ()) -> Self:
        """The names that follow from one, which may be written as a package's or as a module's.

        Args:
            said: what the user calls it.
            taken: the encoders that there are already.

        Raises:
            OptionError: if a package cannot be called so, or the name is taken.

        Example:
            >>> names = Names.of("leaky-mean")
            >>> names.name, names.package, names.module, names.encoder
            ('leaky_mean', 'pipeline-leaky-mean', 'pipeline_leaky_mean', 'LeakyMeanEncoder')
        """
        short = re.sub(r"(?i)^pipeline[-_.]+", "", said)
        words = normalised(short)
        name, module = words.replace("-", "_"), f"pipeline_{words.replace('-', '_')}"
        wrong = None
        if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
            wrong = "must begin with a letter, and be of letters a to z, digits, and single - or _ between them"
        elif keyword.iskeyword(name) or name in sys.stdlib_module_names:
            wrong = "is a word of Python's own, or a module of its library"
        elif find_spec(module) is not None:
            wrong = f"is taken: a module {module} is installed already"
        elif name in taken:
            wrong = "is taken: an encoder of that name is installed already"
        if wrong is not None:
            msg = f"name {said!r} {wrong}; choose another, such as leaky_mean."
            raise OptionError(msg, name=said)
        # The writer's own capitals are kept.
        camel = "".join(word[0].upper() + word[1:] for word in re.split(r"[-_.]+", short))
        # Never `Encoder` by itself, which the module imports.
        return cls(name, f"pipeline-{words}", module, f"{camel.removesuffix('Encoder') or camel}Encoder")


def new_plugin(said: str, into: Path, taken: Collection[str] = ()) -> Path:
    """Write a package with one encoder, its hook and its tests: whole, or not at all.

    Args:
        said: what to call it.
        into: the folder in which the package's own folder is made.
        taken: the encoders that there are already.

    Returns:
        The package's folder.

    Raises:
        OptionError: if it cannot be called so, something of that name is there, or it cannot be written.
    """
    names = Names.of(said, taken)
    if not into.is_dir():
        msg = f"into must be a folder, but {str(into)!r} is none; make it first."
        raise OptionError(msg, into=str(into))
    target = into / names.package
    # Beside its place, so that to move it there is one step; and not by `mkdtemp`, which lets nobody else read it.
    unfinished = into / f".{names.package}-{secrets.token_hex(4)}"
    try:
        _write(unfinished, names)
        # A link to nowhere is something, too.
        if os.path.lexists(target):
            msg = f"{str(target)!r} is there already, and nothing was written; move it, or choose another name."
            raise OptionError(msg, target=str(target))
        unfinished.rename(target)
    except OSError as error:
        msg = f"{str(target)!r} cannot be written: {told(error)}; nothing is left of it."
        raise OptionError(msg, target=str(target)) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return target


def _write(folder: Path, names: Names) -> None:
    templates, values = files("pipeline.cli") / "template", attrs.asdict(names)
    for path, template in _FILES.items():
        file = folder / Template(path).substitute(values)
        file.parent.mkdir(parents=True, exist_ok=True)
        written = "" if template is None else (templates / template).read_text(encoding="utf-8")
        file.write_text(Template(written).substitute(values), encoding="utf-8", newline="\n")
