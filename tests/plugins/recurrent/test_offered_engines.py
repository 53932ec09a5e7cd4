"""Test engines that other plugins offer for the recurrent encoders."""

from pathlib import Path

import pytest
import torch

from pipeline import Encode, Padded, Vectors
from pipeline.extend import OptionError
from support.fakes import Fakes

SOURCE = """
from pipeline.extend import Engine, hookimpl
from pipeline_recurrent import engines

class Delegates(engines.Engine):
    name = "delegates"
    def unsupported_reason(self, stack):
        return None
    def run(self, stack):
        hidden, ended = engines.ENGINES["plain"].run(stack)
        return hidden * 2, ended

class Elsewhere(Engine):
    name = "elsewhere"
    computes = "other_package"

@hookimpl
def pipeline_engines():
    return {"delegates": Delegates, "elsewhere": Elsewhere}
"""


def test_offered_engine_computes_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The option `engine` takes its name; one for another package, or an unknown name, is rejected."""
    Fakes(tmp_path / "site", monkeypatch).add("fast", SOURCE)
    batch = Padded(Vectors, torch.ones(2, 4, 3), torch.tensor([4, 2]))
    encode = Encode("lstm", input_size=3, hidden_size=5, engine="delegates")
    plain = Encode("lstm", input_size=3, hidden_size=5, engine="plain")
    plain.load_state_dict(encode.state_dict())
    states = encode(batch)
    assert states.engine == "delegates"
    torch.testing.assert_close(states.packed().values, 2 * plain(batch).packed().values)
    with pytest.raises(OptionError, match="engine='elsewhere' computes parts of other_package, not recurrent layers"):
        Encode("lstm", input_size=3, hidden_size=5, engine="elsewhere")
    known = "auto, packed, dense, plain, native, cudnn, delegates, elsewhere"
    with pytest.raises(OptionError, match=f"^engine must be one of {known}, got 'fastest'"):
        Encode("lstm", input_size=3, hidden_size=5, engine="fastest")
