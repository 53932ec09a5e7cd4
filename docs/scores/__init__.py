"""Scores on public data sets, each by one command: `python docs/scores NAME FOLDER`."""
