"""Predict with an exported model. Needs onnxruntime and numpy, and tokenizers for texts; nothing else.

    python model.py "a fine film" "a dull one"

prints one JSON object per text. In a program:

    from model import Model

    model = Model("model.onnx")
    model.predict(["a fine film"])

An input is what the model was trained on: a text, a list of words, a pair of these, a list of ids, or a list of
feature vectors. Of rows with several fields it is a mapping from the names of the inputs, as `model.json` lists them.

The files of an export belong together: `model.json` lists them with their digests (SHA-256), which are checked. The
script finds them by its own name.

A decoder generates texts with a second graph, `model.step.onnx`. Its prediction is a list of texts, best first, each as
a mapping with `output` (the text), `ids`, `log_probabilities` (one per token) and `ended` (whether it ended in eos).
"""

import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

Row: TypeAlias = Mapping[str, Any]
"""The sequences of one input, by the names of the model's inputs."""

Array: TypeAlias = "NDArray[Any]"

_USAGE = """usage: python {name} [INPUT ...]

Print a prediction per input, as JSON. Without inputs, each line of the standard input is one.
An input is a text, or words between spaces; for other models it is JSON, such as a list of ids or a pair of texts."""

_COUNTS = ("max_new_tokens", "num_beams", "num_return_sequences")
_SEARCH = (*_COUNTS, "length_penalty")
_NOT_OPTIONS = ("file", "inputs", "outputs", "first_id", "last_ids", "blocked_ids", "max_positions", "tokenizer")


