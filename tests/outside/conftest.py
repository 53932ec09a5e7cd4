"""A stranger's package brings its own tests, which run where it is installed."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("pipeline_mingru") else ["pipeline-mingru"]
