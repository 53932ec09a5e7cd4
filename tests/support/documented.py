"""Recipes of the page about other libraries: run as they are written, also on several ranks."""

import os
import re
from pathlib import Path
from typing import Any

from torch import Tensor

from pipeline import Bucket, Example, Labels, Pad, StreamChain, Tokenize, classifier
from pipeline.core.contexts import seeded
from support.trainable import copy_weights

PAGE = Path(__file__).parents[2] / "docs" / "other-libraries.md"


def make_names() -> dict[str, Any]:
    """Make the pipe and the examples of the page, the pipe always with the same weights."""
    texts = ["a fine film", "a dull film", "what a fine evening", "dull", "fine", "a dull evening"] * 20
    train = [Example(text, target="good" if "fine" in text else "bad") for text in texts]
    tokenize, labels = Tokenize.train(texts), Labels(["bad", "good"])
    data = tokenize >> Bucket(max_padded_steps=64) >> Pad(labels=labels)
    with seeded(0):
        pipe = data >> classifier(tokenize.vocab_size, labels, hidden_size=16)
    return {
        "texts": texts,
        "pipe": pipe,
        "train": train,
        "valid": train,
        "tokenize": tokenize,
        "labels": labels,
        "Pad": Pad,
    }


def get_recipe(heading: str) -> str:
    """Return the first block of code of a section."""
    text = PAGE.read_text(encoding="utf-8")
    section = re.split(r"^## ", text.partition(f"\n## {heading}\n")[2], flags=re.MULTILINE)[0]
    blocks: list[str] = re.findall(r"^```\w*\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL)
    return blocks[0]


def run_recipe_on_cpu(heading: str) -> dict[str, Tensor]:
    """Run a recipe of Accelerate on one of several ranks, as `accelerate launch --cpu` does."""
    os.environ["ACCELERATE_USE_CPU"] = "true"
    return run_recipe(heading)


def run_recipe(heading: str) -> dict[str, Tensor]:
    """Run a recipe, and return the weights of the pipe that it trained."""
    names = make_names()
    exec(compile(get_recipe(heading), str(PAGE), "exec"), names)  # noqa: S102 - code of the page
    pipe: StreamChain[Any, Any] = names["pipe"]
    return copy_weights(pipe)
