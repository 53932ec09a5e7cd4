"""A language model of characters on tinyshakespeare; the last tenth of the text is held out."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import torch

from pipeline import BPTTWindows, Dropout, Embed, Encode, FromIds, NextToken, Pack, Pad, Shift
from pipeline_recurrent import LSTM
from scores.task import Task

_LANES: Final = 32
_STEPS: Final = 64
_EPOCHS: Final = 5
_HIDDEN: Final = 384
_DROPOUT: Final = 0.3


class Lanes:
    """A text in pieces of equal length, cut at other places in each epoch.

    A window would otherwise begin at the same characters in all epochs.
    """

    def __init__(self, ids: Sequence[int], seed: int) -> None:
        self._ids: Final = list(ids)
        self._starts: Final = range(0, len(ids), -(-len(ids) // _LANES))
        self._generator: Final = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[list[int]]:
        start = int(torch.randint(len(self._ids), (), generator=self._generator))
        turned = self._ids[start:] + self._ids[:start]
        return (turned[at : at + self._starts.step] for at in self._starts)


def run(folder: Path, seed: int) -> dict[str, float]:
    """Train on the first nine tenths; return the loss per character of the last tenth, read from its beginning on."""
    text = (folder / "input.txt").read_text(encoding="utf-8")
    characters = sorted(set(text))
    number = {character: index for index, character in enumerate(characters)}
    ids = [number[character] for character in text]
    split = len(ids) - len(ids) // 10

    torch.default_generator.manual_seed(seed)
    encoder = LSTM(64, _HIDDEN, num_layers=2, dropout=_DROPOUT)
    model = Pack() >> Embed(len(characters), 64) >> Encode(encoder) >> Dropout(_DROPOUT) >> NextToken(len(characters))
    pipe = FromIds() >> Shift() >> BPTTWindows(rows=_LANES, steps=_STEPS) >> Pad() >> model
    pipe.fit(
        Lanes(ids[:split], seed),
        epochs=_EPOCHS,
        learning_rate=0.002,
        schedule="cosine",
        warmup=0.03,
        precision="bfloat16",
        seed=seed,
    )
    # One row, whose windows carry the states. It begins one character earlier, so that its first one is predicted too.
    found = pipe.evaluate([ids[split - 1 :]])
    return {"nats per character": found.loss, "characters": float(len(ids) - split)}


TASK: Final = Task(
    name="tinyshakespeare",
    data="tinyshakespeare (karpathy/char-rnn), 1,115,394 characters, the last tenth held out",
    metric="nats per character",
    goal=1.50,
    run=run,
    lower_is_better=True,
)
