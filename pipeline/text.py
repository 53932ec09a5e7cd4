"""Text for terminals and messages: control characters escaped, errors on one line."""


def escape_control_characters(text: str) -> str:
    r"""Return the text with control characters escaped, so that text from outside cannot control the terminal.

    Example:
        >>> print(escape_control_characters("a\n[bold]\x1b[31mb"))
        a\n[bold]\x1b[31mb
    """
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)


def to_one_line(text: object, limit: int | None = None) -> str:
    r"""Return a text, or the message of an error, on one line; longer than `limit` characters, it ends in "...".

    Example:
        >>> to_one_line("two\n  lines"), to_one_line(ValueError("a long message"), limit=10)
        ('two lines', 'a long ...')
    """
    line = " ".join(str(text).split())
    return line if limit is None or len(line) <= limit else f"{line[: limit - 3]}..."


def format_error(error: BaseException, limit: int | None = None) -> str:
    r"""Return the type and the message of an error on one line, as Python ends a traceback.

    Example:
        >>> format_error(ValueError("two\nlines"))
        'ValueError: two lines'
    """
    return to_one_line(f"{type(error).__name__}: {error}".removesuffix(": "), limit)
