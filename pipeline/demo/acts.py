"""The two acts: each teaches its pipe, asks it about the held-out lines, and asks a simple rule as well."""

import inspect
from collections.abc import Sequence

from pipeline import Example, Report
from pipeline.demo.baseline import Windows, commonest
from pipeline.demo.highlight import highlighter, sorter, teach
from pipeline.demo.score import Contest, Highlighted, Sorted, characters_right, lines_right, share, unbucketed
from pipeline.demo.screen import Screen
from pipeline.demo.source import Line, labelled


def act_one(
    screen: Screen, training: Sequence[Line], held_out: Sequence[Line], *, epochs: int, seed: int
) -> Highlighted:
    """Say what each character of a line is."""
    data, model = highlighter([line.text for line in training], seed)
    pipe = data >> model
    screen.title("Act one: what each character of a line is")
    screen.say(repr(pipe))
    examples = [Example(line.text, target=line.classes) for line in training]
    steps = screen.follow(teach(data, model, examples, epochs=epochs), rows=epochs * len(examples))
    with screen.busy("asking about the held-out lines"):
        given = list(pipe.predict(line.text for line in held_out))
        windows = Windows(training)
        own = labelled(inspect.getsource(highlighter), "pipeline/demo/highlight.py")
        looked_up = [windows.classes(line.text) for line in held_out]
    rule = "commonest class of the 7 characters around"
    # Every epoch cuts the same rows into the same batches, only in another order.
    batches = [step.report for step in steps[: len(steps) // epochs]]
    return Highlighted(
        held_out,
        given,
        list(zip(own, pipe.predict(line.text for line in own), strict=True)),
        Contest("characters", characters_right(given, held_out), characters_right(looked_up, held_out), rule),
        Contest("whole lines", lines_right(given, held_out), lines_right(looked_up, held_out), rule),
        sum(batches, start=Report()),
        unbucketed([len(line.text) for line in training], batches, seed),
        [step.loss for step in steps],
    )


def act_two(screen: Screen, training: Sequence[Line], held_out: Sequence[Line], *, seed: int) -> Sorted:
    """Say what kind of line each is, of all lines, after one epoch."""
    data, model = sorter([line.text for line in training], seed)
    pipe = data >> model
    screen.title("Act two: what kind of line it is")
    screen.say(repr(pipe))
    examples = [Example(line.text, target=line.kind) for line in training]
    steps = screen.follow(teach(data, model, examples, epochs=1), rows=len(examples))
    with screen.busy("asking about the held-out lines"):
        given = list(pipe.predict(line.text for line in held_out))
    screen.title("One line on its way through act two")
    screen.console.print(pipe.inspect("import this"))
    guess = commonest(line.kind for line in training)
    right = [kind == line.kind for kind, line in zip(given, held_out, strict=True)]
    by_rule = share([guess == line.kind for line in held_out])
    contest = Contest("kinds of lines", share(right), by_rule, f"always {guess}, the commonest")
    return Sorted(given, contest, [step.loss for step in steps])
