"""All that can be measured, by name."""

from collections.abc import Mapping
from typing import Final

from bench.measured.attend import ATTEND
from bench.measured.checks import CHECKS
from bench.measured.encode import ENCODE
from bench.measured.epoch import EPOCH
from bench.measured.measurement import Measurement
from bench.measured.packing import PACKING

MEASUREMENTS: Final[Mapping[str, Measurement]] = {
    measurement.name: measurement for measurement in (ENCODE, ATTEND, EPOCH, PACKING, CHECKS)
}
"""In the order in which a plain run goes through them."""
