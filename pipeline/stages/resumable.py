"""The base class of streams over rows that can resume from a cursor, and be split among ranks."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from typing import cast

from pipeline.batching.cursor import StreamCursor
from pipeline.checks.hints import describe
from pipeline.core.stage import I_contra, O_co, Stream
from pipeline.data.kinds import K, Kind, format_kind, get_kind_class
from pipeline.data.rows import Row, is_row
from pipeline.errors import OptionError, ShapeError


class Resumable(Stream[I_contra, O_co]):
    """A stream that can be resumed: its options, a cursor and the rows after that cursor determine all its outputs."""

    @abstractmethod
    def get_recipe(self, world_size: int = 1) -> str:
        """Return a digest of the options that determine the outputs. A cursor with another digest is rejected."""

    @abstractmethod
    def resume(
        self, values: Iterable[I_contra], at: StreamCursor, /, *, rank: int = 0, world_size: int = 1
    ) -> Iterator[tuple[O_co, StreamCursor]]:
        """Yield each output with the cursor after it.

        Args:
            values: the rows of the source from number `at.rows` on; earlier ones need not be read again.
            at: where to resume; `StreamCursor(epoch)` is the beginning of an epoch.
            rank: the rank whose outputs to yield.
            world_size: the number of ranks. All read the same rows and yield equal numbers of outputs, so that no rank
                waits for another at the end.

        Raises:
            OptionError: for a cursor of other options, or a rank outside the world size.
        """

    def _check_cursor(self, at: StreamCursor, rank: int, world_size: int) -> str:
        """Return the stream's recipe, after checking that the cursor has the same one and that the rank exists."""
        if not 0 <= rank < world_size:
            msg = f"rank must be from 0 to {world_size - 1}, below world_size, got {rank}; raise world_size."
            raise OptionError(msg, rank=rank, world_size=world_size)
        recipe = self.get_recipe(world_size)
        if at.recipe not in {None, recipe}:
            msg = (
                f"the cursor belongs to another {type(self).__name__}, seed or number of ranks; resume with the same "
                "options, or start a new epoch: StreamCursor(epoch)."
            )
            raise OptionError(msg, recipe=at.recipe, wanted=recipe)
        return recipe


def check_row(value: object, kind: type[K], number: int) -> Row[K]:
    """Return the value if it is a row of the kind.

    Raises:
        ShapeError: if it is not.
    """
    if not is_row(value) or not isinstance(value.sequence, cast("type[Kind]", get_kind_class(kind))):
        if is_row(value):
            got = f"a Row of {type(value.sequence).__name__}"
            fix = f"pass the kind first, as in Bucket({type(value.sequence).__name__}, ...)"
        else:
            got = describe(value)
            fix = "begin the pipe with an input stage, such as Tokenize, FromIds or FromFeatures"
        msg = f"item {number} must be a Row of {format_kind(kind)}, got {got}; {fix}."
        raise ShapeError(msg, row=number)
    return cast("Row[K]", value)
