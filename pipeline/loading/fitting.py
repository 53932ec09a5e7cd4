"""What a loader is given, and whether it goes together."""

from collections.abc import Mapping, Sized

from pipeline.batching.numbers import whole
from pipeline.batching.plan import Plan
from pipeline.errors import OptionError


def check_workers(workers: int, options: Mapping[str, object]) -> None:
    """Refuse options for workers where there are none.

    Raises:
        OptionError: for one of them, or for less than no workers.
    """
    whole("num_workers", workers, least=0)
    given = [name for name, option in options.items() if option]
    if given and not workers:
        msg = f"{given[0]} is for workers, but num_workers is 0; leave it out, or take num_workers=1 or more."
        raise OptionError(msg, option=given[0])


def check_rows(dataset: Sized, plan: Plan) -> None:
    """Refuse a dataset whose rows are not those of a plan: nothing would fail, and batches hold other rows.

    Raises:
        OptionError: if it has another number of rows.
    """
    if len(dataset) != plan.rows:
        msg = (
            f"batches were planned of {plan.rows} lengths, but the dataset has {len(dataset)} rows; give each row its "
            "length, and no other."
        )
        raise OptionError(msg, rows=len(dataset), lengths=plan.rows)
