"""What attentions remember of earlier steps, for running step by step."""

from typing import Self, final

import attrs
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from typing_extensions import override

from pipeline.core.stepping import Memory
from pipeline.data.trees import ON_CPU, as_pytree


@final
@as_pytree
@attrs.frozen(eq=False)
class EarlierSteps(Memory):
    """The steps of each row that later steps may attend to, in a buffer with room for more.

    Row `i` has its steps at the positions 0 to `stored[i] - 1` of the buffer. New steps are written after them. If
    there is no room, the steps move to a buffer of twice their size, so a step costs constant time on average. Of a
    window only its steps move, so the buffer of an endless row has at most about twice their size.

    Several memories may share a buffer: those of successive steps. Only the newest may write into it, and only after
    its own steps. `right` holds one item, which the first writer takes; a second writer copies its steps instead.

    Attributes:
        values: the hidden vectors; positions without a step hold finite numbers.
        keys: the projected keys; None if they are the values.
        stored: the number of steps of each row in the buffer; on the CPU.
        right: the right to write into the buffer.
    """

    values: Float[Tensor, "batch capacity hidden"]
    keys: Float[Tensor, "batch capacity inner"] | None
    stored: Int64[Tensor, " batch"] = attrs.field(metadata=ON_CPU)
    right: list[None] = attrs.field(factory=lambda: [None], repr=False)

    @classmethod
    def make_empty(
        cls, values: Float[Tensor, "batch time hidden"], keys: Float[Tensor, "batch time inner"] | None
    ) -> Self:
        """Return an empty memory for vectors like these."""
        nothing = torch.zeros(len(values), dtype=torch.int64, device="cpu")
        return cls(values[:, :0], None if keys is None else keys[:, :0], nothing)

    def append(
        self,
        values: Float[Tensor, "batch time hidden"],
        keys: Float[Tensor, "batch time inner"] | None,
        lengths: Int64[Tensor, " batch"],
        window: int | None,
    ) -> Self:
        """Return a memory with the next steps of each row, of which the first `lengths[i]` are real.

        Args:
            values: the hidden vectors.
            keys: the projected keys; None if they are the values.
            lengths: the number of steps of each row; on the CPU.
            window: the number of earlier steps that the next ones may attend to; None for all.
        """
        room = self if self._has_room(lengths) else self._move(int(lengths.max()), window)
        for buffer, new in ((room.values, values), (room.keys, keys)):
            if buffer is not None and new is not None:
                _write(buffer, new, room.stored, lengths)
        return attrs.evolve(room, stored=room.stored + lengths, right=[None])

    def mask(self, lengths: Int64[Tensor, " batch"], window: int | None) -> Bool[Tensor, "batch query key"]:
        """Return which stored steps each of the newest steps may attend to, as in `AttendEarlier`.

        Args:
            lengths: the number of newest steps of each row; on the CPU.
            window: the number of earlier steps that a step may attend to; None for all.
        """
        device = self.values.device
        first = (self.stored - lengths).to(device, non_blocking=True).reshape(-1, 1, 1)
        query = first + torch.arange(int(lengths.max()), device=device).unsqueeze(1)
        key = torch.arange(int(self.stored.max()), device=device)
        distance = query - key
        is_earlier = (distance > 0) if window is None else (distance > 0) & (distance <= window)
        # A window keeps a step or more, so only the first step of a row is ever at position 0 when it is new.
        return is_earlier | (query + key == 0)

    @override
    def select(self, rows: Int64[Tensor, " selected"]) -> Self:
        on_device = rows.to(self.values.device)
        return attrs.evolve(
            self,
            values=self.values.index_select(0, on_device),
            keys=None if self.keys is None else self.keys.index_select(0, on_device),
            stored=self.stored[rows],
            right=[None],
        )

    def _has_room(self, lengths: Int64[Tensor, " batch"]) -> bool:
        """Return whether the steps may be written into this buffer, and take the right to it."""
        # A tensor made in inference mode cannot be changed outside of it.
        if self.values.is_inference() and not torch.is_inference_mode_enabled():
            return False
        if int((self.stored + lengths).max()) > self.values.shape[1]:
            return False
        try:
            self.right.pop()  # one operation, so that of two threads only one succeeds
        except IndexError:
            return False
        return True

    def _move(self, more: int, window: int | None) -> Self:
        """Return a copy with room for more steps, without steps before the window."""
        kept = self.stored if window is None else self.stored.clamp(max=window)
        longest = int(kept.max())
        capacity = 2 * (longest + more)

        def copy(buffer: Tensor) -> Tensor:
            made = buffer.new_zeros(len(buffer), capacity, buffer.shape[2])
            if longest and torch.equal(kept, self.stored):
                made[:, :longest] = buffer[:, :longest]
            elif longest:
                start = (self.stored - kept).unsqueeze(1)
                # A row with fewer steps than the longest copies any others after them, which are overwritten later.
                index = (start + torch.arange(longest, device="cpu")).clamp(max=buffer.shape[1] - 1).to(buffer.device)
                made[:, :longest] = buffer.gather(1, index.unsqueeze(2).expand(-1, -1, buffer.shape[2]))
            return made

        return attrs.evolve(
            self, values=copy(self.values), keys=None if self.keys is None else copy(self.keys), stored=kept
        )


def _write(buffer: Tensor, new: Tensor, stored: Tensor, lengths: Tensor) -> None:
    """Write the first `lengths[i]` steps of each row into the buffer, at position `stored[i]`."""
    start, count = int(stored[0]), int(lengths[0])
    if bool((stored == start).all()) and bool((lengths == count).all()):
        buffer[:, start : start + count] = new[:, :count]
        return
    rows, times = (torch.arange(new.shape[1], device="cpu") < lengths.unsqueeze(1)).nonzero(as_tuple=True)
    positions = (stored[rows] + times).to(buffer.device)
    rows, times = rows.to(buffer.device), times.to(buffer.device)
    buffer[rows, positions] = new[rows, times]
