"""Laws about attentions."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeAlias

import attrs
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from pipeline.laws.common import COMMON_LAWS
from pipeline.laws.configs import config_makes_an_equal_part
from pipeline.laws.law import FaultError, Law, check_equal, check_laws, compute_gradients, law, to_list
from pipeline.laws.parts import FILLINGS, choose_input_size, draw_rows, prepare
from pipeline.laws.weights import evaluation_is_deterministic
from pipeline.parts.attention import Attention

MakeAttention: TypeAlias = Callable[[], Attention]

# Two different numbers, so that a part that confuses the axes of queries and keys fails on shapes.
_QUERIES: Final = 4
_KEYS: Final = 5

_MIXING: Final = (
    "Override both forward and weights, or neither; an attention that projects its values, such as multi-head "
    "attention, declares projects_values = True."
)

_MASKED: Final = (
    "Usually a mask that is added or multiplied (NaN plus or times anything is NaN): fill the scores, as "
    "pipeline.extend.masked_softmax does."
)


@attrs.frozen(eq=False)
class _Sample:
    """Queries, keys, and a mask of the keys that each query may attend to.

    Row 0 has a causal mask, row 1 only two keys, row 2 three keys; every query has at least one.
    """

    query: Float[Tensor, "batch query hidden"]
    key: Float[Tensor, "batch key hidden"]
    mask: Bool[Tensor, "batch query key"]

    @property
    def masked_for_all(self) -> Bool[Tensor, "batch key"]:
        """A mask of the keys that no query of their row may attend to."""
        return ~self.mask.any(1)


def _make_sample(attention: Attention) -> _Sample:
    size = choose_input_size(attention)
    query, key = (torch.stack(draw_rows((steps,) * 3, size, seed=steps)) for steps in (_QUERIES, _KEYS))
    mask = torch.ones(3, _QUERIES, _KEYS, dtype=torch.bool).tril(1)
    mask[1] = torch.arange(_KEYS) < 2
    mask[2, :, 3:] = False
    return _Sample(query, key, mask)


@law
def attention_sizes_match_declared(make: MakeAttention) -> None:
    """There is one context of `input_size` per query, and one weight per query and key."""
    attention = prepare(make)
    size: object = getattr(attention, "input_size", None)
    if not isinstance(size, int) or size < 1:
        msg = f"input_size must be a number of features, 1 or more, got {size!r}; set it in __init__."
        raise FaultError(msg, argument="input_size")
    sample = _make_sample(attention)
    found = [tuple(run(sample.query, sample.key, sample.mask).shape) for run in (attention, attention.weights)]
    wanted = [(3, _QUERIES, size), (3, _QUERIES, _KEYS)]
    if found != wanted:
        msg = (
            f"for 3 rows of {_QUERIES} queries and {_KEYS} keys, contexts and weights must have shapes {wanted}, got "
            f"{found}."
        )
        raise FaultError(msg, shapes=found)


@law
def weights_sum_to_one(make: MakeAttention) -> None:
    """A query's weights are 0 or more, sum to 1, and are 0 for every masked key."""
    attention = prepare(make)
    sample = _make_sample(attention)
    weights = attention.weights(sample.query, sample.key, sample.mask)
    if weights[~sample.mask].count_nonzero():
        msg = f"a masked key has a weight of {float(weights[~sample.mask].abs().max()):.3g}. {_MASKED}"
        raise FaultError(msg)
    if not bool((weights >= 0).all()):
        msg = f"weights must be 0 or more, got {float(weights.min()):.3g}."
        raise FaultError(msg)
    totals = weights.sum(-1)
    fix = "Take the softmax over the keys, the last axis, and only after masking."
    check_equal(list(totals), list(torch.ones_like(totals)), "the sum of each query's weights", fix=fix)


@law
def contexts_are_weighted_sums_of_keys(make: MakeAttention) -> None:
    """`forward` returns the keys, summed with `weights`, unless `projects_values` is declared."""
    attention = prepare(make)
    if attention.projects_values:
        return
    sample = _make_sample(attention)
    found = attention(sample.query, sample.key, sample.mask)
    wanted = attention.weights(sample.query, sample.key, sample.mask) @ sample.key
    condition = "contexts, compared with the weighted sums of the keys"
    check_equal(list(found), list(wanted), condition, fix=_MIXING)


