"""Draw the documentation's figures: `python docs/drawings.py` writes them into docs/_static.

The figures are SVG, written here as text: the same program gives the same bytes everywhere, and a test compares them
with the committed files. Colours are legible on light and dark pages.
"""

import tomllib
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

DOCS = Path(__file__).parent
REAL, PADDING, INK = "#2f81f7", "#c9d1d9", "#6e7781"

LAYERS = {
    "__main__": "the command line",
    "cli": "the commands",
    "serving": "answers over HTTP, gathered into batches",
    "training": "fit, evaluate, checkpoints, other libraries",
    "export": "ONNX, torch.export, comparison with the model",
    "saving": "folders that load without running code",
    "models": "classifier, tagger, language_model",
    "forecast": "the cost of an epoch under each policy",
    "loading": "samplers, loaders, workers, resuming",
    "sources": "examples from files and data sets",
    "inference": "predictions with scores, vectors, attention weights",
    "summary": "a pipe without data, as a table",
    "stages": "tokenize, bucket, pad, pack, embed, encode, attend, pool, heads",
    "extend": "the public names for plugin authors",
    "registry": "discovery and validation of plugins",
    "builtin": "tokenizers and pools without weights",
    "hooks": "the hook specifications",
    "testing": "the laws, for your tests",
    "laws": "the properties that every part must have",
    "batching": "plans and policies: numbers only",
    "parts": "base classes of what plugins supply",
    "functional": "segment reductions, attention",
    "core": "Stage, Stream, chain, and the checks around every stage",
    "data": "rows, padded and packed batches, states, scores",
    "checks": "shape checks and switches",
    "errors": "one class per kind of mistake",
}
"""The layers that the figure shows, with a description; helper modules are left out."""

GROUPS = {
    "__main__": "command line",
    "serving": "from training to use",
    "models": "models and data",
    "stages": "stages",
    "extend": "plugins",
    "batching": "foundations",
}
"""The first layer of each group of layers, and the group's name."""


def draw_layers() -> str:
    """Draw the layers of the import contract, top to bottom."""
    names = [name for name in read_layers() if name in LAYERS]
    parts = list[str]()
    firsts = [number for number, name in enumerate(names) if name in GROUPS]
    for first, following in zip(firsts, [*firsts[1:], len(names)], strict=True):
        # A bracket beside the group's layers, and its name.
        top, bottom = 8 + first * 28, 8 + following * 28 - 4
        parts.append(f'<path d="M640 {top} h8 V{bottom} h-8" fill="none" stroke="{INK}"/>')
        parts.append(write(660, (top + bottom) // 2 + 4, GROUPS[names[first]], f'fill="{INK}"'))
    for number, name in enumerate(names):
        y = 8 + number * 28
        parts.append(f'<rect x="8" y="{y}" width="624" height="24" rx="4" fill="none" stroke="{INK}"/>')
        parts.append(write(20, y + 16, name, f'font-weight="600" fill="{REAL}"'))
        parts.append(write(130, y + 16, LAYERS[name], f'fill="{INK}"'))
    title = "Layers of the package: each imports only those below it"
    return render(772, 16 + 28 * len(names), title, parts)


def read_layers() -> list[str]:
    """Read the layers from the import contract in pyproject.toml, so that the figure always agrees with it."""
    project = tomllib.loads((DOCS.parent / "pyproject.toml").read_text(encoding="utf-8"))
    layers: list[str] = project["tool"]["importlinter"]["contracts"][0]["layers"]
    return [name.strip() for layer in layers for name in layer.split("|")]


def draw_layouts(rows: Sequence[str] = ("abcd", "ef", "ghi")) -> str:
    """Draw rows of unequal length as a padded rectangle, and packed: step by step, without padding."""
    longest = max(map(len, rows))
    parts = [write(8, 20, "Padded: a rectangle, real steps first", f'fill="{INK}"')]
    for number, row in enumerate(rows):
        parts.append(write(8, 54 + number * 32, f"row {number}", f'fill="{INK}"'))
        for step in range(longest):
            text = f"{row[step]}" if step < len(row) else ""
            parts.append(draw_step(60 + step * 32, 34 + number * 32, text))
    y = 34 + len(rows) * 32 + 40
    parts.append(
        write(8, y - 14, "Packed: real steps only, all rows' first steps before all second ones", f'fill="{INK}"')
    )
    x = 60
    for step in range(longest):
        steps = [row[step] for row in sorted(rows, key=len, reverse=True) if step < len(row)]
        parts.append(write(x + 14 * len(steps) - 10, y + 44, f"step {step}", f'fill="{INK}" font-size="11"'))
        for text in steps:
            parts.append(draw_step(x, y, text))
            x += 28
        x += 12
    title = "Three rows of 4, 2 and 3 steps: padded to 12 positions, packed to 9"
    return render(max(480, x + 8), y + 56, title, parts)


def draw_step(x: int, y: int, text: str) -> str:
    """Draw one position: a letter if it is a real step, empty if it is padding."""
    fill, line = (REAL, "") if text else ("none", ' stroke-dasharray="3"')
    box = f'<rect x="{x}" y="{y}" width="28" height="28" fill="{fill}" stroke="{PADDING}"{line}/>'
    return box + (write(x + 10, y + 19, text, 'fill="#ffffff"') if text else "")


def write(x: int, y: int, text: str, style: str) -> str:
    """Place a text."""
    return f'<text x="{x}" y="{y}" {style}>{escape(text)}</text>'


def render(width: int, height: int, title: str, parts: Iterable[str]) -> str:
    """Render an SVG document."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" font-family="system-ui, sans-serif" font-size="13">\n<title>{escape(title)}</title>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


FIGURES = {"layers.svg": draw_layers, "layouts.svg": draw_layouts}

if __name__ == "__main__":
    for name, draw in FIGURES.items():
        (DOCS / "_static" / name).write_text(draw(), encoding="utf-8", newline="\n")