class Model:
    """An exported model, with the files beside it: `model.json`, and those that it names, such as tokenizers.

    Args:
        file: the model: `model.onnx`.
        rows: the number of rows that are computed together. They are sorted by length, so that there is little padding.

    Raises:
        FileNotFoundError: if a file of the export is missing.
        ValueError: if a file is of another export, or an option in `model.json` is out of its range.
    """

    def __init__(self, file: str | Path, rows: int = 64) -> None:
        file = Path(file)
        self.description: Any = _read_description(file)
        self.rows = rows
        self.session: Any = _open(file)
        search = self.description["search"]
        self.decoder: _Decoder | None = None if search is None else _Decoder(search, file.parent)
        self.tokenizers: list[_Tokenizer] = [_Tokenizer(each, file.parent) for each in self.description["tokenizers"]]

    def predict(self, inputs: Iterable[object]) -> list[object]:
        """Return one prediction per input, in their order.

        Raises:
            TypeError: if inputs are one text, or one mapping.
            ValueError: if an input is not of the model's type, or is longer than it allows.
        """
        if isinstance(inputs, str | bytes | Mapping):
            message = f"inputs must be a list, got one input: {inputs!r:.60}; put it into a list."
            raise TypeError(message)
        rows = [self._read(each) for each in inputs]
        found: list[object] = [None] * len(rows)
        order = sorted(range(len(rows)), key=lambda row: max((len(each) for each in rows[row].values()), default=0))
        for start in range(0, len(order), self.rows):
            chosen = order[start : start + self.rows]
            outputs = self.run([rows[row] for row in chosen])
            if self.decoder is None:
                predictions = self._interpret(outputs, [rows[row] for row in chosen])
            else:
                predictions = self.decoder.generate(list(outputs.values()), len(chosen))
            for row, prediction in zip(chosen, predictions, strict=True):
                found[row] = prediction
        return found

    def run(self, rows: Sequence[Row]) -> dict[str, Array]:
        """Return the arrays of the model's outputs for rows: mappings from the names of the inputs to sequences."""
        arrays = self._collate(rows)
        names = [each["name"] for each in self.description["outputs"]]
        return dict(zip(names, self.session.run(names, arrays), strict=True))

    def _read(self, value: object) -> dict[str, Any]:
        """Return the sequences of one input, by the names of the model's inputs; "answers" says which steps count."""
        values = [each["name"] for each in self.description["inputs"] if each["role"] != "lengths"]
        if isinstance(value, Mapping):
            row = dict(cast("Row", value))
            if row.keys() != set(values):
                hint = "; pass a text or words as they are, not in a mapping" if self.tokenizers else ""
                message = f"a mapping must have the inputs {', '.join(values)}, got {', '.join(map(str, row))}{hint}."
                raise ValueError(message)
            return row
        parts = [value] if len(values) == 1 else value
        if not isinstance(parts, list | tuple) or len(cast("list[object]", parts)) != len(values):
            message = f"the input must be a list of {len(values)}: {', '.join(values)}, got {value!r:.60}."
            raise ValueError(message)
        parts = cast("list[object]", parts)
        if not self.tokenizers:
            if wrong := [each for each in parts if isinstance(each, str) or not hasattr(each, "__len__")]:
                message = f"the input must be a list of ids or vectors, got {wrong[0]!r:.60}."
                raise ValueError(message)
            return dict(zip(values, parts, strict=True))
        tokens = [tokenizer(text) for tokenizer, text in zip(self.tokenizers, parts, strict=True)]
        row = {name: ids for name, (ids, _) in zip(values, tokens, strict=True)}
        limit = self.description["max_length"]
        answers = tokens[0][1]
        if limit is not None:
            for name, ids in row.items():
                if len(ids) > limit and self.description["too_long"] == "raise":
                    message = f"the input has {len(ids)} tokens, but the model's limit is {limit}; shorten it."
                    raise ValueError(message)
                row[name] = ids[:limit]
            answers = answers[:limit]
        return {**row, "answers": answers}

    def _collate(self, rows: Sequence[Row]) -> dict[str, Array]:
        """Return padded arrays and their lengths."""
        inputs = self.description["inputs"]
        # The lengths of inner rows have lengths themselves.
        outer = {each["name"]: each["lengths"] for each in inputs if each["role"] == "lengths"}
        arrays: dict[str, Array] = {}
        for each in inputs:
            if each["role"] == "lengths":
                continue
            sequences = [row[each["name"]] for row in rows]
            arrays[each["name"]], lengths = _pad(sequences, each, nested=outer[each["lengths"]] is not None)
            arrays[outer[each["lengths"]] or each["lengths"]] = lengths[0]
            if len(lengths) > 1:
                arrays[each["lengths"]] = lengths[1]
        return {each["name"]: arrays[each["name"]] for each in inputs}

    def _interpret(self, outputs: Mapping[str, Array], rows: Sequence[Row]) -> Iterator[object]:
        """Yield the prediction of each row: of several heads, a mapping from their names."""
        described = self.description["outputs"]
        first = next(each["name"] for each in self.description["inputs"] if each["role"] != "lengths")
        for index, row in enumerate(rows):
            found: dict[str, object] = {}
            for each in described:
                values = outputs[each["name"]][index]
                if len(each["axes"]) == 1:
                    found[each["name"]] = _name(values, each)
                    continue
                answers = row.get("answers", [True] * len(row[first]))
                if each["every_step"]:
                    answers = [True] * len(answers)
                steps = [step for step, counts in enumerate(answers) if counts]
                if each["meaning"] == "paths":
                    found[each["name"]] = _decode(values[steps], each)
                    continue
                found[each["name"]] = [_name(values[step], each) for step in steps]
            yield found if len(described) > 1 else next(iter(found.values()))


def _pad(sequences: Sequence[Any], described: Mapping[str, Any], *, nested: bool) -> tuple[Array, list[Array]]:
    """Return the padded array of an input, and its lengths; of nested sequences also those of the inner ones."""
    lengths = [np.array([len(sequence) for sequence in sequences], np.int64)]
    # No axis of a model may be empty.
    shape = [len(sequences), max(1, int(lengths[0].max()))]
    if nested:
        counts = np.zeros(shape, np.int64)
        for row, sequence in enumerate(sequences):
            counts[row, : len(sequence)] = [len(inner) for inner in sequence]
        lengths.append(counts)
        shape.append(max(1, int(counts.max())))
    name, size, is_ids = described["name"], described["size"], described["role"] == "ids"
    array: Array = np.zeros(shape if is_ids else [*shape, size], np.dtype(described["dtype"]))
    for row, sequence in enumerate(sequences):
        for step, inner in enumerate(sequence if nested else ()):
            array[row, step, : len(inner)] = inner
        if not nested and len(sequence):
            array[row, : len(sequence)] = sequence
    if is_ids and not 0 <= int(array.min()) <= int(array.max()) < size:
        message = f"{name} has an id that is not in 0 to {size - 1}; encode texts with the model's tokenizer."
        raise ValueError(message)
    return array, lengths


