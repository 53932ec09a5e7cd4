"""The state of a training as JSON and tensors, without pickle: reading it runs no code."""

import math
import random
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.checks.hints import describe
from pipeline.errors import LoadError, SaveError
from pipeline.training.sharding import shard_like

# Typed by hand: torch leaves the types of these open.
_seed_torch: Final[Callable[[int], object]] = getattr(torch, "manual_seed")  # noqa: B009
_is_cuda_used: Final[Callable[[], bool]] = torch.cuda.is_initialized


def split_tensors(value: object, tensors: dict[str, Tensor], path: str = "state") -> Any:  # noqa: ANN401, PLR0911 - JSON
    """Return a value as JSON, and put its tensors into a dictionary under their paths.

    What JSON does not have is an object with one key that begins with "$": tuples, mappings with other keys than
    texts, infinite numbers, and references to tensors.

    Raises:
        SaveError: for an object of another type, with its path.

    Example:
        >>> tensors = {}
        >>> split_tensors({"betas": (0.9, 0.99), "state": {0: torch.ones(2)}}, tensors)
        {'betas': {'$tuple': [0.9, 0.99]}, 'state': {'$pairs': [[0, {'$tensor': 'state.state.0'}]]}}
        >>> join_tensors(split_tensors({0: math.inf}, tensors), tensors)
        {0: inf}
    """
    if isinstance(value, Tensor):
        assert path not in tensors
        tensors[path] = value.detach()
        return {"$tensor": path}
    if isinstance(value, Mapping):
        items = list(cast("Mapping[object, object]", value).items())
        converted = [[key, split_tensors(each, tensors, f"{path}.{key}")] for key, each in items]
        if isinstance(value, Counter):
            return {"$counter": converted}
        if all(isinstance(key, str) and not key.startswith("$") for key, _ in items):
            return dict(cast("list[tuple[str, Any]]", converted))
        return {"$pairs": [[split_tensors(key, tensors, path), each] for key, each in converted]}
    if isinstance(value, list | tuple | deque):
        sequence = cast("list[object]", value)
        converted = [split_tensors(each, tensors, f"{path}.{index}") for index, each in enumerate(sequence)]
        return converted if isinstance(value, list) else {"$tuple": converted}
    if isinstance(value, np.generic):
        return split_tensors(cast("object", value.item()), tensors, path)
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": repr(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    msg = (
        f"{path} is {describe(value)}, which a checkpoint cannot store without pickle; use an optimizer or a scheduler "
        "whose state_dict holds numbers and tensors, or leave out checkpoints."
    )
    raise SaveError(msg, path=path)


def join_tensors(value: Any, tensors: Mapping[str, Tensor]) -> Any:  # noqa: ANN401, PLR0911 - as above
    """Return the value that `split_tensors` split.

    Raises:
        LoadError: if a tensor is missing.
    """
    given: object = value
    if isinstance(given, list):
        return [join_tensors(each, tensors) for each in cast("list[object]", given)]
    if not isinstance(given, dict):
        return given
    match cast("dict[str, Any]", given):
        case {"$tensor": path, **rest} if not rest:
            if path not in tensors:
                msg = f"the checkpoint lacks the tensor {path!r}; use another one."
                raise LoadError(msg, path=path)
            return tensors[path]
        case {"$tuple": items, **rest} if not rest:
            return tuple(join_tensors(items, tensors))
        case {"$pairs": items, **rest} if not rest:
            return dict(join_tensors(items, tensors))
        case {"$counter": items, **rest} if not rest:
            return Counter(dict(join_tensors(items, tensors)))
        case {"$float": text, **rest} if not rest:
            return float(text)
        case found:
            return {key: join_tensors(each, tensors) for key, each in found.items()}


def get_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return all weights and buffers of a module by name; shared ones once."""
    return {name: tensor.detach() for name, tensor in (*module.named_parameters(), *module.named_buffers())}


@torch.no_grad()
def load_tensors(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy weights and buffers into a module, in place."""
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        tensor.copy_(shard_like(tensors[name], tensor))


def seed_generators(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch."""
    _seed_torch(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - the global generator, from which a stage of a user's may draw


def get_random_state() -> dict[str, Any]:
    """Return the states of the global generators of Python, NumPy and torch."""
    name, keys, *rest = cast("tuple[Any, ...]", np.random.get_state())  # noqa: NPY002
    return {
        "python": random.getstate(),
        "numpy": (name, keys.tolist(), *rest),
        "torch": torch.get_rng_state(),
        # Asking CUDA for its state would initialize it.
        "cuda": torch.cuda.get_rng_state_all() if _is_cuda_used() else [],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Set the states of `get_random_state`."""
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
