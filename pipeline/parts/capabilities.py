"""What a part says that it can do, for the stages that use it and for the lists that show it."""

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

Layout: TypeAlias = Literal["packed", "padded"]
"""How the rows of a batch lie: real steps alone, or in a rectangle."""

_KNOWN: Final = ("causal", "bidirectional", "layouts", "empty_rows", "stateful", "exportable", "inner_product")


def capabilities(part: object) -> Mapping[str, bool | tuple[Layout, ...]]:
    """What a part declares, by name; what does not apply to parts of its kind is left out.

    Example:
        >>> from pipeline_attention import Dot
        >>> from pipeline_recurrent import LSTM
        >>> capabilities(LSTM(3, 4, bidirectional=True))["causal"], capabilities(Dot(3))
        (False, {'exportable': True, 'inner_product': True})
    """
    return {name: getattr(part, name) for name in _KNOWN if hasattr(part, name)}