def _name(values: Array, output: Mapping[str, Any]) -> object:
    """Return the prediction that follows from the numbers of one row or step."""
    names = output["names"]
    if output["meaning"] == "classes":
        powers = np.exp(values - values.max())
        best = int(values.argmax())
        label = best if names is None else names[best]
        return {"label": label, "probability": float(powers[best] / powers.sum())}
    if output["meaning"] == "labels":
        probabilities = 1 / (1 + np.exp(-values))
        chosen = np.flatnonzero(probabilities >= np.array(output["thresholds"], values.dtype))
        labels = [int(place) if names is None else names[place] for place in chosen]
        return {"labels": labels, "probabilities": probabilities.tolist()}
    found: object = values.tolist()
    return found


def _decode(values: Array, output: Mapping[str, Any]) -> list[object]:
    """Return the classes of the best path, each with its probability over all paths."""
    if not len(values):
        return []
    scores = np.array([[-np.inf if score is None else score for score in row] for row in output["transitions"]])
    moves, start, end = scores[:-1, :-1], scores[-1, :-1], scores[:-1, -1]
    values = values.astype(np.float64)
    best: Array = start + values[0]
    origins: list[Array] = []
    forward: list[Array] = [best]
    backward: list[Array] = [end]
    for step in range(1, len(values)):
        paths = best[:, None] + moves
        origins.append(paths.argmax(0))
        best = paths.max(0) + values[step]
        forward.append(np.logaddexp.reduce(forward[-1][:, None] + moves, axis=0) + values[step])
        backward.append(np.logaddexp.reduce(moves + values[-step] + backward[-1], axis=1))
    path = [int((best + end).argmax())]
    for origin in reversed(origins):
        path.append(int(origin[path[-1]]))
    names = output["names"]
    found: list[object] = []
    for place, before, after in zip(reversed(path), forward, reversed(backward), strict=True):
        sums = before + after
        probability = float(np.exp(sums[place] - np.logaddexp.reduce(sums)))
        found.append({"label": place if names is None else names[place], "probability": probability})
    return found


@dataclass(frozen=True)
class _Text:
    """A text that is being generated: its tokens, their log-probabilities and the sum of these."""

    ids: tuple[int, ...] = ()
    log_probabilities: tuple[float, ...] = ()
    total: float = 0.0
    ended: bool = False


