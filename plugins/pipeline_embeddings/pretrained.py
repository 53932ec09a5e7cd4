"""Word vectors for the vocabulary of a tokenizer, from files of word2vec, GloVe, fastText and safetensors."""

from collections.abc import Mapping, Sequence
from operator import index
from os import PathLike
from pathlib import Path
from typing import Literal, SupportsIndex, TypeAlias, cast, final, get_args

import attrs
import torch
from jaxtyping import Float
from torch import Tensor

from pipeline import Tokenize, Tokenizer, TokenizeWords
from pipeline.errors import OptionError, RecordError
from pipeline_embeddings.coverage import Coverage
from pipeline_embeddings.vector_files import Line, TensorVectors, TextVectors, read_words

Vocabulary: TypeAlias = Mapping[str, int] | Tokenizer | Tokenize | TokenizeWords
"""The ids of words: a mapping, a tokenizer, or the stage of one."""

Missing = Literal["normal", "zeros", "mean"]
OnError = Literal["raise", "skip"]


@final
@attrs.frozen(eq=False)
class WordVectors:
    """Vectors for the ids of a vocabulary; `Embed.from_pretrained(vectors.weight)` embeds with them.

    Attributes:
        weight: one vector per id, in float32.
        coverage: which words the file has.
    """

    weight: Float[Tensor, "id feature"]
    coverage: Coverage

    def __str__(self) -> str:
        """Return the sizes and the coverage as a sentence."""
        return f"{self.weight.shape[0]:,} vectors of {self.weight.shape[1]} features: {self.coverage}"


def read_vectors(
    file: str | PathLike[str],
    vocabulary: Vocabulary,
    *,
    case_fallback: bool = False,
    counts: Mapping[str, int] | None = None,
    missing: Missing = "normal",
    seed: int = 0,
    on_error: OnError = "raise",
    words: Sequence[str] | str | PathLike[str] | None = None,
    tensor: str | None = None,
) -> WordVectors:
    r"""Read the vectors of the words of a vocabulary. The file is read as a stream, and only these vectors are kept.

    Formats: text with a word and its numbers per line, with a first line that states both sizes (word2vec, fastText's
    `.vec`) or without (GloVe), also compressed (`.gz`); and `.safetensors`, a matrix with a row per word.

    Args:
        file: the path.
        vocabulary: the tokenizer, or its stage, or a mapping from words to ids.
        case_fallback: whether a word that the file does not have takes the vector of its lower case, or else of its
            title or upper case.
        counts: how often each word occurs, such as `Counter(words)`, to state the coverage of tokens.
        missing: the vector of a word that the file does not have: `normal`, random with the mean and the deviation of
            each feature of the vectors that were found; `zeros`; or `mean`, their mean. The vector of the padding token
            is zeros; it is never used.
        seed: the seed of random vectors, which depend on nothing else random.
        on_error: whether a malformed line is an error, or is left out and reported in `coverage.problems`.
        words: for safetensors, the word of each row: a list, or a file with one per line.
        tensor: for safetensors, the name of the matrix, if there are several.

    Raises:
        SourceError: if the file cannot be read.
        RecordError: naming file and line: if a line has another number of features, or the number of a needed word is
            malformed, NaN or infinite; or if no word of the vocabulary is in the file, or the file is incomplete.
        OptionError: if an option is invalid, or the vocabulary is another object, or has a negative id.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder, "glove.txt")
        ...     _ = file.write_text("the 0.5 1.0\nparis 2.0 3.0\n")
        ...     vectors = read_vectors(file, {"<pad>": 0, "the": 1, "Paris": 2}, case_fallback=True)
        >>> vectors.weight.tolist()
        [[0.0, 0.0], [0.5, 1.0], [2.0, 3.0]]
        >>> print(vectors.coverage)
        2 of 2 words have a vector (100.0%), 1 of them in another case
    """
    for option, value, choices in (("missing", missing, get_args(Missing)), ("on_error", on_error, get_args(OnError))):
        if value not in choices:
            msg = f"{option} must be one of {', '.join(choices)}, got {value!r}."
            raise OptionError(msg, **{option: value})
    path = Path(file)
    source = _open(path, words, tensor)
    ids, special, pad = _read_vocabulary(vocabulary)
    collector = _Collector(path, source.size, _list_forms(ids, special, case_fallback=case_fallback), on_error)
    for line in source.read(collector.forms.__contains__):
        collector.add(line)
    return collector.make(ids, special, pad, counts, missing, seed)


