"""Checks of the paths that commands write to."""

from pathlib import Path

from pipeline.errors import OptionError


def check_parent(option: str, path: Path | None) -> None:
    """Reject a path to write to whose folder does not exist: before the work is done, and perhaps a slip of the pen.

    Args:
        option: the option, for the message.
        path: its value; None if it is not given.

    Raises:
        OptionError: naming the folder.

    Example:
        >>> check_parent("--output", Path("absent/model"))
        Traceback (most recent call last):
        pipeline.errors.OptionError: --output must be in an existing folder, got 'absent/model'; make 'absent' first.
    """
    if path is not None and not path.absolute().parent.is_dir():
        msg = f"{option} must be in an existing folder, got {str(path)!r}; make {str(path.parent)!r} first."
        raise OptionError(msg, path=str(path))
