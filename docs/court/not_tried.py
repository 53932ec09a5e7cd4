"""Libraries that could not be judged, and why."""

from collections.abc import Mapping
from typing import Final

NOT_TRIED: Final[Mapping[str, str]] = {
    "fairseq2 0.8.1": "its compiled part, fairseq2n, is built for torch 2.9.1, and needs the system's libsndfile",
    "flair 0.15.1": "it needs transformers below 5: it imports a class that transformers 5 has not, beside which the "
    "other libraries are installed",
    "tsai 1.0.1": "it imports torchvision, whose package on PyPI does not load beside torch's package for CPUs: "
    "operator torchvision::nms does not exist",
}
"""The reasons why these libraries could not be installed beside the pinned torch."""
