"""Attention around a position that each step predicts: Luong's local-p."""

from collections.abc import Mapping
from typing import final, overload

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from typing_extensions import override

from pipeline.checks.options import check_int
from pipeline.core.inference import InferenceOptions
from pipeline.core.stage import ModuleStage, Spec
from pipeline.data.states import MaybeCausal, States
from pipeline.errors import OptionError
from pipeline.parts.attention import Attention, normalize_scores
from pipeline.stages.attend_output import Output
from pipeline.stages.attention_holder import AttentionHolder
from pipeline.stages.query_chunks import MEMORY, QueryChunks, concatenate


@final
class AttendLocal(AttentionHolder, ModuleStage[States[MaybeCausal], States[MaybeCausal]]):
    """Let every step attend to the steps around a position of its row that it predicts. The output is not causal.

    From its state h, a step predicts the position p = (S - 1) sigmoid(v . tanh(W h)), for a row of S steps. It attends
    to the steps within `window` of p; their weights are multiplied by exp(-(s - p)^2 / (2 (window / 2)^2)), so that
    they sum to less than 1. Around the step itself, without a prediction, use `Attend(..., window=...)`.

    Args:
        attention: an attention whose contexts are means of the keys, or the name of a registered one.
        window: the number of steps on either side of the position.
        output: what a step becomes, as for `Attend`.
        memory: the memory budget of scores, as for `Attend`; all scores of a chunk are stored.
        name: the stage's name in its chain.
        options: options of the attention, if it is given by name.

    Raises:
        UnknownNameError: if no plugin offers the name.
        UnknownOptionError: if the attention does not take an option.
        OptionError: if `output` is another word, `window` or `memory` is below 1, or the attention projects its values
            or mixes by itself, as `MultiHead`.

    Source: Luong, Pham and Manning 2015, arXiv:1508.04025, section 3.2, equations 9 and 10. They attend to another
    sentence, and count positions from 1 to S; ours are from 0 to S - 1.

    Example:
        >>> states = States.from_padded(torch.ones(1, 5, 2), torch.tensor([5]))
        >>> AttendLocal("dot", window=1, input_size=2).weights(states)[0].count_nonzero(1).max().item() <= 3
        True
    """

    position: nn.Linear | None
    vector: nn.Linear | None

    @overload
    def __init__(
        self,
        attention: Attention,
        *,
        window: int,
        output: Output = "context",
        memory: int = MEMORY,
        name: str | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self,
        attention: str = "general",
        *,
        window: int,
        output: Output = "context",
        memory: int = MEMORY,
        name: str | None = None,
        **options: object,
    ) -> None: ...
    def __init__(
        self,
        attention: Attention | str = "general",
        *,
        window: int,
        output: Output = "context",
        memory: int = MEMORY,
        name: str | None = None,
        **options: object,
    ) -> None:
        super().__init__(attention, output, memory, name, options)
        if output == "key_value_predict":
            msg = "output='key_value_predict' is for Attend and AttendEarlier; choose context, concat or tanh."
            raise OptionError(msg, output=output)
        self.window: int = check_int("window", window, minimum=1)
        self.position = self.vector = None
        if self.part is not None:
            self._make_layers(self.part)

    @override
    def get_config(self) -> Mapping[str, object]:
        return {**super().get_config(), "window": self.window}

    def prepare_for_inference(self, options: InferenceOptions, /) -> None:
        """Reject deterministic inference, in which the sums of weights would need another form.

        Raises:
            OptionError: if it is asked for.
        """
        if options.deterministic:
            msg = "deterministic=True is not offered for AttendLocal; leave it out, or use Attend(..., window=...)."
            raise OptionError(msg, stage=self.name)

    @override
    def build(self, spec: Spec, /) -> Spec:
        attention = self.make_part(spec)
        if attention is not None:
            self._make_layers(attention)
        return Spec(self.count_features(spec, attention), causal=False, outdated=type(self).__name__)

    @override
    def forward(self, value: States[MaybeCausal]) -> States[MaybeCausal]:
        """Return each step's output.

        Raises:
            CompositionError: if the attention's input size is not known yet.
            ShapeError: if the states have another size than the attention's input size.
        """
        rows = value.padded()
        weights = self._run(value, mixes=True)
        return self.finish(value, rows.with_values(weights))

    def weights(self, states: States[MaybeCausal]) -> Float[Tensor, "batch query key"]:
        """Return the weight of each step (key) in each step's context (query), padded; zeros for padding."""
        return self._run(states, mixes=False).masked_fill(~states.mask.unsqueeze(-1), 0)

    def _run(self, states: States[MaybeCausal], *, mixes: bool) -> Float[Tensor, "batch query found"]:
        """Return the contexts, or the weights."""
        values = states.padded().values
        attention = self.get_part(values.shape[-1])
        query, key = attention.project(values, values)
        position = self.predict_positions(states)

        def weigh(query: Tensor, position: Tensor, key: Tensor, values: Tensor, real: Tensor) -> Tensor:
            weights = self._weigh(attention, query, key, position, real)
            return weights @ values if mixes else weights

        if torch.compiler.is_compiling():
            return weigh(query, position, key, values, states.mask)
        chunks = QueryChunks.of(
            attention, query, keys=values.shape[1], block=None, memory=self.memory, stores_scores=True
        )
        found: list[Tensor] = []
        for q, p, k, v, real in chunks.split_rows(query, position, key, values, states.mask):
            queries = chunks.split_queries(q.shape[1])
            found.append(concatenate([chunks.run(weigh, q[:, some], p[:, some], k, v, real) for some in queries], 1))
        return concatenate(found, 0)

    def predict_positions(self, states: States[MaybeCausal]) -> Float[Tensor, "batch time"]:
        """Return the position that each step predicts, from 0 to the last step of its row, in float32 or wider."""
        assert self.position is not None
        assert self.vector is not None
        logits = self.vector(torch.tanh(self.position(states.padded().values))).squeeze(-1)
        # Half precision has no number for each step of a long row: in bfloat16, 501 is 500.
        share = torch.sigmoid(logits.to(torch.promote_types(logits.dtype, torch.float32)))
        last = (states.order.lengths_on_device - 1).clamp(min=0).to(share.dtype)
        return share * last.unsqueeze(1)

    def _weigh(
        self,
        attention: Attention,
        query: Float[Tensor, "batch query inner"],
        key: Float[Tensor, "batch key inner"],
        position: Float[Tensor, "batch query"],
        real: Bool[Tensor, "batch key"],
    ) -> Float[Tensor, "batch query key"]:
        distance = torch.arange(key.shape[1], device=key.device) - position.unsqueeze(-1)
        mask = real.unsqueeze(1) & (distance.abs() <= self.window)
        weights = normalize_scores(attention.compare(query, key), mask, attention.normalize)
        return weights * torch.exp(-2 * (distance / self.window).square()).to(weights.dtype)

    def _make_layers(self, attention: Attention) -> None:
        if attention.projects_values or attention.overrides_mixing:
            msg = (
                f"AttendLocal weighs the steps themselves, but {type(attention).__name__} projects or mixes by itself; "
                "choose another attention, such as 'general'."
            )
            raise OptionError(msg, part=self.part_name)
        if self.position is None:
            self.position = nn.Linear(attention.input_size, attention.input_size, bias=False)
            self.vector = nn.Linear(attention.input_size, 1, bias=False)
