"""The hooks that a plugin implements. Their docstrings are the manual for plugin authors.

A plugin is a module that its distribution names under the entry-point group `pipeline`:

    [project.entry-points.pipeline]
    mine = "my_package"

The module implements hooks as functions of the same name, marked with `hookimpl`:

    from collections.abc import Mapping

    from pipeline.extend import EncoderFactory, hookimpl

    @hookimpl
    def pipeline_encoders() -> Mapping[str, EncoderFactory]:
        return {"mine": MyEncoder}

Rules for every hook:

- It takes no arguments and returns a mapping of names to factories (`pipeline_status`: of subjects to functions).
- A factory is a class or a function. Users write its keyword parameters after the name, as in
  `Encode("mine", hidden_size=4)`. Other options are rejected, so name each one; `**options` accepts none.
- A factory creates a new part at every call. It is called while a pipeline is built, never while data flows.
- A factory may be called with small sizes on torch's `meta` device, where tensors have shapes but no values.
- A plugin must not look up parts by name during its import, because not all names are known yet.
- If two plugins offer one name for the same kind of part, using it is an error that names both.

When a user first creates a part by name, it is tried on small batches, with the user's options and reduced sizes. If
a declared attribute is not true, the error names the distribution, the entry point, the hook, the part and the law.
Our own plugins are registered in the same way, and are tested against all laws instead.

Type checkers verify a plugin's hooks in an assignment to a protocol:

    import my_package
    from pipeline.extend import OffersEncoders

    checked: OffersEncoders = my_package
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, Never, Protocol, TypeAlias

import pluggy

from pipeline.batching.policies import Policy
from pipeline.core.stage import ModuleStage, StageBase
from pipeline.data.batches import Batch
from pipeline.data.kinds import Vectors
from pipeline.data.scores import Predictions
from pipeline.data.states import MaybeCausal
from pipeline.parts.attention import Attention
from pipeline.parts.encoder import Encoder
from pipeline.parts.engine import Engine
from pipeline.parts.metric import Metric
from pipeline.parts.pooling import Pooling
from pipeline.parts.tokenizer import Tokenizer

if TYPE_CHECKING:
    from pipeline.sources.source import Source

__all__ = [
    "PROJECT",
    "AttentionFactory",
    "Embedder",
    "EmbedderFactory",
    "EncoderFactory",
    "EngineFactory",
    "Head",
    "HeadFactory",
    "MetricFactory",
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
    "PolicyFactory",
    "PoolingFactory",
    "SourceFactory",
    "StageFactory",
    "Status",
    "TokenizerFactory",
    "hookimpl",
    "hookspec",
    "pipeline_attentions",
    "pipeline_embedders",
    "pipeline_encoders",
    "pipeline_engines",
    "pipeline_heads",
    "pipeline_metrics",
    "pipeline_policies",
    "pipeline_pools",
    "pipeline_sources",
    "pipeline_stages",
    "pipeline_status",
    "pipeline_tokenizers",
]

Head: TypeAlias = ModuleStage[Never, Predictions[object, object]]
"""A stage that returns predictions, whatever it takes."""

Embedder: TypeAlias = ModuleStage[Never, Batch[Vectors]]
"""A stage that returns vectors, whatever it takes: ids, or rows with several fields."""

EncoderFactory: TypeAlias = Callable[..., Encoder[MaybeCausal]]
AttentionFactory: TypeAlias = Callable[..., Attention]
PoolingFactory: TypeAlias = Callable[..., Pooling]
TokenizerFactory: TypeAlias = Callable[..., Tokenizer]
StageFactory: TypeAlias = Callable[..., StageBase]
HeadFactory: TypeAlias = Callable[..., Head]
EmbedderFactory: TypeAlias = Callable[..., Embedder]
PolicyFactory: TypeAlias = Callable[..., Policy]
SourceFactory: TypeAlias = "Callable[..., Source[object]]"
MetricFactory: TypeAlias = Callable[..., Metric]
EngineFactory: TypeAlias = Callable[..., Engine]
Status: TypeAlias = Callable[[], str]

PROJECT = "pipeline"
"""The entry-point group, and the prefix of every hook's name."""

hookspec: Final = pluggy.HookspecMarker(PROJECT)
hookimpl: Final = pluggy.HookimplMarker(PROJECT)


@hookspec
def pipeline_encoders() -> Mapping[str, EncoderFactory]:
    """Offer encoders for `Encode("name", ...)`.

    A factory must take the keyword `input_size`, the features per step of the input. `Encode` fills it in from the
    stage before it if the user leaves it out. `causal` and `name` are options of `Encode` itself, so a factory cannot
    use them. The factory returns an `Encoder`. Its attributes (`input_size`, `output_size`, `causal`, ...) must be
    true, because stages rely on them.
    """
    raise NotImplementedError


@hookspec
def pipeline_attentions() -> Mapping[str, AttentionFactory]:
    """Offer attentions for `Attend("name", ...)` and `AttendEarlier("name", ...)`.

    A factory must take the keyword `input_size`, the features of a state, which the stage fills in. It returns an
    `Attention`. The stage decides which steps may be attended, and passes a mask; the attention scores and mixes.
    """
    raise NotImplementedError


@hookspec
def pipeline_pools() -> Mapping[str, PoolingFactory]:
    """Offer poolings for `Pool("name", ...)`.

    A factory takes the keyword `input_size`, the features of a state, if it needs to know it, for example because the
    pooling has weights; the stage fills it in. The factory returns a `Pooling`.
    """
    raise NotImplementedError


