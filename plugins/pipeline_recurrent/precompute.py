"""Faster inference over a small vocabulary: the input products of an encoder are precomputed for each id."""

import copy
from collections.abc import Sequence
from typing import Final, Generic, TypeVar, cast, final

import torch
from torch import Tensor, nn
from typing_extensions import TypeIs, override

from pipeline import Dropout, Embed, Encode
from pipeline.extend import (
    Batch,
    Chain,
    CompositionError,
    EncoderCarry,
    Ids,
    MaybeCausal,
    ModuleStage,
    OptionError,
    S_co,
    Spec,
    StageBase,
    States,
    Stepping,
    StreamChain,
    TypePreservingChain,
    Vectors,
    has_hooks,
    join,
    step_encoder,
)
from pipeline_recurrent.engines.choose import EngineName
from pipeline_recurrent.engines.engine import switch_off_autocast
from pipeline_recurrent.frozen import explain_unfit
from pipeline_recurrent.recurrent import Recurrent

P = TypeVar("P", bound=StageBase)

_LOOKS_UP: Final[tuple[EngineName, ...]] = ("auto", "plain", "native")
"""Values of `engine` with which ids can be looked up; in place of the others, `plain` is used."""


def precompute_inputs(pipe: P) -> P:
    """Return a copy of a pipe for inference that looks up the input products of an encoder.

    In evaluation the first layer of a recurrent encoder multiplies embedded ids by its input weights, always with the
    same result for the same id. Here these products are computed once for every id. Each `Embed >> Encode` with an
    LSTM, GRU or RNN of this package, with or without `Dropout` between them, becomes one stage that looks them up.
    Predictions are equal up to rounding. Other stages stay as they are.

    The copy keeps the weights of this moment: weights that are trained or loaded into the pipe later do not reach it.
    Keep the pipe for training and saving, and call this function again after either.

    The table has ids x gates x hidden x directions numbers, with 4 gates for an LSTM, 3 for a GRU and 1 for an RNN. It
    replaces the embedding of ids x features: 20,000 ids with a bidirectional LSTM of 128 take 82 MB in float32. It is
    worth this memory if there are many batches: it saves features / (features + hidden) of the first layer's products.
    On a GPU it is slower: cuDNN cannot look up, so that plain operations run instead.

    Args:
        pipe: a pipe, or a model of stages joined by `>>`.

    Raises:
        CompositionError: if no `Embed` in it feeds a recurrent encoder of this package.

    Example:
        >>> from pipeline import Classify, Packed, Pool
        >>> from pipeline_recurrent import LSTM
        >>> model = Embed(9, 4) >> Encode(LSTM(4, 5)) >> Pool("max") >> Classify(2)
        >>> fast = precompute_inputs(model)
        >>> fast
        PrecomputeInputs >> Pool >> Classify
        >>> rows = Packed(Ids, torch.tensor([1, 8, 3]), torch.tensor([2, 1]))
        >>> torch.allclose(fast(rows).values, model(rows).values, atol=1e-6)
        True
    """
    # Copied in one call, so that stages that share tensors, such as tied weights, share them in the copy too.
    stages = _list_stages(pipe)
    for start, embed in enumerate(stages):
        end, encoder = _find_reader(stages, start)
        if isinstance(embed, Embed) and encoder is not None:
            _reject_hooks(stages[start : end + 1], encoder)
            break
    stages = _list_stages(copy.deepcopy(pipe))
    for start, embed in enumerate(stages):
        end, encoder = _find_reader(stages, start)
        if isinstance(embed, Embed) and encoder is not None:
            # The new stage takes the encoder's place and name, so that later stages keep their names in the state dict.
            stage = PrecomputeInputs(embed, encoder, name=stages[end].name)
            joined = join(*stages[:start], stage, *stages[end + 1 :])
            if isinstance(joined, nn.Module):
                joined.requires_grad_(requires_grad=False).eval()
            return cast("P", joined)
    msg = (
        "precompute_inputs takes a pipe in which Embed feeds an LSTM, GRU or RNN of pipeline_recurrent, with at most "
        f"Dropout between them, got `{pipe!r}`; use this pipe as it is."
    )
    raise CompositionError(msg)


