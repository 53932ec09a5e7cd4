"""Streams that can be taken up again where they were left, and shared among ranks."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator

from pipeline.batching.stream_cursor import StreamCursor
from pipeline.core.stage import I_contra, O_co, Stream
from pipeline.errors import OptionError


class Resumable(Stream[I_contra, O_co]):
    """A stream whose outputs follow from its options, a cursor and the rows behind it, and from nothing else."""

    @abstractmethod
    def recipe(self, world_size: int = 1) -> str:
        """A digest of all options that its outputs hang on."""

    @abstractmethod
    def marked(
        self, values: Iterable[I_contra], at: StreamCursor, /, *, rank: int = 0, world_size: int = 1
    ) -> Iterator[tuple[O_co, StreamCursor]]:
        """Each output, and where the stream stands behind it.

        Args:
            values: the rows of the source behind the first `at.rows`, which need not be read again.
            at: where the stream stands; `StreamCursor(epoch)` is the beginning of an epoch.
            rank: whose outputs are given.
            world_size: how many ranks there are. All read the same rows and are given equal numbers of outputs, so that
                none waits for another at the end.

        Raises:
            OptionError: for a cursor of other options, or a rank that does not take part.
        """

    def _check_mine(self, at: StreamCursor, rank: int, world_size: int) -> str:
        """The stream's recipe, if that is the cursor's too, and the rank takes part."""
        if not 0 <= rank < world_size:
            msg = f"rank must be from 0 to {world_size - 1}, below world_size, but {rank} arrived."
            raise OptionError(msg, rank=rank, world_size=world_size)
        mine = self.recipe(world_size)
        if at.recipe not in {None, mine}:
            msg = (
                f"the cursor belongs to another {type(self).__name__}, seed or number of ranks; go on with the same, "
                "or begin an epoch anew."
            )
            raise OptionError(msg, recipe=at.recipe, wanted=mine)
        return mine
