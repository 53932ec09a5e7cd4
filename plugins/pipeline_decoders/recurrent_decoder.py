"""Generate texts with a recurrent decoder that attends to the states of the source."""

from collections.abc import Mapping, Sequence
from typing import Final, Literal, Self, cast, final, get_args

import attrs
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from typing_extensions import override

from pipeline import Tokenize
from pipeline.extend import (
    Attention,
    Carry,
    Encoder,
    Ids,
    MaybeCausal,
    OptionError,
    Packed,
    Padded,
    States,
    check_bool,
    check_int,
    check_probability,
    derive_vectors,
    registry,
)
from pipeline_decoders.text_decoder import SearchOptions, TextDecoder

Cell = Literal["lstm", "gru"]
"""The recurrent encoders that a decoder may consist of, by their registered names."""

_CARRY_NAMES: Final[Sequence[str]] = ("h", "c")


@final
@attrs.frozen(eq=False)
class RecurrentMemory:
    """What a recurrent decoder remembers of each row.

    Attributes:
        source: the states to attend to, brought to the size of the decoder, with zeros in the padding.
        mask: True at their real steps.
        carry: the recurrent state, layers x batch x size.
        fed: the last attentional state, the input of the next step if it is fed back.
    """

    source: Float[Tensor, "batch key hidden"]
    mask: Bool[Tensor, "batch key"]
    carry: Carry
    fed: Float[Tensor, "batch hidden"]

    def select(self, rows: Int64[Tensor, " selected"]) -> Self:
        """Return the memory of some rows, by their indices on the CPU."""
        rows = rows.to(self.source.device)
        carry = tuple(each.index_select(1, rows) for each in self.carry)
        return type(self)(self.source[rows], self.mask[rows], carry, self.fed[rows])


