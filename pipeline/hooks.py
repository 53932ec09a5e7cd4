"""The hooks that a plugin may implement; their docstrings are the plugin author's manual.

A plugin is a module, named in its distribution's metadata under the entry-point group `pipeline`:

    [project.entry-points.pipeline]
    mine = "my_package"

It implements any of the hooks below as functions of the same name, marked with `hookimpl`:

    from pipeline.hooks import EncoderFactory, hookimpl

    @hookimpl
    def pipeline_encoders() -> Mapping[str, EncoderFactory]:
        return {"mine": MyEncoder}

A hook takes nothing and gives a mapping of names to factories; but for `pipeline_status`, whose
functions say a line of text each. A factory is a class or a function; the
options that a user may write after the name are its keyword parameters, and nothing else is accepted. A
factory is called while a pipeline is built, never while data flows, and may be called on torch's `meta`
device, with small options of the library's own, to learn what it would make. While a plugin is imported it
may not look parts up by name: not all of them are known yet. A name offered by two plugins is refused when
it is used, with both packages named. The plugins that ship with the library are registered in this way and
no other.

A type checker verifies a plugin's hooks where its module is assigned to the protocol of each:

    import my_package
    from pipeline.hooks import OffersEncoders

    checked: OffersEncoders = my_package
"""

from collections.abc import Callable, Mapping
from typing import Final, Protocol, TypeAlias

import pluggy

from pipeline.data.states import MaybeCausal
from pipeline.parts.attention import Attention
from pipeline.parts.encoder import Encoder
from pipeline.parts.pooling import Pooling
from pipeline.parts.tokenizer import Tokenizer

EncoderFactory: TypeAlias = Callable[..., Encoder[MaybeCausal]]
AttentionFactory: TypeAlias = Callable[..., Attention]
PoolingFactory: TypeAlias = Callable[..., Pooling]
TokenizerFactory: TypeAlias = Callable[..., Tokenizer]
Status: TypeAlias = Callable[[], str]

PROJECT = "pipeline"
"""The name of the entry-point group, and what every hook's name begins with."""

hookspec: Final = pluggy.HookspecMarker(PROJECT)
hookimpl: Final = pluggy.HookimplMarker(PROJECT)


@hookspec
def pipeline_encoders() -> Mapping[str, EncoderFactory]:
    """Offer encoders by name, for `Encode("name", ...)`.

    A factory takes `input_size`, the features of a step that comes in, as a keyword, beside options of
    its own; `input_size` is filled in from the stage before when the user leaves it out. It gives an
    `Encoder` whose `output_size` and `causal` are true of it.
    """
    raise NotImplementedError


@hookspec
def pipeline_attentions() -> Mapping[str, AttentionFactory]:
    """Offer attention variants by name, for `Attend("name")` and `AttendEarlier("name")`.

    A factory takes `input_size`, the features of a state, as a keyword, filled in like an encoder's. It
    gives an `Attention`; which steps may be attended is the stage's business, not the variant's.
    """
    raise NotImplementedError


@hookspec
def pipeline_pools() -> Mapping[str, PoolingFactory]:
    """Offer poolings by name, for `Pool("name")`.

    A factory that needs to know the features of a state takes `input_size` as a keyword, filled in like
    an encoder's; one without weights leaves it out. It gives a `Pooling`.
    """
    raise NotImplementedError


@hookspec
def pipeline_tokenizers() -> Mapping[str, TokenizerFactory]:
    """Offer tokenizers by name, for `Tokenize.train(texts, "name", ...)`.

    A factory takes `texts`, an iterable of the text to train on, as a keyword, beside options of its
    own. It gives a trained `Tokenizer`.
    """
    raise NotImplementedError


@hookspec
def pipeline_status() -> Mapping[str, Status]:
    """Say how things stand on this machine, by subject, for `python -m pipeline`.

    A function takes nothing and gives one line: what is in use, and why. It is called when the line is
    printed, not before; one that fails is printed with its error.
    """
    raise NotImplementedError


class OffersEncoders(Protocol):
    """A module that implements `pipeline_encoders`."""

    def pipeline_encoders(self) -> Mapping[str, EncoderFactory]:
        """See the hook of this name."""
        ...


class OffersAttentions(Protocol):
    """A module that implements `pipeline_attentions`."""

    def pipeline_attentions(self) -> Mapping[str, AttentionFactory]:
        """See the hook of this name."""
        ...


class OffersPools(Protocol):
    """A module that implements `pipeline_pools`."""

    def pipeline_pools(self) -> Mapping[str, PoolingFactory]:
        """See the hook of this name."""
        ...


class OffersTokenizers(Protocol):
    """A module that implements `pipeline_tokenizers`."""

    def pipeline_tokenizers(self) -> Mapping[str, TokenizerFactory]:
        """See the hook of this name."""
        ...


class OffersStatus(Protocol):
    """A module that implements `pipeline_status`."""

    def pipeline_status(self) -> Mapping[str, Status]:
        """See the hook of this name."""
        ...
