"""Parts that are wrong in one way each, and the laws that they break by it: what the kit must catch, and no more.

Each is an honest part but for the lines of its class, so that the laws that it breaks are broken by those lines.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Final, TypeVar

import attrs
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from typing_extensions import override

from pipeline import Attention, Batch, Encoder, Hidden, Padded, Pooling, Sight, States, Tokenizer, Vectors
from pipeline.parts.attention import masked_softmax
from pipeline.parts.tokenizer import Tokens
from pipeline.testing import (
    ATTENTION_LAWS,
    ENCODER_LAWS,
    MODULE_LAWS,
    POOL_LAWS,
    TOKENIZER_LAWS,
    Law,
    LawBrokenError,
    PlainModule,
)

P = TypeVar("P")


class Leaky(Encoder[Sight]):
    """An honest encoder: h[t] = h[t-1] / 2 + tanh(W x[t] + b), the rows in a rectangle whose padding is cleared."""

    causal = True
    stateful = True
    layouts = ("padded",)

    def __init__(self) -> None:
        super().__init__()
        self.input_size, self.output_size = 3, 4
        self.linear = nn.Linear(3, 4)

    @override
    def forward(self, batch: Batch[Vectors]) -> States[Sight]:
        rows = self.rows(batch.padded())
        start = self.start(batch)
        hidden = self.run(self.linear(rows.values).tanh(), start)
        final = ended(hidden, start, rows.lengths)
        return self.states(rows, hidden, final)

    def rows(self, batch: Padded[Vectors]) -> Padded[Vectors]:
        """What is read."""
        return batch.cleared()

    def start(self, batch: Batch[Vectors]) -> Tensor:
        """What each row starts from."""
        return batch.values.new_zeros(len(batch.lengths), 4) if batch.initial is None else batch.initial[0][0]

    def run(self, update: Tensor, start: Tensor) -> Tensor:
        """Every step's state."""
        return leaked(update, start)

    def states(self, rows: Padded[Vectors], hidden: Tensor, final: Tensor) -> States[Sight]:
        """What is given."""
        return States(rows.holding(hidden), final, carried=(final.unsqueeze(0),) if self.stateful else None)


def leaked(update: Tensor, start: Tensor) -> Tensor:
    """A decaying sum over time."""
    state = start
    steps: list[Tensor] = []
    for step in update.unbind(1):
        state = state / 2 + step
        steps.append(state)
    return torch.stack(steps, 1) if steps else update


def ended(hidden: Tensor, start: Tensor, lengths: Tensor) -> Tensor:
    """Each row's last real state; what it started from if it has none."""
    last = lengths.to(hidden.device).reshape(-1, 1, 1).expand(-1, 1, hidden.shape[2])
    return torch.cat([start.unsqueeze(1), hidden], 1).gather(1, last).squeeze(1)


class Both(Leaky):
    """An honest encoder of two directions: the backward one begins at each row's own last step."""

    causal = False
    bidirectional = True
    stateful = False

    @override
    def forward(self, batch: Batch[Vectors]) -> States[Sight]:
        rows = batch.padded().cleared()
        update = self.linear(rows.values).tanh()
        zeros = update.new_zeros(len(update), 4)
        back = self.turned(leaked(self.turned(update, rows), zeros), rows)
        hidden = leaked(update, zeros) + back
        return self.states(rows, hidden, self.ending(hidden, zeros, rows, back))

    def turned(self, values: Tensor, rows: Padded[Vectors]) -> Tensor:
        """Each row backwards within its own length; its padding stays where it is."""
        time = torch.arange(rows.width, device=values.device)
        lengths = rows.order.lengths_on_device.unsqueeze(1)
        places = torch.where(time < lengths, lengths - 1 - time, time)
        return values.gather(1, places.unsqueeze(-1).expand_as(values))

    def ending(self, hidden: Tensor, zeros: Tensor, rows: Padded[Vectors], back: Tensor) -> Tensor:
        """The forward state at the last real step, and the backward state at the first."""
        first = back[:, 0].masked_fill((rows.lengths == 0).to(back.device).unsqueeze(1), 0) if rows.width else zeros
        return ended(hidden - back, zeros, rows.lengths) + first


class TimesTheMask(Leaky):
    """Masks by multiplication: NaN times zero is NaN."""

    @override
    def rows(self, batch: Padded[Vectors]) -> Padded[Vectors]:
        return attrs.evolve(batch, values=batch.values * batch.order.mask(batch.width).unsqueeze(-1))


