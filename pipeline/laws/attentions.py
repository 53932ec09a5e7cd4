"""The laws of attentions."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, TypeAlias

import attrs
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from pipeline.laws.compare import gradients, numbers, same
from pipeline.laws.graphs import GRAPHS
from pipeline.laws.inertness import EVERY_ROW
from pipeline.laws.law import FaultError, Law, check, law
from pipeline.laws.run import prepared, size_of
from pipeline.laws.samples import FILLINGS, drawn
from pipeline.laws.upkeep import UPKEEP, evaluation_is_deterministic
from pipeline.parts.attention import Attention

Made: TypeAlias = Callable[[], Attention]

_QUERIES: Final = 4
_KEYS: Final = 5

_MASKED: Final = (
    "Usually a mask that is added or multiplied (NaN plus or times anything is NaN): fill the scores, as "
    "pipeline.parts.attention.masked_softmax does."
)


@attrs.frozen(eq=False)
class _Asked:
    """Queries, keys, and which of these each may attend to: in every query some, and in the last row none twice."""

    query: Float[Tensor, "batch query hidden"]
    key: Float[Tensor, "batch key hidden"]
    mask: Bool[Tensor, "batch query key"]

    @property
    def masked_for_all(self) -> Bool[Tensor, "batch key"]:
        """The keys that no query of their row may attend to."""
        return ~self.mask.any(1)


def _asked(attention: Attention) -> _Asked:
    size = size_of(attention)
    query, key = (torch.stack(drawn((steps,) * 3, size, seed=steps)) for steps in (_QUERIES, _KEYS))
    mask = torch.ones(3, _QUERIES, _KEYS, dtype=torch.bool).tril(1)
    mask[1] = torch.arange(_KEYS) < 2
    mask[2, :, 3:] = False
    return _Asked(query, key, mask)


@law
def attention_sizes_are_true(make: Made) -> None:
    """There is one context of `input_size` a query, and one weight a query and key."""
    attention = prepared(make)
    size: object = getattr(attention, "input_size", None)
    if not isinstance(size, int) or size < 1:
        msg = f"input_size must be a number of features, 1 or more, but {size!r} is declared; set it in __init__."
        raise FaultError(msg, argument="input_size")
    asked = _asked(attention)
    found = [tuple(given(asked.query, asked.key, asked.mask).shape) for given in (attention, attention.weights)]
    wanted = [(3, _QUERIES, size), (3, _QUERIES, _KEYS)]
    if found != wanted:
        msg = f"for 3 rows of {_QUERIES} queries and {_KEYS} keys, contexts and weights must be {wanted}, not {found}."
        raise FaultError(msg, shapes=found)


@law
def weights_are_shares(make: Made) -> None:
    """A query's weights are 0 or more, sum to 1, and are 0 for every masked key."""
    attention = prepared(make)
    asked = _asked(attention)
    weights = attention.weights(asked.query, asked.key, asked.mask)
    if weights[~asked.mask].count_nonzero():
        msg = f"a masked key has a weight of {float(weights[~asked.mask].abs().max()):.3g}. {_MASKED}"
        raise FaultError(msg)
    if not bool((weights >= 0).all()):
        msg = f"a weight is {float(weights.min()):.3g}; shares are 0 or more."
        raise FaultError(msg)
    totals = weights.sum(-1)
    remedy = "Take the softmax over the keys, the last axis, and only after masking."
    same(list(totals), list(torch.ones_like(totals)), "the sum of each query's weights", remedy=remedy)


@law
def contexts_are_keys_mixed_by_their_weights(make: Made) -> None:
    """`forward` gives what the keys, mixed by `weights`, give."""
    attention = prepared(make)
    asked = _asked(attention)
    found = attention(asked.query, asked.key, asked.mask)
    wanted = attention.weights(asked.query, asked.key, asked.mask) @ asked.key
    same(
        list(found), list(wanted), "contexts beside the keys mixed by the weights", remedy="Override both, or neither."
    )


