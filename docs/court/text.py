"""Text of errors and names in Markdown."""

import re


def quote(message: str) -> str:
    """Return a message on one line, in which nothing is taken for Markdown."""
    # Without the colors of terminals.
    line = " ".join(re.sub(r"\x1b\[\d*m", "", message).split())
    for character in "\\`*_[]<>|":
        line = line.replace(character, f"\\{character}")
    return line if len(line) <= 400 else f"{line[:399]}…"
