"""What a loader is given, and whether it goes together."""

from collections.abc import Mapping, Sized

from pipeline.batching.numbers import whole
from pipeline.batching.pieces import Pieces
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
    """Refuse a dataset whose rows are not those of a plan: all would seem well, and batches hold other rows.

    Raises:
        OptionError: if it has another number of rows, or leaves rows whole that the plan cuts.
    """
    wanted = plan.pieces
    pieces: object = getattr(dataset, "pieces", None)
    cuts = pieces if isinstance(pieces, Pieces) else Pieces(len(dataset))
    if (cuts.limit, len(cuts.further)) != (wanted.limit, len(wanted.further)):
        msg = (
            f"the policy cuts rows at {wanted.limit} steps, but the dataset at {cuts.limit}; make it with the "
            "pieces of the plan: RowDataset(source, door, pieces=batches.pieces)."
        )
        raise OptionError(msg, limit=cuts.limit, wanted=wanted.limit)
    if cuts.rows != wanted.rows:
        msg = (
            f"batches were planned of {wanted.rows} lengths, but the dataset has {cuts.rows} rows; give each row its "
            "length, and no other."
        )
        raise OptionError(msg, rows=cuts.rows, lengths=wanted.rows)