@law
def masked_keys_have_no_effect(make: MakeAttention) -> None:
    """Masked keys (NaN and infinity included) change no bit of a weight; finite ones none of a context or gradient.

    They get no gradient. Contexts need not survive masked NaN, because the stages fill padding before they call.
    """
    attention = prepare(make)
    sample = _make_sample(attention)
    first = attention.weights(sample.query, sample.key, sample.mask)
    context, *slopes = _compute_context_and_gradients(attention, sample)
    for filling in FILLINGS:
        key = sample.key.masked_fill(sample.masked_for_all.unsqueeze(-1), filling)
        other = attrs.evolve(sample, key=key)
        condition = f"with {filling} in the masked keys"
        found = attention.weights(other.query, other.key, other.mask)
        check_equal(list(found), list(first), f"{condition}, weights", fix=_MASKED, rounding=0)
        # A context sums over all keys, and 0 times NaN is NaN. Stages fill padding, so contexts need not survive it.
        if not math.isfinite(filling):
            continue
        contexts, *others = _compute_context_and_gradients(attention, other)
        check_equal(list(contexts), list(context), f"{condition}, contexts", fix=_MASKED, rounding=0)
        check_equal(others, slopes, f"{condition}, gradients (of queries, keys, weights)", fix=_MASKED, rounding=0)
        if others[1][sample.masked_for_all].count_nonzero():
            msg = f"{condition}, keys that no query may attend to get a gradient. {_MASKED}"
            raise FaultError(msg)


def _compute_context_and_gradients(attention: Attention, sample: _Sample) -> list[Tensor]:
    query, key = (tensor.detach().clone().requires_grad_() for tensor in (sample.query, sample.key))
    contexts = attention(query, key, sample.mask)
    return [contexts, *compute_gradients([contexts], [query, key, *attention.parameters()])]


@law
def fully_masked_queries_give_zeros(make: MakeAttention) -> None:
    """A query without keys, or with masked keys only, gets a context of zeros; all gradients are finite."""
    attention = prepare(make)
    sample = _make_sample(attention)
    mask = sample.mask.clone()
    mask[0, 1] = False
    mask[2] = False
    without_keys = ~mask.any(-1)
    contexts, *slopes = _compute_context_and_gradients(attention, attrs.evolve(sample, mask=mask))
    for name, found in (("context", contexts), ("weights", attention.weights(sample.query, sample.key, mask))):
        if not bool((found[without_keys] == 0).all()):
            msg = f"the {name} of a fully masked query must be zeros, got {to_list(found[without_keys][0])}. {_MASKED}"
            raise FaultError(msg)
    if not all(bool(slope.isfinite().all()) for slope in slopes):
        msg = f"a fully masked query causes gradients that are not finite. {_MASKED}"
        raise FaultError(msg)
    # Axes of size 0: a batch of empty rows reaches an attention like this.
    for queries, keys in ((_QUERIES, 0), (0, _KEYS), (0, 0)):
        found = attention(sample.query[:, :queries], sample.key[:, :keys], mask[:, :queries, :keys])
        if found.shape != sample.query[:, :queries].shape or found.count_nonzero():
            msg = (
                f"{queries} queries and {keys} keys must give a zero context per query, got shape {tuple(found.shape)}."
            )
            raise FaultError(msg)


@law
def compare_of_project_equals_score(make: MakeAttention) -> None:
    """`compare` of the results of `project` equals `score`; it is their inner product if that is declared."""
    attention = prepare(make)
    sample = _make_sample(attention)
    query, key = attention.project(sample.query, sample.key)
    wanted = attention.score(sample.query, sample.key)
    fix = "Let score return self.compare(*self.project(query, key)), or override neither compare nor project."
    check_equal(list(attention.compare(query, key)), list(wanted), "compare, compared with score", fix=fix)
    if attention.inner_product:
        fix = "Declare inner_product only if nothing changes the product; project may change its factors."
        check_equal(list(query @ key.mT), list(wanted), "the inner product, compared with score", fix=fix)


