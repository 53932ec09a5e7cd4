"""The base class of stages with an attention: they hold it, and the layer that combines contexts with states."""

from collections.abc import Mapping
from typing import get_args

from torch import nn
from typing_extensions import override

from pipeline.checks.options import check_choice
from pipeline.core.stage import Spec
from pipeline.data.batches import Batch
from pipeline.data.kinds import Hidden
from pipeline.data.states import S, States
from pipeline.parts.attention import Attention
from pipeline.parts.config import POSITIONAL
from pipeline.registry import registry
from pipeline.registry.catalogue import Catalogue
from pipeline.stages.attend_output import Output, combine, count_features, make_output_layer
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

    def get_config(self) -> Mapping[str, object]:
        """Return the arguments with which this stage can be made again."""
        attention, options = self.get_part_config()
        return {POSITIONAL: [attention], "output": self.output, "memory": self.memory, "name": self.name, **options}

    @override
    def make_part(self, spec: Spec) -> Attention | None:
        attention = super().make_part(spec)
        if self.combine is None:
            self.combine = make_output_layer(self.output, None if attention is None else attention.input_size)
        return attention

    def count_features(self, spec: Spec, attention: Attention | None) -> int | None:
        """Return the number of features of the output; None if it is not known yet."""
        return count_features(self.output, spec.size if attention is None else attention.input_size)

    def finish(self, states: States[S], contexts: Batch[Hidden], *, stage: str | None = None) -> States[S]:
        """Return the output of each step, from its state and its context; errors name the stage."""
        return combine(self.output, self.combine, states, contexts, stage or type(self).__name__)

    @override
    def get_catalogue(self) -> Catalogue[Attention]:
        return registry().attentions
