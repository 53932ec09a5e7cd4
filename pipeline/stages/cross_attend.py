"""Let the steps of one sequence attend to those of another one of the same row, such as the two texts of a pair."""

from collections.abc import Mapping
from typing import Any, cast, final, overload

import attrs
import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import TypeVar, override

from pipeline.core.stage import I_contra, ModuleStage, O_co, Spec, Stage, StageBase
from pipeline.data.states import MaybeCausal, S, States
from pipeline.errors import CompositionError, OptionError, ShapeError
from pipeline.parts.attention import Attention
from pipeline.parts.config import POSITIONAL
from pipeline.stages.attend_across import AttendedSteps, attend_across
from pipeline.stages.attend_output import Output
from pipeline.stages.attention_holder import AttentionHolder
from pipeline.stages.branches import Branching, build_branch
from pipeline.stages.join import Branch
from pipeline.stages.query_chunks import MEMORY

A = TypeVar("A")
B = TypeVar("B")


@final
class CrossAttention(AttentionHolder):
    """The attention of a `CrossAttend`, and the layer of its output."""


@final
class CrossAttend(Branching, ModuleStage[I_contra, O_co]):
    """Run two branches on the same input, and let each step of the first attend to all steps of the second.

    The output has the steps of the first branch. It is causal if they are: the second side is known as a whole. A row
    whose second side is empty has contexts of zeros.

    Args:
        query: the branch whose steps attend, such as `TextPair.first >> reader`.
        key: the branch whose steps are attended to, of the same size.
        attention: an attention, or the name of a registered one.
        output: what a step becomes, as for `Attend`.
        memory: the memory budget of scores, as for `Attend`.
        name: the stage's name in its chain.
        options: options of the attention, if it is given by name. `input_size` may be left out.

    Raises:
        UnknownNameError: if no plugin offers the name.
        UnknownOptionError: if the attention does not take an option.
        OptionError: if `output` is another word, or `memory` is below 1.
        CompositionError: by `>>`, if the sizes of the branches differ.

    Source: Rocktäschel et al. 2016, "Reasoning about Entailment with Neural Attention", arXiv:1509.06664 (word by word,
    without its recurrence over contexts).

    Example:
        >>> from pipeline import Embed, Encode, Pool, TextPair
        >>> read = Embed(9, 4) >> Encode("gru", hidden_size=3)
        >>> CrossAttend(TextPair.first >> read, TextPair.second >> read) >> Pool("max")
        CrossAttend >> Pool
    """

    @overload
    def __init__(
        self: "CrossAttend[A, States[S]]",
        query: Branch[A, B, States[S]],
        key: Stage[B, States[MaybeCausal]],
        attention: Attention,
        *,
        output: Output = "context",
        memory: int = MEMORY,
        name: str | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self: "CrossAttend[A, States[S]]",
        query: Branch[A, B, States[S]],
        key: Stage[B, States[MaybeCausal]],
        attention: str = "dot",
        *,
        output: Output = "context",
        memory: int = MEMORY,
        name: str | None = None,
        **options: object,
    ) -> None: ...
    def __init__(
        self,
        query: Any,
        key: Any,
        attention: Attention | str = "dot",
        *,
        output: Output = "context",
        memory: int = MEMORY,
        name: str | None = None,
        **options: object,
    ) -> None:
        if output == "key_value_predict":
            msg = "output='key_value_predict' is for the steps of one row; choose context, concat or tanh."
            raise OptionError(msg, output=output)
        super().__init__({"query": cast("StageBase", query), "key": cast("StageBase", key)})
        self.stepwise: bool = False
        self.name = name
        self.attend: CrossAttention = CrossAttention(attention, output, memory, None, options)

    def get_config(self) -> Mapping[str, object]:
        """Return the arguments with which this stage can be made again."""
        config = dict(self.attend.get_config())
        (attention,) = cast("list[object]", config.pop(POSITIONAL))
        return {**config, POSITIONAL: [*self.branches.values(), attention], "name": self.name}

    @property
    def is_lazy(self) -> bool:
        """True if the attention is not made yet, because its input size is not known."""
        return self.attend.is_lazy

    @override
    def build(self, spec: Spec, /) -> Spec:
        query, key = (build_branch(stage, spec, f"branch {name!r}") for name, stage in self.branches.items())
        if None not in {query.size, key.size} and query.size != key.size:
            msg = (
                f"branches of CrossAttend must have one size, but query has {query.size}, key has {key.size}; make "
                "both equal."
            )
            raise CompositionError(msg, query=query.size, key=key.size)
        known = query if query.size is not None else attrs.evolve(query, size=key.size)
        attention = self.attend.make_part(known)
        return Spec(self.attend.count_features(known, attention), causal=query.causal, outdated=type(self).__name__)

    @override
    def forward(self, value: I_contra) -> O_co:
        """Return the output of each step of the first branch.

        Raises:
            CompositionError: if the attention's input size is not known yet.
            ShapeError: if a branch does not return states, or their rows or sizes differ.
        """
        query, key = self._run(value)
        rows = query.padded()
        attention = self._get_attention(query, key)
        if torch.compiler.is_compiling():
            contexts = attention(rows.values, key.padded().values, key.mask.unsqueeze(1))
        else:
            attended = AttendedSteps.make(attention, key)
            contexts = attend_across(attention, rows.values, attended, memory=self.attend.memory)
        return cast("O_co", self.attend.finish(query, rows.with_values(contexts), stage=type(self).__name__))

    def weights(self, value: I_contra) -> Float[Tensor, "batch query key"]:
        """Return the weight of each step of the second branch in each context, padded; zeros for padding."""
        return self.weigh(value)[0]

    def weigh(
        self, value: I_contra
    ) -> tuple[Float[Tensor, "batch query key"], States[MaybeCausal], States[MaybeCausal]]:
        """Return the weights, and the states of both branches."""
        query, key = self._run(value)
        attention = self._get_attention(query, key)
        weights = attention.weights(query.padded().values, key.padded().values, key.mask.unsqueeze(1))
        return weights.masked_fill(~query.mask.unsqueeze(-1), 0), query, key

    def _run(self, value: I_contra) -> tuple[States[MaybeCausal], States[MaybeCausal]]:
        found: list[States[MaybeCausal]] = []
        for name, stage in self.branches.items():
            states = cast("Stage[Any, object]", stage)(value)
            if not isinstance(states, States):
                msg = (
                    f"branch {name!r} of CrossAttend must return states, got {type(states).__name__}; end it with "
                    "Encode."
                )
                raise ShapeError(msg, branch=name)
            found.append(cast("States[MaybeCausal]", states))
        return found[0], found[1]

    def _get_attention(self, query: States[MaybeCausal], key: States[MaybeCausal]) -> Attention:
        attention = self.attend.get_part(query.steps.values.shape[-1])
        self.attend.get_part(key.steps.values.shape[-1])
        return attention
