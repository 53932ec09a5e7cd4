"""All that can be measured, by name."""

from collections.abc import Mapping
from typing import Final

from bench.measured.attend import ATTEND
from bench.measured.batch import BATCH
from bench.measured.checks import CHECKS
from bench.measured.encode import ENCODE
from bench.measured.epoch import EPOCH
from bench.measured.measurement import Measurement
from bench.measured.packing import PACKING
from bench.measured.table import TABLE

MEASUREMENTS: Final[Mapping[str, Measurement]] = {
    measurement.name: measurement for measurement in (ENCODE, TABLE, ATTEND, EPOCH, PACKING, CHECKS, BATCH)
}
"""In the order in which a plain run goes through them."""
