"""Which encoder's states are carried from window to window."""

from typing import Any

import pytest

from pipeline import BPTTWindows, Embed, Encode, Example, FromIds, Pad, Tag
from pipeline.errors import CompositionError
from pipeline.training.carry import find_carrying_stage
from support.untyped import as_any


def make_pipe(*encoders: Any) -> Any:
    """Make a tagger over windows."""
    pipe: Any = FromIds() >> BPTTWindows(rows=2, steps=2) >> Pad() >> Embed(9, 4)
    for encode in encoders:
        pipe = pipe >> encode
    return pipe >> as_any(Tag(2))


def find(pipe: Any) -> int | None:
    """Return the number of the stage whose states are carried."""
    stages: list[Any] = [*pipe.stages.values()]
    return find_carrying_stage(list(enumerate(stages, start=1)))


def test_one_forward_encoder_carries_its_states() -> None:
    """A bidirectional one has none that a later window could continue."""
    assert find(make_pipe(Encode("gru", hidden_size=3))) == 5
    assert find(make_pipe(Encode("bilstm", hidden_size=3))) is None


def test_windows_without_carried_states_are_reported() -> None:
    """In the notes of the history."""
    examples = [Example([1, 2, 3], [0, 1, 0])] * 3
    history = make_pipe(Encode("bilstm", hidden_size=3)).fit(examples, epochs=1, progress=False)
    assert any("each window starts from an empty one" in note for note in history.notes)


def test_several_encoders_are_rejected() -> None:
    """Only the first one would get states."""
    stages = [(4, Encode("gru", input_size=2, hidden_size=3)), (5, Encode("gru", input_size=3, hidden_size=3))]
    with pytest.raises(CompositionError, match="states of one encoder, got several, the stages 4, 5; stack the layers"):
        find_carrying_stage(as_any(stages))
