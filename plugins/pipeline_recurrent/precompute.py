"""Inference over a small vocabulary: an encoder's input products looked up instead of computed."""

import copy
from collections.abc import Sequence
from typing import Final, Generic, TypeVar, cast, final

import torch
from torch import Tensor, nn
from typing_extensions import TypeIs, override

from pipeline.core.chain import Chain, StreamChain, TypePreservingChain, join
from pipeline.core.stage import ModuleStage, Spec, StageBase
from pipeline.data.batches import Batch
from pipeline.data.rows import Ids, Vectors
from pipeline.data.states import MaybeCausal, S_co, States
from pipeline.errors import CompositionError, OptionError
from pipeline.stages.dropout import Dropout
from pipeline.stages.embed import Embed
from pipeline.stages.encode import Encode
from pipeline_recurrent.engines.choose import EngineName
from pipeline_recurrent.recurrent import Recurrent

P = TypeVar("P", bound=StageBase)

_LOOK_UP: Final[tuple[EngineName, ...]] = ("auto", "plain", "native")
"""The engines that can; `plain` does the work of the others."""


def precompute_inputs(pipe: P) -> P:
    """A copy of a pipe for inference, in which each id's share of an encoder's gates is looked up.

    In evaluation the first layer of a recurrent encoder multiplies embedded ids by its input weights: for each id the
    same product every time. Here it is made once for every id there is, and each `Embed >> Encode` of an LSTM, GRU or
    RNN of this package, with `Dropout` between them or not, becomes one stage that looks it up. Predictions are
    equal up to rounding. What cannot be treated so stays as it is.

    The copy keeps the weights that the pipe had when it was made: what is trained or loaded into the pipe later does
    not reach it. Make it anew then. Keep the pipe too: it is what one trains and saves.

    The table takes ids x gates x hidden x directions numbers, with 4 gates for an LSTM, 3 for a GRU and 1 for an RNN,
    and takes the place of the embedding's ids x features: 20,000 ids with a bidirectional LSTM of 128 take 82 MB in
    float32. It pays where that fits in memory and batches are many: the products saved are features / (features +
    hidden) of the first layer's. On a GPU it does not pay: cuDNN cannot look up, and plain operations run instead.

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
        Tabulated >> Pool >> Classify
        >>> rows = Packed(Ids, torch.tensor([1, 8, 3]), torch.tensor([2, 1]))
        >>> torch.allclose(fast(rows).values, model(rows).values, atol=1e-6)
        True
    """
    # Copied as a whole: what two stages share, such as tied weights, their copies share too.
    parts = _parts(copy.deepcopy(pipe))
    for start, embed in enumerate(parts):
        end, encoder = _reader(parts, start)
        if isinstance(embed, Embed) and encoder is not None:
            stage = Tabulated(embed, encoder, name=parts[end].name)
            return cast("P", _frozen(join(*parts[:start], stage, *parts[end + 1 :])))
    msg = (
        "precompute_inputs takes a pipe in which Embed feeds an LSTM, GRU or RNN of pipeline_recurrent, with nothing but "
        f"Dropout between them, but `{pipe!r}` has none such; use it as it is."
    )
    raise CompositionError(msg)


