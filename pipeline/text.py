"""Text for terminals and messages: control characters escaped, errors on one line."""

import re
from collections.abc import Collection, Mapping
from difflib import get_close_matches


def suggest_name(name: str, known: Collection[str], aliases: Mapping[str, str] | None = None) -> str:
    """Return the question " Did you mean ...?" for a wrong name, or an empty text if no known name is similar.

    Args:
        name: the name that a user wrote.
        known: the names that exist.
        aliases: names that are common elsewhere, in lower case without signs, with those that are used here.

    Example:
        >>> suggest_name("BiLSTM", ["lstm", "bilstm"]), suggest_name("Avg", ["mean"], {"avg": "mean"})
        (" Did you mean 'bilstm'?", " Did you mean 'mean'?")
        >>> suggest_name("lstn", ["lstm", "gru"]), suggest_name("transformer", ["lstm", "gru"])
        (" Did you mean 'lstm'?", '')
        >>> suggest_name(" pos", ["neg", "pos"])
        " Did you mean 'pos'? White space is kept."
    """
    plain = {_simplify(each): each for each in known}
    alias = (aliases or {}).get(_simplify(name))
    if alias in known:
        return f" Did you mean {alias!r}?"
    close = get_close_matches(_simplify(name), plain, n=1)
    # An option is often shortened or lengthened: "hidden" for "hidden_size".
    close = close or [each for each in plain if len(name) > 2 and each.startswith(_simplify(name))][:1]
    if not close:
        return ""
    found = plain[close[0]]
    white = " White space is kept." if found != name and found.strip() == name.strip() else ""
    return f" Did you mean {found!r}?{white}"


def _simplify(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).lower()


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
