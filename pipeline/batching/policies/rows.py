"""So many rows a batch."""

from typing import final

import attrs
from typing_extensions import override

from pipeline.batching.numbers import whole
from pipeline.batching.policy import Policy


@final
@attrs.frozen
class Rows(Policy):
    """A number of rows, whatever their length.

    Args:
        rows: how many rows a batch may have.

    Example:
        >>> Rows(64).room(longest=20)
        64
    """

    rows: int = attrs.field()

    @override
    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        whole("rows", self.rows, least=1)

    @override
    def rows_of(self, longest: int) -> int:
        return self.rows
