"""Base class of encoders, and the attributes that all parts declare."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Generic, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.data.batches import Batch, Carry, Layout
from pipeline.data.kinds import Hidden, Vectors
from pipeline.data.states import S_co, States


class Encoder(nn.Module, ABC, Generic[S_co]):
    """Reads vectors; returns one hidden vector per real step and the final state of each row.

    Its type parameter says whether a step may depend on later ones: `Encoder[Causal]` never looks ahead. The declared
    attributes must be true: they are tested when a plugin offers the encoder, and by the laws of `pipeline.testing`.

    Attributes:
        input_size: the number of features per step of the input.
        output_size: the number of features per step of the output.
        causal: whether step t depends on steps up to t only; must agree with the type.
        bidirectional: whether it reads each row from both ends; then it is not causal.
        layouts: the layouts that it reads without a copy. It converts others with `packed()` or `padded()`.
        empty_rows: whether it accepts empty rows; if not, `Encode` rejects them.
        stateful: whether it starts from a batch's `initial_carry` and returns `carry` in the same form.
        exportable: whether `torch.export` and `torch.compile(fullgraph=True)` support it on padded rows.
    """

    input_size: int
    output_size: int
    causal: bool
    bidirectional: bool = False
    layouts: tuple[Layout, ...] = ("packed",)
    empty_rows: bool = True
    stateful: bool = False
    exportable: bool = False

    # nn.Module declares `__call__` as returning Any, which would hide every type error after a call.
    if TYPE_CHECKING:

        def __call__(self, batch: Batch[Vectors], /) -> States[S_co]:
            """Call `forward`, with the type that `nn.Module` leaves open."""
            ...

    @abstractmethod
    def forward(self, batch: Batch[Vectors]) -> States[S_co]:
        """Return one hidden vector per real step, and the final state of each row.

        The batch may be in either layout. `batch.packed()` and `batch.padded()` convert it, and cost nothing if it
        is in that layout already. The final state of an empty row is its initial state, or zeros.
        """

    def make_states(
        self,
        steps: Batch[Hidden],
        final: Float[Tensor, "batch hidden"],
        *,
        carry: Carry | None = None,
        engine: str | None = None,
    ) -> States[S_co]:
        """Return states that are causal if the type of this encoder says so, for use in `forward`.

        Args:
            steps: the hidden vectors, as `batch.with_values` returns them.
            final: the final state of each row.
            carry: the final recurrent state, if the encoder is stateful.
            engine: the name of the engine that computed the states, if the encoder has several.

        Raises:
            ShapeError: if the final states differ from the steps in the number of rows or the size.
        """
        if not torch.compiler.is_compiling() and not final.requires_grad and not steps.values.numel():
            # A function of the weights even without any step: a process of DDP that got such a batch would otherwise
            # hang the others, which wait for its gradients.
            final = final + steps.values.sum()
        states = States(steps, final, carry=carry, bidirectional=self.bidirectional, engine=engine)
        return cast("States[S_co]", states)


# The declared attributes of all kinds of parts; `inner_product` is one of attentions.
_DECLARED: Final = ("causal", "bidirectional", "layouts", "empty_rows", "stateful", "exportable", "inner_product")


def get_capabilities(part: object) -> Mapping[str, bool | tuple[Layout, ...]]:
    """Return the attributes that a part declares, by name; attributes of other kinds of parts are left out.

    Example:
        >>> from pipeline_attention import Dot
        >>> from pipeline_recurrent import LSTM
        >>> get_capabilities(LSTM(3, 4, bidirectional=True))["causal"], get_capabilities(Dot(3))
        (False, {'exportable': True, 'inner_product': True})
    """
    return {name: getattr(part, name) for name in _DECLARED if hasattr(part, name)}