@law
def masked_keys_are_inert(make: Made) -> None:
    """What masked keys hold (NaN and infinity included) changes no bit of a weight; finite, none of a context either.

    And they get no gradient. The stages clear padding, so that no context has to be made of keys of NaN.
    """
    attention = prepared(make)
    asked = _asked(attention)
    first = attention.weights(asked.query, asked.key, asked.mask)
    context, *slopes = _with_gradients(attention, asked)
    for filling in FILLINGS:
        other = _filled(asked, filling)
        of = f"with {filling} in the masked keys"
        found = attention.weights(other.query, other.key, other.mask)
        same(list(found), list(first), f"{of}, weights", remedy=_MASKED, rounding=0)
        if not math.isfinite(filling):
            continue
        contexts, *others = _with_gradients(attention, other)
        same(list(contexts), list(context), f"{of}, contexts", remedy=_MASKED, rounding=0)
        same(others, slopes, f"{of}, gradients (of queries, keys, weights)", remedy=_MASKED, rounding=0)
        if others[1][asked.masked_for_all].count_nonzero():
            msg = f"{of}, keys that no query may attend to get a gradient. {_MASKED}"
            raise FaultError(msg)


def _filled(asked: _Asked, filling: float) -> _Asked:
    return attrs.evolve(asked, key=asked.key.masked_fill(asked.masked_for_all.unsqueeze(-1), filling))


def _with_gradients(attention: Attention, asked: _Asked) -> list[Tensor]:
    query, key = (tensor.detach().clone().requires_grad_() for tensor in (asked.query, asked.key))
    contexts = attention(query, key, asked.mask)
    return [contexts, *gradients([contexts], [query, key, *attention.parameters()])]


@law
def nothing_to_attend_gives_zeros(make: Made) -> None:
    """A query whose keys are all masked, or that has no keys, gets zeros for its context; all gradients are finite."""
    attention = prepared(make)
    asked = _asked(attention)
    mask = asked.mask.clone()
    mask[0, 1] = False
    mask[2] = False
    nothing = ~mask.any(-1)
    contexts, *slopes = _with_gradients(attention, attrs.evolve(asked, mask=mask))
    found = (("context", contexts), ("weights", attention.weights(asked.query, asked.key, mask)))
    for what, given in found:
        if not bool((given[nothing] == 0).all()):
            came = numbers(given[nothing][0])
            msg = f"a query with nothing to attend gets {came} for its {what}, not zeros. {_MASKED}"
            raise FaultError(msg)
    if not all(bool(slope.isfinite().all()) for slope in slopes):
        msg = f"a query with nothing to attend makes gradients that are not finite. {_MASKED}"
        raise FaultError(msg)
    for queries, keys in ((_QUERIES, 0), (0, _KEYS), (0, 0)):
        none = attention(asked.query[:, :queries], asked.key[:, :keys], mask[:, :queries, :keys])
        if none.shape != asked.query[:, :queries].shape or none.count_nonzero():
            msg = f"{queries} queries and {keys} keys give {tuple(none.shape)}, not zeros of {queries} queries."
            raise FaultError(msg)


@law
def scores_come_of_what_is_projected(make: Made) -> None:
    """`compare` makes of what `project` gives what `score` makes at once: the inner product, if that is declared."""
    attention = prepared(make)
    asked = _asked(attention)
    query, key = attention.project(asked.query, asked.key)
    wanted = attention.score(asked.query, asked.key)
    remedy = "Let score return self.compare(*self.project(query, key)), or override neither of these two."
    same(list(attention.compare(query, key)), list(wanted), "what compare makes beside the score", remedy=remedy)
    if attention.inner_product:
        remedy = "Declare inner_product only if nothing is done to the product; project may do what it likes before."
        same(list(query @ key.mT), list(wanted), "the inner product beside the score", remedy=remedy)


