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
from typing import Any

import numpy as np


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
        self.tokenizers = [_Tokenizer(each, file.parent) for each in self.description["tokenizers"]]

    def predict(self, inputs: Sequence[Any]) -> list[Any]:
        """Return one prediction per input, in their order.

        Raises:
            ValueError: if an input is not of the model's type, or is longer than it allows.
        """
        found: list[Any] = [None] * len(inputs)
        rows = [self._read(each) for each in inputs]
        order = sorted(range(len(rows)), key=lambda row: max((len(each) for each in rows[row].values()), default=0))
        for start in range(0, len(order), self.rows):
            chosen = order[start : start + self.rows]
            outputs = self.run([rows[row] for row in chosen])
            for row, prediction in zip(chosen, self._interpret(outputs, [rows[row] for row in chosen]), strict=True):
                found[row] = prediction
        return found

    def run(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the arrays of the model's outputs for rows: mappings from the names of the inputs to sequences."""
        arrays = self._collate(rows)
        names = [each["name"] for each in self.description["outputs"]]
        return dict(zip(names, self.session.run(names, arrays), strict=True))

    def _read(self, value: Any) -> dict[str, Any]:
        """Return the sequences of one input, by the names of the model's inputs; "answers" says which steps count."""
        values = [each["name"] for each in self.description["inputs"] if each["role"] != "lengths"]
        if isinstance(value, Mapping):
            return dict(value)
        if not self.tokenizers:
            return {values[0]: value} if len(values) == 1 else dict(zip(values, value, strict=True))
        texts = [value] if len(self.tokenizers) == 1 else list(value)
        tokens = [tokenizer(text) for tokenizer, text in zip(self.tokenizers, texts, strict=True)]
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

    def _collate(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return padded arrays and their lengths."""
        arrays: dict[str, Any] = {}
        nested = {each["lengths"] for each in self.description["inputs"] if len(each["axes"]) == 3}
        for each in self.description["inputs"]:
            name, role, size = each["name"], each["role"], each["size"]
            if role == "lengths":
                continue
            sequences = [row[name] for row in rows]
            lengths = np.array([len(sequence) for sequence in sequences], np.int64)
            width = max(1, int(lengths.max()))
            if each["lengths"] in nested:
                counts = np.zeros((len(rows), width), np.int64)
                for row, sequence in enumerate(sequences):
                    counts[row, : len(sequence)] = [len(inner) for inner in sequence]
                shape: tuple[int, ...] = (len(rows), width, max(1, int(counts.max())))
                arrays[each["lengths"]] = counts
                outer = next(
                    other["lengths"] for other in self.description["inputs"] if other["name"] == each["lengths"]
                )
                arrays[outer] = lengths
            else:
                shape = (len(rows), width)
                arrays[each["lengths"]] = lengths
            if role == "ids":
                array = np.zeros(shape, np.int64)
            else:
                array = np.zeros((*shape, size), np.dtype(each["dtype"]))
            for row, sequence in enumerate(sequences):
                if each["lengths"] in nested:
                    for step, inner in enumerate(sequence):
                        array[row, step, : len(inner)] = inner
                elif len(sequence):
                    array[row, : len(sequence)] = sequence
            if role == "ids" and array.size and not 0 <= int(array.min()) <= int(array.max()) < size:
                message = f"{name} has an id that is not in 0 to {size - 1}; encode texts with the model's tokenizer."
                raise ValueError(message)
            arrays[name] = array
        return {each["name"]: arrays[each["name"]] for each in self.description["inputs"]}

    def _interpret(self, outputs: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Iterator[Any]:
        """Yield the prediction of each row: of several heads, a mapping from their names."""
        described = self.description["outputs"]
        first = next(each["name"] for each in self.description["inputs"] if each["role"] != "lengths")
        for index, row in enumerate(rows):
            found: dict[str, Any] = {}
            for each in described:
                values = outputs[each["name"]][index]
                if len(each["axes"]) == 1:
                    found[each["name"]] = _name(values, each)
                    continue
                answers = row.get("answers", [True] * len(row[first]))
                if each["every_step"]:
                    answers = [True] * len(answers)
                found[each["name"]] = [_name(values[step], each) for step, counts in enumerate(answers) if counts]
            yield found if len(described) > 1 else next(iter(found.values()))


def _name(values: Any, output: Mapping[str, Any]) -> Any:
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
    return values.tolist()


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

    def __call__(self, value: Any) -> tuple[list[int], list[bool]]:
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
            missing = [(word, unknown) for word in range(len(value)) if word not in set(words)]
            pairs = sorted([*zip(words, ids, strict=True), *missing], key=lambda pair: pair[0])
            words, ids = [word for word, _ in pairs], [token for _, token in pairs]
            answers = [place == 0 or word != words[place - 1] for place, word in enumerate(words)]
        first, last = options["first_ids"], options["last_ids"]
        if options["max_length"] is not None:
            room = options["max_length"] - len(first) - len(last)
            ids, answers = ids[:room], answers[:room]
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