def list_vector_words(
    file: str | PathLike[str],
    *,
    limit: int | None = None,
    words: Sequence[str] | str | PathLike[str] | None = None,
) -> list[str]:
    r"""Return the words of a file of vectors in its order, usually by falling frequency; malformed lines are left out.

    With them a vocabulary can be extended by words outside the training set: train the tokenizer on them too.

    Args:
        file: the path, as in `read_vectors`.
        limit: the largest number of words; None for all.
        words: as in `read_vectors`.

    Raises:
        SourceError: if the file cannot be read.
        RecordError: if it is not a file of vectors, or is incomplete.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder, "glove.txt")
        ...     _ = file.write_text("the 0.5 1.0\nparis 2.0 3.0\n")
        ...     list_vector_words(file, limit=1)
        ['the']
    """
    found: list[str] = []
    for line in _open(Path(file), words, None).read(lambda _: False):
        if limit is not None and len(found) >= limit:
            break
        if line.word is not None:
            found.append(line.word)
    return found


def _open(
    file: Path, words: Sequence[str] | str | PathLike[str] | None, tensor: str | None
) -> TextVectors | TensorVectors:
    if file.suffix != ".safetensors":
        if words is not None or tensor is not None:
            msg = f"words and tensor are for files of safetensors, got them for {file}; leave them out."
            raise OptionError(msg, file=str(file))
        return TextVectors(file)
    if words is None:
        msg = f"words must be the word of each row of {file}, a list or a file with one per line, got None."
        raise OptionError(msg, file=str(file))
    return TensorVectors(file, read_words(Path(words)) if isinstance(words, str | PathLike) else words, tensor)


def _read_vocabulary(vocabulary: Vocabulary) -> tuple[Mapping[str, int], frozenset[str], str | None]:
    """Return the ids, the special tokens, and the padding token."""
    if isinstance(vocabulary, Mapping):
        # The names of the tokenizers that are trained here, if a mapping has them.
        special = frozenset({"<pad>", "<unk>", "<bos>", "<eos>"} & set(vocabulary))
        for word, number in cast("Mapping[str, object]", vocabulary).items():
            if not isinstance(number, SupportsIndex) or index(number) < 0:
                msg = f"vocabulary must have an id of 0 or more for each word, got {number!r} for {word!r}."
                raise OptionError(msg, word=word)
        return vocabulary, special, "<pad>" if "<pad>" in vocabulary else None
    if not isinstance(cast("object", vocabulary), Tokenizer | Tokenize | TokenizeWords):
        msg = f"vocabulary must be a tokenizer, its stage, or a mapping from words to ids, got {vocabulary!r:.200}."
        raise OptionError(msg)
    tokenizer = vocabulary if isinstance(vocabulary, Tokenizer) else vocabulary.tokenizer
    tokens = (tokenizer.pad_token, tokenizer.unk_token, tokenizer.bos_token, tokenizer.eos_token)
    return tokenizer.vocabulary, frozenset(token for token in tokens if token is not None), tokenizer.pad_token


def _list_forms(
    ids: Mapping[str, int], special: frozenset[str], *, case_fallback: bool
) -> Mapping[str, list[tuple[int, str]]]:
    """Return for each form that a file may have the words that it stands for, with their preference: 0 is the best."""
    forms: dict[str, list[tuple[int, str]]] = {}
    for word in ids:
        listed = [word]
        if case_fallback and word not in special:
            listed += [word.lower(), word.title(), word.upper()]
        for preference, form in enumerate(dict.fromkeys(listed)):
            forms.setdefault(form, []).append((preference, word))
    return forms


