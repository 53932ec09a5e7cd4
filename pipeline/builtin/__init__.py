"""The library's own plugin: stages, heads, policies, sources, metrics, tokenizers and poolings without weights."""

from collections.abc import Mapping

from pipeline.batching.policies import Boundaries, Budget, Rows, Shapes
from pipeline.builtin.class_metrics import Accuracy, MacroF1, WeightedF1
from pipeline.builtin.exact_match import ExactMatch
from pipeline.builtin.multi_label_f1 import MultiLabelF1
from pipeline.builtin.number_metrics import R2, MeanAbsoluteError, MeanSquaredError, RootMeanSquaredError
from pipeline.builtin.perplexity import Perplexity
from pipeline.builtin.pools import (
    FinalPool,
    FirstPool,
    KMaxPool,
    LastPool,
    LogSumExpPool,
    MaxPool,
    MeanPool,
    MeanSqrtPool,
    MeanStdPool,
    MinPool,
    QuantilePool,
    SumPool,
)
from pipeline.builtin.span_f1 import SpanF1
from pipeline.builtin.tokenizer_training import bpe, byte_level, characters, unigram, whole, wordpiece, words
from pipeline.hooks import (
    EmbedderFactory,
    HeadFactory,
    MetricFactory,
    PolicyFactory,
    PoolingFactory,
    SourceFactory,
    StageFactory,
    TokenizerFactory,
    hookimpl,
)
from pipeline.parts.deferred import defer


@hookimpl
def pipeline_pools() -> Mapping[str, PoolingFactory]:
    """Return the poolings without weights, by name."""
    return {
        "final": FinalPool,
        "first": FirstPool,
        "kmax": KMaxPool,
        "last": LastPool,
        "logsumexp": LogSumExpPool,
        "max": MaxPool,
        "mean": MeanPool,
        "mean_sqrt": MeanSqrtPool,
        "mean_std": MeanStdPool,
        "min": MinPool,
        "quantiles": QuantilePool,
        "sum": SumPool,
    }


@hookimpl
def pipeline_tokenizers() -> Mapping[str, TokenizerFactory]:
    """Return the tokenizers, by name."""
    return {
        "words": words,
        "characters": characters,
        "bytes": byte_level,
        "bpe": bpe,
        "unigram": unigram,
        "whole": whole,
        "wordpiece": wordpiece,
    }


# Stages and sources are in folders above this one, and sources are not imported by `import pipeline`.


@hookimpl
def pipeline_stages() -> Mapping[str, StageFactory]:
    """Return the stages other than heads and embedders, by name."""
    return {
        "attend": defer("pipeline.stages.attend:Attend"),
        "attend_earlier": defer("pipeline.stages.attend_earlier:AttendEarlier"),
        "attend_local": defer("pipeline.stages.attend_local:AttendLocal"),
        "cross_attend": defer("pipeline.stages.cross_attend:CrossAttend"),
        "bptt_windows": defer("pipeline.stages.bptt_windows:BPTTWindows"),
        "bucket": defer("pipeline.stages.bucket:Bucket"),
        "dropout": defer("pipeline.stages.dropout:Dropout"),
        "each_step": defer("pipeline.stages.each_step:EachStep"),
        "encode": defer("pipeline.stages.encode:Encode"),
        "field": defer("pipeline.stages.fields:Field"),
        "from_columns": defer("pipeline.stages.from_columns:FromColumns"),
        "from_features": defer("pipeline.stages.input_stage:FromFeatures"),
        "from_fields": defer("pipeline.stages.from_columns:FromFields"),
        "from_ids": defer("pipeline.stages.input_stage:FromIds"),
        "from_nested": defer("pipeline.stages.from_columns:FromNested"),
        "identity": defer("pipeline.stages.identity:Identity"),
        "join": defer("pipeline.stages.join:Join"),
        "pack": defer("pipeline.stages.pack:Pack"),
        "pad": defer("pipeline.stages.pad:Pad"),
        "pool": defer("pipeline.stages.pool:Pool"),
        "shift": defer("pipeline.stages.shift:Shift"),
        "spell_words": defer("pipeline.stages.spell_words:SpellWords"),
        "tokenize": defer("pipeline.stages.tokenize:Tokenize"),
        "tokenize_document": defer("pipeline.stages.tokenize_document:TokenizeDocument"),
        "tokenize_joined": defer("pipeline.stages.tokenize_joined:TokenizeJoined"),
        "tokenize_pair": defer("pipeline.stages.tokenize_pair:TokenizePair"),
        "tokenize_words": defer("pipeline.stages.tokenize_words:TokenizeWords"),
        "unpack": defer("pipeline.stages.pack:Unpack"),
        "word_dropout": defer("pipeline.stages.word_dropout:WordDropout"),
    }


@hookimpl
def pipeline_heads() -> Mapping[str, HeadFactory]:
    """Return the heads, by name."""
    return {
        "classify": defer("pipeline.stages.heads:Classify"),
        "classify_multi_label": defer("pipeline.stages.classify_multi_label:ClassifyMultiLabel"),
        "heads": defer("pipeline.stages.several_heads:Heads"),
        "next_token": defer("pipeline.stages.heads:NextToken"),
        "regress": defer("pipeline.stages.regress:Regress"),
        "tag": defer("pipeline.stages.heads:Tag"),
    }


@hookimpl
def pipeline_embedders() -> Mapping[str, EmbedderFactory]:
    """Return the embedders, by name."""
    return {
        "embed": defer("pipeline.stages.embed:Embed"),
        "embed_fields": defer("pipeline.stages.embed_fields:EmbedFields"),
    }


@hookimpl
def pipeline_policies() -> Mapping[str, PolicyFactory]:
    """Return the policies, by name."""
    return {"boundaries": Boundaries, "budget": Budget, "rows": Rows, "shapes": Shapes}


@hookimpl
def pipeline_sources() -> Mapping[str, SourceFactory]:
    """Return the sources of files and of records in memory, by name."""
    return {
        "arrow": defer("pipeline.sources:Arrow"),
        "conll2003": defer("pipeline.sources:Conll2003"),
        "conllu": defer("pipeline.sources:Conllu"),
        "csv": defer("pipeline.sources:Csv"),
        "delimited": defer("pipeline.sources:Delimited"),
        "json_lines": defer("pipeline.sources:JsonLines"),
        "parquet": defer("pipeline.sources:Parquet"),
        "records": defer("pipeline.sources:Records"),
        "text_folder": defer("pipeline.sources:TextFolder"),
        "text_lines": defer("pipeline.sources:TextLines"),
        "tsv": defer("pipeline.sources:Tsv"),
    }


@hookimpl
def pipeline_metrics() -> Mapping[str, MetricFactory]:
    """Return the metrics, by name."""
    return {
        "accuracy": Accuracy,
        "macro_f1": MacroF1,
        "mae": MeanAbsoluteError,
        "mse": MeanSquaredError,
        "multi_label_f1": MultiLabelF1,
        "exact_match": ExactMatch,
        "perplexity": Perplexity,
        "r2": R2,
        "rmse": RootMeanSquaredError,
        "span_f1": SpanF1,
        "weighted_f1": WeightedF1,
    }