@law
def score_size_is_true(make: Made) -> None:
    """To score pairs, no tensor is made that holds more than `score_size` numbers a pair: stages reckon with it."""
    attention = prepared(make)
    size: object = getattr(attention, "score_size", None)
    if not isinstance(size, int) or size < 0:
        msg = f"score_size must be a number, 0 or more, but {size!r} is declared; say how many numbers a score takes."
        raise FaultError(msg, argument="score_size")
    if size == 0 and attention.mixes_its_own_way:
        return
    # So many that what is made of one step alone, or of the weights, is smaller.
    count = 8 * max(size_of(attention), size) + 8
    query, key = (torch.stack(drawn((count,), size_of(attention), seed=seed)) for seed in (1, 2))
    projected = attention.project(query, key)
    with torch.no_grad(), _Largest() as largest:
        attention.compare(*projected)
    pairs = count * count
    if largest.numbers > size * pairs:
        held = -(-largest.numbers // pairs)
        msg = (
            f"score_size={size} is declared, but {held} numbers are held for a pair of query and key; declare {held}, "
            "so that the stages take as few queries at a time as their memory allows."
        )
        raise FaultError(msg, argument="score_size")


class _Largest(TorchFunctionMode):
    """How many numbers the largest tensor holds that is made inside; a view holds those that it is one of."""

    numbers: int = 0

    @override
    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Iterable[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        given = func(*args, **(kwargs or {}))
        if isinstance(given, Tensor):
            self.numbers = max(self.numbers, given.untyped_storage().nbytes() // given.element_size())
        return given


@law
def order_of_keys_is_inert(make: Made) -> None:
    """Keys in another order, their mask with them, give the same contexts, up to rounding."""
    attention = prepared(make)
    asked = _asked(attention)
    wanted = attention(asked.query, asked.key, asked.mask)
    for turn in range(1, _KEYS):
        found = attention(asked.query, asked.key.roll(turn, 1), asked.mask.roll(turn, 2))
        remedy = "Attention knows no places; a step's place belongs into its vector."
        same(list(found), list(wanted), f"with keys moved by {turn}", remedy=remedy)


@law
def queries_are_apart(make: Made) -> None:
    """A query alone gives what it gives among others, up to rounding."""
    attention = prepared(make)
    asked = _asked(attention)
    wanted = attention(asked.query, asked.key, asked.mask)
    for index in range(_QUERIES):
        one = slice(index, index + 1)
        found = attention(asked.query[:, one], asked.key, asked.mask[:, one])
        remedy = "Take the softmax over the keys, the last axis."
        same(list(found), list(wanted[:, one]), f"query {index} alone", remedy=remedy)


@law
def masks_broadcast(make: Made) -> None:
    """A mask may have one row for all queries, or one for the whole batch: it means the same as if written out."""
    attention = prepared(make)
    asked = _asked(attention)
    for mask in _broadcast(asked.mask):
        wanted = attention(asked.query, asked.key, mask.expand(3, _QUERIES, _KEYS).contiguous())
        of = f"with a mask of {tuple(mask.shape)} instead of (3, {_QUERIES}, {_KEYS})"
        same(list(attention(asked.query, asked.key, mask)), list(wanted), of)


def _broadcast(mask: Bool[Tensor, "batch query key"]) -> Iterator[Bool[Tensor, "#batch #query key"]]:
    yield mask[:, :1]
    yield mask[:1]
    yield mask[:1, 1:2]


ATTENTION_LAWS: Final[tuple[Law[Attention], ...]] = (
    attention_sizes_are_true,
    scores_come_of_what_is_projected,
    score_size_is_true,
    evaluation_is_deterministic,
    weights_are_shares,
    contexts_are_keys_mixed_by_their_weights,
    masked_keys_are_inert,
    nothing_to_attend_gives_zeros,
    order_of_keys_is_inert,
    queries_are_apart,
    masks_broadcast,
    *EVERY_ROW,
    *UPKEEP,
    *GRAPHS,
)
"""Every law of an attention, the quick ones first."""


def check_attention(make: Made) -> None:
    """Hold attentions against `ATTENTION_LAWS`.

    Args:
        make: takes nothing and makes a new attention at every call.

    Raises:
        LawBrokenError: if they break any; it tells of all of them.
        OptionError: if `make` is a part, and no function that makes one.

    Example:
        >>> from pipeline_attention import General
        >>> check_attention(lambda: General(3))
    """
    check(ATTENTION_LAWS, make, "attentions")
