"""Models over sequences of unequal length: typed stages, joined by `>>`."""

from importlib.metadata import version

from pipeline import errors as errors
from pipeline.checks.switches import set_checks as set_checks
from pipeline.checks.switches import set_padding_check as set_padding_check
from pipeline.core.chain import Chain as Chain
from pipeline.core.chain import StreamChain as StreamChain
from pipeline.core.stage import ModuleStage as ModuleStage
from pipeline.core.stage import Stage as Stage
from pipeline.core.stage import Stream as Stream
from pipeline.core.stage import TypePreserving as TypePreserving
from pipeline.data.batches import Batch as Batch
from pipeline.data.batches import Packed as Packed
from pipeline.data.batches import Padded as Padded
from pipeline.data.report import Report as Report
from pipeline.data.rows import Example as Example
from pipeline.data.rows import Hidden as Hidden
from pipeline.data.rows import Ids as Ids
from pipeline.data.rows import Row as Row
from pipeline.data.rows import Vectors as Vectors
from pipeline.data.scores import Predictions as Predictions
from pipeline.data.scores import Scores as Scores
from pipeline.data.scores import StepScores as StepScores
from pipeline.data.states import Causal as Causal
from pipeline.data.states import MaybeCausal as MaybeCausal
from pipeline.data.states import Pooled as Pooled
from pipeline.data.states import States as States
from pipeline.forecast.planning import plan as plan
from pipeline.labels import Labels as Labels
from pipeline.labels import Target as Target
from pipeline.models import classifier as classifier
from pipeline.models import language_model as language_model
from pipeline.models import tagger as tagger
from pipeline.parts.attention import Attention as Attention
from pipeline.parts.encoder import Encoder as Encoder
from pipeline.parts.pooling import Pooling as Pooling
from pipeline.parts.tokenizer import Tokenizer as Tokenizer
from pipeline.registry import choose_plugins as choose_plugins
from pipeline.stages.attend import Attend as Attend
from pipeline.stages.attend import AttendEarlier as AttendEarlier
from pipeline.stages.bptt_windows import BPTTWindows as BPTTWindows
from pipeline.stages.bucket import Bucket as Bucket
from pipeline.stages.dropout import Dropout as Dropout
from pipeline.stages.embed import Embed as Embed
from pipeline.stages.encode import Encode as Encode
from pipeline.stages.from_features import FromFeatures as FromFeatures
from pipeline.stages.from_ids import FromIds as FromIds
from pipeline.stages.heads import Classify as Classify
from pipeline.stages.heads import NextToken as NextToken
from pipeline.stages.heads import Tag as Tag
from pipeline.stages.pack import Pack as Pack
from pipeline.stages.pack import Unpack as Unpack
from pipeline.stages.pad import Pad as Pad
from pipeline.stages.pool import Pool as Pool
from pipeline.stages.shift import Shift as Shift
from pipeline.stages.tokenize import Tokenize as Tokenize
from pipeline.stages.tokenize_words import TokenizeWords as TokenizeWords

__version__ = version("ragged-pipeline")
