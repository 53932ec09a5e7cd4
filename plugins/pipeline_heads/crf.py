"""A linear-chain conditional random field: tags that are chosen together, as a path."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TypedDict, cast, final, overload

import torch
from torch import Tensor, nn
from typing_extensions import TypeVar, Unpack, override

from pipeline import Labels
from pipeline.extend import ClassHead, Layout, MaybeCausal, ModuleStage, OptionError, States, has_span_tags
from pipeline_heads.constraints import Pair, Scheme, make_allowed
from pipeline_heads.paths import PathScores

N = TypeVar("N", default=int)
"""The type of a predicted class: its id, or its name."""


class CRFOptions(TypedDict, total=False):
    """The options of `CRF`, which describes them."""

    constraints: Scheme | None
    forbidden: Iterable[Pair]
    input_size: int | None
    name: str | None


@final
class CRF(ClassHead, ModuleStage[States[MaybeCausal], PathScores[N]]):
    """Score whole paths of classes, one class per step: a conditional random field.

    A linear layer scores each class at each step, and learned numbers score each class after another one, at the start
    and at the end of a row. The prediction of a row is its best path. The loss is the negative log-likelihood of the
    targets among all paths, per step with a target.

    Args:
        classes: the number of classes, or the labels; with labels, predictions are class names.
        constraints: the rules of spans: `"bio"` or `"bioes"` (also with the letters of BILOU). Paths that break them
            are impossible, in training too. None for no rules.
        forbidden: more pairs of classes that may not follow each other, by name or id. None stands for the start of a
            row, as the first of a pair, and for its end, as the second.
        input_size: the number of features of a step's vector; by default that of the stage before.
        name: the stage's name in its chain.

    Raises:
        OptionError: if there are no classes, they are not tags of the scheme, or a pair has an unknown class.

    Source: Lafferty, McCallum and Pereira 2001, "Conditional Random Fields: Probabilistic Models for Segmenting and
    Labeling Sequence Data"; Lample et al. 2016, "Neural Architectures for Named Entity Recognition", arXiv:1603.01360.
    Lample et al. add a tag before and after each row, which is `start` and `end` here.

    Example:
        >>> states = States.from_padded(torch.ones(2, 3, 4), torch.tensor([3, 1]))
        >>> crf = CRF(Labels(["O", "B-per", "I-per"]), constraints="bio", input_size=4)
        >>> [len(tags) for _, tags in crf(states).rows()]
        [3, 1]
        >>> crf(states).transitions[0, 2].item()
        -inf
    """

    layouts: tuple[Layout, ...] = ("packed",)
    """The layouts that it reads without a copy."""

    allowed: Tensor

    @overload
    def __init__(self: "CRF[int]", classes: int, **options: Unpack[CRFOptions]) -> None: ...
    @overload
    def __init__(self: "CRF[str]", classes: Labels, **options: Unpack[CRFOptions]) -> None: ...
    def __init__(
        self,
        classes: int | Labels,
        *,
        constraints: Scheme | None = None,
        forbidden: Iterable[Pair] = (),
        input_size: int | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(classes, input_size, name)
        if not isinstance(cast("object", forbidden), Iterable):
            msg = f"forbidden must have pairs of classes, got {forbidden!r:.200}; leave it out for none."
            raise OptionError(msg, forbidden=forbidden)
        self.constraints = constraints
        self.forbidden: list[Pair] = [*forbidden]
        self.transitions: nn.Parameter = nn.Parameter(torch.empty(self.classes, self.classes))
        self.start: nn.Parameter = nn.Parameter(torch.empty(self.classes))
        self.end: nn.Parameter = nn.Parameter(torch.empty(self.classes))
        self.register_buffer("allowed", make_allowed(self.names, constraints, self.forbidden))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the scores of transitions from -0.1 to 0.1."""
        for weight in (self.transitions, self.start, self.end):
            nn.init.uniform_(weight, -0.1, 0.1)

    @property
    def default_metrics(self) -> list[str]:
        """The metrics of `fit`: F1 of spans and accuracy if the classes are tags of spans."""
        return ["span_f1", "accuracy"] if has_span_tags(self.names) else ["accuracy", "macro_f1"]

    def explain_not_stepwise(self) -> str:
        """Return why `step` does not run it: a step alone would be a path of its own."""
        return "the class of a step is that of the best path through the whole row; use Tag, which predicts each step"

    @override
    def get_config(self) -> Mapping[str, object]:
        return {**super().get_config(), "constraints": self.constraints, "forbidden": self.forbidden}

    @override
    def forward(self, value: States[MaybeCausal]) -> PathScores[N]:
        """Return the scores of a batch's paths.

        Raises:
            CompositionError: if the input size is not known yet.
            ShapeError: if the states have another size than the input size.
        """
        steps, scores = self.score_states(value)
        transitions, start, end = (
            weight.masked_fill(~allowed, -torch.inf)
            for weight, allowed in (
                (self.transitions, self.allowed[:-1, :-1]),
                (self.start, self.allowed[-1, :-1]),
                (self.end, self.allowed[:-1, -1]),
            )
        )
        return PathScores(
            scores,
            steps.lengths,
            cast("Sequence[N]", self.names),
            metadata=steps.metadata,
            order=steps.order,
            transitions=transitions,
            start=start,
            end=end,
        )
