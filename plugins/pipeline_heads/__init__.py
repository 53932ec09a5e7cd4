"""Heads beyond those of the library: linear-chain CRFs, adaptive softmax, contrastive losses."""

from collections.abc import Mapping

from pipeline.extend import HeadFactory, Status, hookimpl
from pipeline_heads.adaptive import AdaptiveNextToken, AdaptiveScores
from pipeline_heads.constraints import Pair, Scheme
from pipeline_heads.contrastive import Contrastive, PairScores
from pipeline_heads.crf import CRF
from pipeline_heads.native_chains import describe
from pipeline_heads.paths import PathScores

__all__ = [
    "CRF",
    "AdaptiveNextToken",
    "AdaptiveScores",
    "Contrastive",
    "Pair",
    "PairScores",
    "PathScores",
    "Scheme",
    "pipeline_heads",
    "pipeline_status",
]


@hookimpl
def pipeline_heads() -> Mapping[str, HeadFactory]:
    """Offer the heads of this package, by name."""
    return {"crf": CRF, "adaptive_next_token": AdaptiveNextToken, "contrastive": Contrastive}


@hookimpl
def pipeline_status() -> Mapping[str, Status]:
    """Report what computes the paths of CRFs on this machine, and why."""
    return {"CRF": describe}
