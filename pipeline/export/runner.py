"""Predict with an exported model. Needs onnxruntime and numpy, and tokenizers for texts; nothing else.

    python model.py "a fine film" "a dull one"

prints one JSON object per text. In a program:

    from model import Model

    model = Model("model.onnx")
    model.predict(["a fine film"])

An input is what the model was trained on: a text, a list of words, a pair of these, a list of ids, or a list of
feature vectors. Of rows with several fields it is a mapping from the names of the inputs, as `model.json` lists them.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

Row: TypeAlias = Mapping[str, Any]
"""The sequences of one input, by the names of the model's inputs."""

Array: TypeAlias = "NDArray[Any]"


class Model:
    """An exported model, with the files beside it: `model.json`, and for texts `model.tokenizer.json`.

    Args:
        file: the model: `model.onnx`.
        rows: the number of rows that are computed together. They are sorted by length, so that there is little padding.
    """

    def __init__(self, file: str | Path, rows: int = 64) -> None:
        file = Path(file)
        self.description: Any = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
        self.rows = rows
        self.session: Any = getattr(import_module("onnxruntime"), "InferenceSession")(str(file))  # noqa: B009
        self.tokenizers: list[_Tokenizer] = [_Tokenizer(each, file.parent) for each in self.description["tokenizers"]]

    def predict(self, inputs: Sequence[object]) -> list[object]:
        """Return one prediction per input, in their order.

        Raises:
            ValueError: if an input is not of the model's type, or is longer than it allows.
        """
        found: list[object] = [None] * len(inputs)
        rows = [self._read(each) for each in inputs]
        order = sorted(range(len(rows)), key=lambda row: max((len(each) for each in rows[row].values()), default=0))
        for start in range(0, len(order), self.rows):
            chosen = order[start : start + self.rows]
            outputs = self.run([rows[row] for row in chosen])
            for row, prediction in zip(chosen, self._interpret(outputs, [rows[row] for row in chosen]), strict=True):
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
            return dict(cast("Row", value))
        parts = [value] if len(values) == 1 else list(cast("Sequence[object]", value))
        if not self.tokenizers:
            return dict(zip(values, parts, strict=True))
        tokens = [tokenizer(text) for tokenizer, text in zip(self.tokenizers, parts, strict=True)]
        row: dict[str, Any] = {name: ids for name, (ids, _) in zip(values, tokens, strict=True)}
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


class _Tokenizer:
    """Turn a text, or a list of words, into ids as the model was trained on them."""

    def __init__(self, options: Mapping[str, Any], folder: Path) -> None:
        self.options = options
        library: Any = import_module("tokenizers")
        self.tokenizer: Any = library.Tokenizer.from_file(str(folder / options["file"]))
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
    """Predict for the texts of the command line, or for each line of the input."""
    model = Model(Path(__file__).with_suffix(".onnx"))
    inputs: list[Any] = sys.argv[1:] or [line.rstrip("\n") for line in sys.stdin]
    if not model.tokenizers or len(model.tokenizers) > 1:
        inputs = [json.loads(each) for each in inputs]
    elif model.tokenizers[0].options["by_words"]:
        inputs = [each.split() for each in inputs]
    for prediction in model.predict(inputs):
        print(json.dumps(prediction, ensure_ascii=False))  # noqa: T201 - the result of a script


if __name__ == "__main__":
    main()
