"""What streams of rows take."""

from typing import cast

from pipeline.checks.shapes import described
from pipeline.data.rows import K, Row, is_row
from pipeline.errors import ShapeError


def checked_row(value: object, kind: type[K], place: int) -> Row[K]:
    """What came, if it is a row of a kind.

    Raises:
        ShapeError: if it is none.
    """
    if not is_row(value) or not isinstance(value.sequence, kind):
        came = f"{type(value.sequence).__name__} in a Row" if is_row(value) else described(value)
        msg = (
            f"item {place} must be a Row of {kind.__name__}, but {came} arrived; "
            "begin with a door, such as Tokenize, FromIds or FromFeatures."
        )
        raise ShapeError(msg, row=place)
    return cast("Row[K]", value)