@final
class Tabulated(ModuleStage[Batch[Ids], States[S_co]], Generic[S_co]):
    """What an `Embed` and an `Encode` make of ids, by a table of the first layer's input products; see `precompute_inputs`.

    Args:
        embed: the vectors of the ids.
        encoder: what reads them. Neither is changed.
        name: what the stage is called in its chain.
    """

    def __init__(self, embed: Embed, encoder: Recurrent[S_co], *, name: str | None = None) -> None:
        super().__init__()
        self.name = name
        self.embed: Embed = _held(_table(embed, encoder))
        self.encoder: Recurrent[S_co] = copy.deepcopy(encoder).requires_grad_(requires_grad=False)
        if self.encoder.engine not in _LOOK_UP:
            self.encoder.engine = "plain"
        _forget_input(self.encoder.rnn)
        self.encoder.input_size = 0
        self.eval()

    @override
    def build(self, spec: Spec, /) -> Spec:
        return Spec(self.encoder.output_size, self.encoder.causal)

    @override
    def forward(self, value: Batch[Ids]) -> States[S_co]:
        """The states of a batch.

        Raises:
            OptionError: in training mode, or where gradients are asked for; or if the encoder's engine cannot look up.
            ShapeError: if the batch holds no ids, stands on another device, or its initial states do not fit.
            ValuesError: if an id is out of range (on a GPU, torch's kernel asserts instead).
        """
        packed = value.packed()
        self._refuse_training(packed.initial_carry or ())
        ids, table = self.embed.known(packed).packed(), self.embed.weight
        tables = [one.t() for one in table.chunk(2 if self.encoder.bidirectional else 1, dim=1)]
        if not torch.amp.is_autocast_available(table.device.type):
            return self.encoder.read(ids, tables)
        # Under autocast torch chooses a product's dtype, but what is looked up has one.
        with torch.autocast(table.device.type, enabled=False):
            return self.encoder.read(ids, tables)

    def _refuse_training(self, initial: Sequence[Tensor]) -> None:
        came = "it is in training mode" if self.training else None
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (*self.parameters(), *initial)):
            came = "gradients are asked for, by its weights or initial states"
        if came is not None:
            msg = (
                f"Tabulated is for inference, with weights as they were when it was made, but {came}; train the pipe "
                "that it was made of, and make it anew by precompute_inputs(pipe), or call eval() on this one."
            )
            raise OptionError(msg)


def _parts(pipe: StageBase) -> list[StageBase]:
    """The stages of a chain; what is none stands for itself."""
    return list(pipe.parts.values()) if isinstance(pipe, Chain | StreamChain | TypePreservingChain) else [pipe]


def _reader(parts: Sequence[StageBase], start: int) -> tuple[int, Recurrent[MaybeCausal] | None]:
    """The recurrent encoder that reads what one part gives, and where its stage stands; or None."""
    for place in range(start + 1, len(parts)):
        part = parts[place]
        if _is_encode(part):
            return place, part.held if isinstance(part.held, Recurrent) else None
        if not isinstance(part, Dropout):
            break
    return start, None


def _is_encode(part: StageBase) -> TypeIs[Encode[MaybeCausal, Vectors]]:
    return isinstance(part, Encode)


def _frozen(part: StageBase) -> StageBase:
    if isinstance(part, nn.Module):
        part.requires_grad_(requires_grad=False).eval()
    return part


def _table(embed: Embed, encoder: Recurrent[S_co]) -> Tensor:
    """For each id, what it and the biases give to the gates of each direction, side by side."""
    by_direction = list[Tensor]()
    with torch.no_grad():
        for w_in, w_state, b_in, b_state in encoder.weights()[0]:
            bias = w_in.new_zeros(len(w_in)) if b_in is None else b_in.clone()
            if b_state is not None:
                # The new gate of a GRU adds its own behind the reset gate.
                shared = len(w_in) - (w_state.shape[1] if encoder.cell == "gru" else 0)
                bias[:shared] += b_state[:shared]
            by_direction.append(torch.addmm(bias, embed.weight, w_in.t()))
        return torch.cat(by_direction, dim=1)


def _held(table: Tensor) -> Embed:
    """A table as frozen vectors, one an id."""
    with torch.device("meta"):
        embed = Embed(*table.shape)
    embed.weight = nn.Parameter(table, requires_grad=False)
    return embed


def _forget_input(module: nn.LSTM | nn.GRU | nn.RNN) -> None:
    """Leave a module's first layer without input weights: those of no feature."""
    for suffix in ("", "_reverse") if module.bidirectional else ("",):
        name = f"weight_ih_l0{suffix}"
        rows = module.get_parameter(name).detach()
        setattr(module, name, nn.Parameter(rows.new_empty(len(rows), 0), requires_grad=False))
    module.input_size = 0
