"""Report a fault of a module to its authors: the smallest batch that shows it, as a script that needs torch only."""

import contextlib
import io
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from textwrap import indent
from typing import Final, NamedTuple, final

import attrs
import torch
from torch import nn
from typing_extensions import Unpack

from pipeline.core.contexts import preserve_random_state
from pipeline.errors import OptionError
from pipeline.laws.calls import Convention
from pipeline.laws.modules import ModuleOptions, make_adapter, make_convention

# Differences of float32 results that are no rounding. A real fault is a thousand times as large.
_TOLERANCE: Final = 1e-4

_LONGEST: Final = 6
"""The number of steps of the longest row that is tried."""


class _Fault(NamedTuple):
    """A kind of fault: its title, its usual cause, and two expressions for results that should be equal."""

    title: str
    cause: str
    same: str
    changed: str


_FAULTS: Final[Mapping[str, _Fault]] = {
    "batchmates": _Fault(
        "A row's result depends on a longer row in the same batch",
        "a mean over the width instead of the length, the last column used as the last step, or a backward direction "
        "that starts in the padding",
        "run([row])[0]",
        "run([row, mate])[0]",
    ),
    "padding": _Fault(
        "A row's result depends on the values in its padding",
        "a sum, mean, maximum or softmax over the whole width, or a mask that multiplies before a bias is added",
        "run([row, mate])[0]",
        "run([row, mate], padding={other})[0]",
    ),
    "nan": _Fault(
        "NaN in the padding reaches a row's result",
        "a mask that multiplies (NaN times 0 is NaN); select or fill instead, as masked_fill and torch.where do",
        "run([row, mate])[0]",
        'run([row, mate], padding=float("nan"))[0]',
    ),
    "order": _Fault(
        "A row's result depends on its place in the batch",
        "rows that are sorted by length and not restored",
        "run([row, mate])[0]",
        "run([mate, row])[1]",
    ),
}
"""The kinds of faults. The first one that is found is reported."""

_VALUES: Final[Mapping[str, str]] = {
    "nested": "values = torch.nested.as_nested_tensor(rows, layout=torch.jagged)",
    "packed": "values = torch.nn.utils.rnn.pack_sequence(rows, enforce_sorted=False)",
    "rows": "values = rows",
}
"""The line that makes the values, by the convention; by default they are padded."""

_SECOND: Final[Mapping[str, str]] = {
    "lengths": "lengths",
    "mask": "mask",
    "padding_mask": "~mask",
    "attention_mask": "mask.long()",
}
"""The second argument, by the convention."""


@final
@attrs.frozen
class FaultReport:
    """A fault of a module, for its authors.

    Attributes:
        title: the fault in one sentence.
        difference: the largest difference of two results that should be equal; NaN if one of them is NaN.
        lengths: the number of steps of each row in the smallest batch that shows it.
        cause: the usual cause of such faults.
        script: a script that prints the difference. It needs torch and the module, and not this library.
    """

    title: str
    difference: float
    lengths: Sequence[int]
    cause: str
    script: str

    def __str__(self) -> str:
        """Return the report as Markdown, to be pasted into an issue."""
        rows = " and ".join(f"{length} step{'s' * (length != 1)}" for length in self.lengths)
        differ = "**one result is NaN**" if math.isnan(self.difference) else f"they differ by **{self.difference:.3g}**"
        return (
            f"### {self.title}\n\n"
            f"Rows of {rows}: the results should be equal up to rounding, and {differ}.\n\n"
            f"```python\n{self.script}```\n\n"
            f"The usual cause is {self.cause}.\n\n"
            f"torch {torch.__version__}\n"
        )


def report_fault(make: str, *, setup: str = "", **options: Unpack[ModuleOptions]) -> FaultReport | None:
    """Search for a fault that batchmates, padding or the order of rows show, in the smallest batch that shows one.

    Args:
        make: the Python expression that creates the module, such as `"Pooler(16)"`.
        setup: the Python lines before it, such as `"from my_package import Pooler"`. Both are run.
        options: how the module is called; see `ModuleOptions`. `call` must be the name of a convention, and `result` an
            attribute, a key or an index.

    Returns:
        the report; None if no fault is found in rows of up to six steps.

    Raises:
        OptionError: if the call or the result is a function, or `make` creates no module.

    Example:
        >>> report = report_fault("torch.nn.EmbeddingBag(9, 4)", vocab_size=9, call="values")
        >>> report.title, report.lengths
        ("A row's result depends on a longer row in the same batch", (1, 2))
        >>> "pipeline" in report.script
        False
    """
    convention = make_convention(options)
    make_adapter(options)  # checks the options
    if callable(convention.call) or callable(convention.result):
        raise OptionError("call and result must not be functions, because the script has to contain them.")
    setup = setup.strip() + "\n" * bool(setup.strip())
    if not isinstance(_run(f"import torch\n{setup}\nmodule = {make}\n")[0].get("module"), nn.Module):
        msg = f"make must be an expression that creates an nn.Module, got {make!r}."
        raise OptionError(msg, make=make)
    for kind, fault in _FAULTS.items():
        # A module of ids has no NaN.
        if kind == "nan" and (not convention.nan_in_padding or convention.vocab_size is not None):
            continue
        for lengths in _list_lengths(kind):
            script = _write_script(fault, lengths, make, setup, convention, options)
            difference = _measure(script)
            # Not `>`: NaN is a difference, too.
            if difference is not None and not difference <= _TOLERANCE:
                return FaultReport(fault.title, difference, lengths, fault.cause, script)
    return None


