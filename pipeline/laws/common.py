"""The laws that hold for parts of every kind: encoders, attentions, poolings and plain modules."""

from typing import Final

from pipeline.laws.graphs import GRAPH_LAWS
from pipeline.laws.law import Law
from pipeline.laws.long_rows import LONG_ROW_LAWS
from pipeline.laws.parts import AnyModule
from pipeline.laws.precision import PRECISION_LAWS
from pipeline.laws.rows import ROW_LAWS
from pipeline.laws.side_effects import SIDE_EFFECT_LAWS
from pipeline.laws.training import TRAINING_LAWS
from pipeline.laws.variations import VARIATION_LAWS
from pipeline.laws.weights import WEIGHT_LAWS

COMMON_LAWS: Final[tuple[Law[AnyModule], ...]] = (
    *ROW_LAWS,
    *SIDE_EFFECT_LAWS,
    *VARIATION_LAWS,
    *WEIGHT_LAWS,
    *TRAINING_LAWS,
    *PRECISION_LAWS,
    *LONG_ROW_LAWS,
    *GRAPH_LAWS,
)
"""All of them, the quick ones first."""
