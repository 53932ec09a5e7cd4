"""Lines with generation that must not type-check; marked and tested like those of wrong.py."""

from pipeline import (
    Bucket,
    Encode,
    FromFeatures,
    FromIds,
    Pad,
    Pool,
    Regress,
    Tag,
    Tokenize,
    Vectors,
    classifier,
    language_model,
)
from pipeline_recurrent import LSTM

tokenize = Tokenize.train(["to be"], bos=True)
model = language_model(9)
of_texts = tokenize >> Bucket(rows=8) >> Pad() >> model
of_ids = FromIds() >> Bucket(rows=8) >> Pad() >> model
sensor = FromFeatures() >> Bucket(Vectors, rows=8) >> Pad(Vectors) >> Encode(LSTM(2, 3)) >> Tag(2)
classes = tokenize >> Bucket(rows=8) >> Pad() >> classifier(9, 2)
numbers = FromFeatures() >> Bucket(Vectors, rows=8) >> Pad(Vectors) >> Encode(LSTM(2, 3)) >> Pool("max") >> Regress()

of_texts.generate([[1, 2]], max_new_tokens=2)  # E call: ids for a pipe of texts
of_ids.generate(["to be"], max_new_tokens=2)  # E call: texts for a pipe of ids
of_texts.generate(["to be"])  # E call: no number of tokens
of_texts.generate(["to be"], max_new_tokens="2")  # E call: not a number
of_texts.generate(["to be"], max_new_tokens=2, top_q=0.9)  # E call: no such option
wanted: list[str] = list(of_ids.generate([[1]], max_new_tokens=2))  # E prediction: ids, not texts
sensor.generate([[0.5]], max_new_tokens=2)  # E call: a sensor has no tokens
classes.generate(["to be"], max_new_tokens=2)  # E prediction: one class per row, not per step
numbers.step([0.5, 1.0])  # E prediction: a number per row has no step
sensor.step("on")  # E call: a text is not a reading
model.step([1, 2])  # E call: a list is neither a tensor nor a batch
sensor.step([0.5, 1.0], 3)  # E call: not a carry
