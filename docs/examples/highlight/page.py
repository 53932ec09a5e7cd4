"""The result as one HTML file that needs nothing else."""

import os
import platform
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from string import Template

from highlight.results import Comparison, LinePrediction, Result, draw_sample, split_into_runs
from highlight.source import CLASSES, Line
from pipeline import Report

_SHOWN_LINES = 40
_TEMPLATE = Path(__file__).with_name("page.html")


def write(result: Result) -> None:
    """Write the page atomically: an old page stays until the new one is complete."""
    draft = result.page.with_name(f".{result.page.name}.{os.getpid()}")
    try:
        draft.write_text(render(result), encoding="utf-8", errors="replace")
        draft.replace(result.page)
    finally:
        draft.unlink(missing_ok=True)


def render(result: Result) -> str:
    """Render the page as HTML."""
    sample = draw_sample(result.predictions, _SHOWN_LINES)
    template = Template(_TEMPLATE.read_text(encoding="utf-8"))
    return template.substitute(
        python=escape(platform.python_version()),
        training=f"{len(result.training):,}",
        training_files=f"{_count_files(result.training):,}",
        held_out=f"{len(result.held_out):,}",
        held_out_files=f"{_count_files(result.held_out):,}",
        inside=f"{sum(line.inside for line in result.held_out):,}",
        epochs="once" if result.epochs == 1 else "twice" if result.epochs == 2 else f"{result.epochs} times",
        seconds=f"{result.seconds:.0f}",
        own="\n".join(color(line, predicted) for line, predicted in result.one.own),
        scores="\n".join(_render_comparison(comparison) for comparison in result.comparisons),
        padding="\n".join(
            (
                _render_report("by length, by <code>Bucket</code>", result.one.bucketed),
                _render_report("at random", result.one.shuffled),
            )
        ),
        legend="\n".join(f'<li class="{name}"><code>{name}</code></li>' for name in CLASSES if name != "space"),
        lines="\n".join(
            (
                _render_lines(f"{len(sample.wrong)} of the {sample.all_wrong:,} lines with mistakes", sample.wrong),
                _render_lines(f"{len(sample.right)} of the {sample.all_right:,} lines without", sample.right),
            )
        ),
    )


def color(line: Line, predicted: Sequence[str]) -> str:
    """Render a line in the colours of its predicted classes; a mistake is marked, with the right class as tooltip."""
    return "".join(_render_run(*run) for run in split_into_runs(line, predicted))


def _render_run(text: str, predicted: str, right: str) -> str:
    # HTML allows no control characters but the tab.
    inner = escape(
        "".join(char if char.isprintable() or char == "\t" else "\N{REPLACEMENT CHARACTER}" for char in text)
    )
    if predicted != right:
        return f'<mark title="predicted {predicted}, is {right}">{inner}</mark>'
    return inner if predicted == "space" else f'<span class="{predicted}">{inner}</span>'


def _render_comparison(comparison: Comparison) -> str:
    return (
        f'<tr><th scope="row">{escape(comparison.measured)}</th>'
        f'<td class="figure pipe">{comparison.model:.1%}</td>'
        f'<td class="figure">{comparison.baseline:.1%}</td><td>{escape(comparison.rule)}</td></tr>'
    )


def _render_report(name: str, report: Report) -> str:
    counts = (f"{report.batches:,}", f"{report.steps:,}", f"{report.padded:,}", f"{report.wasted:.1%}")
    cells = "".join(f'<td class="figure">{count}</td>' for count in counts)
    return f'<tr><th scope="row">{name}</th>{cells}</tr>'


def _render_lines(title: str, predictions: Sequence[LinePrediction]) -> str:
    if not predictions:
        return ""
    rows = "\n".join(map(_render_prediction, predictions))
    columns = "".join(f'<th scope="col">{name}</th>' for name in ("task two", "line", "from"))
    return (
        f'<div class="scroll" role="region" aria-label="{escape(title)}" tabindex="0">\n<table class="lines">\n'
        f"<caption>{escape(title)}</caption>\n<thead><tr>{columns}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>\n</div>"
    )


def _render_prediction(prediction: LinePrediction) -> str:
    line, kind = prediction.line, prediction.kind
    kind = kind if kind == line.kind else f'<mark title="is {line.kind}">{kind}</mark>'
    missed = f"<small>right: {', '.join(prediction.missed)}</small>" if prediction.mistakes else ""
    return (
        f'<tr><td class="kind">{kind}</td>'
        f'<td class="line"><code>{color(line, prediction.classes)}</code>{missed}</td>'
        f'<td class="where">{escape(line.file)}:{line.number}</td></tr>'
    )


def _count_files(lines: Iterable[Line]) -> int:
    return len({line.file for line in lines})
