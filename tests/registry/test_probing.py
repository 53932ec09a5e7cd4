"""What a plugin offers is tried when it is registered: what is not as it declares is refused, by name."""

import re
from pathlib import Path

import pytest
import torch
from pipeline.registry.probing import probed

from pipeline import Encode
from pipeline.data.states import MaybeCausal
from pipeline.errors import PluginError, UnknownNameError
from pipeline.parts.encoder import Encoder
from pipeline.registry import PluginWarning
from pipeline.registry.catalogue import Catalogue, Offer, Plugin
from pipeline_recurrent import LSTM, bilstm
from support.fakes import Fakes

HEAD = """
import torch
from torch import nn
from pipeline import Attention, Encoder, Pooling, States, Tokenizer
from pipeline.hooks import hookimpl
from pipeline.parts.tokenizer import Tokens
from pipeline.data.states import last_by_row
from pipeline.functional.segments import sum_by_row

class Base(Encoder):
    def __init__(self, input_size, hidden_size: int = 4):
        super().__init__()
        self.input_size, self.output_size, self.causal = input_size, hidden_size, True
        self.linear = nn.Linear(input_size, hidden_size)

    def forward(self, batch):
        packed = batch.packed()
        steps = packed.with_values(self.linear(packed.values).tanh())
        return States(steps, last_by_row(steps))
"""

# A plugin's source, the hook, the name of what it offers, and why it is refused.
LIES = {
    "size": (
        "class Part(Base):\n"
        "    def __init__(self, input_size):\n"
        "        super().__init__(input_size)\n"
        "        self.output_size = 5\n",
        "encoder",
        r"output_sizes_match_declared: output_size=5 is declared, so steps \(packed\) and final states must be \[\(8, 5\), \(3, 5\)\]",
    ),
    "shape": (
        "class Part(Base):\n    def forward(self, batch):\n        return super().forward(batch).steps.values\n",
        "encoder",
        "output_sizes_match_declared: forward must give pipeline.States, but gave a Tensor",
    ),
    "causal": (
        "class Part(Base):\n"
        "    def forward(self, batch):\n"
        "        states = super().forward(batch)\n"
        "        rows = states.padded()\n"
        "        return states.with_values(rows.with_values(rows.values + rows.values.sum(1, keepdim=True)))\n",
        "encoder",
        "causal_steps_do_not_look_ahead: ",
    ),
    "bidirectional": (
        "class Part(Base):\n"
        "    bidirectional = True\n"
        "    def __init__(self, input_size):\n"
        "        super().__init__(input_size)\n"
        "        self.causal = False\n",
        "encoder",
        "bidirectional_reads_from_both_ends: ",
    ),
    "both": (
        "class Part(Base):\n    bidirectional = True\n",
        "encoder",
        "declared_attributes_are_valid: causal and bidirectional are both declared",
    ),
    "empty": (
        "class Part(Base):\n"
        "    def forward(self, batch):\n"
        "        states = super().forward(batch)\n"
        "        return States(states.steps, states.final + 1)\n",
        "encoder",
        "empty_rows_return_initial_carry: among lengths",
    ),
    "stateful": (
        "class Part(Base):\n    stateful = True\n    empty_rows = False\n",
        "encoder",
        "carry_matches_declared: ",
    ),
    "metadata": (
        "class Part(Base):\n"
        "    def forward(self, batch):\n"
        "        states = super().forward(batch).packed()\n"
        "        bare = type(states)(states.kind, states.values, states.lengths)\n"
        "        return States(bare, last_by_row(bare))\n",
        "encoder",
        "metadata_is_passed_on: targets, or which steps are asked for, are missing",
    ),
    "other": (
        "def Part(input_size):\n    return [input_size]\n",
        "encoder",
        "the factory made a list, which is no pipe",
    ),
    "attention": (
        "class Part(Attention):\n"
        "    def __init__(self, input_size):\n"
        "        super().__init__()\n"
        "        self.input_size = input_size\n"
        "    def score(self, query, key):\n"
        "        return (query @ key.mT)[:, 1:]\n",
        "attention",
        "attention_sizes_match_declared: ",
    ),
    "pool": (
        "class Part(Pooling):\n    def forward(self, states):\n        return sum_by_row(states.steps).repeat(1, 2)\n",
        "pool",
        "pooled_sizes_match_declared: ",
    ),
    "zeros": (
        "class Part(Pooling):\n    def forward(self, states):\n        return sum_by_row(states.steps) + 1\n",
        "pool",
        "empty_rows_give_zeros: ",
    ),
    "tokenizer": (
        "class Part(Tokenizer):\n"
        "    pad_token = unk_token = bos_token = eos_token = None\n"
        "    def __init__(self, texts):\n"
        "        self.vocabulary = {'a': 0}\n"
        "    def encode(self, texts, *, offsets=True):\n"
        "        return [Tokens([7]) for _ in texts]\n"
        "    def encode_words(self, rows, *, offsets=True):\n"
        "        return [Tokens([7]) for _ in rows]\n"
        "    def decode(self, ids):\n"
        "        return ''\n",
        "tokenizer",
        "ids_are_in_vocabulary: ",
    ),
}


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fakes:
    """A folder of installed distributions."""
    return Fakes(tmp_path / "site", monkeypatch)