@final
class RecurrentDecoder(TextDecoder[RecurrentMemory]):
    """Generate a text with a recurrent decoder that attends to all states of the source.

    It starts from the source's final state. At each step, its state attends to the states of the source, and the
    context and the state give the scores of the next token: `output(tanh(W [context; state]))`. All steps of a target
    are computed at once, but with `input_feeding`, where the input of each step contains the result of the one before.

    Shape: states of `input_size` features to `Decoded`: the scores of the target tokens, and texts.

    Args:
        target: the tokenizer of the targets, with bos and eos, as in `Pad(targets=Texts(target))`.
        embedding_size: features per token.
        hidden_size: the size of the decoder's state.
        cell: "lstm" or "gru".
        num_layers: the number of layers.
        attention: a registered attention, such as "general", "dot", "scaled_dot" or "additive"; None for a decoder that
            only starts from the final state.
        input_feeding: join the attentional state of a step with the input of the next one. Training then runs step by
            step, several times slower.
        dropout: the probability of dropout on embeddings, between layers, and before the scores.
        input_size: the number of features of the states; by default that of the stage before.
        name: the stage's name in its chain.
        search: how texts are generated, such as `{"num_beams": 4}`; see `SearchOptions`. By default the most probable
            token is taken each time.

    Raises:
        OptionError: if the tokenizer has no bos or eos, or an option is out of its range.
        UnknownNameError: if no plugin offers the attention.

    Source: Sutskever, Vinyals and Le 2014, "Sequence to Sequence Learning with Neural Networks", arXiv:1409.3215;
    Luong, Pham and Manning 2015, "Effective Approaches to Attention-based Neural Machine Translation",
    arXiv:1508.04025, section 3 (global attention, attentional state, input feeding); Bahdanau, Cho and Bengio 2015,
    arXiv:1409.0473 (additive scores, here after the recurrent step as Luong's). The states are brought to the decoder's
    size by a linear layer without bias, and the initial state is `tanh` of a linear layer of the final state, as in
    Bahdanau's.

    Example:
        >>> target = Tokenize.train(["eins zwei"], bos=True, eos=True)
        >>> decoder = RecurrentDecoder(target, embedding_size=3, hidden_size=4, input_size=2).eval()
        >>> texts = dict(decoder(States.from_padded(torch.ones(2, 3, 2), torch.tensor([3, 0]))).rows())
        >>> sorted(texts)
        [0, 1]
    """

    def __init__(
        self,
        target: Tokenize,
        *,
        embedding_size: int = 128,
        hidden_size: int = 256,
        cell: Cell = "lstm",
        num_layers: int = 1,
        attention: str | None = "general",
        input_feeding: bool = False,
        dropout: float = 0.0,
        input_size: int | None = None,
        name: str | None = None,
        search: SearchOptions | None = None,
    ) -> None:
        super().__init__(target, input_size, name, search)
        if cell not in get_args(Cell):
            msg = f"cell must be one of {', '.join(get_args(Cell))}, got {cell!r}."
            raise OptionError(msg, cell=cell)
        check_int("embedding_size", embedding_size, minimum=1)
        check_int("hidden_size", hidden_size, minimum=1)
        check_int("num_layers", num_layers, minimum=1)
        if not isinstance(cast("object", attention), str | None):
            msg = f"attention must be the name of one, or None, got {attention!r:.200}."
            raise OptionError(msg, attention=attention)
        check_bool("input_feeding", input_feeding)
        check_probability("dropout", dropout)
        self.embedding_size = embedding_size
        self.hidden_size = hidden_size
        self.cell: Cell = cell
        self.num_layers = num_layers
        self.attention_name = attention
        self.input_feeding = input_feeding
        self.dropout = dropout
        self.embed: nn.Embedding = nn.Embedding(self.tokens, embedding_size)
        # As for word vectors: the default of nn.Embedding, deviations of 1, is far too large.
        nn.init.normal_(self.embed.weight, std=embedding_size**-0.5)
        sizes = {"input_size": embedding_size + hidden_size * input_feeding, "hidden_size": hidden_size}
        between = {"dropout": dropout} if dropout and num_layers > 1 else {}
        self.encoder: Encoder[MaybeCausal] = registry().encoders.make(cell, **sizes, num_layers=num_layers, **between)
        self.attention: Attention | None = None
        self.combine: nn.Linear | None = None
        if attention is not None:
            self.attention = registry().attentions.make(attention, input_size=hidden_size)
            self.combine = nn.Linear(2 * hidden_size, hidden_size, bias=False)
        self.drop: nn.Dropout = nn.Dropout(dropout)
        self.linear: nn.Linear = nn.Linear(hidden_size, self.tokens)
        self.initial: nn.Linear | None = None
        self.bridge: nn.Linear | None = None
        if input_size is not None:
            self.make_weights(input_size)

    @override
    def get_config(self) -> Mapping[str, object]:
        names = ("embedding_size", "hidden_size", "cell", "num_layers", "input_feeding", "dropout")
        own = {name: getattr(self, name) for name in names}
        return {**super().get_config(), **own, "attention": self.attention_name}

    @property
    def _carries(self) -> int:
        return 2 if self.cell == "lstm" else 1

    @override
    def make_weights(self, size: int) -> None:
        self.initial = nn.Linear(size, self._carries * self.num_layers * self.hidden_size)
        if self.attention is not None:
            self.bridge = nn.Linear(size, self.hidden_size, bias=False)

    @override
    def read_source(self, states: States[MaybeCausal]) -> RecurrentMemory:
        assert self.initial is not None
        start: Tensor = torch.tanh(self.initial(states.final))
        # Not len(...), which an exported graph would store as a constant.
        batch = start.shape[0]
        shape = (batch, self._carries, self.num_layers, self.hidden_size)
        parts = start.reshape(shape).permute(1, 2, 0, 3).contiguous().unbind(0)
        if self.bridge is None:
            return self._remember(None, parts, start.new_zeros(batch, self.hidden_size))
        source = (self.bridge(states.padded().values), states.mask)
        return self._remember(source, parts, start.new_zeros(batch, self.hidden_size))

    @staticmethod
    def _remember(source: tuple[Tensor, Tensor] | None, carry: Carry, fed: Tensor) -> RecurrentMemory:
        """Return a memory; without attention the source has no steps."""
        if source is None:
            nothing = fed.new_zeros(fed.shape[0], 0, fed.shape[1])
            source = (nothing, nothing.new_zeros(fed.shape[0], 0, dtype=torch.bool))
        return RecurrentMemory(*source, carry, fed)

    @property
    @override
    def source_axes(self) -> Mapping[str, Sequence[str]]:
        return {} if self.attention is None else {"source": ("batch", "time"), "mask": ("batch", "time")}

    @property
    @override
    def state_axes(self) -> Mapping[str, Sequence[str]]:
        carry: dict[str, Sequence[str]] = dict.fromkeys(_CARRY_NAMES[: self._carries], ("", "batch"))
        return {**carry, "fed": ("batch",)} if self.input_feeding else carry

    @override
    def flatten_memory(self, memory: RecurrentMemory) -> Mapping[str, Tensor]:
        carry = dict(zip(_CARRY_NAMES, memory.carry, strict=False))
        return {"source": memory.source, "mask": memory.mask, **carry, "fed": memory.fed}

    @override
    def restore_memory(self, tensors: Mapping[str, Tensor]) -> RecurrentMemory:
        carry = tuple(tensors[name] for name in _CARRY_NAMES[: self._carries])
        fed = tensors["fed"] if self.input_feeding else torch.zeros_like(carry[0][0])
        return self._remember(None if self.attention is None else (tensors["source"], tensors["mask"]), carry, fed)

    @override
    def teach(self, inputs: Packed[Ids], memory: RecurrentMemory) -> Float[Tensor, "steps token"]:
        if self.input_feeding:
            return self._teach_by_step(inputs, memory)
        vectors = self.drop(self.embed(inputs.values))
        states = self.encoder(derive_vectors(vectors, inputs, memory.carry))
        hidden = states.packed()
        if self.attention is None:
            return self._score(hidden.values)
        contexts = self.attention(states.padded().values, memory.source, memory.mask.unsqueeze(1))
        return self._score(self._join(states.padded().with_values(contexts).packed().values, hidden.values))

    def _teach_by_step(self, inputs: Packed[Ids], memory: RecurrentMemory) -> Float[Tensor, "steps token"]:
        """Run all rows step by step; rows that have ended run on, and what they give is left out."""
        rows = inputs.padded()
        found: list[Tensor] = []
        for tokens in rows.values.unbind(1):
            memory = self._advance(tokens, memory)
            found.append(memory.fed)
        if not found:
            return self._score(memory.fed[:0])
        return self._score(rows.with_values(torch.stack(found, 1)).packed().values)

    @override
    def step(
        self, tokens: Int64[Tensor, " batch"], memory: RecurrentMemory
    ) -> tuple[Float[Tensor, "batch token"], RecurrentMemory]:
        memory = self._advance(tokens, memory)
        return self._score(memory.fed), memory

    def _advance(self, tokens: Int64[Tensor, " batch"], memory: RecurrentMemory) -> RecurrentMemory:
        """Return the memory after one more token of each row; its `fed` is what the scores follow from."""
        vectors = self.drop(self.embed(tokens))
        if self.input_feeding:
            vectors = torch.cat([vectors, memory.fed], 1)
        batch = Padded(Ids, tokens.unsqueeze(1), torch.ones(tokens.shape[0], dtype=torch.int64, device="cpu"))
        states = self.encoder(derive_vectors(vectors.unsqueeze(1), batch, memory.carry))
        assert states.carry is not None
        hidden = states.padded().values
        if self.attention is None:
            return attrs.evolve(memory, carry=states.carry, fed=hidden.squeeze(1))
        context = self.attention(hidden, memory.source, memory.mask.unsqueeze(1))
        return attrs.evolve(memory, carry=states.carry, fed=self._join(context, hidden).squeeze(1))

    def _join(self, context: Tensor, hidden: Tensor) -> Tensor:
        assert self.combine is not None
        return torch.tanh(self.combine(torch.cat([context, hidden], -1)))

    def _score(self, vectors: Float[Tensor, "*item hidden"]) -> Float[Tensor, "*item token"]:
        scores: Tensor = self.linear(self.drop(vectors))
        return scores
