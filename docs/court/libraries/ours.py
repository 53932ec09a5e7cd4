"""This library: every registered encoder and pooling, and whole models."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from torch import Tensor, nn

from court.case import Case, Library
from pipeline import Encode, Padded, Pool, Vectors, classifier
from pipeline.data.kinds import Ids
from pipeline.data.states import States
from pipeline.extend import registry

_SIZE: Final = 4
_WIDER: Final = ("transformer", "causal_transformer")


class Encoded(nn.Module):
    """The hidden vectors of an encoder."""

    def __init__(self, name: str, options: dict[str, Any]) -> None:
        super().__init__()
        self.encode = Encode(name, input_size=_SIZE, **options)

    def forward(self, values: Tensor, lengths: Tensor) -> Tensor:
        """Return hidden vectors of steps."""
        return self.encode(Padded(Vectors, values, lengths)).padded().values


class PooledVectors(nn.Module):
    """The vectors of a pooling."""

    def __init__(self, name: str, options: dict[str, Any]) -> None:
        super().__init__()
        self.pool = Pool(name, **options)

    def forward(self, values: Tensor, lengths: Tensor) -> Tensor:
        """Return a vector per row."""
        return self.pool(States.from_padded(values, lengths)).values


class Scored(nn.Module):
    """The scores of a whole model."""

    def __init__(self, model: Any) -> None:  # noqa: ANN401 - any model of ids
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Return scores per row or per step."""
        scores: Any = self.model(Padded(Ids, ids, lengths))
        result: Tensor = scores.padded() if hasattr(scores, "padded") else scores.values
        return result


def make_model(make: Callable[[], Any]) -> nn.Module:
    """Return a model as a module of ids and lengths."""
    return Scored(make())


def list_cases() -> Sequence[Case]:
    """Return the parts that are installed with the library, and whole models."""
    found = registry()
    own = "ragged-pipeline"
    encoders = [_make_encoder(offer.name) for offer in found.encoders.offers if own in str(offer.plugin)]
    # The final state is that of an encoder, which is judged above.
    poolings = [
        _make_pooling(offer.name) for offer in found.pools.offers if own in str(offer.plugin) and offer.name != "final"
    ]
    return [*encoders, *poolings, *_make_models()]


def _make_encoder(name: str) -> Case:
    options: dict[str, Any] = {"hidden_size": 4, **({"num_heads": 2} if name in _WIDER else {})}
    causal = bool(registry().encoders.make(name, input_size=_SIZE, **options).causal)
    return Case(
        name=f'Encode("{name}")',
        call=f'Encode("{name}", input_size={_SIZE}, hidden_size=4)(Padded(Vectors, values, lengths))',
        make=lambda: Encoded(name, options),
        options={"input_size": _SIZE, "each": "step", "causal": causal},
    )


def _make_pooling(name: str) -> Case:
    takes = registry().pools.parameters(registry().pools.offer(name))
    options: dict[str, Any] = {"input_size": _SIZE} if "input_size" in takes else {}
    return Case(
        name=f'Pool("{name}")',
        call=f'Pool("{name}")(States.from_padded(values, lengths))',
        make=lambda: PooledVectors(name, options),
        options={"input_size": _SIZE, "each": "row"},
    )


def _make_models() -> Sequence[Case]:
    sizes: dict[str, Any] = {"embedding_dim": 4, "hidden_size": 4}
    models: dict[str, tuple[Callable[[], Any], str]] = {
        "classifier": (lambda: classifier(9, 3, **sizes), "row"),
        "classifier with attention": (lambda: classifier(9, 3, attention="scaled_dot", **sizes), "row"),
    }
    return [
        Case(
            name=name,
            call=f"{name.split()[0]}(9, 3, ...)(Padded(Ids, ids, lengths))",
            make=partial(make_model, make),
            options={"vocab_size": 9, "each": "row" if each == "row" else "step"},
        )
        for name, (make, each) in models.items()
    ]


LIBRARY = Library(name="ragged-pipeline", packages=["ragged-pipeline"], list_cases=list_cases)