@hookspec
def pipeline_tokenizers() -> Mapping[str, TokenizerFactory]:
    """Offer tokenizers for `Tokenize.train(texts, "name", ...)`.

    A factory must take the keyword `texts`, an iterable of texts to train on, which may be read only once. It returns
    a trained `Tokenizer`.
    """
    raise NotImplementedError


@hookspec
def pipeline_stages() -> Mapping[str, StageFactory]:
    """Offer stages other than heads and embedders, for `registry().stages.make("name", ...)`.

    A factory returns a `Stage`, a `ModuleStage`, a `Stream` or a `TypePreserving` stage. If it can be created with
    keywords only, `registry().stages.make` creates it. To save a pipe with such a stage, offer the class, and make its
    options attributes of the same names, or return them from `get_config(self)`.
    """
    raise NotImplementedError


@hookspec
def pipeline_heads() -> Mapping[str, HeadFactory]:
    """Offer heads, for `registry().heads.make("name", ...)`.

    A factory returns a `ModuleStage` that returns `Predictions`: one per row, and a loss that leaves out rows and steps
    without a target. An `input_size` should be optional, and come from the stage before it; see `build`.
    """
    raise NotImplementedError


@hookspec
def pipeline_embedders() -> Mapping[str, EmbedderFactory]:
    """Offer embedders, for `registry().embedders.make("name", ...)`.

    A factory returns a `ModuleStage` from a batch of ids, or of rows with several fields, to a batch of vectors.
    """
    raise NotImplementedError


@hookspec
def pipeline_policies() -> Mapping[str, PolicyFactory]:
    """Offer policies, for `Bucket(policy=registry().policies.make("name", ...))`.

    A factory returns a `Policy`. It must depend on its options only: equal options give equal batches.
    """
    raise NotImplementedError


@hookspec
def pipeline_sources() -> Mapping[str, SourceFactory]:
    """Offer sources of examples, for `registry().sources.make("name", ...)`.

    A factory returns a `Source` of `pipeline.sources`, which can be read repeatedly.
    """
    raise NotImplementedError


@hookspec
def pipeline_metrics() -> Mapping[str, MetricFactory]:
    """Offer metrics, for `registry().metrics.make("name", ...)`.

    A factory returns a new `Metric`, to which nothing has been added.
    """
    raise NotImplementedError


@hookspec
def pipeline_engines() -> Mapping[str, EngineFactory]:
    """Offer engines of a package that has several ways to compute the same numbers.

    A factory returns an `Engine`, whose class says in `computes` which package it is for. That package says what an
    engine must do; `pipeline_recurrent.engines.Engine` is the base class of engines of recurrent encoders.
    """
    raise NotImplementedError


@hookspec
def pipeline_status() -> Mapping[str, Status]:
    """Report the plugin's state on this machine, for `python -m pipeline`.

    The mapping's names are subjects, such as "my kernels". A function takes no arguments and returns one line: the
    choice that the plugin made on this machine, and the reason. It is called only when the line is printed. If it
    fails, its error is printed instead.
    """
    raise NotImplementedError


class OffersEncoders(Protocol):
    """A module that implements `pipeline_encoders`."""

    def pipeline_encoders(self) -> Mapping[str, EncoderFactory]:
        """Return encoder factories by name."""
        ...


class OffersAttentions(Protocol):
    """A module that implements `pipeline_attentions`."""

    def pipeline_attentions(self) -> Mapping[str, AttentionFactory]:
        """Return attention factories by name."""
        ...


class OffersPools(Protocol):
    """A module that implements `pipeline_pools`."""

    def pipeline_pools(self) -> Mapping[str, PoolingFactory]:
        """Return pooling factories by name."""
        ...


class OffersTokenizers(Protocol):
    """A module that implements `pipeline_tokenizers`."""

    def pipeline_tokenizers(self) -> Mapping[str, TokenizerFactory]:
        """Return tokenizer factories by name."""
        ...


class OffersStages(Protocol):
    """A module that implements `pipeline_stages`."""

    def pipeline_stages(self) -> Mapping[str, StageFactory]:
        """Return stage factories by name."""
        ...


class OffersHeads(Protocol):
    """A module that implements `pipeline_heads`."""

    def pipeline_heads(self) -> Mapping[str, HeadFactory]:
        """Return head factories by name."""
        ...


class OffersEmbedders(Protocol):
    """A module that implements `pipeline_embedders`."""

    def pipeline_embedders(self) -> Mapping[str, EmbedderFactory]:
        """Return embedder factories by name."""
        ...


class OffersPolicies(Protocol):
    """A module that implements `pipeline_policies`."""

    def pipeline_policies(self) -> Mapping[str, PolicyFactory]:
        """Return policy factories by name."""
        ...


class OffersSources(Protocol):
    """A module that implements `pipeline_sources`."""

    def pipeline_sources(self) -> Mapping[str, SourceFactory]:
        """Return source factories by name."""
        ...


class OffersMetrics(Protocol):
    """A module that implements `pipeline_metrics`."""

    def pipeline_metrics(self) -> Mapping[str, MetricFactory]:
        """Return metric factories by name."""
        ...


class OffersEngines(Protocol):
    """A module that implements `pipeline_engines`."""

    def pipeline_engines(self) -> Mapping[str, EngineFactory]:
        """Return engine factories by name."""
        ...


class OffersStatus(Protocol):
    """A module that implements `pipeline_status`."""

    def pipeline_status(self) -> Mapping[str, Status]:
        """Return status functions by subject."""
        ...
