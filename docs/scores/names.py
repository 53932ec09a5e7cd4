"""Tell the language of a family name, by its letters and its n-grams, beside a linear baseline."""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from itertools import product
from math import log
from pathlib import Path
from typing import Any, Final, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline import (
    Bucket,
    Classify,
    ClassPrediction,
    Dropout,
    Embed,
    Encode,
    Example,
    FromIds,
    Labels,
    Pad,
    Pool,
    Tokenize,
)
from pipeline_convolutional import CNN
from scores.task import Task

Names: TypeAlias = Sequence[tuple[str, str]]
"""Names, each with its language."""

Predict: TypeAlias = Callable[[Sequence[str]], Float[Tensor, "names languages"]]
"""Return the probability of each language, languages in the order of their names."""

_TEST: Final = 0.1
"""The part of the names in the test set."""

_LONGEST: Final = 5
"""The letters of the longest n-grams; the ends of a name count as letters."""

_ROUNDS: Final = 2
"""The classifiers of each kind, by letters and by n-grams, in lower case and as written, in the average."""

_CONTEXT: Final = 3
"""The letters by which a letter model predicts the next one."""

_CORRECTION: Final = 0.15
"""The power of a language's number of names that divides its mean probability; 0 is no correction."""


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


def list_grams(name: str, *, lowercase: bool = True) -> list[str]:
    """Return the n-grams of a name, from single letters on, with marks at its ends."""
    marked = f"^{name.lower() if lowercase else name}$"
    return [marked[start : start + size] for size in range(1, _LONGEST + 1) for start in range(len(marked) - size + 1)]


def train_letters(train: Names, labels: Labels, seed: int, *, lowercase: bool) -> Predict:
    """Train a classifier by convolutions over letters."""
    tokenize = Tokenize.train([name for name, _ in train], "characters", lowercase=lowercase)
    torch.default_generator.manual_seed(seed)
    encode = Encode(CNN(48, 128, kernel_sizes=(2, 3, 4, 5)))
    model = Embed(tokenize.vocab_size, 48) >> Dropout(0.2) >> encode >> Pool("max") >> Dropout(0.5)
    pipe = tokenize >> Bucket(rows=256, seed=seed) >> Pad(labels=labels) >> model >> Classify(labels)
    examples = [Example(name, target=language) for name, language in train]
    pipe.fit(examples, epochs=12, learning_rate=5e-3, schedule="cosine", warmup=0.1, seed=seed, progress=False)
    return lambda names: stack_probabilities(pipe.predict(names, scores=True))


def train_grams(train: Names, labels: Labels, seed: int, *, lowercase: bool) -> Predict:
    """Train a classifier by the mean vector of n-grams, as fastText does; n-grams of other names have no vector."""
    known = dict.fromkeys(gram for name, _ in train for gram in list_grams(name, lowercase=lowercase))
    numbers = {gram: number for number, gram in enumerate(known, start=1)}

    def number_grams(name: str) -> list[int]:
        found = [numbers[gram] for gram in list_grams(name, lowercase=lowercase) if gram in numbers]
        return found or [0]

    torch.default_generator.manual_seed(seed)
    model = Embed(len(numbers) + 1, 64) >> Dropout(0.4) >> Pool("mean") >> Dropout(0.5)
    pipe = FromIds() >> Bucket(rows=256, seed=seed) >> Pad(labels=labels) >> model >> Classify(labels)
    examples = [Example(number_grams(name), target=language) for name, language in train]
    pipe.fit(examples, epochs=12, learning_rate=3e-2, schedule="cosine", warmup=0.1, seed=seed, progress=False)
    return lambda names: stack_probabilities(pipe.predict([number_grams(name) for name in names], scores=True))


def stack_probabilities(predictions: Iterable[ClassPrediction[str]]) -> Float[Tensor, "names languages"]:
    """Return the probabilities of predictions, languages in the order of their names."""
    return torch.tensor([[probability for _, probability in sorted(found.top())] for found in predictions])


class LetterModel:
    """The probability of names in one language: each letter by the letters before it.

    Contexts of all sizes are mixed, from none to `_CONTEXT` letters: the more kinds of letters followed a context, the
    more the next smaller context counts.

    Source: Witten and Bell 1991, "The zero-frequency problem: estimating the probabilities of novel events in adaptive
    text compression", IEEE Transactions on Information Theory 37(4), method C.

    Args:
        names: the names to count in.
        letters: the number of letters that there are.
    """

    def __init__(self, names: Iterable[str], letters: int) -> None:
        self._letters = letters
        self._following: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for name in names:
            for context, letter in self._read(name):
                for size in range(_CONTEXT + 1):
                    self._following[context[_CONTEXT - size :]][letter] += 1

    @staticmethod
    def _read(name: str) -> Iterator[tuple[str, str]]:
        """Yield each letter, and at last an end, with the letters before it."""
        marked = f"{'^' * _CONTEXT}{name}$"
        return ((marked[at - _CONTEXT : at], marked[at]) for at in range(_CONTEXT, len(marked)))

    def log_probability(self, name: str) -> float:
        """Return the logarithm of the probability of a name."""
        total = 0.0
        for context, letter in self._read(name):
            probability = 1 / self._letters
            for size in range(_CONTEXT + 1):
                if found := self._following.get(context[_CONTEXT - size :]):
                    kinds = len(found)
                    probability = (found[letter] + kinds * probability) / (found.total() + kinds)
            total += log(probability)
        return total


def train_letter_models(train: Names, *, lowercase: bool) -> Predict:
    """Count a letter model for each language; Bayes' rule makes probabilities of languages of theirs."""

    def read(name: str) -> str:
        return name.lower() if lowercase else name

    by_language: defaultdict[str, list[str]] = defaultdict(list)
    for name, language in train:
        by_language[language].append(read(name))
    letters = 1 + len({letter for name, _ in train for letter in read(name)})
    models = [LetterModel(names, letters) for _, names in sorted(by_language.items())]
    priors = torch.tensor([len(names) for _, names in sorted(by_language.items())]).log()

    def predict(names: Sequence[str]) -> Float[Tensor, "names languages"]:
        likelihoods = torch.tensor([[model.log_probability(read(name)) for model in models] for name in names])
        return (likelihoods + priors).softmax(1)

    return predict


def score_model(train: Names, test: Names, seed: int) -> float:
    """Train several classifiers of all kinds, and return the accuracy of their corrected mean probabilities.

    The mean favors languages with many names; the correction favors the others a little.

    Source: Menon et al. 2021, "Long-tail learning via logit adjustment", arXiv:2007.07314, where the power is 1, for
    the balanced error. For the accuracy it was chosen on validation names.
    """
    labels = Labels.from_targets([language for _, language in train])
    members = [train_letter_models(train, lowercase=lowercase) for lowercase in (True, False)]
    for member in range(_ROUNDS):
        for train_member, lowercase in product((train_letters, train_grams), (True, False)):
            members.append(train_member(train, labels, _ROUNDS * seed + member, lowercase=lowercase))
    total = torch.stack([predict([name for name, _ in test]) for predict in members]).sum(0)
    names = sorted(labels)
    sizes = Counter(language for _, language in train)
    corrected = total / torch.tensor([sizes[name] for name in names]) ** _CORRECTION
    right = sum(names[int(row.argmax())] == language for row, (_, language) in zip(corrected, test, strict=True))
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
