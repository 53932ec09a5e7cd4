"""A pipe as a function of columns gives the predictions of `predict`, here and in other processes."""

import pickle
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import (
    Bucket,
    Classify,
    ClassifyMultiLabel,
    ColumnPredictor,
    ColumnTokenizer,
    Embed,
    Encode,
    FromColumns,
    FromFeatures,
    FromIds,
    Heads,
    Identity,
    Labels,
    Pad,
    Pool,
    Regress,
    Tag,
    TextPair,
    Tokenize,
    TokenizePair,
    TokenizeWords,
    Vectors,
    matcher,
    read,
)
from pipeline.core.contexts import seeded
from pipeline.errors import OptionError, TextError
from support.columns import NotingPredictor
from support.needs import needs
from support.untyped import as_any

TEXTS = ["a fine film", "dull", "", "what a very dull evening this was", "fine", "a film"]
LABELS = Labels(["ham", "spam", "egg"])
TOKENIZE = Tokenize.train(TEXTS)


def make_body(size: int = TOKENIZE.vocab_size) -> Any:
    """Make a model from ids to states."""
    with seeded(0):
        return Embed(size, 3) >> Encode("bilstm", hidden_size=4)


def make_pipe(head: Any = None) -> Any:
    """Make a pipe for texts."""
    with seeded(0):
        pooled = make_body() >> Pool("max")
        return TOKENIZE >> Bucket(rows=2) >> Pad() >> pooled >> (head or Classify(LABELS, input_size=8))


def predict(pipe: Any, inputs: Sequence[Any]) -> list[Any]:
    """Return the predictions with their scores."""
    return list(pipe.predict(inputs, scores=True))


def test_a_class_and_its_probability_are_added() -> None:
    """For each row, in the order of the rows; other columns are kept."""
    pipe = make_pipe()
    found = ColumnPredictor(pipe, "review")({"number": [*range(6)], "review": TEXTS})
    assert list(found) == ["number", "review", "prediction", "probability"]
    wanted = predict(pipe, TEXTS)
    assert found["prediction"] == [each.label for each in wanted]
    assert found["probability"] == [each.probability for each in wanted]
    assert found["number"] == [*range(6)]


def test_columns_can_be_renamed_and_the_probability_left_out() -> None:
    """The table may have columns of these names."""
    columns = {"text": TEXTS, "prediction": [0] * 6, "probability": [0] * 6}
    found = ColumnPredictor(make_pipe(), prediction="class", probability=None)(columns)
    assert list(found) == ["text", "prediction", "probability", "class"]
    with pytest.raises(OptionError, match="columns must not have 'prediction' yet"):
        ColumnPredictor(make_pipe())(columns)


def test_several_heads_have_columns_of_their_own() -> None:
    """Named after the head; several classes are a list, and a number has no probability."""
    with seeded(0):
        heads = Heads(ClassifyMultiLabel(LABELS), Regress(), names=["topics", "stars"])
        pipe = make_pipe(heads)
    found = ColumnPredictor(pipe, prediction="p", probability="q")({"text": TEXTS})
    assert list(found) == ["text", "p_topics", "q_topics", "p_stars"]
    assert found["p_topics"] == [topics for topics, _ in pipe.predict(TEXTS)]
    assert found["p_stars"] == [stars for _, stars in pipe.predict(TEXTS)]


def test_a_tagger_gives_a_list_per_row() -> None:
    """From lists of words, also as arrays."""
    words = [text.split() for text in TEXTS]
    tokenize = TokenizeWords.train(words)
    with seeded(0):
        pipe = tokenize >> Bucket(rows=2) >> Pad() >> make_body(tokenize.vocab_size) >> Tag(LABELS)
    column = np.empty(6, object)
    column[:] = [np.array(row, object) for row in words]
    found = ColumnPredictor(pipe, "words")({"words": column})
    assert list(found["prediction"]) == list(pipe.predict(words))
    assert list(map(len, found["probability"])) == list(map(len, words))


def test_several_columns_are_a_pair_or_a_mapping() -> None:
    """As the input stage takes them."""
    columns: dict[str, list[str]] = {"question": TEXTS, "answer": TEXTS[::-1]}
    with seeded(0):
        model = matcher(TOKENIZE.vocab_size, LABELS, hidden_size=3)
    data = Bucket(TextPair, rows=2) >> Pad(TextPair)
    by_pairs = TokenizePair(TOKENIZE) >> data >> model
    fields = FromColumns(TextPair, first=read(TOKENIZE, "question"), second=read(TOKENIZE, "answer"))
    wanted = list(by_pairs.predict(zip(TEXTS, TEXTS[::-1], strict=True)))
    for predictor in (
        ColumnPredictor(by_pairs, ["question", "answer"]),
        ColumnPredictor(fields >> data >> model, ["question", "answer"]),
    ):
        assert predictor(columns)["prediction"] == wanted


def test_features_are_read_from_arrays() -> None:
    """Rows of sensor readings."""
    with seeded(0):
        model = Identity(2) >> Encode("gru", input_size=2, hidden_size=3) >> Pool("max") >> Regress()
    pipe = FromFeatures() >> Bucket(Vectors, rows=2) >> Pad(Vectors) >> model
    rows = np.random.default_rng(0).normal(size=(5, 3, 2))
    found = ColumnPredictor(pipe, "x")({"x": rows})
    assert list(found["prediction"]) == list(pipe.predict(rows.tolist()))
    assert list(found) == ["x", "prediction"]


