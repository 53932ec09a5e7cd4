"""Adaptive softmax: scores of the next token for large vocabularies, where rare tokens take less work."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import cast, final

import attrs
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from typing_extensions import Unpack, override

from pipeline.errors import CompositionError, OptionError, SaveError, ShapeError
from pipeline.extend import (
    IGNORED,
    Causal,
    ClassLossOptions,
    Layout,
    ModuleStage,
    Padded,
    ReductionOptions,
    Spec,
    States,
    StepScores,
    as_pytree,
    check_bool,
    check_classes,
    check_int,
    check_loss_options,
    check_number,
    check_optional_int,
    checked,
    get_scored_steps,
    reduce_losses,
)

_CUTOFFS = (2_000, 10_000, 50_000)
"""The default cutoffs, as far as they are below the number of tokens."""


@as_pytree
@checked
@attrs.frozen(eq=False)
class AdaptiveScores(StepScores[int]):
    """The probability of each step's target; the scores of all tokens are computed only when they are asked for.

    Attributes:
        values: the vectors from which the scores follow, in packed order.
        target_scores: the logarithm of the probability of the target of each step; 0 without a target.
        compute_scores: returns the logarithms of the probabilities of all tokens at each step.
    """

    target_scores: Float[Tensor, " steps"] = attrs.field(kw_only=True, repr=False)
    compute_scores: Callable[[Tensor], Tensor] = attrs.field(kw_only=True, repr=False)

    def __attrs_post_init__(self) -> None:
        """Check nothing: the vectors were checked as states."""

    @property
    @override
    def best(self) -> Int64[Tensor, " steps"]:
        return self.class_scores.argmax(1)

    @property
    @override
    def class_scores(self) -> Float[Tensor, "steps classes"]:
        """The logarithm of the probability of each token at each step."""
        return self.compute_scores(self.values)

    @override
    def log_softmax(self) -> Float[Tensor, "steps classes"]:
        return self.class_scores

    @override
    def loss(self, **options: Unpack[ClassLossOptions]) -> Float[Tensor, " *steps"]:
        """Return the cross-entropy, averaged over the steps that have a target.

        Args:
            options: as for `StepScores.loss`. All but `reduction` and `over` need the scores of all tokens.

        Raises:
            OptionError: if the loss does not have an option.
        """
        check_loss_options(options, ClassLossOptions, len(self.names))
        if not options.keys() <= {"reduction", "over"}:
            scores = StepScores(self.class_scores, self.lengths, self.names, metadata=self.metadata, order=self.order)
            return scores.loss(**options)
        targets = self.packed_targets
        assert targets is not None
        # In float32 at least, as a cross-entropy.
        losses = -self.target_scores.to(torch.promote_types(self.target_scores.dtype, torch.float32))
        reduction: ReductionOptions = {"reduction": options.get("reduction", "mean"), "over": options.get("over")}
        return reduce_losses(losses, targets != IGNORED, **reduction)


@final
class AdaptiveNextToken(ModuleStage[States[Causal], StepScores[int]]):
    """Score every token as the successor of each real step, with less work for rare tokens. Takes causal states only.

    Tokens are sorted by frequency. The most frequent ones are scored by a linear layer, which also scores clusters of
    the others. The tokens of a cluster are scored only for steps whose target is one of them, from smaller vectors.
    Without targets, the scores of all tokens are computed: predictions, generation and export are those of `NextToken`.

    Args:
        tokens: the number of tokens.
        cutoffs: the rank by frequency at which each cluster begins; by default 2,000, 10,000 and 50,000, as far as
            there are more tokens.
        counts: how often each token occurs in the training texts. By default a smaller id is a more frequent token, as
            it is for the tokenizer `words`; for others, pass the counts.
        div_value: each cluster's vectors are smaller than those of the one before by this factor.
        head_bias: whether the scores of frequent tokens and of clusters have a bias.
        input_size: the number of features of a step's vector; by default that of the stage before.
        name: the stage's name in its chain.

    Raises:
        OptionError: if there are no cutoffs below the number of tokens, they are not increasing, or there is not one
            count per token.

    Source: Grave et al. 2017, "Efficient softmax approximation for GPUs", arXiv:1609.04309, as in
    `torch.nn.AdaptiveLogSoftmaxWithLoss`, which computes it.

    Example:
        >>> from pipeline import Padded, Vectors
        >>> from pipeline_recurrent import LSTM
        >>> head = AdaptiveNextToken(9, cutoffs=[4], input_size=4)
        >>> states = LSTM(2, 4)(Padded(Vectors, torch.ones(1, 2, 2), torch.tensor([2])))
        >>> head(states).values.shape
        torch.Size([2, 9])
    """

    stepwise = True
    every_step = True
    default_metrics: Sequence[str] = ("perplexity",)

    layouts: tuple[Layout, ...] = ("packed",)
    """The layouts that it reads without a copy."""

    ranks: Tensor
    ids: Tensor

    def __init__(
        self,
        tokens: int,
        *,
        cutoffs: Sequence[int] | None = None,
        counts: Sequence[int] | Tensor | None = None,
        div_value: float = 4.0,
        head_bias: bool = True,
        input_size: int | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__()
        check_int("tokens", tokens, minimum=2)
        check_number("div_value", div_value, minimum=1)
        check_bool("head_bias", head_bias)
        check_optional_int("input_size", input_size, minimum=1)
        self.name = name
        self.tokens: int = tokens
        self.cutoffs: Sequence[int] = _choose_cutoffs(tokens, cutoffs)
        self.div_value: float = div_value
        self.head_bias: bool = head_bias
        self.names: Sequence[int] = range(tokens)
        self.softmax: nn.AdaptiveLogSoftmaxWithLoss | None = None
        ids = _sort_ids(tokens, counts)
        # Saved with the weights: a pipe that is loaded needs no counts.
        self.register_buffer("ids", ids)
        self.register_buffer("ranks", ids.argsort())
        if input_size is not None:
            self._make(input_size)

    def _make(self, input_size: int) -> None:
        if int(input_size // self.div_value ** len(self.cutoffs)) < 1:
            msg = (
                f"vectors of {input_size} features are too small for {len(self.cutoffs)} clusters, each smaller by "
                f"div_value={self.div_value:g}; pass fewer cutoffs, or a smaller div_value."
            )
            raise OptionError(msg, input_size=input_size, cutoffs=self.cutoffs)
        self.softmax = nn.AdaptiveLogSoftmaxWithLoss(
            input_size, self.tokens, self.cutoffs, self.div_value, self.head_bias
        )

    def get_config(self) -> Mapping[str, object]:
        """Return the arguments with which to make the head again.

        Raises:
            SaveError: if the input size is not known yet.
        """
        if self.softmax is None:
            msg = "AdaptiveNextToken does not know its input size yet; join it after the stage before it."
            raise SaveError(msg)
        return {
            "tokens": self.tokens,
            "cutoffs": self.cutoffs,
            "div_value": self.div_value,
            "head_bias": self.head_bias,
            "input_size": self.softmax.in_features,
            "name": self.name,
        }

    @property
    def is_lazy(self) -> bool:
        """True if the layers are not made yet, because their input size is not known."""
        return self.softmax is None

    @override
    def build(self, spec: Spec, /) -> Spec:
        if spec.causal is False:
            msg = (
                "the input of AdaptiveNextToken must be causal states, but these depend on later steps, which contain "
                "the next token; choose a causal encoder, and attend with AttendEarlier."
            )
            raise CompositionError(msg)
        if self.softmax is None:
            spec.reject_unsized("AdaptiveNextToken")
            if spec.size is not None:
                self._make(spec.size)
        if self.softmax is not None and spec.size not in {None, self.softmax.in_features}:
            msg = (
                f"the input has size {spec.size} along the axis 'hidden', but AdaptiveNextToken has "
                f"input_size={self.softmax.in_features}; leave input_size out, or make the two equal."
            )
            raise CompositionError(msg, axis="hidden", size=spec.size, input_size=self.softmax.in_features)
        return Spec()

    @override
    def forward(self, value: States[Causal]) -> StepScores[int]:
        """Return the scores of the token after each step.

        Raises:
            CompositionError: if the input size is not known yet.
            ShapeError: if the states have another size than the input size.
            TargetError: if a target is not a token.
        """
        steps = get_scored_steps(value)
        if self.softmax is None:
            msg = (
                "AdaptiveNextToken does not know its input size yet; join it after the stage whose vectors it scores, "
                f"or pass it: AdaptiveNextToken(..., input_size={steps.values.shape[-1]})."
            )
            raise CompositionError(msg)
        size = self.softmax.in_features
        if steps.values.shape[-1] != size:
            got = steps.values.shape[-1]
            msg = f"AdaptiveNextToken has input_size={size}, got vectors of {got} features; make the two equal."
            raise ShapeError(msg, size=got, input_size=size)
        # All steps have a prediction, bos too: its prediction is the first token.
        mask = steps.metadata.answer_mask
        metadata = attrs.evolve(steps.metadata, answer_mask=None if mask is None else torch.ones_like(mask))
        if metadata.targets is None or torch.compiler.is_compiling():
            scores = self.compute_scores(steps.values)
            if isinstance(steps, Padded):
                scores = scores.masked_fill(~steps.mask.unsqueeze(-1), 0)
            return StepScores(scores, steps.lengths, self.names, metadata=metadata, order=steps.order)
        found = AdaptiveScores(
            steps.values,
            steps.lengths,
            self.names,
            metadata=metadata,
            order=steps.order,
            target_scores=steps.values.new_zeros(len(steps.values)),
            compute_scores=self.compute_scores,
        )
        targets = found.packed_targets
        if targets is None:
            scores = self.compute_scores(steps.values)
            return StepScores(scores, steps.lengths, self.names, metadata=metadata, order=steps.order)
        check_classes(targets, self.tokens, metadata.row_ids, lambda: steps.order.locate_steps(steps.values)[0])
        return attrs.evolve(found, target_scores=self._score_targets(steps.values, targets))

    def compute_scores(self, values: Float[Tensor, "steps hidden"]) -> Float[Tensor, "steps tokens"]:
        """Return the logarithm of the probability of each token after each step."""
        assert self.softmax is not None
        first: Tensor = self.softmax.head(values).log_softmax(-1)
        frequent = self.cutoffs[0]
        parts = [first[..., :frequent]]
        for number, cluster in enumerate(self.softmax.tail, start=frequent):
            inside: Tensor = cluster(values).log_softmax(-1)
            parts.append(inside + first[..., number : number + 1])
        return torch.cat(parts, -1).index_select(-1, self.ranks)

    def _score_targets(self, values: Tensor, targets: Tensor) -> Tensor:
        """Return the logarithm of the probability of each target; 0 without one."""
        assert self.softmax is not None
        places = (targets != IGNORED).nonzero().squeeze(1)
        ranks, values = self.ranks.index_select(0, targets.index_select(0, places)), values.index_select(0, places)
        # Not torch's own pass: it writes products of autocast's dtype into a tensor of the dtype of `values`.
        first, frequent = _compute_log_softmax(self.softmax.head, values), self.cutoffs[0]
        columns, inside = ranks.clone(), first.new_zeros(len(ranks))
        bounds = itertools.pairwise([*self.cutoffs, self.tokens])
        for number, (cluster, (low, high)) in enumerate(zip(self.softmax.tail, bounds, strict=True), start=frequent):
            chosen = ((ranks >= low) & (ranks < high)).nonzero().squeeze(1)
            scores = _compute_log_softmax(cluster, values.index_select(0, chosen))
            own = scores.gather(1, (ranks.index_select(0, chosen) - low).unsqueeze(1)).squeeze(1)
            inside, columns = inside.index_copy(0, chosen, own), columns.index_fill(0, chosen, number)
        found = inside + first.gather(1, columns.unsqueeze(1)).squeeze(1)
        return found.new_zeros(len(targets)).index_copy(0, places, found)


def _compute_log_softmax(layer: nn.Module, values: Tensor) -> Tensor:
    """Return the logarithms of probabilities, in float32 at least."""
    scores: Tensor = layer(values)
    return scores.log_softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))


def _choose_cutoffs(tokens: int, cutoffs: Sequence[int] | None) -> list[int]:
    """Return the cutoffs; by default those of `_CUTOFFS` that are below the number of tokens."""
    default = [each for each in _CUTOFFS if each < tokens]
    # Nothing, for an error of one form, if they are no sequence.
    given: Sequence[object] = cutoffs if cutoffs is not None and isinstance(cast("object", cutoffs), Sequence) else []
    chosen = default if cutoffs is None else [each for each in given if isinstance(each, int)]
    is_whole = cutoffs is None or len(chosen) == len(given)
    if not chosen or not is_whole or chosen != sorted(set(chosen)) or not 0 < chosen[0] <= chosen[-1] < tokens:
        msg = (
            f"cutoffs must be increasing ranks from 1 to {tokens - 1}, below the {tokens} tokens, got "
            f"{default if cutoffs is None else cutoffs!r:.200}; pass others, or use NextToken for a small vocabulary."
        )
        raise OptionError(msg, cutoffs=cutoffs, tokens=tokens)
    return chosen


def _sort_ids(tokens: int, counts: Sequence[int] | Tensor | None) -> Tensor:
    """Return the ids of the tokens, the most frequent one first; of equal counts, the smaller id first."""
    if counts is None:
        return torch.arange(tokens)
    try:
        given = counts if isinstance(counts, Tensor) else torch.tensor([*counts])
    except (TypeError, ValueError, RuntimeError) as error:
        msg = f"counts must be one number for each of {tokens} tokens, got {counts!r:.200}."
        raise OptionError(msg, counts=counts, tokens=tokens) from error
    if given.shape != (tokens,):
        got = str(len(given)) if given.ndim == 1 else f"numbers of shape {tuple(given.shape)}"
        msg = f"counts must be one number for each of {tokens} tokens, got {got}."
        raise OptionError(msg, counts=tuple(given.shape), tokens=tokens)
    return given.argsort(descending=True, stable=True)