class MeanOfTheWidth(Leaky):
    """Takes the mean of the whole rectangle from each row, padding and future included, and yet says causal."""

    @override
    def rows(self, batch: Padded[Vectors]) -> Padded[Vectors]:
        mean = batch.values.mean(1, keepdim=True) if batch.width else 0
        return attrs.evolve(batch, values=batch.values - mean).cleared()


class LastColumn(Leaky):
    """Ends in the rectangle's last column."""

    @override
    def states(self, rows: Padded[Vectors], hidden: Tensor, final: Tensor) -> States[Sight]:
        return super().states(rows, hidden, hidden[:, -1] if rows.width else final)


class CarriesTheLastColumn(Leaky):
    """Ends right, but carries the rectangle's last column."""

    @override
    def states(self, rows: Padded[Vectors], hidden: Tensor, final: Tensor) -> States[Sight]:
        empty = (rows.order.lengths_on_device == 0).unsqueeze(1)
        carried = torch.where(empty, final, hidden[:, -1]) if rows.width else final
        return States(rows.holding(hidden), final, carried=(carried.unsqueeze(0),))


class BackFromThePadding(Both):
    """Turns the whole rectangle, so that its backward direction begins in the padding."""

    @override
    def turned(self, values: Tensor, rows: Padded[Vectors]) -> Tensor:
        return values.flip(1)


class EndsAtTheLastStep(Both):
    """Ends both directions at the last step, of which the backward one has seen nothing else."""

    @override
    def ending(self, hidden: Tensor, zeros: Tensor, rows: Padded[Vectors], back: Tensor) -> Tensor:
        return torch.cat([ended(hidden - back, zeros, rows.lengths)[:, :2], ended(back, zeros, rows.lengths)[:, 2:]], 1)


class OneWay(Leaky):
    """Says that it is bidirectional, and reads forward alone."""

    causal = False
    bidirectional = True


class LooksAhead(Leaky):
    """Adds the next step's update to each, and says causal."""

    stateful = False

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4, bias=False)  # what follows the last step adds nothing

    @override
    def run(self, update: Tensor, start: Tensor) -> Tensor:
        return super().run(update, start) + nn.functional.pad(update[:, 1:], (0, 0, 0, min(1, update.shape[1]))) / 8


class ForgetsInitial(Leaky):
    """Starts from zeros, whatever came."""

    @override
    def start(self, batch: Batch[Vectors]) -> Tensor:
        return batch.values.new_zeros(len(batch.lengths), 4)


class StartsFromOnes(Leaky):
    """Takes ones where no initial state came; so it ends, too, a row of no steps."""

    @override
    def start(self, batch: Batch[Vectors]) -> Tensor:
        return super().start(batch) if batch.initial is not None else super().start(batch) + 1


class CarriesInSecret(Leaky):
    """Carries its states, and does not say so."""

    stateful = False

    @override
    def states(self, rows: Padded[Vectors], hidden: Tensor, final: Tensor) -> States[Sight]:
        return States(rows.holding(hidden), final, carried=(final.unsqueeze(0),))


class WrongSize(Leaky):
    """Says one feature more than it gives."""

    def __init__(self) -> None:
        super().__init__()
        self.output_size = 5


class CausalBothWays(Leaky):
    """Says causal and bidirectional at once."""

    bidirectional = True


class DropsRiders(Leaky):
    """Makes a new batch by hand, in which places and targets are lost."""

    @override
    def states(self, rows: Padded[Vectors], hidden: Tensor, final: Tensor) -> States[Sight]:
        return States(Padded(Hidden, hidden, rows.lengths), final, carried=(final.unsqueeze(0),))


class StaysSorted(Leaky):
    """Sorts its rows by length and forgets to put them back."""

    @override
    def states(self, rows: Padded[Vectors], hidden: Tensor, final: Tensor) -> States[Sight]:
        return super().states(rows, hidden[rows.lengths.argsort(descending=True, stable=True)], final)


class Indexed(Leaky):
    """Adds each row's place in the batch."""

    @override
    def run(self, update: Tensor, start: Tensor) -> Tensor:
        place = torch.arange(len(update), device=update.device, dtype=update.dtype).reshape(-1, 1, 1)
        return super().run(update, start) + place


class LessTheBatchMean(Leaky):
    """Normalises each step over the real steps of the whole batch."""

    @override
    def rows(self, batch: Padded[Vectors]) -> Padded[Vectors]:
        rows = batch.cleared()
        mean = rows.values.sum((0, 1)) / rows.order.lengths_on_device.sum().clamp(min=1)
        return attrs.evolve(rows, values=rows.values - mean).cleared()


