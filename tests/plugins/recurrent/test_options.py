"""Test the checks of options: values of another type raise an error that names the option, its rule and the value."""

from typing import Final

import pytest

from pipeline import Encode
from pipeline.errors import OptionError
from pipeline_recurrent import GRU, LRU, LSTM, RNN, MinGRU, MinLSTM, Restarting
from support.untyped import as_any, untyped

CELLS: Final = {"lstm": LSTM, "gru": GRU, "rnn": RNN}
SCANS: Final = {"min_gru": MinGRU, "min_lstm": MinLSTM, "lru": LRU}

# For each option, values that torch or Python would take, or reject with an error of their own.
SHARED: Final[dict[str, list[object]]] = {
    "input_size": ["3", 2.0],
    "hidden_size": ["4", None],
    "num_layers": ["2", 1.5, True],
    "bidirectional": ["no", 1, None],
    "dropout": ["0.1", True, None],
    "layer_norm": ["no", 1],
    "residual": ["no", 0.5],
}
OF_CELLS: Final[dict[str, list[object]]] = {
    "bias": ["no", None],
    "highway": ["no", 1],
    "weight_dropout": ["0.1", float("nan")],
    "zoneout": ["0.1"],
    "zoneout_cell": ["0.1"],
    "proj_size": ["2", 2.5, True, None],
}
OF_LRU: Final[dict[str, list[object]]] = {
    "state_size": ["4"],
    "min_radius": ["0.1", None],
    "max_radius": ["1", float("nan")],
    "max_phase": ["3", float("inf")],
}


@pytest.mark.parametrize("name", [*CELLS, *SCANS])
def test_values_of_another_type_are_rejected(name: str) -> None:
    """Every message has one form, whether the encoder is made by its class or by name."""
    options = SHARED | (OF_CELLS if name in CELLS else OF_LRU if name == "lru" else {})
    for option, values in options.items():
        for value in values:
            given: dict[str, object] = {"input_size": 3, "hidden_size": 4, "num_layers": 2, option: value}
            with pytest.raises(OptionError, match=f"{option} must be .*, got {value!r}"):
                untyped({**CELLS, **SCANS}[name])(**given)
            if given["hidden_size"] is not None:  # By name, it may be left out.
                with pytest.raises(OptionError, match=f"{option} must be .*, got {value!r}"):
                    as_any(Encode)(name, **given)


def test_what_an_encoder_that_restarts_holds_is_checked() -> None:
    """An encoder or its name, with a number of features and options."""
    for options, message in (
        ({"input_size": "4"}, "input_size must be an integer of at least 1, got '4'"),
        ({"input_size": 4, "options": "bias"}, "options must be those of an encoder by name, as a mapping, got 'bias'"),
        ({"encoder": 3}, "encoder must be an encoder, or the name of one, got 3"),
    ):
        with pytest.raises(OptionError, match=message):
            as_any(Restarting)(**{"encoder": "lstm", "hidden_size": 3, **options})