class _Decoder:
    """Generate texts with the graph of one step: take the most probable token each time, or search with beams."""

    def __init__(self, options: Mapping[str, Any], folder: Path) -> None:
        self.options = options
        self.session: Any = _open(folder / options["file"])
        self.names: list[str] = [each["name"] for each in options["inputs"]]
        self.batch_axes: dict[str, int] = {each["name"]: each["axes"].index("batch") for each in options["inputs"]}
        self.changing: list[str] = self.names[len(self.names) - len(options["outputs"]) + 1 :]
        tokenizer = options["tokenizer"]
        self.tokenizer: Any = None if tokenizer is None else _read_tokenizer(tokenizer, folder)

    def generate(self, memory: Sequence[Array], rows: int) -> Iterator[object]:
        """Yield the texts of each row, best first, from the outputs of the first graph."""
        named = dict(zip(self.names[1:], memory, strict=True))
        find = self._take_best if self.options["num_beams"] == 1 else self._search_beams
        for texts in find(named, rows):
            yield [self._describe(text) for text in texts[: self.options["num_return_sequences"]]]

    def _take_best(self, memory: dict[str, Array], rows: int) -> list[list[_Text]]:
        """Return the text of each row whose every token is the most probable one."""
        found = [_Text()] * rows
        active: list[int] = list(range(rows))
        tokens: list[int] = [self.options["first_id"]] * rows
        while active:
            log_probabilities, allowed, memory = self._step(tokens, memory)
            best = [int(token) for token in allowed.argmax(1)]
            for place, row in enumerate(active):
                found[row] = self._extend(found[row], best[place], float(log_probabilities[place, best[place]]))
            # Rows that ended are left out, so that no step of them is computed.
            kept = [place for place, row in enumerate(active) if not self._is_complete(found[row])]
            active = [active[place] for place in kept]
            tokens = [best[place] for place in kept]
            memory = self._select(memory, kept)
        return [[text] for text in found]

    def _search_beams(self, memory: dict[str, Array], rows: int) -> list[list[_Text]]:
        """Return the best texts of each row: a step extends all unfinished ones by each token, and keeps the best."""
        live = {row: [_Text()] for row in range(rows)}
        done: list[list[_Text]] = [[] for _ in range(rows)]
        tokens: list[int] = [self.options["first_id"]] * rows
        while live:
            _, allowed, memory = self._step(tokens, memory)
            kept: list[int] = []
            tokens, begin = [], 0
            for row, texts in list(live.items()):
                found = self._extend_beams(texts, allowed[begin : begin + len(texts)], done[row])
                live[row] = [text for _, text in found]
                if self._is_over(live[row], done[row]):
                    for text in live.pop(row):
                        if self._is_complete(text):
                            self._finish(text, done[row])
                else:
                    kept += [begin + parent for parent, _ in found]
                    tokens += [text.ids[-1] for _, text in found]
                begin += len(texts)
            memory = self._select(memory, kept)
        return done

    def _extend_beams(self, texts: list[_Text], allowed: Array, done: list[_Text]) -> list[tuple[int, _Text]]:
        """Return the best unfinished texts after one more token, each with the place of its parent; finish others."""
        beams, size = self.options["num_beams"], allowed.shape[1]
        totals = (allowed + np.array([[text.total] for text in texts])).ravel()
        # Enough candidates that `beams` of them do not end. Of equal ones, the first are the best.
        count = min(beams * (1 + len(self.options["last_ids"])), len(totals))
        candidates = np.flatnonzero(totals >= np.partition(totals, -count)[-count])
        best: list[int] = candidates[np.argsort(-totals[candidates], kind="stable")][:count].tolist()
        found: list[tuple[int, _Text]] = []
        for rank, index in enumerate(best):
            parent, token = divmod(index, size)
            if totals[index] == -np.inf or len(found) == beams:
                break
            text = self._extend(texts[parent], token, float(allowed[parent, token]))
            if not text.ended:
                found.append((parent, text))
            elif rank < beams:
                self._finish(text, done)
        return found

    def _is_over(self, live: list[_Text], done: list[_Text]) -> bool:
        """Return whether no unfinished text can still become one of the best."""
        beams, limit = self.options["num_beams"], self.options["max_new_tokens"]
        if not live or len(live[0].ids) >= limit:
            return True
        # More tokens can only lower a total, and the power of the length is highest at one of the ends.
        bound = max(self._rate(text.total, tokens) for text in live for tokens in (len(text.ids) + 1, limit))
        return len(done) == beams and bound <= self._rate(done[-1].total, len(done[-1].ids))

    def _finish(self, text: _Text, done: list[_Text]) -> None:
        done.append(text)
        done.sort(key=lambda each: -self._rate(each.total, len(each.ids)))
        del done[self.options["num_beams"] :]

    def _rate(self, total: float, tokens: int) -> float:
        rated: float = total / tokens ** self.options["length_penalty"]
        return rated

    def _extend(self, text: _Text, token: int, log_probability: float) -> _Text:
        logs = (*text.log_probabilities, log_probability)
        return _Text((*text.ids, token), logs, text.total + log_probability, token in self.options["last_ids"])

    def _is_complete(self, text: _Text) -> bool:
        return text.ended or len(text.ids) >= self.options["max_new_tokens"]

    def _step(self, tokens: Sequence[int], memory: dict[str, Array]) -> tuple[Array, Array, dict[str, Array]]:
        """Return the log-probability of each next token, the same for allowed ones only, and the memory after it."""
        given = {self.names[0]: np.array(tokens, np.int64), **memory}
        scores, *after = self.session.run([each["name"] for each in self.options["outputs"]], given)
        shifted: Array = scores.astype(np.float64) - scores.max(1, keepdims=True)
        log_probabilities: Array = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
        if np.isnan(log_probabilities).any():
            message = "the scores of a token are NaN; train the model with a lower learning rate, or clip gradients."
            raise ValueError(message)
        allowed = log_probabilities.copy()
        allowed[:, self.options["blocked_ids"]] = -np.inf
        return log_probabilities, allowed, {**memory, **dict(zip(self.changing, after, strict=True))}

    def _select(self, memory: dict[str, Array], rows: Sequence[int]) -> dict[str, Array]:
        count = next(array.shape[self.batch_axes[name]] for name, array in memory.items())
        if list(rows) == list(range(count)):
            return memory
        chosen = np.array(rows, np.int64)
        return {name: array.take(chosen, self.batch_axes[name]) for name, array in memory.items()}

    def _describe(self, text: _Text) -> object:
        ids = list(text.ids)
        kept = ids[:-1] if text.ended else ids
        output: object = kept
        if self.tokenizer is not None:
            special = set(self.options["tokenizer"]["special_ids"])
            output = self.tokenizer.decode([token for token in kept if token not in special], skip_special_tokens=False)
        return {"output": output, "ids": ids, "log_probabilities": list(text.log_probabilities), "ended": text.ended}


