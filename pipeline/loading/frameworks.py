"""Work with Lightning, which takes batches early and hands over states late; reject uses of Accelerate that lose rows.

Lightning saves and loads the states of loaders in checkpoints, but not always those of the training loop:

- From a loader without a length, it takes one batch ahead of training, to know which batch is the last. Then the state
  after the last batch that was yielded is one batch too far.
- `trainer.estimated_stepping_batches`, and a checkpoint at the end of an epoch, make it skip loading the state. Batches
  would be served twice, and the last ones of the epoch not at all.

Lightning has no interface for either, so its loop is looked up among the callers. `tests/loading/test_lightning.py`
fails if a new version of Lightning changes what is read here. Without Lightning, nothing is looked up.

Accelerate splits the batches of an iterable dataset among ranks: it cuts them, or deals them out once more. A stream
has shared its rows among the ranks already.
"""

import sys
from collections.abc import Mapping, Sequence
from inspect import currentframe
from typing import Any, Final, cast

from pipeline.errors import OptionError

_LIGHTNING: Final = ("lightning", "pytorch_lightning")
_ACCELERATE: Final = ("accelerate",)


class UnsupportedUseError(OptionError, AttributeError):
    """An attribute that a library reads for a use that a loader does not support; `hasattr` is False for it."""


def make_skip_error(loader: object, attribute: str) -> UnsupportedUseError:
    """Return the error for `accelerate.skip_first_batches`, which reads an attribute that our loaders do not have."""
    name = type(loader).__name__
    msg = (
        f"{name} has no {attribute}, so accelerate.skip_first_batches cannot skip its batches; resume with "
        f"{name}.load_state_dict(state), or let Accelerate keep its state: "
        "accelerator.register_for_checkpointing(loader)."
    )
    return UnsupportedUseError(msg, attribute=attribute)


def reject_accelerate_split() -> None:
    """Raise if Accelerate is about to split the batches of a stream among ranks.

    Raises:
        OptionError: if one of its classes that do so is among the callers.
    """
    if _find_caller(_ACCELERATE, {"DataLoaderDispatcher", "IterableDatasetShard"}) is None:
        return
    msg = (
        "a StreamDataset shares its rows among the ranks itself, and accelerator.prepare would split its batches once "
        "more; leave it out of prepare, and use a StreamLoader or a DataLoader as it is."
    )
    raise OptionError(msg)


def count_batches_ahead() -> int:
    """Return the number of batches that a Lightning loop among the callers took, but has not trained on yet."""
    fetcher = getattr(_find_fit_loop(), "_data_fetcher", None)
    batches: object = getattr(fetcher, "batches", None)
    return len(cast("list[object]", batches)) if isinstance(batches, list) else 0


def find_pending_state(loader: object, *, even_at_end: bool = False) -> Mapping[str, object] | None:
    """Return the state of a loader that a Lightning loop among the callers has, but did not load.

    Args:
        loader: the loader, among those of the loop.
        even_at_end: return a state at the end of an epoch, too. A loop starts the next epoch by itself if the loader
            has a length.
    """
    loop = _find_fit_loop()
    if loop is None:
        return None
    loaders: Sequence[object] = getattr(getattr(loop, "_combined_loader", None), "flattened", ())
    stateful = [one for one in loaders if hasattr(one, "state_dict") and hasattr(one, "load_state_dict")]
    numbers = [number for number, one in enumerate(stateful) if one is loader]
    states: list[Any] = getattr(loop, "_combined_loader_states_to_load", []) if even_at_end or loop.restarting else []
    if not states and even_at_end:
        states = _find_states_in_checkpoint(loop)
    if len(numbers) != 1 or len(states) != len(stateful) or states[numbers[0]] is None:
        return None
    found: Mapping[str, object] = states[numbers[0]]
    # Only once: the loop keeps the states for as long as it runs.
    states[numbers[0]] = None
    return found


def _find_states_in_checkpoint(loop: Any) -> list[Any]:  # noqa: ANN401 - a class of Lightning
    """Return the states in the checkpoint that a trainer has read, but did not hand to its loops yet."""
    connector = getattr(loop.trainer, "_checkpoint_connector", None)
    content: Any = getattr(connector, "_loaded_checkpoint", None)
    for key in ("loops", "fit_loop", "state_dict", "combined_loader"):
        content = cast("Mapping[str, Any]", content).get(key) if isinstance(content, Mapping) else None
    states: list[Any] = content or []
    return states


def _find_fit_loop() -> Any:  # noqa: ANN401 - a class of Lightning
    """Return the loop of Lightning that called this function, through any other functions; None without one."""
    return _find_caller(_LIGHTNING, {"_FitLoop"})


def _find_caller(packages: tuple[str, ...], names: set[str]) -> Any:  # noqa: ANN401 - a class of another library
    """Return the object of one of some classes whose method called this function; None without one."""
    if not any(package in sys.modules for package in packages):
        return None
    frame = currentframe()
    while frame is not None:
        if str(frame.f_globals.get("__name__", "")).partition(".")[0] in packages:
            caller = frame.f_locals.get("self")
            if type(caller).__name__ in names:
                return caller
        frame = frame.f_back
    return None