class _Collector:
    """Collects the vectors of needed words, and the problems of the file."""

    def __init__(self, file: Path, size: int, forms: Mapping[str, list[tuple[int, str]]], on_error: OnError) -> None:
        self.forms = forms
        self._file, self._size, self._on_error = file, size, on_error
        self._vectors: dict[str, Tensor] = {}
        self._lines = 0
        self._doubled: dict[str, list[int]] = {}
        self._problems: dict[int, str] = {}

    def add(self, line: Line) -> None:
        problem = line.problem
        self._lines += line.word is not None
        if line.word is not None and line.vector is not None:
            if line.word in self._vectors:
                self._doubled.setdefault(line.word, []).append(line.number)
                return
            vector, problem = _convert(line.vector)
            if vector is not None:
                self._vectors[line.word] = vector
        if problem is None:
            return
        self._problems[line.number] = problem
        if self._on_error == "raise":
            word = "" if line.word is None else f" ({line.word!r})"
            msg = (
                f"{self._file}, line {line.number}{word}: {problem}; fix the line, or pass on_error='skip' to leave "
                "such lines out."
            )
            raise RecordError(msg, file=str(self._file), line=line.number, word=line.word)

    def make(
        self,
        ids: Mapping[str, int],
        special: frozenset[str],
        pad: str | None,
        counts: Mapping[str, int] | None,
        missing: Missing,
        seed: int,
    ) -> WordVectors:
        """Return the vectors of all ids, and the coverage."""
        chosen: dict[str, tuple[int, str]] = {}
        for form in self._vectors:
            for preference, word in self.forms[form]:
                chosen[word] = min(chosen.get(word, (preference, form)), (preference, form))
        # By their ids: a vocabulary of the tokenizers library has no fixed order.
        plain = [word for word in sorted(ids, key=ids.__getitem__) if word not in special]
        if plain and not any(word in chosen for word in plain):
            msg = (
                f"{self._file} has a vector for none of the {len(plain):,} words of the vocabulary, which begins with "
                f"{', '.join(plain[:5])}; pass the tokenizer that reads words as the file does, or case_fallback=True."
            )
            raise RecordError(msg, file=str(self._file))
        weight = self._start(max(ids.values(), default=-1) + 1, missing, seed)
        for word, (_, form) in chosen.items():
            weight[ids[word]] = self._vectors[form]
        if pad is not None:
            weight[ids[pad]] = 0
        return WordVectors(weight, self._report(plain, chosen, counts))

    def _start(self, count: int, missing: Missing, seed: int) -> Tensor:
        """Return vectors for all ids as if each word was missing."""
        if missing == "zeros" or not self._vectors:
            return torch.zeros(count, self._size)
        found = torch.stack([*self._vectors.values()])
        mean = found.mean(0)
        if missing == "mean":
            return mean.repeat(count, 1)
        drawn = torch.randn(count, self._size, generator=torch.Generator().manual_seed(seed))
        return mean + drawn * found.std(0, correction=0)

    def _report(
        self, plain: Sequence[str], chosen: Mapping[str, tuple[int, str]], counts: Mapping[str, int] | None
    ) -> Coverage:
        absent = [word for word in plain if word not in chosen]
        tokens, found_tokens = None, None
        if counts is not None:
            number = {word: counts.get(word, 0) for word in plain}
            absent.sort(key=lambda word: -number[word])
            tokens = sum(number.values())
            found_tokens = tokens - sum(number[word] for word in absent)
        by_case = {word: chosen[word][1] for word in plain if word in chosen and chosen[word][0] > 0}
        exact = [word for word in plain if word in chosen and chosen[word][0] == 0]
        return Coverage(
            len(plain), exact, by_case, absent, tokens, found_tokens, self._lines, self._doubled, self._problems
        )


def _convert(vector: Sequence[bytes] | Tensor) -> tuple[Tensor | None, str | None]:
    """Return a vector as a tensor and no problem, or no vector and its problem."""
    if isinstance(vector, Tensor):
        found = vector.float()
    else:
        try:
            found = torch.tensor([float(number) for number in vector])
        except ValueError as error:
            return None, f"a number is malformed: {error}"
    if not bool(found.isfinite().all()):
        feature = int(found.isfinite().logical_not().nonzero()[0])
        return None, f"feature {feature} is {float(found[feature])}"
    return found, None