class BatchNormed(Leaky):
    """Normalises as nn.BatchNorm1d does: in training by the batch, whose statistics it keeps for evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    @override
    def rows(self, batch: Padded[Vectors]) -> Padded[Vectors]:
        rows = batch.cleared()
        return attrs.evolve(rows, values=self.norm(rows.values.transpose(1, 2)).transpose(1, 2)).cleared()


class NeverEvaluates(Leaky):
    """Leaves its dropout on in evaluation."""

    @override
    def run(self, update: Tensor, start: Tensor) -> Tensor:
        return super().run(nn.functional.dropout(update, 0.5, training=True), start)


class Lambda(Leaky):
    """Keeps a lambda."""

    def __init__(self) -> None:
        super().__init__()
        self.squash: Callable[[Tensor], Tensor] = lambda values: values.tanh()


class Unregistered(Leaky):
    """Keeps weights in a list, where torch does not see them."""

    def __init__(self) -> None:
        super().__init__()
        self.scales = [torch.rand(4)]

    @override
    def run(self, update: Tensor, start: Tensor) -> Tensor:
        return super().run(update * self.scales[0], start)


class Detaches(Leaky):
    """Cuts the gradient of half of what it reads."""

    @override
    def run(self, update: Tensor, start: Tensor) -> Tensor:
        return super().run(update / 2 + update.detach() / 2, start)


class InSingle(Leaky):
    """Computes in float32, whatever came."""

    @override
    def states(self, rows: Padded[Vectors], hidden: Tensor, final: Tensor) -> States[Sight]:
        return super().states(rows, hidden.float(), final.float())


class InDouble(Leaky):
    """Adds a constant that is always float64."""

    def __init__(self) -> None:
        super().__init__()
        self.ones: Callable[[Tensor], Tensor] = in_double

    @override
    def run(self, update: Tensor, start: Tensor) -> Tensor:
        return super().run(update * self.ones(update), start)

    @override
    def states(self, rows: Padded[Vectors], hidden: Tensor, final: Tensor) -> States[Sight]:
        return super().states(rows, hidden, final.to(hidden.dtype))


def in_double(like: Tensor) -> Tensor:
    """Ones, in float64."""
    return torch.ones(like.shape[-1], dtype=torch.float64, device=like.device)


class OnTheCpu(Leaky):
    """Adds a constant that is always on the CPU."""

    @override
    def run(self, update: Tensor, start: Tensor) -> Tensor:
        return super().run(update * torch.ones(4), start)


class ReadsBack(Leaky):
    """Looks at a number on its device to choose its way."""

    @override
    def run(self, update: Tensor, start: Tensor) -> Tensor:
        return super().run(update if float(self.linear.bias.detach().sum()) < 100 else -update, start)


class ByLength(Leaky):
    """Loops over time in Python, and yet says exportable: a graph of it is of one width alone."""

    exportable = True


class NotForCompilers(Leaky):
    """Calls what no graph can hold, and yet says exportable."""

    exportable = True

    @override
    def run(self, update: Tensor, start: Tensor) -> Tensor:
        return super().run(apart(update), start)


def _same(values: Tensor) -> Tensor:
    return values


apart: Callable[[Tensor], Tensor] = getattr(torch.compiler, "disable")(_same)  # noqa: B009
"""Torch leaves its type open."""


class Remembers(Leaky):
    """Keeps a count from call to call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    @override
    def run(self, update: Tensor, start: Tensor) -> Tensor:
        self.calls += 1
        return super().run(update, start) * (1 + 1e-3 * self.calls)


class WritesIntoItsInput(Leaky):
    """Clears the padding of the very batch that came."""

    @override
    def rows(self, batch: Padded[Vectors]) -> Padded[Vectors]:
        if batch.values.device.type == "cpu":
            batch.values.data[~batch.order.mask(batch.width)] = 0
        return batch.cleared()


class DrawsElsewhere(Leaky):
    """Draws a weight from Python's generator, which torch's seed does not reach."""

    def __init__(self) -> None:
        super().__init__()
        self.linear.bias.data.fill_(random.random())


class CopiesItself(Leaky):
    """Takes itself for its own deep copy."""

    def __deepcopy__(self, _: object) -> "CopiesItself":
        return self


class DividesByLength(Leaky):
    """Ends in the sum of a row's states over its length, which may be 0."""

    stateful = False

    @override
    def states(self, rows: Padded[Vectors], hidden: Tensor, final: Tensor) -> States[Sight]:
        mean = rows.holding(hidden).cleared().values.sum(1) / rows.order.lengths_on_device.unsqueeze(1)
        return super().states(rows, hidden, mean)


class ReadsOneLayout(Leaky):
    """Takes every batch for a padded one."""

    @override
    def forward(self, batch: Batch[Vectors]) -> States[Sight]:
        return super().forward(Padded(Vectors, batch.values, batch.lengths, initial=batch.initial, riders=batch.riders))


