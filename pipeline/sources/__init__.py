"""Where examples come from: files and data sets, read in order or by number, and what tokenizing made of them, kept."""

from pipeline.sources.arrow import Arrow as Arrow
from pipeline.sources.conllu import Conllu as Conllu
from pipeline.sources.delimited import Csv as Csv
from pipeline.sources.delimited import Delimited as Delimited
from pipeline.sources.delimited import Tsv as Tsv
from pipeline.sources.folder import TextFolder as TextFolder
from pipeline.sources.json_lines import JsonLines as JsonLines
from pipeline.sources.lines import TextLines as TextLines
from pipeline.sources.lines import lines_of as lines_of
from pipeline.sources.parquet import Parquet as Parquet
from pipeline.sources.problems import Malformed as Malformed
from pipeline.sources.problems import Problem as Problem
from pipeline.sources.problems import Skipped as Skipped
from pipeline.sources.records import Records as Records
from pipeline.sources.source import Source as Source
from pipeline.sources.together import Together as Together
from pipeline.sources.tokenized import Tokenized as Tokenized
from pipeline.sources.tokenized import lengths_of as lengths_of