def test_a_batch_without_rows_is_returned_as_it_is() -> None:
    """Parts of a data set may be empty."""
    empty: dict[str, list[str]] = {"text": [], "n": []}
    assert ColumnPredictor(make_pipe())(empty) == empty


def test_an_error_says_how_rows_are_numbered() -> None:
    """The row of the data set is not known here."""
    with pytest.raises(TextError, match="row 1 must be text, got None") as info:
        ColumnPredictor(make_pipe())({"text": ["a", None]})
    assert info.value.__notes__ == ["Rows are numbered from 0 within a batch of 2 rows of column 'text'."]


def test_a_pickled_copy_predicts_the_same() -> None:
    """Also after it has predicted."""
    predictor = ColumnPredictor(make_pipe())
    wanted = predictor({"text": TEXTS})
    assert pickle.loads(pickle.dumps(predictor))({"text": TEXTS}) == wanted


def test_a_function_makes_the_pipe_once_in_each_process() -> None:
    """It is pickled instead of the pipe."""
    calls: list[int] = []

    def make() -> Any:
        calls.append(1)
        return make_pipe()

    counted = ColumnPredictor(make)
    assert counted({"text": TEXTS}) == counted({"text": TEXTS})
    assert calls == [1]
    predictor = ColumnPredictor(make_pipe)
    wanted = predictor({"text": TEXTS})
    assert wanted == ColumnPredictor(make_pipe())({"text": TEXTS})
    assert len(pickle.dumps(predictor)) < 1_000
    assert pickle.loads(pickle.dumps(predictor))({"text": TEXTS}) == wanted
    with pytest.raises(OptionError, match="got a function that returns an int"):
        ColumnPredictor(as_any(partial(int, 3)))({"text": TEXTS})


def test_wrong_arguments_are_rejected() -> None:
    """As soon as they are given."""
    wrong: Any = "folder/"
    with pytest.raises(OptionError, match="pipe must be a pipe, or a function that returns one, got a str"):
        ColumnPredictor(wrong)
    with pytest.raises(OptionError, match="column must name a column, or list several, got \\[\\]"):
        ColumnPredictor(make_pipe(), [])
    with pytest.raises(OptionError, match="tokenize must be an input stage, such as Tokenize, got a Pad"):
        ColumnTokenizer(as_any(Pad()))


@needs("datasets")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", [None, "numpy", "arrow", "pandas"])
@pytest.mark.parametrize("processes", [None, 2])
def test_it_is_a_function_for_map_of_datasets(form: str | None, processes: int | None) -> None:
    """In each format, and in several processes."""
    datasets: Any = import_module("datasets")
    pipe = make_pipe()
    rows = datasets.Dataset.from_dict({"text": TEXTS, "number": range(6)}).with_format(form)
    found = rows.map(ColumnPredictor(pipe), batched=True, batch_size=4, num_proc=processes).with_format(None)
    assert list(found["prediction"]) == list(pipe.predict(TEXTS))
    assert list(found["number"]) == [*range(6)]


@needs("datasets")
def test_datasets_keep_results_of_equal_pipes() -> None:
    """They compare a digest of the function."""
    digest: Any = import_module("datasets.fingerprint").Hasher.hash
    first, copied, other = (ColumnPredictor(each) for each in (make_pipe(), make_pipe(), make_pipe(Regress(8))))
    assert digest(first) == digest(pickle.loads(pickle.dumps(copied)))
    assert digest(first) != digest(other)


@needs("ray", "pyarrow")
@pytest.mark.filterwarnings("ignore")
def test_two_workers_of_ray_predict_parquet_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts are tokenized, and two actors predict from the ids, each with a copy of the pipe."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))  # where workers find `support`
    ray, arrow, parquet = map(import_module, ("ray", "pyarrow", "pyarrow.parquet"))
    texts = [f"{text} {number}" for number in range(10) for text in TEXTS]
    for part in range(4):
        rows = slice(part * 15, part * 15 + 15)
        table: Any = arrow.table({"number": [*range(60)][rows], "text": texts[rows]})
        parquet.write_table(table, tmp_path / f"{part}.parquet")
    pipe = make_pipe()
    ids = FromIds() >> Bucket(rows=4) >> Pad() >> pipe.get_submodule("embed") >> pipe.get_submodule("encode")
    from_ids = ids >> pipe.get_submodule("pool") >> pipe.get_submodule("classify")
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars, context.wait_for_min_actors_s = False, 120
        data = ray.data.read_parquet(str(tmp_path)).repartition(4)
        prepared = data.map_batches(ColumnTokenizer(TOKENIZE), batch_size=8, batch_format="pyarrow")
        workers = ray.data.ActorPoolStrategy(size=2, max_tasks_in_flight_per_actor=1)
        predicted = prepared.map_batches(
            NotingPredictor, fn_constructor_args=(from_ids, "ids"), batch_size=8, compute=workers
        )
        found = sorted(predicted.take_all(), key=lambda row: row["number"])
    finally:
        ray.shutdown()
    assert [row["prediction"] for row in found] == list(pipe.predict(texts))
    assert [row["length"] for row in found] == [len(text.split()) for text in texts]
    assert len({row["process"] for row in found}) == 2
