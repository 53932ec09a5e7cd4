"""Join stages by `>>`, and check that they fit each other."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import cast

from pipeline.core.chain import Chain, TypePreservingChain
from pipeline.core.chain_base import ChainBase, JoinedStages
from pipeline.core.stage import Spec, StageBase, TypePreserving, is_stream
from pipeline.core.stream_chain import StreamChain
from pipeline.errors import CompositionError
from pipeline.labels import Labels


def join(*stages: StageBase) -> StageBase:
    """Return one chain of stages, or of chains of stages, with sizes inferred and checked.

    Raises:
        CompositionError: if a size, causality or labels do not fit, or two stages with weights have one name.
        InferenceError: if one of them is for inference.
    """
    for stage in stages:
        if isinstance(stage, ChainBase):
            stage.reject_if_prepared("`>>`")
    flat = JoinedStages(
        each for stage in stages for each in (stage.stages.values() if isinstance(stage, ChainBase) else [stage])
    )
    if any(is_stream(stage) for stage in flat):
        chain: StageBase = cast("StageBase", StreamChain(flat))
    elif all(isinstance(stage, TypePreserving) for stage in flat):
        chain = cast("StageBase", TypePreservingChain(flat))
    else:
        chain = cast("StageBase", Chain(flat))
    _check_types(stages)
    _check_labels(flat)
    _check_target_tokens(flat)
    # Along the whole chain at every join: a size that only the new stages know may reach a stage that waited for it.
    chain.build(Spec())
    return chain


def _check_labels(stages: Sequence[StageBase]) -> None:
    """Reject labels of `Pad` and of a head that give one id two names: predictions would have the names of others.

    Raises:
        CompositionError: naming both stages, the id and its names.
    """
    known: dict[str, tuple[str, Labels]] = {}
    for number, stage in enumerate(stages, start=1):
        for target, names in _find_labels(stage).items():
            after = f"stage {number} `{type(stage).__name__}`"
            before, given = known.setdefault(target, (after, names))
            known[target] = (after, names)
            common = min(len(given), len(names))
            differs = next((index for index in range(common) if given[index] != names[index]), None)
            if differs is not None:
                where = f" of target {target!r}" if target else ""
                msg = (
                    f"{before} and {after} must have the same labels{where}, but class {differs} is "
                    f"{given[differs]!r} in one and {names[differs]!r} in the other; pass one Labels object to both."
                )
                raise CompositionError(msg, id=differs)


def _check_target_tokens(stages: Sequence[StageBase]) -> None:
    """Reject a tokenizer of `Pad(targets=Texts(...))` and of a decoder that give one id two tokens.

    Raises:
        CompositionError: naming both stages.
    """
    known: dict[str, tuple[str, Mapping[str, int]]] = {}
    for number, stage in enumerate(stages, start=1):
        for target, tokens in _find_vocabularies(stage).items():
            after = f"stage {number} `{type(stage).__name__}`"
            before, given = known.setdefault(target, (after, tokens))
            if given is not tokens and given != tokens:
                where = f" of target {target!r}" if target else " of targets"
                msg = (
                    f"{before} and {after} must have the same tokenizer{where}, but their vocabularies differ; pass "
                    "one to both: Texts(tokenize) in Pad, and the decoder of tokenize."
                )
                raise CompositionError(msg)


def _find_vocabularies(stage: object) -> dict[str, Mapping[str, int]]:
    """Return the vocabularies of target texts, of `Pad` or of decoders, by the name of the target."""
    heads = _find_heads(stage)
    if heads:
        return {name: found for name, head in heads.items() for found in _find_vocabularies(head).values()}
    targets: object = getattr(stage, "targets", None)
    kinds = cast("Mapping[str, object]", targets) if isinstance(targets, Mapping) else {"": targets}
    found: dict[str, Mapping[str, int]] = {}
    for name, kind in kinds.items():
        tokenize: object = getattr(kind, "tokenize", None) or getattr(stage, "target", None)
        vocabulary: object = getattr(getattr(tokenize, "tokenizer", None), "vocabulary", None)
        if isinstance(vocabulary, Mapping):
            found[name] = cast("Mapping[str, int]", vocabulary)
    return found


def _find_labels(stage: object) -> dict[str, Labels]:
    """Return the labels of `Pad` or of a head by the name of the target, which is "" if there is only one."""
    heads = _find_heads(stage)
    if heads:
        return {name: labels for name, head in heads.items() for labels in _find_labels(head).values()}
    found: object = getattr(stage, "targets", None) or getattr(stage, "names", None)
    kinds = cast("Mapping[str, object]", found) if isinstance(found, Mapping) else {"": found}
    labels = {name: getattr(kind, "labels", kind) for name, kind in kinds.items()}
    return {name: each for name, each in labels.items() if isinstance(each, Labels)}


def _find_heads(stage: object) -> dict[str, object]:
    """Return the heads of a stage with several by name; of a head that is a chain, its last stage."""
    heads = cast("Mapping[str, object]", getattr(stage, "branches", None) or {})
    chains = {name: cast("Mapping[str, object]", getattr(head, "stages", {"": head})) for name, head in heads.items()}
    return {name: [*stages.values()][-1] for name, stages in chains.items()}


def _check_types(stages: Sequence[StageBase]) -> None:
    """Reject neighbors whose types exclude each other, as a type checker does.

    Raises:
        CompositionError: naming both, and the stage that is missing between them.
    """
    from pipeline.summary.types import explain_misfit  # noqa: PLC0415 - above the core, as in `_summarize`

    number = 0
    for before, after in pairwise(stages):
        left = list(before.stages.values()) if isinstance(before, ChainBase) else [before]
        right = list(after.stages.values()) if isinstance(after, ChainBase) else [after]
        number += len(left)
        problem = explain_misfit(left, right)
        if problem is not None:
            names = f"stage {number} `{type(left[-1]).__name__}` and stage {number + 1} `{type(right[0]).__name__}`"
            msg = f"between {names}: {problem}"
            raise CompositionError(msg)
