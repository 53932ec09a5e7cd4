"""Plans at work in training: samplers, rows by number, and loaders that know where they stand."""

from pipeline.loading.tally import Tally as Tally
