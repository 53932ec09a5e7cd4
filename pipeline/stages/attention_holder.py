"""The base class of stages with an attention: they hold it, and the layer that combines contexts with states."""

from collections.abc import Mapping
from typing import get_args

import attrs
from jaxtyping import Bool, Float
from torch import Tensor, nn
from typing_extensions import override

from pipeline.checks.options import check_choice
from pipeline.core.stage import Spec
from pipeline.data.batches import Batch
from pipeline.data.kinds import Hidden
from pipeline.data.states import S, States
from pipeline.errors import CompositionError, OptionError
from pipeline.parts.attention import Attention
from pipeline.parts.config import POSITIONAL
from pipeline.registry import registry
from pipeline.registry.catalogue import Catalogue
from pipeline.stages.attend_output import Output, combine, count_features, make_output_layer, split_parts
from pipeline.stages.part_stage import PartStage
from pipeline.stages.query_chunks import check_memory


class AttentionHolder(PartStage[Attention]):
    """A stage's attention, and the layer that combines contexts with states.

    Args:
        attention: an attention, or the name of a registered one.
        output: what a step becomes.
        memory: the memory budget of scores, in bytes.
        name: the stage's name in its chain.
        options: options of the attention, if it is given by name.

    Raises:
        OptionError: if `output` is another word, or `memory` is below 1; and as `PartStage`.
    """

    attention: Attention | None
    combine: nn.Linear | None

    def __init__(
        self,
        attention: Attention | str,
        output: Output,
        memory: int,
        name: str | None,
        options: Mapping[str, object],
    ) -> None:
        check_choice("output", output, get_args(Output))
        super().__init__(attention, "attention", name, options)
        self.output: Output = output
        self.memory: int = check_memory(memory)
        self.combine = make_output_layer(output, None if self.part is None else self.part.input_size)
        if self.part is not None:
            self._check_part(self.part)

    def get_config(self) -> Mapping[str, object]:
        """Return the arguments with which this stage can be made again."""
        attention, options = self.get_part_config()
        return {POSITIONAL: [attention], "output": self.output, "memory": self.memory, "name": self.name, **options}

    @override
    def make_part(self, spec: Spec) -> Attention | None:
        if self.output == "key_value_predict" and spec.size is not None:
            spec = attrs.evolve(spec, size=self._divide(spec.size))
        attention = super().make_part(spec)
        if attention is not None:
            self._check_part(attention)
        if self.combine is None:
            self.combine = make_output_layer(self.output, None if attention is None else attention.input_size)
        return attention

    def count_features(self, spec: Spec, attention: Attention | None) -> int | None:
        """Return the number of features of the output; None if it is not known yet."""
        size = None if self.output == "key_value_predict" else spec.size
        return count_features(self.output, size if attention is None else attention.input_size)

    @override
    def get_part(self, size: int) -> Attention:
        return super().get_part(self._divide(size) if self.output == "key_value_predict" else size)

    def split(
        self, states: Float[Tensor, "batch time hidden"]
    ) -> tuple[Float[Tensor, "batch time part"], Float[Tensor, "batch time part"]]:
        """Return the part of states that is compared, and the part of which contexts are means; usually all of both."""
        return split_parts(states)[:2] if self.output == "key_value_predict" else (states, states)

    def compute_contexts(
        self,
        attention: Attention,
        query: Float[Tensor, "batch query hidden"],
        key: Float[Tensor, "batch key hidden"],
        mask: Bool[Tensor, "#batch #query key"],
    ) -> Float[Tensor, "batch query part"]:
        """Return the contexts of whole states, all at once."""
        if self.output != "key_value_predict":
            return attention(query, key, mask)
        keys, values = self.split(key.masked_fill(~mask.any(1).unsqueeze(-1), 0))
        projected = attention.project(self.split(query)[0], keys)
        return attention.project_contexts(attention.mix(*projected, attention.project_values(values), mask))

    def _divide(self, size: int) -> int:
        if size % 3:
            msg = (
                "output='key_value_predict' divides states into three parts: their size must be a multiple of 3, got "
                f"{size}; choose another size of the encoder."
            )
            raise CompositionError(msg, size=size)
        return size // 3

    def _check_part(self, attention: Attention) -> None:
        if self.output == "key_value_predict" and attention.overrides_mixing:
            msg = (
                f"output='key_value_predict' mixes values that are not the keys, but {type(attention).__name__} mixes "
                "by itself; choose another attention."
            )
            raise OptionError(msg, part=self.part_name)

    def finish(self, states: States[S], contexts: Batch[Hidden], *, stage: str | None = None) -> States[S]:
        """Return the output of each step, from its state and its context; errors name the stage."""
        stage = stage or type(self).__name__
        if self.output == "context":
            return states.with_values(contexts, stage=stage)
        return combine(self.output, self.combine, states, contexts, stage)

    @override
    def get_catalogue(self) -> Catalogue[Attention]:
        return registry().attentions
