"""The demo: a model learns to highlight Python, and shows what it learned.

It needs no download: the lines are the standard library's. Start it with `python -m pipeline demo`, or call `run`.
What to read is `highlight.py`.
"""

from pipeline.demo.play import run as run
from pipeline.demo.score import Result as Result
