"""Generate texts with a transformer decoder that attends to the states of the source."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, Self, final, get_args

import attrs
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from typing_extensions import override

from pipeline import Tokenize
from pipeline.extend import (
    Ids,
    MaybeCausal,
    OptionError,
    Packed,
    ShapeError,
    States,
    check_bool,
    check_int,
    check_optional_int,
    check_probability,
)
from pipeline_decoders.text_decoder import MAX_NEW_TOKENS, SearchOptions, TextDecoder, read_search
from pipeline_decoders.transformer_layers import DecoderLayer, Layout, Stored, encode_positions

Positions = Literal["sinusoidal", "learned"]
"""How a step's place in its row becomes part of its input."""


@final
@attrs.frozen(eq=False)
class TransformerMemory:
    """What a transformer decoder remembers of each row.

    Attributes:
        source: the keys and values of the source, for each layer.
        mask: True at the real steps of the source.
        past: the keys and values of the tokens so far, the same number for all rows, for each layer.
    """

    source: Sequence[Stored]
    mask: Bool[Tensor, "batch key"]
    past: Sequence[Stored]

    def select(self, rows: Int64[Tensor, " selected"]) -> Self:
        """Return the memory of some rows, by their indices on the CPU."""
        rows = rows.to(self.mask.device)
        source, past = ([each.select(rows) for each in layers] for layers in (self.source, self.past))
        return type(self)(source, self.mask[rows], past)


