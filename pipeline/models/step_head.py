"""The head of a tagger, by its registered name."""

from typing import Literal, TypeAlias, cast

from pipeline.core.stage import ModuleStage
from pipeline.data.scores import StepScores
from pipeline.data.states import MaybeCausal, States
from pipeline.labels import Labels
from pipeline.registry import registry

Constraints: TypeAlias = Literal["bio", "bioes"]
"""The rules of spans that a head may keep: of BIO, or of BIOES and BILOU."""


# Of a registered head, a checker does not know what it returns: the stage before it checks that it takes states, and a
# head of other predictions is wrong here.


def make_number_head(
    head: str, classes: int, constraints: Constraints | None
) -> ModuleStage[States[MaybeCausal], StepScores[int]]:
    """Return a head that predicts class numbers."""
    made: object = registry().heads.make(head, classes=classes, **_make_options(constraints))
    return cast("ModuleStage[States[MaybeCausal], StepScores[int]]", made)


def make_name_head(
    head: str, classes: Labels, constraints: Constraints | None
) -> ModuleStage[States[MaybeCausal], StepScores[str]]:
    """Return a head that predicts class names."""
    made: object = registry().heads.make(head, classes=classes, **_make_options(constraints))
    return cast("ModuleStage[States[MaybeCausal], StepScores[str]]", made)


def _make_options(constraints: Constraints | None) -> dict[str, object]:
    return {} if constraints is None else {"constraints": constraints}
