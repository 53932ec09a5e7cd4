"""The options of `export`."""

from collections.abc import Mapping
from typing import Literal, TypeAlias, TypedDict

from pipeline.data.kinds import Kind

Form: TypeAlias = Literal["rows", "step"]
"""What an exported model takes: whole rows, or one step of each row and the state of the steps before."""


class ExportOptions(TypedDict, total=False):
    """The options of `export`.

    Attributes:
        form: "rows" for a model of whole rows, and for one that ends in a decoder, of which a graph of one step is
            written too; "step" for one of a causal model that takes one step of each row, and
            the state after the steps before, and returns the next state too.
        kind: the kind of the rows, such as `TextPair` or a class of fields. A pipe with `Pad` states it.
        sizes: the number of ids or features of inputs for which no stage states it, by the input's name.
        batches: the number of random batches on which the exported model is compared with the model.
        tolerance: the difference that is allowed; for numbers above 1 relative to them.
    """

    form: Form
    kind: type[Kind] | None
    sizes: Mapping[str, int] | None
    batches: int
    tolerance: float