def _read_description(file: Path) -> Any:  # noqa: ANN401 - JSON
    """Return the description of a model, and check that the files beside it are those that it describes."""
    path = file.with_suffix(".json")
    try:
        found: Any = json.loads(_find(path).read_text(encoding="utf-8"))
        form, name, digests, _ = (found[key] for key in ("form", "file", "files", "search"))
    except (ValueError, KeyError, TypeError) as error:
        message = f"{path} is not the description of an exported model ({error!r:.200}); correct it, or export again."
        raise ValueError(message) from error
    if form != "rows" or not name.endswith(".onnx"):
        message = f"{path} describes {name} of form {form!r}; this script needs an export of whole rows to .onnx."
        raise ValueError(message)
    for each, digest in digests.items():
        # The model may have been renamed, together with its description and this script.
        with _find(file if each == name else file.with_name(each)).open("rb") as opened:
            if digest not in {None, hashlib.file_digest(opened, "sha256").hexdigest()}:
                message = (
                    f"{opened.name} is not the file that {path} describes: it was changed, or is of another export. "
                    f'Export the model again; if you changed the file on purpose, write null for its digest in "files".'
                )
                raise ValueError(message)
    if found["search"] is not None:
        _check_search(found["search"], path)
    return found


def _check_search(search: Mapping[str, Any], file: Path) -> None:
    """Check the options of a search, which may have been changed in the description."""
    beams, penalty, limit = search.get("num_beams"), search.get("length_penalty"), search.get("max_positions")
    message = None
    if unknown := sorted(search.keys() - {*_SEARCH, *_NOT_OPTIONS}):
        message = f"a search has no option {unknown[0]!r}; its options are {', '.join(_SEARCH)}."
    elif wrong := [name for name in _COUNTS if type(search.get(name)) is not int or search[name] < 1]:
        message = f"{wrong[0]} must be an integer of at least 1, got {search.get(wrong[0])!r}."
    elif limit is not None and search["max_new_tokens"] > limit:
        message = f"max_new_tokens must be at most {limit}, the positions of the model, got {search['max_new_tokens']}."
    elif search["num_return_sequences"] > search["num_beams"]:
        message = f"num_return_sequences must be at most num_beams={beams}, got {search['num_return_sequences']}."
    elif type(penalty) not in {int, float} or not -10 <= cast("float", penalty) <= 10:
        message = f"length_penalty must be a number from -10 to 10, got {penalty!r}."
    if message is not None:
        message = f"{file}: {message}"
        raise ValueError(message)


