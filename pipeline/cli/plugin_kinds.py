"""The kinds of parts that `new-plugin` can write: how each is called, and an example of its use."""

from collections.abc import Mapping
from typing import Final

import attrs


@attrs.frozen
class PluginKind:
    """A kind of part for which a package can be written.

    Attributes:
        article: the kind with its article.
        suffix: the end of the name of its class.
        catalogue: the attribute of the registry that lists parts of this kind.
        summary: what the part of the template does, for its description.
        usage: code that uses the part, for the README.
    """

    article: str
    suffix: str
    catalogue: str
    summary: str
    usage: str


_MODEL: Final = 'Pack() >> Embed(1_000, 16) >> Encode("lstm", hidden_size=32)'

PLUGIN_KINDS: Final[Mapping[str, PluginKind]] = {
    "encoder": PluginKind(
        "an encoder",
        "Encoder",
        "encoders",
        "a moving average of learned features of each row",
        "from pipeline import Classify, Embed, Encode, Pack, Pool\n\n"
        'model = Pack() >> Embed(1_000, 16) >> Encode("$name", hidden_size=32) >> Pool("final") >> Classify(2)',
    ),
    "attention": PluginKind(
        "an attention",
        "Attention",
        "attentions",
        "near keys get more weight than far ones",
        "from pipeline import Attend, Classify, Embed, Encode, Pack, Pool\n\n"
        f'encode = {_MODEL}\nmodel = encode >> Attend("$name") >> Pool("mean") >> Classify(2)',
    ),
    "pooling": PluginKind(
        "a pooling",
        "Pool",
        "pools",
        "the mean of the squares of each feature",
        f'from pipeline import Classify, Embed, Encode, Pack, Pool\n\nmodel = {_MODEL} >> Pool("$name") >> Classify(2)',
    ),
    "head": PluginKind(
        "a head",
        "Head",
        "heads",
        "it scores two classes with a single number",
        "from pipeline import Embed, Encode, Pack, Pool\nfrom $module import $part\n\n"
        f'model = {_MODEL} >> Pool("max") >> $part()',
    ),
    "stage": PluginKind(
        "a stage",
        "Stage",
        "stages",
        "a learned gate on each feature of each step",
        "from pipeline import Classify, Embed, Encode, Pack, Pool\nfrom $module import $part\n\n"
        f'model = {_MODEL} >> $part(32) >> Pool("max") >> Classify(2)',
    ),
    "metric": PluginKind(
        "a metric",
        "Metric",
        "metrics",
        "the share of rows whose class is predicted wrongly",
        'from pipeline.extend import registry\n\nmetric = registry().metrics.make("$name")',
    ),
    "tokenizer": PluginKind(
        "a tokenizer",
        "Tokenizer",
        "tokenizers",
        "one token per character",
        'from pipeline import Tokenize\n\ntokenize = Tokenize.train(["a fine film"], "$name")',
    ),
}
