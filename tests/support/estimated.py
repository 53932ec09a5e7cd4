"""Functions that make pipes for estimators, which other processes can import."""

from collections.abc import Sequence
from typing import Any

from pipeline import Bucket, Classify, Encode, FromFeatures, Identity, Labels, Numbers, Pad, Pool, Regress, Vectors


def make_number_classifier(inputs: Sequence[Any], targets: Sequence[str], **options: Any) -> Any:
    """Make a pipe that reads each row of a table as a sequence of numbers."""
    del inputs
    labels = Labels.from_targets(targets)
    data = FromFeatures() >> Bucket(Vectors, rows=8) >> Pad(Vectors, labels=labels)
    return (
        data
        >> Identity(1)
        >> Encode("gru", hidden_size=options.get("hidden_size", 4))
        >> Pool("max")
        >> Classify(labels)
    )


def make_number_regressor(inputs: Sequence[Any], targets: Sequence[float]) -> Any:
    """Make a pipe that predicts a number from a sequence of numbers."""
    del inputs, targets
    data = FromFeatures() >> Bucket(Vectors, rows=8) >> Pad(Vectors, targets=Numbers())
    return data >> Identity(1) >> Encode("gru", hidden_size=4) >> Pool("max") >> Regress()
