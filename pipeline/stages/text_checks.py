"""Check the texts that are tokenized, and the number of their targets."""

from pipeline.checks.hints import describe
from pipeline.errors import TargetError, TextError


def check_text(value: object, row: int) -> str:
    """Return a value that is text.

    Raises:
        TextError: naming the row, if it is not text, or holds a lone surrogate.
    """
    if not isinstance(value, str):
        raise make_text_error(value, row, "be text", "decode bytes first")
    # Texts of one byte per character have no surrogates: `isascii` reads a flag.
    if not value.isascii():
        check_surrogates(value, row)
    return value


def check_surrogates(text: str, row: int) -> None:
    """Reject half a surrogate pair: Python strings may hold it, but not UTF-8, which tokenizers need."""
    at = next((i for i, character in enumerate(text) if "\ud800" <= character <= "\udfff"), None)
    if at is not None:
        msg = (
            f"row {row} holds a lone surrogate, {text[at]!r} at character {at}, which is half a character and not "
            "text; decode its bytes with errors='replace', or leave the row out."
        )
        raise TextError(msg, row=row, character=at)


def make_text_error(value: object, row: int, rule: str, fix: str) -> TextError:
    """Return the error for an input that is not of the stage's type."""
    return TextError(f"row {row} must {rule}, got {describe(value)}; {fix}.", row=row)


def check_target_count(targets: int, steps: int, unit: str, row: int) -> None:
    """Reject targets of another number than the steps.

    Raises:
        TargetError: naming the row.
    """
    if targets != steps:
        msg = (
            f"row {row} has {steps} {unit} but {targets} targets; give each of them a target, None for those that have "
            "none."
        )
        raise TargetError(msg, row=row, targets=targets, steps=steps)