@law
def score_size_bounds_memory(make: MakeAttention) -> None:
    """Scoring creates no tensor with more than `score_size` numbers per pair; stages plan their memory by it."""
    attention = prepare(make)
    size: object = getattr(attention, "score_size", None)
    if not isinstance(size, int) or size < 0:
        msg = f"score_size must be a number, 0 or more, got {size!r}; declare the numbers that one score needs."
        raise FaultError(msg, argument="score_size")
    if size == 0 and attention.overrides_mixing:
        return
    # With that many queries and keys, tensors per step or per weight are smaller than one number per pair.
    count = 8 * max(choose_input_size(attention), size) + 8
    query, key = (torch.stack(draw_rows((count,), choose_input_size(attention), seed=seed)) for seed in (1, 2))
    projected = attention.project(query, key)
    # Only `compare` counts: `project` works on single steps, whose number does not grow with the square.
    with torch.no_grad(), _LargestTensor() as largest:
        attention.compare(*projected)
    pairs = count * count
    if largest.numbers > size * pairs:
        held = -(-largest.numbers // pairs)  # rounded up
        msg = (
            f"score_size={size} is declared, but {held} numbers are created per pair of query and key; declare {held}, "
            "so that stages process as few queries at a time as their memory allows."
        )
        raise FaultError(msg, argument="score_size")


class _LargestTensor(TorchFunctionMode):
    """Record the size of the largest tensor that is created inside; a view counts with its whole storage."""

    numbers: int = 0

    @override
    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Iterable[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.numbers = max(self.numbers, result.untyped_storage().nbytes() // result.element_size())
        return result


@law
def key_order_has_no_effect(make: MakeAttention) -> None:
    """Keys in another order, with their mask, give the same contexts, up to rounding."""
    attention = prepare(make)
    sample = _make_sample(attention)
    wanted = attention(sample.query, sample.key, sample.mask)
    for shift in range(1, _KEYS):
        found = attention(sample.query, sample.key.roll(shift, 1), sample.mask.roll(shift, 2))
        fix = "Attention must not use positions; add them to the vectors before it."
        check_equal(list(found), list(wanted), f"with keys rotated by {shift}", fix=fix)


@law
def queries_are_independent(make: MakeAttention) -> None:
    """A query gives the same context alone and among others, up to rounding."""
    attention = prepare(make)
    sample = _make_sample(attention)
    wanted = attention(sample.query, sample.key, sample.mask)
    for index in range(_QUERIES):
        only = slice(index, index + 1)
        found = attention(sample.query[:, only], sample.key, sample.mask[:, only])
        fix = "Take the softmax over the keys, the last axis."
        check_equal(list(found), list(wanted[:, only]), f"query {index} alone", fix=fix)


@law
def masks_broadcast(make: MakeAttention) -> None:
    """A mask may have one row for all queries, or for the whole batch; it equals the expanded mask."""
    attention = prepare(make)
    sample = _make_sample(attention)
    # One query for all, one row for all, and one of each.
    for mask in (sample.mask[:, :1], sample.mask[:1], sample.mask[:1, 1:2]):
        wanted = attention(sample.query, sample.key, mask.expand(3, _QUERIES, _KEYS).contiguous())
        condition = f"with a mask of shape {tuple(mask.shape)} instead of (3, {_QUERIES}, {_KEYS})"
        check_equal(list(attention(sample.query, sample.key, mask)), list(wanted), condition)


ATTENTION_LAWS: Final[tuple[Law[Attention], ...]] = (
    attention_sizes_match_declared,
    compare_of_project_equals_score,
    score_size_bounds_memory,
    evaluation_is_deterministic,
    weights_sum_to_one,
    contexts_are_weighted_sums_of_keys,
    masked_keys_have_no_effect,
    fully_masked_queries_give_zeros,
    key_order_has_no_effect,
    queries_are_independent,
    masks_broadcast,
    config_makes_an_equal_part,
    *COMMON_LAWS,
)
"""Every law of an attention, the quick ones first."""


def check_attention(make: MakeAttention) -> None:
    """Check attentions against `ATTENTION_LAWS`.

    Args:
        make: takes no arguments and creates a new attention at every call.

    Raises:
        LawBrokenError: if a law is broken; the error lists all broken laws.
        OptionError: if `make` is a part instead of a function that creates one.

    Example:
        >>> from pipeline_attention import General
        >>> check_attention(lambda: General(3))
    """
    check_laws(ATTENTION_LAWS, make, "attentions", "ATTENTION_LAWS")
