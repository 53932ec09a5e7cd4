"""Restart the state of an encoder inside rows, such as at the documents of which a row was joined."""

import inspect
from collections.abc import Mapping, Sequence
from typing import cast, final, overload

import attrs
import torch
from torch import Tensor
from typing_extensions import override

from pipeline import Embed
from pipeline.extend import (
    Batch,
    Encoder,
    Ids,
    MaybeCausal,
    ModuleStage,
    OptionError,
    Packed,
    PackingOrder,
    Padded,
    S_co,
    ShapeError,
    Spec,
    States,
    Vectors,
    check_optional_int,
    derive_vectors,
    registry,
)


@final
class Restarting(Encoder[S_co]):
    """An encoder whose state restarts at marked steps, so that no document of a row sees the ones before it.

    The last feature of the input is the mark: above 0.5 it says that a document begins at this step. The encoder reads
    the other features. Each document becomes a row by itself, so every encoder and every engine computes it, at the
    usual speed; the states then go back to their places. The final state and the carry of a row are those of its last
    document. On a GPU the marks are read back, which waits for it.

    Args:
        encoder: the encoder of a document; or its registered name, which is then made with the next options.
        input_size: features of the input, with the mark: one more than the encoder reads. With an encoder it may be
            left out.
        hidden_size: for an encoder by name, its `hidden_size`; by default that of the encoder, or else the number of
            features that it reads.
        options: for an encoder by name, its other options.

    Raises:
        OptionError: if the input size is another one, or is lacking, or options are given for an encoder.

    Example:
        >>> from pipeline import Padded
        >>> from pipeline_recurrent import LSTM
        >>> values = torch.randn(1, 5, 3)
        >>> values[0, :, -1] = torch.tensor([1.0, 0, 0, 1, 0])
        >>> lstm = LSTM(2, 4)
        >>> both = Restarting(lstm)(Padded(Vectors, values, torch.tensor([5])))
        >>> second = lstm(Padded(Vectors, values[:, 3:, :2], torch.tensor([2])))
        >>> torch.allclose(both.final, second.final, atol=1e-6)
        True
    """

    @overload
    def __init__(self, encoder: Encoder[S_co], *, input_size: int | None = None) -> None: ...
    @overload
    def __init__(
        self: "Restarting[MaybeCausal]",
        encoder: str = "lstm",
        *,
        input_size: int | None = None,
        hidden_size: int | None = None,
        options: Mapping[str, object] | None = None,
    ) -> None: ...
    def __init__(
        self,
        encoder: Encoder[S_co] | str = "lstm",
        *,
        input_size: int | None = None,
        hidden_size: int | None = None,
        options: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(cast("object", encoder), str | Encoder):
            msg = f"encoder must be an encoder, or the name of one, got {encoder!r:.200}."
            raise OptionError(msg, encoder=encoder)
        if options is not None and not isinstance(cast("object", options), Mapping):
            msg = f"options must be those of an encoder by name, as a mapping, got {options!r:.200}."
            raise OptionError(msg, options=options)
        if isinstance(encoder, str):
            check_optional_int("input_size", input_size, minimum=1)
            if input_size is None or input_size < 2:
                rule = f"2 or more for encoder={encoder!r}, one feature for the mark"
                msg = f"input_size must be {rule}, got {input_size}; pass the features of the input."
                raise OptionError(msg, input_size=input_size)
            takes = registry().encoders.parameters(registry().encoders.offer(encoder))
            needs_size = "hidden_size" in takes and takes["hidden_size"].default is inspect.Parameter.empty
            size = input_size - 1 if hidden_size is None and needs_size else hidden_size
            given = {} if size is None else {"hidden_size": size}
            made = registry().encoders.make(encoder, input_size=input_size - 1, **given, **(options or {}))
            encoder = cast("Encoder[S_co]", made)
        elif hidden_size is not None or options is not None:
            msg = "hidden_size and options are for an encoder by name, got an encoder; give them to the encoder."
            raise OptionError(msg, hidden_size=hidden_size)
        wanted = encoder.input_size + 1
        if input_size not in (None, wanted):
            msg = f"input_size must be {wanted}, those of the encoder and the mark, got {input_size}; leave it out."
            raise OptionError(msg, input_size=input_size)
        self.encoder: Encoder[S_co] = encoder
        self.input_size: int = wanted
        self.output_size: int = encoder.output_size
        self.causal: bool = encoder.causal
        self.bidirectional: bool = encoder.bidirectional
        self.stateful: bool = encoder.stateful
        self.exportable: bool = encoder.exportable

    def get_config(self) -> Mapping[str, object]:
        """Return the options with which this encoder can be made again."""
        return {"encoder": self.encoder, "input_size": self.input_size}

    @override
    def forward(self, batch: Batch[Vectors]) -> States[S_co]:
        """Return the states of a batch.

        Raises:
            ShapeError: if the values have another number of features.
        """
        if torch.compiler.is_compiling():
            return self._read_in_graph(batch.padded())
        packed = batch.packed()
        if packed.values.shape[-1] != self.input_size:
            msg = (
                f"values have {packed.values.shape[-1]} features per step, but the encoder reads {self.input_size}: "
                "its own and the mark; join the stage MarkRestarts before."
            )
            raise ShapeError(msg, argument="values")
        order, began = packed.order, packed.initial_carry
        if not order.steps or packed.values.is_meta:
            # Without steps, or without their values, there are no marks.
            return self.encoder(derive_vectors(packed.values[:, :-1], packed, began))
        marks = packed.values[:, -1].detach().index_select(0, order.reading_order) > 0.5
        documents = _Documents(order, marks)
        inner = self.encoder(documents.split(packed))
        values = inner.packed().values
        steps = values.new_empty(values.shape).index_copy(0, documents.places, values)
        # Empty rows have no document: the encoder itself says what their states are.
        no_steps = packed.values[:0, :-1]
        none = self.encoder(Packed(Vectors, no_steps, torch.zeros_like(order.lengths), initial_carry=began))
        final = none.final.to(values.dtype).index_copy(0, documents.rows, inner.final.index_select(0, documents.last))
        carry = None
        if inner.carry is not None and none.carry is not None:
            carry = tuple(
                start.to(state.dtype).index_copy(1, documents.rows, state.index_select(1, documents.last))
                for start, state in zip(none.carry, inner.carry, strict=True)
            )
        return self.make_states(packed.with_values(steps), final, carry=carry, engine=inner.engine)

    def explain_not_exportable(self) -> str | None:
        """Return why a graph cannot contain this encoder, as a clause after "its"; None if it can."""
        if self.encoder.exportable:
            return None
        return f"encoder {type(self.encoder).__name__} cannot be exported; wrap one that declares exportable"

    def _read_in_graph(self, rows: Padded[Vectors]) -> States[S_co]:
        """Return the states of padded rows in a traced graph."""
        documents = _PaddedDocuments(rows)
        inner = self.encoder(documents.rows)
        carry = None if inner.carry is None else tuple(state.index_select(1, documents.last) for state in inner.carry)
        steps = rows.with_values(documents.restore(inner.padded().values))
        return self.make_states(steps, inner.final.index_select(0, documents.last), carry=carry)


@final
class _PaddedDocuments:
    """The documents of padded rows in a traced graph, where their number depends on the marks.

    Every row has a document or more: an empty row has an empty one.

    Args:
        source: the rows, with the marks.

    Attributes:
        rows: the documents as rows, as wide as the source.
        last: the last document of each row.
    """

    def __init__(self, source: Padded[Vectors]) -> None:
        values, lengths = source.values, source.order.lengths_on_device
        batch, width = values.shape[0], values.shape[1]
        marks = (values[..., -1].detach() > 0.5) & source.mask
        is_first = torch.arange(width, device=values.device) == 0
        begins = (marks | is_first).flatten()
        starts = begins.nonzero().squeeze(1)
        number = begins.cumsum(0) - 1
        row = starts.div(width, rounding_mode="floor")
        # A document ends where the next one of its row begins, or with the row.
        following = torch.cat([starts[1:], starts.new_full((1,), batch * width)])
        counts = torch.minimum(following, row * width + lengths.index_select(0, row)) - starts
        index = (starts.unsqueeze(1) + torch.arange(width, device=values.device)).clamp(max=batch * width - 1)
        # Steps after the end of a document are those of others, and may be NaN in the padding.
        inner = values[..., :-1].flatten(0, 1).index_select(0, index.flatten())
        carry = None
        if source.initial_carry is not None:
            continues = ~marks.flatten().index_select(0, starts) & (starts == row * width)
            carry = tuple(
                state.index_select(1, row).masked_fill(~continues.view(1, -1, 1), 0) for state in source.initial_carry
            )
        self._places = number * width + torch.arange(batch * width, device=values.device) - starts[number]
        self.last: Tensor = number.view(batch, width)[:, -1]
        self.rows: Padded[Vectors] = Padded(
            Vectors, inner.view(-1, width, values.shape[2] - 1), counts.cpu(), initial_carry=carry
        )
        self._width = width

    def restore(self, values: Tensor) -> Tensor:
        """Return the steps of the documents at their places in the rows."""
        found = values.flatten(0, 1).index_select(0, self._places)
        return found.view(-1, self._width, values.shape[2])


@final
class _Documents:
    """The documents of a batch's rows, in reading order.

    Attributes:
        lengths: the number of steps of each document.
        places: for each step in the packed order of documents, its packed index among the rows.
        rows: the rows with steps.
        last: the last document of each of these rows.
    """

    def __init__(self, order: PackingOrder, marks: Tensor) -> None:
        device, counts = marks.device, order.lengths[order.lengths > 0]
        ends = counts.cumsum(0)
        firsts = (ends - counts).to(device)
        begins = marks.index_fill(0, firsts, value=True)
        starts = begins.nonzero().squeeze(1)
        self.lengths: Tensor = torch.diff(starts, append=starts.new_tensor([order.steps])).cpu()
        self._order = PackingOrder(self.lengths, device)
        reading = order.reading_order
        self.places: Tensor = torch.empty_like(reading).index_copy_(0, self._order.reading_order, reading)
        self.rows: Tensor = order.nonempty_rows
        number = begins.cumsum(0) - 1
        self.last: Tensor = number.index_select(0, (ends - 1).to(device))
        first = number.index_select(0, firsts)
        # A row continues from its initial state unless it begins with a mark.
        continues = ~marks.index_select(0, firsts)
        self._continuing, self._continued = first[continues], self.rows[continues]

    def split(self, packed: Packed[Vectors]) -> Packed[Vectors]:
        """Return the documents as rows, without the mark."""
        values = packed.values[:, :-1].index_select(0, self.places)
        carry = None
        if packed.initial_carry is not None:
            carry = tuple(
                state.new_zeros(state.shape[0], len(self.lengths), *state.shape[2:]).index_copy(
                    1, self._continuing, state.index_select(1, self._continued)
                )
                for state in packed.initial_carry
            )
        return Packed(Vectors, values, self.lengths, initial_carry=carry, order=self._order)


@final
class MarkRestarts(ModuleStage[Batch[Ids], Batch[Vectors]]):
    """Embed ids, and add a feature for `Restarting`: 1 at the ids that begin a document, such as `bos`, else 0.

    Args:
        embed: the embedding of the ids.
        at: the ids that begin a document.
        name: the stage's name in its chain.

    Raises:
        OptionError: if there are no ids.

    Example:
        >>> from pipeline import Padded
        >>> batch = Padded(Ids, torch.tensor([[0, 3, 4, 0, 5]]), torch.tensor([5]))
        >>> MarkRestarts(Embed(6, 2), at=[0])(batch).values[0, :, -1].tolist()
        [1.0, 0.0, 0.0, 1.0, 0.0]
    """

    stepwise = True

    def __init__(self, embed: Embed, *, at: Sequence[int], name: str | None = None) -> None:
        super().__init__()
        if not at:
            msg = "at must be one id or more that begin a document, got none; pass [tokenize.bos] or the like."
            raise OptionError(msg, at=at)
        self.embed: Embed = embed
        self.at: list[int] = list(at)
        self.name = name

    def get_config(self) -> Mapping[str, object]:
        """Return the options with which this stage can be made again."""
        return {"embed": self.embed, "at": self.at, "name": self.name}

    @property
    def branches(self) -> Mapping[str, Embed]:
        """The stage that reads the ids; `export` finds their number there."""
        return {"embed": self.embed}

    @override
    def build(self, spec: Spec, /) -> Spec:
        built = self.embed.build(spec)
        return attrs.evolve(built, size=None if built.size is None else built.size + 1)

    @override
    def forward(self, value: Batch[Ids]) -> Batch[Vectors]:
        """Return the vectors of a batch's ids, with the mark."""
        vectors = self.embed(value)
        marks = torch.zeros_like(value.values, dtype=torch.bool)
        for each in self.at:
            marks = marks | (value.values == each)
        joined = torch.cat([vectors.values, marks.unsqueeze(-1).to(vectors.values.dtype)], dim=-1)
        return derive_vectors(joined, value, value.initial_carry)
