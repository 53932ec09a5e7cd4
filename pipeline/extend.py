"""Everything that authors of plugins and stages import. Modules deeper in the package are private."""

from pipeline.batching.policies import Policy
from pipeline.builtin.span_f1 import SpanTags, has_span_tags
from pipeline.checks.module_hooks import has_hooks
from pipeline.checks.options import (
    check_bool,
    check_int,
    check_number,
    check_optional_int,
    check_positive,
    check_probability,
)
from pipeline.checks.shapes import checked
from pipeline.core.chain import Chain, TypePreservingChain
from pipeline.core.inference import FusesForInference, InferenceOptions, Precision, PreparesForInference
from pipeline.core.join import join
from pipeline.core.stage import ModuleStage, Spec, Stage, StageBase, Stream, TypePreserving
from pipeline.core.stepping import Memory, Stepping
from pipeline.core.stream_chain import StreamChain
from pipeline.data.batches import Batch, Carry, Layout, Packed, Padded, derive_vectors
from pipeline.data.decoded import Decoded
from pipeline.data.generation import Generation
from pipeline.data.kinds import Hidden, Ids, K, Kind, Vectors
from pipeline.data.loss_options import ClassLossOptions, ReductionOptions, check_loss_options
from pipeline.data.losses import check_classes, reduce_losses
from pipeline.data.metadata import IGNORED, BatchMetadata, Collated
from pipeline.data.packing_order import PackingOrder
from pipeline.data.rows import FILLER, Example, Row
from pipeline.data.scores import Predictions, Scores, StepScores
from pipeline.data.states import Causal, MaybeCausal, Pooled, S, S_co, States, first_by_row, last_by_row
from pipeline.data.trees import ON_CPU, as_pytree
from pipeline.errors import (
    CompositionError,
    OptionError,
    PipelineError,
    PluginError,
    ShapeError,
    UnknownNameError,
    UnknownOptionError,
)
from pipeline.functional.dropout import draw_bits, drop, find_last_kept
from pipeline.functional.generation.drawn_row import Drawn
from pipeline.functional.generation.options import GenerateSettings
from pipeline.functional.generation.search import find_continuations
from pipeline.functional.nonlinear import compute_gelu, compute_sigmoid
from pipeline.functional.products import multiply as multiply_exactly
from pipeline.functional.segments import compact, max_by_row, softmax_by_row, sum_by_row
from pipeline.functional.sparse_softmax import Normalize
from pipeline.functional.transforms import name_transform
from pipeline.hooks import (
    AttentionFactory,
    Embedder,
    EmbedderFactory,
    EncoderFactory,
    EngineFactory,
    Head,
    HeadFactory,
    MetricFactory,
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
    PolicyFactory,
    PoolingFactory,
    SourceFactory,
    StageFactory,
    Status,
    TokenizerFactory,
    hookimpl,
)
from pipeline.parts.added_loss import add_to_loss, collect_added_losses
from pipeline.parts.attention import Attention, check_normalize, masked_softmax, normalize_scores
from pipeline.parts.deferred import defer
from pipeline.parts.encoder import Encoder
from pipeline.parts.engine import Engine
from pipeline.parts.metric import Metric
from pipeline.parts.pooling import Pooling
from pipeline.parts.stepping import EncoderCarry, step_encoder
from pipeline.parts.tokenizer import Tokenizer, Tokens
from pipeline.registry.catalogue import Plugin, PluginWarning
from pipeline.registry.discovery import Registry
from pipeline.registry.shared import registry
from pipeline.stages.attend_across import AttendedSteps, attend_across
from pipeline.stages.heads import ClassHead, get_scored_steps

__all__ = [
    "FILLER",
    "IGNORED",
    "ON_CPU",
    "AttendedSteps",
    "Attention",
    "AttentionFactory",
    "Batch",
    "BatchMetadata",
    "Carry",
    "Causal",
    "Chain",
    "ClassHead",
    "ClassLossOptions",
    "Collated",
    "CompositionError",
    "Decoded",
    "Drawn",
    "Embedder",
    "EmbedderFactory",
    "Encoder",
    "EncoderCarry",
    "EncoderFactory",
    "Engine",
    "EngineFactory",
    "Example",
    "FusesForInference",
    "GenerateSettings",
    "Generation",
    "Head",
    "HeadFactory",
    "Hidden",
    "Ids",
    "InferenceOptions",
    "K",
    "Kind",
    "Layout",
    "MaybeCausal",
    "Memory",
    "Metric",
    "MetricFactory",
    "ModuleStage",
    "Normalize",
    "OffersAttentions",
    "OffersEmbedders",
    "OffersEncoders",
    "OffersEngines",
    "OffersHeads",
    "OffersMetrics",
    "OffersPolicies",
    "OffersPools",
    "OffersSources",
    "OffersStages",
    "OffersStatus",
    "OffersTokenizers",
    "OptionError",
    "Packed",
    "PackingOrder",
    "Padded",
    "PipelineError",
    "Plugin",
    "PluginError",
    "PluginWarning",
    "Policy",
    "PolicyFactory",
    "Pooled",
    "Pooling",
    "PoolingFactory",
    "Precision",
    "Predictions",
    "PreparesForInference",
    "ReductionOptions",
    "Registry",
    "Row",
    "S",
    "S_co",
    "Scores",
    "ShapeError",
    "SourceFactory",
    "SpanTags",
    "Spec",
    "Stage",
    "StageBase",
    "StageFactory",
    "States",
    "Status",
    "StepScores",
    "Stepping",
    "Stream",
    "StreamChain",
    "Tokenizer",
    "TokenizerFactory",
    "Tokens",
    "TypePreserving",
    "TypePreservingChain",
    "UnknownNameError",
    "UnknownOptionError",
    "Vectors",
    "add_to_loss",
    "as_pytree",
    "attend_across",
    "check_bool",
    "check_classes",
    "check_int",
    "check_loss_options",
    "check_normalize",
    "check_number",
    "check_optional_int",
    "check_positive",
    "check_probability",
    "checked",
    "collect_added_losses",
    "compact",
    "compute_gelu",
    "compute_sigmoid",
    "defer",
    "derive_vectors",
    "draw_bits",
    "drop",
    "find_continuations",
    "find_last_kept",
    "first_by_row",
    "get_scored_steps",
    "has_hooks",
    "has_span_tags",
    "hookimpl",
    "join",
    "last_by_row",
    "masked_softmax",
    "max_by_row",
    "multiply_exactly",
    "name_transform",
    "normalize_scores",
    "reduce_losses",
    "registry",
    "softmax_by_row",
    "step_encoder",
    "sum_by_row",
]
