"""Models over sequences of unequal length: typed stages, joined by `>>`."""

from importlib.metadata import version

from pipeline import errors
from pipeline.checks.switches import set_checks, set_padding_check
from pipeline.core.chain import Chain
from pipeline.core.stage import ModuleStage, Stage, Stream, TypePreserving
from pipeline.core.stream_chain import StreamChain
from pipeline.data.batches import Batch, Packed, Padded
from pipeline.data.decoded import Decoded
from pipeline.data.generation import Generation
from pipeline.data.kinds import Hidden, Ids, Nested, Vectors
from pipeline.data.losses import sum_over_ranks
from pipeline.data.predictions import ClassPrediction, JointPrediction, MultiLabelPrediction, StepPrediction
from pipeline.data.report import Report
from pipeline.data.rows import Example, Row
from pipeline.data.scores import Predictions, Scores, StepScores
from pipeline.data.states import Causal, MaybeCausal, Pooled, States
from pipeline.data.values import Joint, MultiLabelScores, Values
from pipeline.forecast.forecast import plan
from pipeline.inference.attention_weights import AttentionWeights
from pipeline.inference.column_predictor import ColumnPredictor
from pipeline.inference.column_tokenizer import ColumnTokenizer
from pipeline.inference.generation.step import StepCarry
from pipeline.labels import Labels, Target
from pipeline.models import character_tagger, classifier, document_classifier, language_model, matcher, tagger
from pipeline.parts.attention import Attention
from pipeline.parts.encoder import Encoder
from pipeline.parts.pooling import Pooling
from pipeline.parts.tokenizer import Tokenizer
from pipeline.registry import choose_plugins
from pipeline.saving.load import load
from pipeline.stages.attend import Attend
from pipeline.stages.attend_earlier import AttendEarlier
from pipeline.stages.attend_local import AttendLocal
from pipeline.stages.bptt_windows import BPTTWindows
from pipeline.stages.bucket import Bucket
from pipeline.stages.classify_multi_label import ClassifyMultiLabel
from pipeline.stages.cross_attend import CrossAttend
from pipeline.stages.dropout import Dropout
from pipeline.stages.each_step import EachStep
from pipeline.stages.embed import Embed
from pipeline.stages.embed_fields import EmbedFields, through, unused
from pipeline.stages.encode import Encode
from pipeline.stages.fields import Field, Fields, Sides
from pipeline.stages.from_columns import FromColumns, FromFields, FromNested, read
from pipeline.stages.heads import Classify, NextToken, Tag
from pipeline.stages.identity import Identity
from pipeline.stages.input_stage import FromFeatures, FromIds
from pipeline.stages.join import Join
from pipeline.stages.pack import Pack, Unpack
from pipeline.stages.pad import Pad
from pipeline.stages.pool import Pool
from pipeline.stages.regress import Regress
from pipeline.stages.several_heads import Heads
from pipeline.stages.shift import Shift
from pipeline.stages.spell_words import SpelledWord, SpellWords
from pipeline.stages.texts import Texts
from pipeline.stages.tokenize import Tokenize
from pipeline.stages.tokenize_document import TokenizeDocument
from pipeline.stages.tokenize_joined import JoinedPair, TokenizeJoined
from pipeline.stages.tokenize_pair import TextPair, TokenizePair
from pipeline.stages.tokenize_words import TokenizeWords
from pipeline.stages.word_dropout import WordDropout
from pipeline.targets import MultiLabels, Numbers

__version__ = version("ragged-pipeline")

__all__ = [
    "Attend",
    "AttendEarlier",
    "AttendLocal",
    "Attention",
    "AttentionWeights",
    "BPTTWindows",
    "Batch",
    "Bucket",
    "Causal",
    "Chain",
    "ClassPrediction",
    "Classify",
    "ClassifyMultiLabel",
    "ColumnPredictor",
    "ColumnTokenizer",
    "CrossAttend",
    "Decoded",
    "Dropout",
    "EachStep",
    "Embed",
    "EmbedFields",
    "Encode",
    "Encoder",
    "Example",
    "Field",
    "Fields",
    "FromColumns",
    "FromFeatures",
    "FromFields",
    "FromIds",
    "FromNested",
    "Generation",
    "Heads",
    "Hidden",
    "Identity",
    "Ids",
    "Join",
    "JoinedPair",
    "Joint",
    "JointPrediction",
    "Labels",
    "MaybeCausal",
    "ModuleStage",
    "MultiLabelPrediction",
    "MultiLabelScores",
    "MultiLabels",
    "Nested",
    "NextToken",
    "Numbers",
    "Pack",
    "Packed",
    "Pad",
    "Padded",
    "Pool",
    "Pooled",
    "Pooling",
    "Predictions",
    "Regress",
    "Report",
    "Row",
    "Scores",
    "Shift",
    "Sides",
    "SpellWords",
    "SpelledWord",
    "Stage",
    "States",
    "StepCarry",
    "StepPrediction",
    "StepScores",
    "Stream",
    "StreamChain",
    "Tag",
    "Target",
    "TextPair",
    "Texts",
    "Tokenize",
    "TokenizeDocument",
    "TokenizeJoined",
    "TokenizePair",
    "TokenizeWords",
    "Tokenizer",
    "TypePreserving",
    "Unpack",
    "Values",
    "Vectors",
    "WordDropout",
    "__version__",
    "character_tagger",
    "choose_plugins",
    "classifier",
    "document_classifier",
    "errors",
    "language_model",
    "load",
    "matcher",
    "plan",
    "read",
    "set_checks",
    "set_padding_check",
    "sum_over_ranks",
    "tagger",
    "through",
    "unused",
]
