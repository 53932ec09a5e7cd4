"""`python -m pipeline new-plugin`: write a working package with one part, for the author of a plugin."""

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

from pipeline.checks.options import check_choice
from pipeline.cli.plugin_kinds import PLUGIN_KINDS
from pipeline.errors import OptionError
from pipeline.registry.choice import normalize_name
from pipeline.text import format_error

# Each file of a package, with its template; None for an empty file.
_FILES: Final = {
    "pyproject.toml": "pyproject.toml.in",
    "README.md": "README.md.in",
    "$module/__init__.py": "$kind/module.py.in",
    "$module/py.typed": None,
    "tests/test_$name.py": "$kind/test.py.in",
}


@attrs.frozen
class Names:
    """Names of a new package and its parts.

    Attributes:
        name: the part's registered name.
        package: the distribution, and the folder that holds it.
        module: the import package.
        part: the class.
        kind: the kind of the part.
    """

    name: str
    package: str
    module: str
    part: str
    kind: str = "encoder"

    @classmethod
    def parse(cls, name: str, taken: Mapping[str, str] = MappingProxyType({}), kind: str = "encoder") -> Self:
        """Derive all names from one, which may be the name of a part, a package or a module.

        Args:
            name: the name from the command line.
            taken: the installed parts of this kind: the plugin that offers each, by name.
            kind: the kind of the part: a name in `PLUGIN_KINDS`.

        Raises:
            OptionError: if the kind is unknown, or the name is not allowed, or taken.

        Example:
            >>> names = Names.parse("leaky-mean")
            >>> names.name, names.package, names.module, names.part
            ('leaky_mean', 'pipeline-leaky-mean', 'pipeline_leaky_mean', 'LeakyMeanEncoder')
        """
        check_choice("kind", kind, tuple(PLUGIN_KINDS))
        found = PLUGIN_KINDS[kind]
        short = re.sub(r"(?i)^pipeline[-_.]+", "", name)
        hyphened = normalize_name(short)
        registered = hyphened.replace("-", "_")
        module = f"pipeline_{registered}"
        rule = None
        if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", registered):
            rule = "must start with a letter, and consist of letters a to z, digits, and single - or _ between them"
        elif keyword.iskeyword(registered) or registered in sys.stdlib_module_names:
            rule = "must not be a keyword of Python, or a module of its standard library"
        elif find_spec(module) is not None:
            rule = f"is taken: module {module} is already installed"
        elif registered in taken:
            rule = f"is taken: {found.article} of that name is already installed, by {taken[registered]}"
        if rule is not None:
            msg = f"name {name!r} {rule}; choose another name, such as leaky_mean."
            raise OptionError(msg, name=name)
        # Capitals are kept: LSTMCell stays LSTMCell.
        camel = "".join(word[0].upper() + word[1:] for word in re.split(r"[-_.]+", short))
        # A plugin called "encoder" becomes EncoderEncoder, since the module imports the base class Encoder.
        part = f"{camel.removesuffix(found.suffix) or camel}{found.suffix}"
        return cls(registered, f"pipeline-{hyphened}", module, part, kind)


def write_plugin(name: str, into: Path, taken: Mapping[str, str] = MappingProxyType({}), kind: str = "encoder") -> Path:
    """Write a package with one part, its hook and its tests: completely, or not at all.

    Args:
        name: the name from the command line.
        into: the folder in which the package's folder is created.
        taken: the installed parts of this kind: the plugin that offers each, by name.
        kind: the kind of the part: a name in `PLUGIN_KINDS`.

    Returns:
        The package's folder.

    Raises:
        OptionError: if the kind is unknown, the name is not allowed, something of that name exists, or it cannot be
            written.
    """
    names = Names.parse(name, taken, kind)
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
    kind, templates, values = PLUGIN_KINDS[names.kind], files("pipeline.cli") / "template", attrs.asdict(names)
    article = kind.article.capitalize()
    values["summary"] = f"{article} for `pipeline`: {kind.summary}."
    values["description"] = f"{article} for pipeline: {kind.summary}"
    values["usage"] = Template(kind.usage).substitute(values)
    for path, template in _FILES.items():
        file = folder / Template(path).substitute(values)
        file.parent.mkdir(parents=True, exist_ok=True)
        source = None if template is None else templates / Template(template).substitute(values)
        text = "" if source is None else source.read_text(encoding="utf-8")
        file.write_text(Template(text).substitute(values), encoding="utf-8", newline="\n")
