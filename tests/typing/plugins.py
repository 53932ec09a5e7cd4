"""The plugins that ship conform to the protocols of their hooks. Checked by mypy and pyright, never run."""

import pipeline.builtin
import pipeline_attention
import pipeline_recurrent
from pipeline.hooks import OffersAttentions, OffersEncoders, OffersPools, OffersStatus, OffersTokenizers

recurrent: OffersEncoders = pipeline_recurrent
engines: OffersStatus = pipeline_recurrent
attentions: OffersAttentions = pipeline_attention
attention_pools: OffersPools = pipeline_attention
pools: OffersPools = pipeline.builtin
tokenizers: OffersTokenizers = pipeline.builtin
