"""Tell the language of a family name, by convolutions over its letters, beside a linear baseline."""

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, TypeAlias

import torch

from pipeline import Bucket, Classify, Dropout, Embed, Encode, Example, Labels, Pad, Pool, Tokenize
from pipeline_convolutional import CNN
from scores.task import Task

Names: TypeAlias = Sequence[tuple[str, str]]
"""Names, each with its language."""

_TEST: Final = 0.1
"""The part of the names in the test set."""

_LONGEST: Final = 4
"""The letters of the longest n-grams of the baseline; the ends of a name count as letters."""

_MEMBERS: Final = 3
"""The classifiers whose probabilities are averaged."""


def run(folder: Path, seed: int) -> dict[str, float]:
    """Split the names by the seed, train on 90% of them, and return the accuracy on the others."""
    train, test = split_names(read_names(folder), seed)
    scores = {"accuracy": score_model(train, test, seed)}
    if find_spec("sklearn") is not None:
        scores["n-gram logistic regression"] = score_baseline(train, test)
    return scores


def read_names(folder: Path) -> Names:
    """Return each distinct name once, with the language in whose file it is most often.

    Of several such languages it is the one with the fewest names, so that none is lost to another.
    """
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    sizes: Counter[str] = Counter()
    for file in sorted(folder.glob("*.txt")):
        for name in filter(None, map(str.strip, file.read_text(encoding="utf-8").splitlines())):
            found[name][file.stem] += 1
            sizes[file.stem] += 1
    return [
        (name, max(sorted(counts), key=lambda language: (counts[language], -sizes[language])))
        for name, counts in sorted(found.items())
    ]


def split_names(names: Names, seed: int) -> tuple[Names, Names]:
    """Return the names to train on and those to test with, drawn by a seed."""
    shuffled = random.Random(seed).sample(names, len(names))
    tested = round(_TEST * len(names))
    return shuffled[tested:], shuffled[:tested]


def list_grams(name: str) -> list[str]:
    """Return the n-grams of a name in lower case for the baseline, with marks at its ends."""
    marked = f"^{name.lower()}$"
    return [marked[start : start + size] for size in range(2, _LONGEST + 1) for start in range(len(marked) - size + 1)]


def score_model(train: Names, test: Names, seed: int) -> float:
    """Train several classifiers by convolutions over letters, and return the accuracy of their mean probabilities."""
    labels = Labels.from_targets([language for _, language in train])
    tokenize = Tokenize.train([name for name, _ in train], "characters", lowercase=True)
    total = torch.zeros(len(test), len(labels))
    for member in range(_MEMBERS):
        number = _MEMBERS * seed + member
        torch.default_generator.manual_seed(number)
        encode = Encode(CNN(48, 128, kernel_sizes=(2, 3, 4, 5)))
        model = Embed(tokenize.vocab_size, 48) >> Dropout(0.2) >> encode >> Pool("max") >> Dropout(0.5)
        pipe = tokenize >> Bucket(rows=256, seed=number) >> Pad(labels=labels) >> model >> Classify(labels)
        pipe.fit(
            [Example(name, target=language) for name, language in train],
            epochs=12,
            learning_rate=5e-3,
            schedule="cosine",
            warmup=0.1,
            seed=number,
            progress=False,
        )
        for row, found in enumerate(pipe.predict([name for name, _ in test], scores=True)):
            total[row] += torch.tensor([probability for _, probability in sorted(found.top())])
    names = sorted(labels)
    right = sum(names[int(row.argmax())] == language for row, (_, language) in zip(total, test, strict=True))
    return 100 * right / len(test)


def score_baseline(train: Names, test: Names) -> float:
    """Return the accuracy of a logistic regression on counts of n-grams, with scikit-learn's default options."""
    text: Any = import_module("sklearn.feature_extraction.text")
    linear: Any = import_module("sklearn.linear_model")
    counts = text.CountVectorizer(analyzer=list_grams)
    found = linear.LogisticRegression(max_iter=300).fit(
        counts.fit_transform([name for name, _ in train]), [language for _, language in train]
    )
    return 100 * float(found.score(counts.transform([name for name, _ in test]), [language for _, language in test]))


TASK: Final = Task(
    "names",
    "names of 18 languages (practical-pytorch), each once",
    "accuracy in %",
    86.0,
    run,
)