def _list_lengths(kind: str) -> Iterator[tuple[int, ...]]:
    """Yield the lengths of batches, the smallest first."""
    pairs = sorted(itertools.product(range(1, _LONGEST + 1), repeat=2), key=lambda pair: (sum(pair), pair))
    yield from ((row, mate) for row, mate in pairs if (row < mate if kind != "order" else row != mate))


def _measure(script: str) -> float | None:
    """Return the number that a script prints; None if the module does not take such rows."""
    try:
        return float(_run(script)[1])
    except Exception:  # noqa: BLE001 - the module may raise anything, for example for a row of one step
        return None


def _run(script: str) -> tuple[dict[str, object], str]:
    """Run a script, and return its names and what it printed."""
    names: dict[str, object] = {"__name__": "fault"}
    with contextlib.redirect_stdout(io.StringIO()) as printed, preserve_random_state():
        exec(compile(script, "<script>", "exec"), names)  # noqa: S102 - the user's own lines
    return names, printed.getvalue()


def _write_script(
    fault: _Fault, lengths: Sequence[int], make: str, setup: str, convention: Convention, options: ModuleOptions
) -> str:
    """Return a script that prints by how much two results differ that should be equal."""
    ids, padding_id = convention.vocab_size, convention.padding_id
    draw = f"torch.randn({{}}, {options.get('input_size')})" if ids is None else f"torch.randint(1, {ids}, ({{}},))"
    row, mate = (draw.format(length) for length in lengths)
    padding, other = ("0", "9.0") if ids is None else (str(padding_id), str((padding_id + 1) % ids))
    # A result per step has one more axis than one per row, and is as long as the batch is wide.
    cut = {"step": "a, b = a[: len(row)], b[: len(row)]\n", "row": ""}
    automatic = "if a.ndim > 1:\n    a, b = a[: len(row)], b[: len(row)]\n"
    compared = (
        f"a, b = {fault.same}, {fault.changed.format(other=other)}\n{cut.get(options.get('each') or '', automatic)}"
    )
    body = "\n".join(_list_lines(convention))
    return (
        f"import torch\n{setup}\n"
        "torch.manual_seed(0)\n"
        f"module = {make}\n"
        "module.eval()\n\n\n"
        f"def run(rows, padding={padding}):\n{indent(body, '    ')}\n\n\n"
        f"row, mate = {row}, {mate}\n"
        f"with torch.no_grad():\n{indent(compared, '    ')}"
        "print((a - b).abs().max().item())\n"
    )


def _list_lines(convention: Convention) -> Iterator[str]:
    """Yield the lines of a function that calls the module on rows."""
    call = convention.call
    assert isinstance(call, str)
    if call in {"lengths", "mask", "padding_mask", "attention_mask"}:
        yield "lengths = torch.tensor([len(row) for row in rows])"
    padded = "values = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=padding)"
    yield _VALUES.get(call, padded)
    if call.endswith("mask"):
        yield "mask = torch.arange(values.shape[1]) < lengths.unsqueeze(1)"
    if not convention.batch_first and call not in _VALUES:
        yield "values = values.transpose(0, 1)"
    given = ["values", *([_SECOND[call]] if call in _SECOND else [])]
    if convention.names:
        given = [f"{name}={value}" for name, value in zip(convention.names, given, strict=True)]
    yield f"output = module({', '.join(given)})"
    yield from _list_result_lines(convention, call)


def _list_result_lines(convention: Convention, call: str) -> Iterator[str]:
    """Yield the lines that return each row's result from the output."""
    result = convention.result
    if isinstance(result, int):
        yield f"output = output[{result}]"
    elif isinstance(result, str):
        yield f'output = output["{result}"] if isinstance(output, dict) else output.{result}'
    elif call not in {"nested", "rows"}:
        yield "while not isinstance(output, (torch.Tensor, torch.nn.utils.rnn.PackedSequence)):"
        yield "    output = next(iter(output.values())) if hasattr(output, 'values') else output[0]"
    if call == "packed":
        yield "if isinstance(output, torch.nn.utils.rnn.PackedSequence):"
        yield "    output = torch.nn.utils.rnn.pad_packed_sequence(output, batch_first=True)[0]"
    if call == "nested":
        yield "return list(output.unbind())"
    elif not convention.batch_first and call not in _VALUES:
        yield "return output.transpose(0, 1) if output.ndim > 2 else output"
    else:
        yield "return output"