def offering(kind: str, what: str) -> str:
    """A hook that offers what is defined above it."""
    return f"\n@hookimpl\ndef pipeline_{kind}s():\n    return {what}\n"


@pytest.mark.parametrize("lie", LIES)
def test_a_part_that_is_not_what_it_declares_is_refused(fakes: Fakes, lie: str) -> None:
    """The distribution, the entry point, the hook, the part and the law are named; the plugin offers nothing."""
    source, kind, reason = LIES[lie]
    fakes.add("liar", HEAD + source + offering(kind, "{'mine': Part}"))
    told = rf"plugin liar 1\.0 \(entry point 'liar'\) could not be loaded: {kind} 'mine', from hook pipeline_{kind}s, "
    with pytest.warns(PluginWarning, match=rf"^{told}breaks a law: .*{reason}"):
        found = fakes.registry()
    assert [names for catalogue in found.catalogues() for names in catalogue.names()] == []
    with pytest.raises(UnknownNameError, match=told.removeprefix("plugin ")):
        found.encoders.make("mine", input_size=3)


def test_an_honest_part_is_taken(fakes: Fakes) -> None:
    """The base of all those liars, and a plugin of two parts is taken whole or not at all."""
    fakes.add("honest", HEAD + offering("encoder", "{'mine': Base}"))
    assert fakes.registry().encoders.make("mine", input_size=3, hidden_size=5).output_size == 5
    source, kind, _ = LIES["size"]
    fakes.add("liar", HEAD + source + offering(kind, "{'good': Base, 'bad': Part}"))
    with pytest.warns(PluginWarning, match="encoder 'bad'"):
        assert fakes.registry().encoders.names() == ["mine"]


def test_what_cannot_be_tried_is_tried_with_the_options_of_its_first_user(fakes: Fakes) -> None:
    """A text as an option is nothing that anyone could guess; neither are heads that must divide a size."""
    needy = (
        "class Part(Base):\n"
        "    def __init__(self, input_size, mode: str):\n"
        "        super().__init__(input_size)\n"
        "        self.output_size = 5 if mode == 'lie' else 4\n"
        "class Heads(Base):\n"
        "    def __init__(self, input_size, heads: int):\n"
        "        super().__init__(input_size)\n"
        "        if input_size % heads:\n"
        "            raise ValueError('heads')\n"
    )
    fakes.add("needy", HEAD + needy + offering("encoder", "{'mine': Part, 'heads': Heads}"))
    found = fakes.registry().encoders
    assert found.offer("mine").tried is found.offer("heads").tried is False
    told = (
        "encoder 'mine' of needy 1.0 (entry point 'needy'), from hook pipeline_encoders, breaks a law: output_sizes_match_declared"
    )
    with pytest.raises(PluginError, match=re.escape(told)):
        found.make("mine", input_size=3, mode="lie")
    assert found.make("mine", input_size=3, mode="truth").output_size == 4
    assert found.offer("mine").tried
    assert found.make("heads", input_size=8, heads=4).output_size == 4


def test_nothing_notices() -> None:
    """Neither random numbers, nor the default device, nor a mode without gradients."""
    before = torch.get_rng_state()
    with torch.inference_mode(), torch.device("meta"):
        assert probed("pipeline_encoders", LSTM)
        assert probed("pipeline_encoders", bilstm)
        assert torch.is_inference_mode_enabled()
        assert torch.empty(1).is_meta
    assert torch.equal(torch.get_rng_state(), before)
    assert Encode("lstm", input_size=2, hidden_size=2).part is not None


def test_a_catalogue_tries_by_itself() -> None:
    """Also where nobody registered anything."""
    catalogue: Catalogue[Encoder[MaybeCausal]] = Catalogue("encoder", "pipeline_encoders", Encoder)
    catalogue.offers.append(Offer("lstm", Plugin("mine", "1.0", "mine"), LSTM, tried=False))
    assert catalogue.make("lstm", input_size=3, hidden_size=2).output_size == 2
    assert catalogue.offer("lstm").tried
