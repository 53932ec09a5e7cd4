"""The law about options finds parts that state wrong ones."""

from collections.abc import Mapping

import pytest
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from pipeline import Dropout, Embed, Encode, MaybeCausal, Pooling, States
from pipeline.laws.configs import config_makes_an_equal_part
from pipeline.laws.law import LawBrokenError
from pipeline_attention import Additive, General
from pipeline_recurrent import LSTM, RNN


class Own(Pooling):
    """A pooling with an option."""

    def __init__(self, input_size: int, *, layers: int = 1) -> None:
        super().__init__()
        self.input_size = input_size
        self.linears = nn.ModuleList(nn.Linear(input_size, input_size) for _ in range(layers))
        self.layers = layers

    @override
    def forward(self, states: States[MaybeCausal]) -> Float[Tensor, "batch hidden"]:
        return states.final


class Forgets(Own):
    """Leaves an option out, which determines its weights."""

    def get_config(self) -> Mapping[str, object]:
        """Return the input size only."""
        return {"input_size": self.input_size}


class Misspells(Own):
    """States an option that it does not take."""

    def get_config(self) -> Mapping[str, object]:
        """Return a wrong name."""
        return {"input_size": self.input_size, "num_layers": self.layers}


class Doubles(Own):
    """Keeps another value than it was given, under the same name."""

    def __init__(self, input_size: int, *, layers: int = 1) -> None:
        super().__init__(input_size, layers=layers)
        self.layers = 2 * layers


def test_right_options_obey_the_law() -> None:
    """By attributes, and by get_config; also options that cannot be read."""
    config_makes_an_equal_part(lambda: Own(3, layers=2))
    config_makes_an_equal_part(
        lambda: LSTM(3, 4, num_layers=2, dropout=0.5, residual=True, bidirectional=True, merge="sum")
    )
    config_makes_an_equal_part(lambda: RNN(3, 4, nonlinearity="relu", bias=False))
    config_makes_an_equal_part(lambda: General(3, bias=False))
    config_makes_an_equal_part(lambda: Additive(3, hidden_size=5))
    config_makes_an_equal_part(lambda: Encode(LSTM(3, 4)))
    config_makes_an_equal_part(lambda: Dropout(0.25, per="row"))
    config_makes_an_equal_part(lambda: Embed(9, 3, name="own"))
    config_makes_an_equal_part(nn.Sequential)


def test_wrong_options_are_found() -> None:
    """With the option, or the weight, that differs."""
    with pytest.raises(LawBrokenError, match=r"other weights: linears\.1\.bias, linears\.1\.weight"):
        config_makes_an_equal_part(lambda: Forgets(3, layers=2))
    with pytest.raises(LawBrokenError, match=r"do not make a part: TypeError: .*num_layers"):
        config_makes_an_equal_part(lambda: Misspells(3))
    with pytest.raises(LawBrokenError, match="option 'layers' is 2, but 4 in the part that is made with it"):
        config_makes_an_equal_part(lambda: Doubles(3))
