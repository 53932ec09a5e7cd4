"""Sources of examples: files and data sets, read in order or by number, and their cached tokens."""

from pipeline.sources.conll import Conll2003, Conllu
from pipeline.sources.delimited import Csv, Delimited, Tsv
from pipeline.sources.malformed import OnBadRecord, Problem, Skipped
from pipeline.sources.parsed import FileOptions
from pipeline.sources.records import Records
from pipeline.sources.source import Concat, Source
from pipeline.sources.tables import Arrow, Parquet
from pipeline.sources.text import JsonLines, TextFolder, TextLines, lines_of
from pipeline.sources.tokenized import Tokenized, lengths_of

__all__ = [
    "Arrow",
    "Concat",
    "Conll2003",
    "Conllu",
    "Csv",
    "Delimited",
    "FileOptions",
    "JsonLines",
    "OnBadRecord",
    "Parquet",
    "Problem",
    "Records",
    "Skipped",
    "Source",
    "TextFolder",
    "TextLines",
    "Tokenized",
    "Tsv",
    "lengths_of",
    "lines_of",
]
