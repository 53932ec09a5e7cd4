"""A stranger's package brings its own tests, which run where it is installed."""

from importlib.util import find_spec

collect_ignore = [f"pipeline-{name}" for name in ("highway", "mingru") if not find_spec(f"pipeline_{name}")]
