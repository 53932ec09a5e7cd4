"""The page: what the demo found, in one file that needs nothing else."""

import os
import platform
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from string import Template

from pipeline import Report
from pipeline.demo.lexical import CLASSES
from pipeline.demo.score import Answer, Contest, Result, drawn, runs
from pipeline.demo.source import Line

_LINES = 40


def write(result: Result) -> None:
    """Write the page whole or not at all: a page that was there before stays until the new one is complete."""
    draft = result.page.with_name(f".{result.page.name}.{os.getpid()}")
    try:
        draft.write_text(page(result), encoding="utf-8", errors="replace")
        draft.replace(result.page)
    finally:
        draft.unlink(missing_ok=True)


def page(result: Result) -> str:
    """The page's HTML."""
    sample = drawn(result.answers, _LINES)
    template = Template(files("pipeline.demo").joinpath("page.html").read_text(encoding="utf-8"))
    return template.substitute(
        python=escape(platform.python_version()),
        training=f"{len(result.training):,}",
        training_files=f"{_files(result.training):,}",
        held_out=f"{len(result.held_out):,}",
        held_out_files=f"{_files(result.held_out):,}",
        inside=f"{sum(line.inside for line in result.held_out):,}",
        epochs="once" if result.epochs == 1 else "twice" if result.epochs == 2 else f"{result.epochs} times",
        seconds=f"{result.seconds:.0f}",
        own="\n".join(coloured(line, given) for line, given in result.one.own),
        scores="\n".join(_contest(contest) for contest in result.contests),
        padding="\n".join(
            (
                _report("by length, by <code>Bucket</code>", result.one.bucketed),
                _report("by lot", result.one.unbucketed),
            )
        ),
        legend="\n".join(f'<li class="{name}"><code>{name}</code></li>' for name in CLASSES if name != "space"),
        lines="\n".join(
            (
                _lines(f"{len(sample.wrong)} of the {sample.all_wrong:,} lines with mistakes", sample.wrong),
                _lines(f"{len(sample.right)} of the {sample.all_right:,} lines without", sample.right),
            )
        ),
    )


def coloured(line: Line, given: Sequence[str]) -> str:
    """A line as HTML: each run of a class in its colour; what is wrong is marked, with what is right as its tooltip."""
    return "".join(_run(*run) for run in runs(line, given))


def _run(text: str, given: str, right: str) -> str:
    # HTML allows no control characters but the tab.
    inner = escape(
        "".join(char if char.isprintable() or char == "\t" else "\N{REPLACEMENT CHARACTER}" for char in text)
    )
    if given != right:
        return f'<mark title="taken for {given}, is {right}">{inner}</mark>'
    return inner if given == "space" else f'<span class="{given}">{inner}</span>'


def _contest(contest: Contest) -> str:
    return (
        f'<tr><th scope="row">{escape(contest.asked)}</th><td class="figure pipe">{contest.model:.1%}</td>'
        f'<td class="figure">{contest.baseline:.1%}</td><td>{escape(contest.rule)}</td></tr>'
    )


def _report(name: str, report: Report) -> str:
    counts = (f"{report.batches:,}", f"{report.steps:,}", f"{report.padded:,}", f"{report.wasted:.1%}")
    cells = "".join(f'<td class="figure">{count}</td>' for count in counts)
    return f'<tr><th scope="row">{name}</th>{cells}</tr>'


def _lines(title: str, answers: Sequence[Answer]) -> str:
    if not answers:
        return ""
    rows = "\n".join(map(_answer, answers))
    columns = "".join(f'<th scope="col">{name}</th>' for name in ("act two", "line", "from"))
    return (
        f'<div class="scroll" role="region" aria-label="{escape(title)}" tabindex="0">\n<table class="lines">\n'
        f"<caption>{escape(title)}</caption>\n<thead><tr>{columns}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>\n</div>"
    )


def _answer(answer: Answer) -> str:
    line = answer.line
    kind = answer.kind if answer.kind == line.kind else f'<mark title="is {line.kind}">{answer.kind}</mark>'
    missed = f"<small>right: {', '.join(answer.missed)}</small>" if answer.mistakes else ""
    return (
        f'<tr><td class="kind">{kind}</td><td class="line"><code>{coloured(line, answer.classes)}</code>{missed}</td>'
        f'<td class="where">{escape(line.file)}:{line.number}</td></tr>'
    )


def _files(lines: Iterable[Line]) -> int:
    return len({line.file for line in lines})
