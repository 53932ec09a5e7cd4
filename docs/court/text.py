"""Text of errors and names in Markdown."""


def quote(message: str) -> str:
    """Return a message on one line, in which nothing is taken for Markdown."""
    line = " ".join(message.split())
    for character in "\\`*_[]<>|":
        line = line.replace(character, f"\\{character}")
    return line if len(line) <= 400 else f"{line[:399]}…"
