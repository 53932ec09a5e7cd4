"""The plugins that ship conform to the protocols of their hooks. Checked by mypy and pyright, never run."""

import pipeline.builtin
import pipeline_attention
import pipeline_recurrent
from pipeline.hooks import (
    OffersAttentions,
    OffersEmbedders,
    OffersEncoders,
    OffersEngines,
    OffersHeads,
    OffersMetrics,
    OffersPolicies,
    OffersPools,
    OffersSources,
    OffersStages,
    OffersStatus,
    OffersTokenizers,
)

recurrent: OffersEncoders = pipeline_recurrent
status: OffersStatus = pipeline_recurrent
engines: OffersEngines = pipeline_recurrent
attentions: OffersAttentions = pipeline_attention
attention_pools: OffersPools = pipeline_attention
pools: OffersPools = pipeline.builtin
tokenizers: OffersTokenizers = pipeline.builtin
stages: OffersStages = pipeline.builtin
heads: OffersHeads = pipeline.builtin
embedders: OffersEmbedders = pipeline.builtin
policies: OffersPolicies = pipeline.builtin
sources: OffersSources = pipeline.builtin
metrics: OffersMetrics = pipeline.builtin