def _find(file: Path) -> Path:
    if not file.is_file():
        message = f"{file} is missing; keep the files of an export together. The script finds them by its own name."
        raise FileNotFoundError(message)
    return file


def _open(file: Path) -> Any:  # noqa: ANN401 - onnxruntime has no types
    return getattr(import_module("onnxruntime"), "InferenceSession")(str(file))  # noqa: B009


def _read_tokenizer(options: Mapping[str, Any], folder: Path) -> Any:  # noqa: ANN401
    library: Any = import_module("tokenizers")
    return library.Tokenizer.from_file(str(folder / options["file"]))


class _Tokenizer:
    """Turn a text, or a list of words, into ids as the model was trained on them."""

    def __init__(self, options: Mapping[str, Any], folder: Path) -> None:
        self.options = options
        self.tokenizer: Any = _read_tokenizer(options, folder)
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        # Special tokens that occur in a text are text.
        self.tokenizer.encode_special_tokens = True

    def __call__(self, value: object) -> tuple[list[int], list[bool]]:
        """Return the ids, and for each whether a prediction is wanted."""
        options, by_words = self.options, self.options["by_words"]
        if by_words == isinstance(value, str):
            message = f"the input must be {'a list of words' if by_words else 'a text'}, got {value!r:.60}."
            raise ValueError(message)
        encoding = self.tokenizer.encode(value, is_pretokenized=by_words, add_special_tokens=False)
        special, unknown = set(options["special_ids"]), options["unknown_id"]
        ids = [unknown if token in special and unknown is not None else token for token in encoding.ids]
        answers = [True] * len(ids)
        if by_words:
            words = [word for word in encoding.word_ids if word is not None]
            # A word without tokens gets the unknown one.
            count = len(cast("Sequence[object]", value))
            missing = [(word, cast("int", unknown)) for word in sorted(set(range(count)).difference(words))]
            pairs: list[tuple[int, int]] = [*zip(words, ids, strict=True), *missing]
            pairs.sort(key=lambda pair: pair[0])
            words, ids = [word for word, _ in pairs], [token for _, token in pairs]
            answers = [place == 0 or word != words[place - 1] for place, word in enumerate(words)]
        first, last = options["first_ids"], options["last_ids"]
        if options["max_length"] is not None:
            room = options["max_length"] - len(first) - len(last)
            kept = slice(room) if options["truncation_side"] == "right" else slice(max(len(ids) - room, 0), len(ids))
            ids, answers = ids[kept], answers[kept]
        return [*first, *ids, *last], [*(False for _ in first), *answers, *(False for _ in last)]


def main() -> None:
    """Predict for the inputs of the command line, or for each line of the standard input."""
    file = Path(__file__)
    if sys.argv[1:] in (["-h"], ["--help"]):
        print(_USAGE.format(name=file.name))  # noqa: T201 - the result of a script
        return
    try:
        model = Model(file.with_suffix(".onnx"))
        texts = sys.argv[1:] or [line.rstrip("\n") for line in sys.stdin]
        predictions = model.predict([_parse(each, model.tokenizers) for each in texts])
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"{file.name}: {error}")
    for prediction in predictions:
        print(json.dumps(prediction, ensure_ascii=False))  # noqa: T201


def _parse(text: str, tokenizers: Sequence[_Tokenizer]) -> object:
    """Return an input: a text, words, or what JSON stands for."""
    if len(tokenizers) == 1:
        return text.split() if tokenizers[0].options["by_words"] else text
    try:
        return cast("object", json.loads(text))
    except json.JSONDecodeError as error:
        message = f"an input of this model must be JSON, such as a list, got {text!r:.60}."
        raise ValueError(message) from error


if __name__ == "__main__":
    main()