class Closest(Attention):
    """An honest attention: minus half the squared distance, as a product and the keys' own part of it."""

    exportable = False

    def __init__(self) -> None:
        super().__init__()
        self.input_size = 3

    @override
    def score(
        self, query: Float[Tensor, "batch query hidden"], key: Float[Tensor, "batch key hidden"]
    ) -> Float[Tensor, "batch query key"]:
        return query @ key.transpose(1, 2) - key.square().sum(-1).unsqueeze(1) / 2


class InfinitelyMasked(Closest):
    """Fills with minus infinity, of which a softmax over nothing else makes NaN."""

    @override
    def weights(
        self,
        query: Float[Tensor, "batch query hidden"],
        key: Float[Tensor, "batch key hidden"],
        mask: Bool[Tensor, "#batch #query key"],
    ) -> Float[Tensor, "batch query key"]:
        return self.score(query, key).masked_fill(~mask, float("-inf")).softmax(-1)


class AddsTheMask(Closest):
    """Adds a large negative number to masked scores, as many do, which NaN survives; it makes no zeros either."""

    @override
    def weights(
        self,
        query: Float[Tensor, "batch query hidden"],
        key: Float[Tensor, "batch key hidden"],
        mask: Bool[Tensor, "#batch #query key"],
    ) -> Float[Tensor, "batch query key"]:
        return (self.score(query, key) - 1e9 * ~mask).softmax(-1)


class OverQueries(Closest):
    """Takes its softmax over the queries."""

    @override
    def weights(
        self,
        query: Float[Tensor, "batch query hidden"],
        key: Float[Tensor, "batch key hidden"],
        mask: Bool[Tensor, "#batch #query key"],
    ) -> Float[Tensor, "batch query key"]:
        scores = self.score(query, key)
        return masked_softmax(scores.transpose(1, 2), mask.expand_as(scores).transpose(1, 2)).transpose(1, 2)


class Placed(Closest):
    """Prefers earlier keys."""

    @override
    def score(
        self, query: Float[Tensor, "batch query hidden"], key: Float[Tensor, "batch key hidden"]
    ) -> Float[Tensor, "batch query key"]:
        return super().score(query, key) - torch.arange(key.shape[1], device=key.device) / 8


class ScaledContexts(Closest):
    """Gives twice what its weights mix."""

    @override
    def forward(
        self,
        query: Float[Tensor, "batch query hidden"],
        key: Float[Tensor, "batch key hidden"],
        mask: Bool[Tensor, "#batch #query key"],
    ) -> Float[Tensor, "batch query hidden"]:
        return 2 * super().forward(query, key, mask)


class WholeMasksAlone(Closest):
    """Wants a mask of every row and query."""

    @override
    def weights(
        self,
        query: Float[Tensor, "batch query hidden"],
        key: Float[Tensor, "batch key hidden"],
        mask: Bool[Tensor, "#batch #query key"],
    ) -> Float[Tensor, "batch query key"]:
        scores = self.score(query, key)
        return masked_softmax(scores, mask.expand(len(key), mask.shape[1], -1).reshape(scores.shape))


class WithHeads(Closest):
    """Gives its weights an axis of heads, of which there is one."""

    @override
    def weights(
        self,
        query: Float[Tensor, "batch query hidden"],
        key: Float[Tensor, "batch key hidden"],
        mask: Bool[Tensor, "#batch #query key"],
    ) -> Float[Tensor, "batch query key"]:
        return super().weights(query, key, mask).unsqueeze(1)

    @override
    def forward(
        self,
        query: Float[Tensor, "batch query hidden"],
        key: Float[Tensor, "batch key hidden"],
        mask: Bool[Tensor, "#batch #query key"],
    ) -> Float[Tensor, "batch query hidden"]:
        return super().weights(query, key, mask) @ key


class MeanOverTheWidth(Pooling):
    """What `out.mean(1)` does."""

    @override
    def forward(self, states: States[Sight]) -> Float[Tensor, "batch hidden"]:
        return states.padded().values.sum(1) / max(1, states.width)


class MaxWithThePadding(Pooling):
    """Takes the zeros of the padding into the maximum."""

    @override
    def forward(self, states: States[Sight]) -> Float[Tensor, "batch hidden"]:
        rows = states.padded()
        return rows.values.amax(1) if rows.width else states.final * 0


class MeanOfNothing(Pooling):
    """Divides by lengths that may be 0."""

    @override
    def forward(self, states: States[Sight]) -> Float[Tensor, "batch hidden"]:
        return states.padded().values.sum(1) / states.order.lengths_on_device.unsqueeze(1)


