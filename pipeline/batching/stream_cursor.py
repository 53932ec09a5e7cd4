"""Where a stream stands."""

from collections.abc import Mapping
from typing import cast

import attrs

from pipeline.batching.numbers import whole
from pipeline.errors import OptionError


@attrs.frozen
class StreamCursor:
    """Where a stream stands in its epoch: which rows need not be read again, and how far it is in those behind them.

    What a stream gives from there on follows from this, from the rows, and from nothing else.

    Attributes:
        epoch: the epoch, from 0.
        rows: how many rows at the beginning of the source are done with.
        inside: how far the stage is in the rows behind them, in numbers of its own; none at the beginning.
        recipe: which stage, seed and sharing it belongs to; None if it may be any.

    Raises:
        OptionError: for an epoch or a number of rows below 0.

    Example:
        >>> cursor = StreamCursor(epoch=3, rows=20_000, inside=(2, 17))
        >>> StreamCursor.from_dict(cursor.to_dict()) == cursor
        True
    """

    epoch: int = 0
    rows: int = 0
    inside: tuple[int, ...] = ()
    recipe: str | None = None

    def __attrs_post_init__(self) -> None:
        whole("epoch", self.epoch, least=0)
        whole("rows", self.rows, least=0)

    def to_dict(self) -> dict[str, object]:
        """It as numbers, lists and text, for JSON or a checkpoint."""
        return {"epoch": self.epoch, "rows": self.rows, "inside": list(self.inside), "recipe": self.recipe}

    @classmethod
    def from_dict(cls, state: Mapping[str, object]) -> "StreamCursor":
        """What `to_dict` wrote.

        Raises:
            OptionError: if it holds anything else.
        """
        match dict(state):
            case {
                "epoch": int(epoch),
                "rows": int(rows),
                "inside": inside,
                "recipe": str() | None as recipe,
                **rest,
            } if not rest and isinstance(inside, list):
                numbers = cast("list[object]", inside)
                return cls(epoch, rows, tuple(whole("inside", number, least=0) for number in numbers), recipe)
            case _:
                msg = (
                    f"a stream's state has epoch, rows, inside and recipe, but {dict(state)} arrived; give what "
                    "to_dict gave."
                )
                raise OptionError(msg, state=state)
