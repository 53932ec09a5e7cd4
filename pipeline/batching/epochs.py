"""One rule for epochs, which samplers, buckets and loaders share."""

from collections.abc import Callable
from typing import Final, Generic, TypeVar, final

from pipeline.checks.options import check_int
from pipeline.errors import OptionError

P = TypeVar("P")


@final
class EpochState(Generic[P]):
    """The epoch of an object that is iterated once per epoch, and the position in it.

    An iteration starts when its first item is requested, as in the samplers of torch: `set_epoch` and a loaded state
    count until then. Its epoch is

    - the epoch of `set_epoch`, from its beginning;
    - after `load`, the rest of the epoch of the loaded position;
    - otherwise the epoch after that of the last iteration, whether that reached its end or was left early.

    Args:
        start: returns the position at the beginning of an epoch.

    Example:
        >>> state = EpochState(lambda epoch: (epoch, 0))
        >>> iteration = state.begin()
        >>> state.move(iteration, (0, 1))
        >>> iteration = state.begin()
        >>> state.epoch, state.position
        (1, (1, 0))
    """

    def __init__(self, start: Callable[[int], P]) -> None:
        self.epoch: int = 0
        self._start: Final = start
        self._position: P = start(0)
        # Number of the newest iteration. An older iterator that is still alive must not move the position.
        self._iteration = 0
        self._has_begun = False
        self._has_loaded_rest = False
        # `set_epoch` with the current epoch: either it was left and starts again, or a framework announces the epoch
        # that is running. The next move of the running iterator tells which.
        self._restarts = False

    @property
    def position(self) -> P:
        """The position after the last item, or at the beginning of the next iteration."""
        return self._start(self.epoch) if self._restarts else self._position

    def set_epoch(self, epoch: int) -> None:
        """Start the next iteration at the beginning of an epoch, or at the loaded position in that epoch.

        Raises:
            OptionError: if a position within another epoch was loaded, and its rest would be lost.
        """
        check_int("epoch", epoch, minimum=0)
        if epoch == self.epoch:
            self._restarts = self._has_begun
            return
        if self._has_loaded_rest:
            msg = (
                f"epoch must be {self.epoch}, because the loaded state is within that epoch and the rest of it would "
                f"be lost, got set_epoch({epoch}); count epochs from {self.epoch}."
            )
            raise OptionError(msg, epoch=epoch, wanted=self.epoch)
        self._reset(epoch)

    def load(self, epoch: int, position: P, *, has_rest: bool) -> None:
        """Start the next iteration at a position; `has_rest` if it is within the epoch."""
        self._reset(epoch)
        self._position = position
        self._has_loaded_rest = has_rest

    def begin(self) -> int:
        """Start an iteration at `position`, and return its number."""
        if self._restarts or self._has_begun:
            self._reset(self.epoch if self._restarts else self.epoch + 1)
        self._iteration += 1
        return self._iteration

    def move(self, iteration: int, position: P) -> None:
        """Move to the position after an item, if the iteration is the newest."""
        if iteration == self._iteration:
            self._position = position
            self._has_begun = True
            self._restarts = self._has_loaded_rest = False

    def end(self, iteration: int) -> None:
        """Move to the beginning of the next epoch, if the iteration is the newest."""
        if iteration == self._iteration:
            self._reset(self.epoch + 1)

    def _reset(self, epoch: int) -> None:
        self.epoch = epoch
        self._position = self._start(epoch)
        self._iteration += 1
        self._has_begun = self._has_loaded_rest = self._restarts = False
