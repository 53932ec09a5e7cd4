"""The end of a `DataLoader`'s workers."""

from contextlib import suppress


def end_workers(answers: object) -> None:
    """End the workers behind a loader's iterator now, if it has any, and not whenever it is collected.

    A traceback keeps an iterator alive, and where the collector of cycles finds it, what workers wait on is gone before
    they are told: those that only just begin fail, which torch reports from within whatever is running then.
    """
    end = getattr(answers, "_shutdown_workers", None)
    # Workers that fail while they end have nothing to say any more; torch terminates what is left.
    with suppress(RuntimeError):
        if callable(end):
            end()
