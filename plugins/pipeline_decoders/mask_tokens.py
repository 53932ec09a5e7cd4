"""Choose tokens of a batch as targets and hide them, for masked-token pretraining."""

from typing import Final, final

import attrs
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from typing_extensions import override

from pipeline.extend import (
    IGNORED,
    Ids,
    ModuleStage,
    OptionError,
    Padded,
    ShapeError,
    Spec,
    check_int,
    check_number,
    check_positive,
)

_BITS: Final = 24
"""Bits of a uniform number: all that float32 represents exactly."""


@final
class MaskTokens(ModuleStage[Padded[Ids], Padded[Ids]]):
    """Choose 15% of the tokens of a batch as targets, and hide them: the data of masked-token pretraining.

    Of the chosen tokens, 80% become the mask token, 10% a random token, and 10% stay. Each row with tokens has at least
    one target. Tokens that need no prediction, such as bos and eos, are never chosen. The head is `MaskedToken`.

    In training, tokens are chosen again in each epoch, by torch's generator. In evaluation, the choice depends on the
    tokens of the row and the seed only: it is the same in each epoch, whatever the batch. A row that contains the mask
    token already is left as it is, and its masks are what the head predicts.

    Put it after `Pad`. Shape: a padded batch of ids to another one, with targets per step and an answer mask. Targets
    that the examples have are replaced.

    Args:
        vocab_size: the number of ids from which random tokens are drawn.
        mask_id: the id of the mask token: one of the tokenizer, or one more, `tokenize.vocab_size`, with
            `Embed(tokenize.vocab_size + 1, ...)`.
        p: the probability with which a token is chosen.
        p_mask: the share of chosen tokens that become the mask token.
        p_random: the share of chosen tokens that become a random one; the others stay.
        seed: fixes the choice in evaluation.

    Raises:
        OptionError: if a number is out of its range.

    Source: Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding",
    arXiv:1810.04805, section 3.1; chosen again in each epoch as in Liu et al. 2019, "RoBERTa", arXiv:1907.11692. At
    least one token per row is ours.

    Example:
        >>> batch = Padded(Ids, torch.tensor([[4, 5, 6], [7, 0, 0]]), torch.tensor([3, 1]))
        >>> masked = MaskTokens(10, mask_id=2, p_mask=1, p_random=0).eval()(batch)
        >>> masked.values.tolist(), masked.targets.tolist()
        ([[2, 5, 6], [2, 0, 0]], [[4, -100, -100], [7, -100, -100]])
    """

    makes_targets = True
    exportable = False

    def __init__(
        self,
        vocab_size: int,
        mask_id: int,
        *,
        p: float = 0.15,
        p_mask: float = 0.8,
        p_random: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_positive("p", p)
        for option, share in (("p", p), ("p_mask", p_mask), ("p_random", p_random)):
            check_number(option, share, minimum=0, maximum=1)
        if p_mask + p_random > 1:
            msg = f"p_mask and p_random must be shares whose sum is at most 1, got {p_mask} and {p_random}."
            raise OptionError(msg, p_mask=p_mask, p_random=p_random)
        self.vocab_size: int = check_int("vocab_size", vocab_size, minimum=1)
        self.mask_id: int = check_int("mask_id", mask_id, minimum=0)
        self.p = p
        self.p_mask = p_mask
        self.p_random = p_random
        self.seed: int = check_int("seed", seed, minimum=0)

    @override
    def build(self, spec: Spec, /) -> Spec:
        return spec

    def explain_not_exportable(self) -> str:
        """Return why it is not part of an exported model."""
        return "tokens are hidden for training only; export a pipe with the trained encoder and without this stage"

    @override
    def forward(self, value: Padded[Ids]) -> Padded[Ids]:
        """Return the batch with hidden tokens and their targets.

        Raises:
            ShapeError: if it does not hold ids.
        """
        if value.kind is not Ids:
            msg = f"the input of MaskTokens must be Ids, got {value.kind.__name__}; put it before Embed."
            raise ShapeError(msg)
        if value.values.is_meta:
            return value  # without values, there is nothing to choose
        ids, device = value.values, value.values.device
        # Lengths and masks are on the CPU, so that the head knows the number of targets without waiting for a device.
        is_real = torch.arange(value.width, device="cpu") < value.lengths.unsqueeze(1)
        answer_mask = value.metadata.answer_mask
        eligible = is_real if answer_mask is None else is_real & answer_mask
        given = torch.zeros_like(eligible)
        if self.training:
            chances, kinds, drawn = torch.rand(3, *eligible.shape, device="cpu").unbind()
        else:
            on_cpu = ids.cpu().where(is_real, -1)
            chances, kinds, drawn = hash_rows(on_cpu, self.seed)
            given = (on_cpu == self.mask_id) & eligible
        selected = _select(chances, eligible, self.p)
        has_masks = given.any(1, keepdim=True)
        hidden = selected & ~has_masks
        # What each hidden token becomes; the others stay.
        is_changed = hidden & (kinds < self.p_mask + self.p_random)
        random_ids = (drawn * self.vocab_size).long().clamp(max=self.vocab_size - 1)
        changed = random_ids.masked_fill(kinds < self.p_mask, self.mask_id)
        masked = ids.where(~is_changed.to(device, non_blocking=True), changed.to(device, non_blocking=True))
        targets = ids.masked_fill(~hidden.to(device, non_blocking=True), IGNORED)
        metadata = attrs.evolve(
            value.metadata,
            targets=targets,
            named_targets=None,
            label_sets=frozenset[str](),
            answer_mask=torch.where(has_masks, given, selected),
        )
        return attrs.evolve(value, values=masked, metadata=metadata)

    @override
    def extra_repr(self) -> str:
        return f"{self.vocab_size}, mask_id={self.mask_id}, p={self.p}"


def _select(
    chances: Float[Tensor, "batch time"], eligible: Bool[Tensor, "batch time"], p: float
) -> Bool[Tensor, "batch time"]:
    """Return which steps are targets: those whose number is below `p`, and in each row the one with the lowest."""
    if not chances.shape[1]:
        return eligible
    chances = chances.masked_fill(~eligible, torch.inf)
    lowest = torch.arange(chances.shape[1], device=chances.device) == chances.argmin(1, keepdim=True)
    return (lowest | (chances < p)) & eligible


def hash_rows(ids: Int64[Tensor, "batch time"], seed: int) -> Float[Tensor, "3 batch time"]:
    """Return three uniform numbers, 0 <= number < 1, per step; they depend on the row's ids and the seed only.

    Args:
        ids: the ids; -1 in the padding, whatever its width.
        seed: the seed.

    Example:
        >>> alone, wider = torch.tensor([[5, 6]]), torch.tensor([[9, 9, 9], [5, 6, -1]])
        >>> torch.equal(hash_rows(alone, 0)[:, 0], hash_rows(wider, 0)[:, 1, :2])
        True
    """
    places = torch.arange(ids.shape[1], device=ids.device)
    steps = _mix(_mix(ids + 1) + places + 1)
    row = _mix(steps.masked_fill(ids < 0, 0).sum(1, keepdim=True) + seed)
    numbers = torch.stack([_mix(_mix(row + places) + part) for part in range(3)])
    return (numbers & ((1 << _BITS) - 1)).float() / (1 << _BITS)


def _mix(values: Int64[Tensor, "*item"]) -> Int64[Tensor, "*item"]:
    """Return integers whose bits all depend on all bits of the given ones: SplitMix64, which wraps around.

    Source: Steele, Lea and Flood 2014, "Fast Splittable Pseudorandom Number Generators", doi:10.1145/2660193.2660195.
    """
    # Constants above 2**63 as the negative numbers with the same bits. A shift of int64 copies the sign: it is masked.
    values = values + -0x61C8864680B583EB
    values = (values ^ ((values >> 30) & ((1 << 34) - 1))) * -0x40A7B892E31B1A47
    values = (values ^ ((values >> 27) & ((1 << 37) - 1))) * -0x6B2FB644ECCEEE15
    return values ^ ((values >> 31) & ((1 << 33) - 1))
