"""A stranger's words on a terminal."""


def plain(words: str) -> str:
    r"""Words as they are, but for control characters, which are spelt out so that none reaches the terminal.

    Example:
        >>> print(plain("a\n[bold]\x1b[31mb"))
        a\n[bold]\x1b[31mb
    """
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in words)