@final
class PrecomputeInputs(
    ModuleStage[Batch[Ids], States[S_co]], Stepping[Batch[Ids], States[S_co], EncoderCarry], Generic[S_co]
):
    """Encode ids with a table of the first layer's input products; made by `precompute_inputs`.

    Args:
        embed: the vectors of the ids. It is not changed.
        encoder: the encoder that reads them. It is not changed.
        name: the name of the stage in its chain.
    """

    def __init__(self, embed: Embed, encoder: Recurrent[S_co], *, name: str | None = None) -> None:
        super().__init__()
        self.name = name
        table = _compute_table(embed, encoder)
        # An embedding on the meta device takes no memory until it gets the table, instead of random numbers.
        with torch.device("meta"):
            self.embed: Embed = Embed(*table.shape)
        self.embed.weight = nn.Parameter(table, requires_grad=False)
        self.encoder: Recurrent[S_co] = copy.deepcopy(encoder).requires_grad_(requires_grad=False)
        if self.encoder.engine not in _LOOKS_UP:
            self.encoder.engine = "plain"
        _remove_input_weights(self.encoder.rnn)
        self.encoder.input_size = 0
        self.eval()

    @override
    def build(self, spec: Spec, /) -> Spec:
        return Spec(self.encoder.output_size, self.encoder.causal)

    @override
    def forward(self, value: Batch[Ids]) -> States[S_co]:
        """Return the states of a batch.

        Raises:
            OptionError: in training mode, or if gradients are needed; or if the encoder's engine cannot look up.
            ShapeError: if the batch holds no ids, is on another device, or its initial states do not fit.
            ValuesError: if an id is out of range (on a GPU, torch's kernel asserts instead).
        """
        packed = value.packed()
        self._reject_training(packed.initial_carry or ())
        # `index_select` is fast on contiguous rows, so the table is stored by id, and seen transposed: as weights.
        ids, table = self.embed.check_ids(packed).packed(), self.embed.weight
        tables = [one.t() for one in table.chunk(self.encoder.directions, dim=1)]
        # Autocast chooses the dtypes of products, but the dtype of looked-up numbers is fixed.
        with switch_off_autocast(table.device.type):
            return self.encoder.read(ids, tables)

    @override
    def step(self, value: Batch[Ids], memory: EncoderCarry | None, /) -> tuple[States[S_co], EncoderCarry]:
        """Return the states of the next steps of each row; the encoder starts from its carry.

        Raises:
            CompositionError: if the encoder is not causal.
        """
        return step_encoder(self.encoder, type(self.encoder).__name__, self, value, memory)

    def _reject_training(self, initial: Sequence[Tensor]) -> None:
        problem = "it is in training mode" if self.training else None
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (*self.parameters(), *initial)):
            problem = "its weights or the initial states require gradients"
        if problem is not None:
            msg = (
                f"PrecomputeInputs is for inference with fixed weights, but {problem}; train the original pipe and "
                "call precompute_inputs(pipe) again, or call eval() on this one."
            )
            raise OptionError(msg)


def _reject_hooks(replaced: Sequence[StageBase], encoder: Recurrent[S_co]) -> None:
    """Reject hooks, and weights that something computes at each pass or that are quantized: a table would ignore it."""
    rnn = cast("nn.Module", encoder.rnn)
    hooks = any(isinstance(stage, nn.Module) and has_hooks(stage) for stage in replaced)
    if not isinstance(rnn, nn.RNNBase) or hooks or getattr(rnn, "parametrizations", None):
        msg = (
            "precompute_inputs needs plain weights and stages, but Embed, Encode or the encoder's rnn has "
            "parametrizations or forward hooks (pruning, weight norm, weight drop), is wrapped or quantized; remove "
            "them first, for example with prune.remove or remove_parametrizations."
        )
        raise OptionError(msg)


MAX_TABLE_BYTES: Final = 64_000_000
"""The size of a table that a pipe for inference computes by itself. Larger ones are read from main memory, at random
places, which takes about as long as the products in low precision."""


def fuse_embed(before: StageBase, encoder: Recurrent[S_co]) -> "PrecomputeInputs[S_co] | None":
    """Return a stage in place of `Embed` and `Encode` in a pipe for inference; None if a table is not worth it."""
    if not isinstance(before, Embed) or explain_unfit(encoder) is not None:
        return None
    weight, w_in = before.weight, encoder.weights()[0][0][0]
    size = len(weight) * len(w_in) * encoder.directions * w_in.element_size()
    if weight.dtype is not w_in.dtype or weight.shape[1] != w_in.shape[1] or size > MAX_TABLE_BYTES:
        return None
    return PrecomputeInputs(before, encoder)


def _list_stages(pipe: StageBase) -> list[StageBase]:
    """Return the stages of a chain; a single stage is a list of its own."""
    return list(pipe.stages.values()) if isinstance(pipe, Chain | StreamChain | TypePreservingChain) else [pipe]


def _find_reader(stages: Sequence[StageBase], start: int) -> tuple[int, Recurrent[MaybeCausal] | None]:
    """Return the recurrent encoder that reads the output of a stage, and the position of its stage; or None."""
    for position in range(start + 1, len(stages)):
        stage = stages[position]
        if _is_encode(stage):
            part = stage.part
            # Torch's kernels, which alone have projections, look nothing up.
            if isinstance(part, Recurrent) and not part.proj_size:
                return position, part
            return position, None
        if not isinstance(stage, Dropout):
            break
    return start, None


def _is_encode(stage: StageBase) -> TypeIs[Encode[MaybeCausal, Vectors]]:
    return isinstance(stage, Encode)


def _compute_table(embed: Embed, encoder: Recurrent[S_co]) -> Tensor:
    """Return the input products of each id with their biases, the gates of both directions side by side."""
    by_direction = list[Tensor]()
    with torch.no_grad():
        for w_in, w_state, b_in, b_state in encoder.weights()[0]:
            bias = w_in.new_zeros(len(w_in)) if b_in is None else b_in.clone()
            if b_state is not None:
                # The recurrent bias of a GRU's new gate is added inside its product with the reset gate.
                shared = len(w_in) - (w_state.shape[1] if encoder.cell == "gru" else 0)
                bias[:shared] += b_state[:shared]
            by_direction.append(torch.addmm(bias, embed.weight, w_in.t()))
        return torch.cat(by_direction, dim=1)


def _remove_input_weights(module: nn.LSTM | nn.GRU | nn.RNN) -> None:
    """Replace the input weights of the first layer by empty ones, for inputs without features."""
    for suffix in ("", "_reverse") if module.bidirectional else ("",):
        name = f"weight_ih_l0{suffix}"
        rows = module.get_parameter(name).detach()
        setattr(module, name, nn.Parameter(rows.new_empty(len(rows), 0), requires_grad=False))
    module.input_size = 0
