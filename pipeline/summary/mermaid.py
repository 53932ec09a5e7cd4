"""A pipe as a flowchart of Mermaid, which GitHub and many editors draw."""

from collections.abc import Iterator

from pipeline.summary.summary import Summary, weights
from pipeline.text import plain


def flowchart(overview: Summary) -> str:
    """The stages from top to bottom, and on each arrow what goes along it.

    Example:
        >>> from pipeline import Classify, Pool
        >>> print(flowchart((Pool("max") >> Classify(3, input_size=8)).check()))
        flowchart TD
            start(["input"])
            stage1["1 pool #40;max#41;"]
            stage2["2 classify<br/>27 parameters"]
            stop(["output"])
            start -->|"States steps x 8"| stage1
            stage1 -->|"Pooled batch x 8"| stage2
            stage2 -->|"Scores batch x 3"| stop
    """
    return "\n".join(["flowchart TD", *(f"    {line}" for line in _lines(overview))])


def _lines(overview: Summary) -> Iterator[str]:
    yield 'start(["input"])'
    for entry in overview.entries:
        lines = [f"{entry.place} {entry.title}"]
        lines += [f"{weights(entry)} parameters"] if entry.parameters else []
        yield f'stage{entry.place}["{"<br/>".join(map(_quoted, lines))}"]'
    yield 'stop(["output"])'
    flowing = [overview.takes, *(entry.gives for entry in overview.entries)]
    nodes = ["start", *(f"stage{entry.place}" for entry in overview.entries), "stop"]
    for thing, before, after in zip(flowing, nodes, nodes[1:], strict=False):
        yield f'{before} -->|"{_quoted(str(thing))}"| {after}'


def _quoted(words: str) -> str:
    """Words for a quoted label: all that could mean something to Mermaid or to HTML is written as its number."""
    return "".join(sign if sign.isalnum() or sign in " ,._-" else f"#{ord(sign)};" for sign in plain(words))