@final
class TransformerDecoder(TextDecoder[TransformerMemory]):
    """Generate a text with a transformer decoder: each step attends to the steps before it, and to the source.

    In training all steps of all targets are computed at once, without their padding except in the attention between
    them. In generation, the keys and values of earlier tokens are kept, so that a token costs one step.

    Shape: states of `input_size` features to `Decoded`: the scores of the target tokens, and texts.

    Args:
        target: the tokenizer of the targets, with bos and eos, as in `Pad(targets=Texts(target))`.
        hidden_size: features per step.
        num_layers: the number of layers.
        num_heads: the number of heads, which divides the hidden size.
        feedforward_size: the size of the inner feed-forward layer; 4 times the hidden size by default.
        norm_first: normalize before each part of a layer (pre-norm, which trains without a warmup), not after it.
        activation: "relu" or "gelu".
        positions: "sinusoidal", or "learned" up to `max_positions`.
        max_positions: the maximum number of tokens of a target with learned positions, and of a generated text.
        dropout: the probability of dropout in layers and on embeddings.
        tied: whether the scores share the weights of the embeddings.
        input_size: the number of features of the states; by default that of the stage before.
        name: the stage's name in its chain.
        search: how texts are generated, such as `{"num_beams": 4}`; see `SearchOptions`. By default the most probable
            token is taken each time.

    Raises:
        OptionError: if the tokenizer has no bos or eos, or an option is out of its range.

    Source: Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762. Layers equal `nn.TransformerDecoder`.
    Embeddings are drawn with deviations of the inverse root of the size, and multiplied by that root. As there with
    pre-norm, a last normalization follows the layers; post-norm has none.

    Example:
        >>> target = Tokenize.train(["eins zwei"], bos=True, eos=True)
        >>> decoder = TransformerDecoder(target, hidden_size=8, num_heads=2, input_size=2).eval()
        >>> texts = dict(decoder(States.from_padded(torch.ones(2, 3, 2), torch.tensor([3, 0]))).rows())
        >>> sorted(texts)
        [0, 1]
    """

    def __init__(
        self,
        target: Tokenize,
        *,
        hidden_size: int = 256,
        num_layers: int = 2,
        num_heads: int = 4,
        feedforward_size: int | None = None,
        norm_first: bool = True,
        activation: Literal["relu", "gelu"] = "relu",
        positions: Positions = "sinusoidal",
        max_positions: int = 512,
        dropout: float = 0.0,
        tied: bool = False,
        input_size: int | None = None,
        name: str | None = None,
        search: SearchOptions | None = None,
    ) -> None:
        check_int("max_positions", max_positions, minimum=1)
        limit = min(MAX_NEW_TOKENS, max_positions) if positions == "learned" else MAX_NEW_TOKENS
        longest = max_positions if positions == "learned" else None
        super().__init__(target, input_size, name, {"max_new_tokens": limit, **read_search(search)}, longest)
        check_int("hidden_size", hidden_size, minimum=1)
        if hidden_size % check_int("num_heads", num_heads, minimum=1):
            msg = f"num_heads must divide hidden_size={hidden_size}, got {num_heads}; change one of them."
            raise OptionError(msg, num_heads=num_heads, hidden_size=hidden_size)
        for option, value, known in (
            ("positions", positions, get_args(Positions)),
            ("activation", activation, ("relu", "gelu")),
        ):
            if value not in known:
                msg = f"{option} must be one of {', '.join(known)}, got {value!r}."
                raise OptionError(msg, option=option)
        check_int("num_layers", num_layers, minimum=1)
        check_optional_int("feedforward_size", feedforward_size, minimum=1)
        check_bool("norm_first", norm_first)
        check_bool("tied", tied)
        check_probability("dropout", dropout)
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.feedforward_size: int = 4 * hidden_size if feedforward_size is None else feedforward_size
        self.norm_first = norm_first
        self.activation: Literal["relu", "gelu"] = activation
        self.positions: Positions = positions
        self.max_positions = max_positions
        self.dropout = dropout
        self.tied = tied
        self.embed: nn.Embedding = nn.Embedding(self.tokens, hidden_size)
        nn.init.normal_(self.embed.weight, std=hidden_size**-0.5)
        self.places: nn.Embedding | None = None
        if positions == "learned":
            self.places = nn.Embedding(max_positions, hidden_size)
            nn.init.normal_(self.places.weight, std=hidden_size**-0.5)
        self.drop: nn.Dropout = nn.Dropout(dropout)
        self.layers: nn.ModuleList = nn.ModuleList()
        self.norm: nn.LayerNorm | None = nn.LayerNorm(hidden_size) if norm_first else None
        self.linear: nn.Linear = nn.Linear(hidden_size, self.tokens)
        if tied:
            self.linear.weight = self.embed.weight
        if input_size is not None:
            self.make_weights(input_size)

    @override
    def get_config(self) -> Mapping[str, object]:
        names = ("hidden_size", "num_layers", "num_heads", "feedforward_size", "norm_first", "activation")
        # Sinusoidal positions have no maximum, and so no tensor of this size.
        more = ("positions", "dropout", "tied", *(["max_positions"] if self.places is not None else []))
        return {**super().get_config(), **{name: getattr(self, name) for name in (*names, *more)}}

    @override
    def make_weights(self, size: int) -> None:
        self.layers = nn.ModuleList(
            DecoderLayer(
                self.hidden_size,
                size,
                self.num_heads,
                self.feedforward_size,
                dropout=self.dropout,
                norm_first=self.norm_first,
                use_gelu=self.activation == "gelu",
            )
            for _ in range(self.num_layers)
        )

    def _list_layers(self) -> Sequence[DecoderLayer]:
        return [layer for layer in self.layers if isinstance(layer, DecoderLayer)]

    @override
    def read_source(self, states: States[MaybeCausal]) -> TransformerMemory:
        rows = states.padded().values
        source = [layer.cross_attention.store(rows) for layer in self._list_layers()]
        return TransformerMemory(source, states.mask, [each.clear() for each in source])

    @property
    @override
    def source_axes(self) -> Mapping[str, Sequence[str]]:
        steps = ("", "batch", "", "time")
        return {"source_keys": steps, "source_values": steps, "mask": ("batch", "time")}

    @property
    @override
    def state_axes(self) -> Mapping[str, Sequence[str]]:
        steps = ("", "batch", "", "past")
        return {"past_keys": steps, "past_values": steps}

    @override
    def flatten_memory(self, memory: TransformerMemory) -> Mapping[str, Tensor]:
        found = {"mask": memory.mask}
        for name, layers in (("source", memory.source), ("past", memory.past)):
            found[f"{name}_keys"] = torch.stack([each.keys for each in layers])
            found[f"{name}_values"] = torch.stack([each.values for each in layers])
        return found

    @override
    def restore_memory(self, tensors: Mapping[str, Tensor]) -> TransformerMemory:
        source, past = (
            [Stored(*pair) for pair in zip(tensors[f"{name}_keys"], tensors[f"{name}_values"], strict=True)]
            for name in ("source", "past")
        )
        return TransformerMemory(source, tensors["mask"], past)

    @override
    def teach(self, inputs: Packed[Ids], memory: TransformerMemory) -> Float[Tensor, "steps token"]:
        layout = Layout(inputs.order, inputs.width)
        steps = self._embed(inputs.values, inputs.order.time_of_step)
        for layer, source in zip(self._list_layers(), memory.source, strict=True):
            steps, _ = layer(steps, source, memory.mask, layout, None)
        return self._score(steps)

    @override
    def step(
        self, tokens: Int64[Tensor, " batch"], memory: TransformerMemory
    ) -> tuple[Float[Tensor, "batch token"], TransformerMemory]:
        steps = self._embed(tokens, torch.full_like(tokens, memory.past[0].count)).unsqueeze(1)
        found: list[Stored] = []
        for layer, source, past in zip(self._list_layers(), memory.source, memory.past, strict=True):
            steps, stored = layer(steps, source, memory.mask, None, past)
            found.append(stored)
        return self._score(steps.squeeze(1)), TransformerMemory(memory.source, memory.mask, found)

    def _embed(self, tokens: Int64[Tensor, " step"], places: Int64[Tensor, " step"]) -> Float[Tensor, "step hidden"]:
        """Return the embedding of each token and of its place.

        Raises:
            ShapeError: if a place has no learned position.
        """
        vectors = self.embed(tokens) * math.sqrt(self.hidden_size)
        if self.places is None:
            return self._drop(vectors + encode_positions(places, self.hidden_size, vectors.dtype))
        # In a graph no number is read: there `max_new_tokens` keeps to the limit.
        is_read = places.device.type == "cpu" and not torch.compiler.is_compiling()
        if is_read and len(places) and int(places.max()) >= self.max_positions:
            msg = (
                f"a target has {int(places.max()) + 1} tokens, but positions are learned up to "
                f"max_positions={self.max_positions}; raise it, or truncate targets: Tokenize(..., max_length=...)."
            )
            raise ShapeError(msg, max_positions=self.max_positions)
        return self._drop(vectors + self.places(places))

    def _drop(self, vectors: Float[Tensor, "step hidden"]) -> Float[Tensor, "step hidden"]:
        dropped: Tensor = self.drop(vectors)
        return dropped

    def _score(self, steps: Float[Tensor, "step hidden"]) -> Float[Tensor, "step token"]:
        scores: Tensor = self.linear(steps if self.norm is None else self.norm(steps))
        return scores