class WithABias(Pooling):
    """The sum of each row and a bias, which is there for an empty row as well."""

    def __init__(self) -> None:
        super().__init__()
        self.input_size = 3
        self.bias = nn.Parameter(torch.ones(3))

    @override
    def forward(self, states: States[Sight]) -> Float[Tensor, "batch hidden"]:
        return states.padded().values.sum(1) + self.bias


class TwiceAsLarge(Pooling):
    """Mean and sum, side by side, and says that it gives as many features as come in."""

    @override
    def forward(self, states: States[Sight]) -> Float[Tensor, "batch hidden"]:
        total = states.padded().values.sum(1)
        return torch.cat([total, total / 2], 1)


class Letters(Tokenizer):
    """An honest tokenizer: bytes are tokens, each a part of its character."""

    def __init__(self) -> None:
        self.pad, self.bos, self.eos = "<pad>", "<bos>", "<eos>"
        self.unknown = None
        self.vocabulary: Mapping[str, int] = {
            **{token: number for number, token in enumerate((self.pad, self.bos, self.eos))},
            **{f"{byte:02x}": byte + 3 for byte in range(256)},
        }

    @override
    def encode(self, texts: Sequence[str], *, offsets: bool = True) -> list[Tokens]:
        return [self.cut(text, offsets=offsets) for text in texts]

    @override
    def encode_words(self, rows: Sequence[Sequence[str]], *, offsets: bool = True) -> list[Tokens]:
        found: list[Tokens] = []
        for row in rows:
            cut = [self.cut(word, offsets=offsets) for word in row]
            ids = [number for word in cut for number in word.ids]
            spans = [span for word in cut for span in word.offsets]
            found.append(Tokens(ids, spans, [place for place, word in enumerate(cut) for _ in word.ids]))
        return found

    @override
    def decode(self, ids: Sequence[int]) -> str:
        return bytes(number - 3 for number in ids if number > 2).decode(errors="replace")

    def cut(self, text: str, *, offsets: bool) -> Tokens:
        """The tokens of one text."""
        ids = [byte + 3 for byte in text.encode()]
        return Tokens(ids, self.spans(text) if offsets else ())

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Where each token stands."""
        return [(place, place + 1) for place, letter in enumerate(text) for _ in letter.encode()]


class CountsBytes(Letters):
    """Counts offsets in bytes."""

    @override
    def spans(self, text: str) -> list[tuple[int, int]]:
        return [(place, place + 1) for place in range(len(text.encode()))]


class LosesSpaces(Letters):
    """Leaves spaces out of what it decodes."""

    @override
    def decode(self, ids: Sequence[int]) -> str:
        return super().decode(ids).replace(" ", "")


class TakesSpecials(Letters):
    """Takes what spells a special token for that."""

    @override
    def cut(self, text: str, *, offsets: bool) -> Tokens:
        if text in {"<pad>", "<bos>", "<eos>"}:
            return Tokens([self.vocabulary[text]], [(0, 5)] if offsets else ())
        return super().cut(text, offsets=offsets)


class AddsAnEnd(Letters):
    """Ends each text in a token of its own."""

    @override
    def cut(self, text: str, *, offsets: bool) -> Tokens:
        found = super().cut(text, offsets=offsets)
        end = len(text)
        return Tokens([*found.ids, 2], [*found.offsets, (end, end)] if offsets else ())


class DecodesSpecials(Letters):
    """Writes special tokens out."""

    @override
    def decode(self, ids: Sequence[int]) -> str:
        return super().decode(ids) + "<eos>" * list(ids).count(2)


class NumbersOutside(Letters):
    """Gives a number that no token has."""

    @override
    def cut(self, text: str, *, offsets: bool) -> Tokens:
        found = super().cut(text, offsets=offsets)
        return Tokens([999 if number == 10 + 3 else number for number in found.ids], found.offsets)

    @override
    def decode(self, ids: Sequence[int]) -> str:
        return super().decode([13 if number == 999 else number for number in ids])


class LooksAtMates(Letters):
    """Leaves out the last token of each text that has mates."""

    @override
    def encode(self, texts: Sequence[str], *, offsets: bool = True) -> list[Tokens]:
        found = super().encode(texts, offsets=offsets)
        return found if len(texts) == 1 else [Tokens(cut.ids[:-1], cut.offsets[:-1]) for cut in found]


class HoldsALambda(Letters):
    """Keeps a lambda."""

    def __init__(self) -> None:
        super().__init__()
        self.fold: Callable[[str], str] = lambda text: text


class CountsPieces(Letters):
    """Numbers the pieces of words instead of the words."""

    @override
    def encode_words(self, rows: Sequence[Sequence[str]], *, offsets: bool = True) -> list[Tokens]:
        found = super().encode_words(rows, offsets=offsets)
        return [attrs.evolve(cut, words=range(len(cut.ids))) for cut in found]


class NeverTheSame(Letters):
    """Has a token more each time that one is made."""

    made: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).made += 1
        self.vocabulary = {**self.vocabulary, "more": 300 + self.made}


class SharesNumbers(Letters):
    """Has two tokens of one number."""

    def __init__(self) -> None:
        super().__init__()
        self.vocabulary = {**self.vocabulary, "again": 5}


class Scores(nn.Module):
    """An honest module of one's own: scores of each row, from the mean of its real steps."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(
        self, values: Float[Tensor, "batch time feature"], lengths: Int64[Tensor, " batch"]
    ) -> Float[Tensor, "batch classes"]:
        """Scores of rows."""
        beside = lengths.to(values.device).unsqueeze(1)
        mask = self.mask(torch.arange(values.shape[1], device=values.device), beside)
        total = values.masked_fill(~mask.unsqueeze(-1), 0).sum(1)
        scores: Tensor = self.linear(total / beside.clamp(min=1))
        return scores

    def mask(self, time: Tensor, lengths: Tensor) -> Tensor:
        """Which steps are real."""
        return time < lengths


class OffByOne(Scores):
    """Takes the step behind the last real one for real."""

    @override
    def mask(self, time: Tensor, lengths: Tensor) -> Tensor:
        return time <= lengths


class IgnoresLengths(Scores):
    """Does not look at the lengths."""

    @override
    def mask(self, time: Tensor, lengths: Tensor) -> Tensor:
        return time < 1_000 + 0 * lengths


class Smoothed(nn.Module):
    """Each step's mean with its neighbours', the padding cleared: right, but not causal."""

    def forward(
        self, values: Float[Tensor, "batch time feature"], lengths: Int64[Tensor, " batch"]
    ) -> Float[Tensor, "batch time feature"]:
        """Smoothed steps."""
        mask = torch.arange(values.shape[1], device=values.device) < lengths.to(values.device).unsqueeze(1)
        rows = nn.functional.pad(values.masked_fill(~mask.unsqueeze(-1), 0), (0, 0, 1, 1))
        return (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / 3


@attrs.frozen
class Trial:
    """A part, the names of the laws that it breaks, and those that it was found to break."""

    name: str
    breaks: frozenset[str]
    because: str
    found: Callable[[], frozenset[str]]


def trial(make: Callable[[], P], laws: Sequence[Law[P]], breaks: str, because: str = "") -> Trial:
    """A part that breaks the laws named, all others of its kind holding.

    Args:
        make: makes one.
        laws: those of its kind.
        breaks: the names of those that it breaks.
        because: why there are more than one.
    """

    def found() -> frozenset[str]:
        return frozenset(name_of(law) for law in laws if is_broken(law, make))

    return Trial(name_of(make), frozenset(breaks.split()), because, found)


def name_of(function: Callable[..., object]) -> str:
    """What a function or class is called."""
    return str(getattr(function, "__name__", function))


def is_broken(law: Law[P], make: Callable[[], P]) -> bool:
    """Whether a part breaks a law."""
    try:
        law(make)
    except LawBrokenError:
        return True
    return False


def off_by_one() -> PlainModule:
    """See `OffByOne`."""
    return PlainModule(OffByOne(), input_size=3)


def ignores_lengths() -> PlainModule:
    """See `IgnoresLengths`."""
    return PlainModule(IgnoresLengths(), input_size=3)


def smoothed() -> PlainModule:
    """See `Smoothed`; it is said to be causal."""
    return PlainModule(Smoothed(), input_size=3, causal=True)


_ALONE: Final = "what depends on mates or width also differs for a row alone, for prefixes, or beside empty rows"
_EVERY: Final = "a part that gives something else at every call breaks whatever compares two calls"

TRIALS: Final = (
    trial(TimesTheMask, ENCODER_LAWS, "no_gradient_reaches_padding"),
    trial(
        MeanOfTheWidth,
        ENCODER_LAWS,
        """padding_is_inert no_gradient_reaches_padding amount_of_padding_is_inert batch_mates_are_inert
        empty_rows_are_inert causal_steps_do_not_look_ahead what_is_carried_goes_in_again""",
        _ALONE,
    ),
    trial(
        LastColumn,
        ENCODER_LAWS,
        """amount_of_padding_is_inert batch_mates_are_inert empty_rows_are_inert empty_rows_end_as_they_began
        what_is_carried_goes_in_again""",
        _ALONE,
    ),
    trial(CarriesTheLastColumn, ENCODER_LAWS, "what_is_carried_goes_in_again"),
    trial(
        BackFromThePadding,
        ENCODER_LAWS,
        "amount_of_padding_is_inert batch_mates_are_inert empty_rows_are_inert",
        _ALONE,
    ),
    trial(EndsAtTheLastStep, ENCODER_LAWS, "final_states_belong_to_their_rows"),
    trial(OneWay, ENCODER_LAWS, "bidirectional_reads_from_both_ends"),
    trial(LooksAhead, ENCODER_LAWS, "causal_steps_do_not_look_ahead"),
    trial(
        ForgetsInitial,
        ENCODER_LAWS,
        "empty_rows_end_as_they_began rows_start_from_their_initial_states what_is_carried_goes_in_again",
        "an initial state that is forgotten is missing at every start: of empty rows and of second halves, too",
    ),
    trial(
        StartsFromOnes,
        ENCODER_LAWS,
        "empty_rows_end_as_they_began carries_what_it_declares",
        "no initial state means zeros, in which empty rows end",
    ),
    trial(CarriesInSecret, ENCODER_LAWS, "carries_what_it_declares"),
    trial(WrongSize, ENCODER_LAWS, "sizes_are_true"),
    trial(
        CausalBothWays,
        ENCODER_LAWS,
        "declarations_fit_together bidirectional_reads_from_both_ends",
        "of two declarations that exclude each other, one is false",
    ),
    trial(DropsRiders, ENCODER_LAWS, "what_rides_along_is_passed_on"),
    trial(
        StaysSorted,
        ENCODER_LAWS,
        """order_of_rows_is_inert batch_mates_are_inert empty_rows_are_inert causal_steps_do_not_look_ahead
        what_is_carried_goes_in_again""",
        "rows in the wrong places are wrong wherever rows of unlike lengths are compared",
    ),
    trial(
        Indexed,
        ENCODER_LAWS,
        """order_of_rows_is_inert batch_mates_are_inert empty_rows_are_inert rows_start_from_their_initial_states
        what_is_carried_goes_in_again""",
        "a row alone is always the first",
    ),
    trial(
        LessTheBatchMean,
        ENCODER_LAWS,
        """batch_mates_are_inert causal_steps_do_not_look_ahead rows_start_from_their_initial_states
        what_is_carried_goes_in_again""",
        _ALONE,
    ),
    trial(BatchNormed, ENCODER_LAWS, "training_differs_by_chance_alone"),
    trial(
        NeverEvaluates,
        ENCODER_LAWS,
        """evaluation_is_deterministic layouts_agree padding_is_inert no_gradient_reaches_padding
        batch_mates_are_inert order_of_rows_is_inert amount_of_padding_is_inert empty_rows_are_inert
        causal_steps_do_not_look_ahead carries_what_it_declares rows_start_from_their_initial_states
        what_is_carried_goes_in_again gradients_are_right training_differs_by_chance_alone one_seed_makes_equal_parts
        weights_load_into_another a_deep_copy_is_equal a_pickled_part_is_equal results_have_the_dtype_of_the_part""",
        _EVERY,
    ),
    trial(
        Remembers,
        ENCODER_LAWS,
        """evaluation_is_deterministic layouts_agree padding_is_inert no_gradient_reaches_padding
        batch_mates_are_inert order_of_rows_is_inert amount_of_padding_is_inert empty_rows_are_inert
        causal_steps_do_not_look_ahead carries_what_it_declares rows_start_from_their_initial_states
        what_is_carried_goes_in_again gradients_are_right training_differs_by_chance_alone
        a_deep_copy_is_equal a_pickled_part_is_equal results_have_the_dtype_of_the_part""",
        _EVERY,
    ),
    trial(Lambda, ENCODER_LAWS, "a_pickled_part_is_equal"),
    trial(
        Unregistered,
        ENCODER_LAWS,
        "weights_load_into_another results_are_on_the_device_of_the_part",
        "what torch does not see, it neither saves nor moves",
    ),
    trial(Detaches, ENCODER_LAWS, "gradients_are_right"),
    trial(
        InSingle,
        ENCODER_LAWS,
        """results_have_the_dtype_of_the_part gradients_are_right rows_start_from_their_initial_states
        what_is_carried_goes_in_again""",
        "finite differences, and states that are handed on, need all of their digits",
    ),
    trial(InDouble, ENCODER_LAWS, "results_have_the_dtype_of_the_part"),
    trial(OnTheCpu, ENCODER_LAWS, "results_are_on_the_device_of_the_part"),
    trial(ReadsBack, ENCODER_LAWS, "results_are_on_the_device_of_the_part"),
    trial(ByLength, ENCODER_LAWS, "torch_export_gives_the_same"),
    trial(
        NotForCompilers,
        ENCODER_LAWS,
        "torch_compile_gives_the_same torch_export_gives_the_same",
        "strict exporting compiles first",
    ),
    trial(WritesIntoItsInput, ENCODER_LAWS, "input_is_left_as_it_came"),
    trial(DrawsElsewhere, ENCODER_LAWS, "one_seed_makes_equal_parts"),
    trial(CopiesItself, ENCODER_LAWS, "a_deep_copy_is_equal"),
    trial(
        DividesByLength,
        ENCODER_LAWS,
        "empty_rows_are_inert empty_rows_end_as_they_began",
        "NaN is neither finite nor zero",
    ),
    trial(
        ReadsOneLayout,
        ENCODER_LAWS,
        "layouts_agree sizes_are_true what_rides_along_is_passed_on empty_rows_end_as_they_began",
        "it raises wherever a packed batch comes",
    ),
    trial(InfinitelyMasked, ATTENTION_LAWS, "nothing_to_attend_gives_zeros"),
    trial(
        AddsTheMask,
        ATTENTION_LAWS,
        "masked_keys_are_inert nothing_to_attend_gives_zeros",
        "where all is masked alike, nothing is",
    ),
    trial(
        OverQueries,
        ATTENTION_LAWS,
        "weights_are_shares queries_are_apart batch_mates_are_inert amount_of_padding_is_inert",
        "queries of padding have their share as well",
    ),
    trial(Placed, ATTENTION_LAWS, "order_of_keys_is_inert"),
    trial(ScaledContexts, ATTENTION_LAWS, "contexts_are_keys_mixed_by_their_weights"),
    trial(WholeMasksAlone, ATTENTION_LAWS, "masks_broadcast"),
    trial(
        WithHeads,
        ATTENTION_LAWS,
        """attention_sizes_are_true weights_are_shares contexts_are_keys_mixed_by_their_weights
        nothing_to_attend_gives_zeros""",
        "weights of another shape answer no question about weights",
    ),
    trial(
        MeanOverTheWidth,
        POOL_LAWS,
        "amount_of_padding_is_inert batch_mates_are_inert empty_rows_are_inert",
        _ALONE,
    ),
    trial(MaxWithThePadding, POOL_LAWS, "amount_of_padding_is_inert batch_mates_are_inert", _ALONE),
    trial(MeanOfNothing, POOL_LAWS, "empty_rows_give_zeros empty_rows_are_inert", "NaN is neither finite nor zero"),
    trial(WithABias, POOL_LAWS, "empty_rows_give_zeros"),
    trial(TwiceAsLarge, POOL_LAWS, "pooled_sizes_are_true"),
    trial(CountsBytes, TOKENIZER_LAWS, "offsets_stand_within_the_text"),
    trial(LosesSpaces, TOKENIZER_LAWS, "decoded_text_has_the_same_tokens"),
    trial(TakesSpecials, TOKENIZER_LAWS, "special_tokens_in_a_text_are_text"),
    trial(
        AddsAnEnd,
        TOKENIZER_LAWS,
        "empty_text_has_no_tokens special_tokens_in_a_text_are_text",
        "a token that is added stands in every text",
    ),
    trial(DecodesSpecials, TOKENIZER_LAWS, "decoding_leaves_special_tokens_out"),
    trial(NumbersOutside, TOKENIZER_LAWS, "ids_are_in_the_vocabulary"),
    trial(LooksAtMates, TOKENIZER_LAWS, "texts_are_apart"),
    trial(HoldsALambda, TOKENIZER_LAWS, "a_copied_tokenizer_is_equal"),
    trial(CountsPieces, TOKENIZER_LAWS, "words_are_numbered"),
    trial(NeverTheSame, TOKENIZER_LAWS, "encoding_is_deterministic"),
    trial(SharesNumbers, TOKENIZER_LAWS, "the_vocabulary_is_sound"),
    trial(
        off_by_one,
        MODULE_LAWS,
        "padding_is_inert no_gradient_reaches_padding empty_rows_are_inert",
        "one step of padding is read, of an empty row's as well",
    ),
    trial(
        ignores_lengths,
        MODULE_LAWS,
        "padding_is_inert no_gradient_reaches_padding empty_rows_are_inert",
        "all padding is read, of an empty row's as well",
    ),
    trial(smoothed, MODULE_LAWS, "causal_steps_do_not_look_ahead"),
)
"""Every broken part."""
