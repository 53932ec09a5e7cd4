"""State that a part could change for the whole program: torch's settings and the random generators."""

import random
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from functools import partial
from operator import attrgetter
from typing import Final, Self

import attrs
import numpy as np
import torch

from pipeline.core.contexts import preserve_random_state


@attrs.frozen
class GlobalState:
    """Settings of torch and NumPy, by their names in messages. The random generators are not among them."""

    settings: Mapping[str, object]

    @classmethod
    def read(cls) -> Self:
        """Read the current settings."""
        return cls({name: get() for name, (get, _) in _SETTINGS.items()})

    def list_changes(self) -> list[str]:
        """Return the names of the settings that have changed, and restore them."""
        changed = [name for name, (get, _) in _SETTINGS.items() if get() != self.settings[name]]
        for name in changed:
            _SETTINGS[name][1](self.settings[name])
        return changed


def read_generators() -> dict[str, object]:
    """Return the states of the random generators, in a form that can be compared."""
    kind, keys, *position = np.random.get_state(legacy=True)  # noqa: NPY002 - the global generator
    return {
        "torch": tuple(torch.default_generator.get_state().numpy().tobytes()),
        "Python": random.getstate(),
        "NumPy": (kind, np.asarray(keys).tobytes(), *position),
    }


def seed_generators(seed: int) -> None:
    """Seed the random generators."""
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the global generator


@contextmanager
def preserve_state() -> Generator[None]:
    """Restore the settings and the random generators at the end."""
    before = GlobalState.read()
    try:
        with preserve_random_state():
            yield
    finally:
        before.list_changes()


def _find(name: str) -> Callable[..., object]:
    """Return a function of torch that has no annotations."""
    found: Callable[..., object] = attrgetter(name)(torch)
    return found


def _set_grad_enabled(enabled: bool) -> None:
    # Not a context manager: the mode stays.
    torch.set_grad_enabled(enabled)


def _set_numpy_errors(options: Mapping[str, object]) -> None:
    set_errors: Callable[..., object] = attrgetter("seterr")(np)  # its types name each possible text
    set_errors(**options)


def _flushes_denormals() -> bool:
    # torch has no function that tells. The product is denormal: smaller than 2.2e-308.
    return not torch.tensor(1e-300, dtype=torch.float64).mul(1e-10).count_nonzero()


def _pair(owner: str, name: str) -> tuple[Callable[[], object], Callable[..., object]]:
    """Return functions that read and set an attribute of a module of torch."""
    module: object = attrgetter(owner)(torch)
    return partial(getattr, module, name), partial(setattr, module, name)


_SETTINGS: Final[Mapping[str, tuple[Callable[[], object], Callable[..., object]]]] = {
    "the default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "the default device": (_find("get_default_device"), _find("set_default_device")),
    "the grad mode": (torch.is_grad_enabled, _set_grad_enabled),
    "the anomaly detection of autograd": (_find("is_anomaly_enabled"), _find("autograd.set_detect_anomaly")),
    "autocast": (partial(_find("is_autocast_enabled"), "cpu"), partial(_find("set_autocast_enabled"), "cpu")),
    "the number of threads": (torch.get_num_threads, torch.set_num_threads),
    "the use of deterministic algorithms": (
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
    ),
    "the precision of matrix products": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    "the use of oneDNN": _pair("backends.mkldnn", "enabled"),
    "the use of cuDNN": _pair("backends.cudnn", "enabled"),
    "the benchmark mode of cuDNN": _pair("backends.cudnn", "benchmark"),
    "the determinism of cuDNN": _pair("backends.cudnn", "deterministic"),
    "the rounding of denormal numbers": (_flushes_denormals, torch.set_flush_denormal),
    "NumPy's handling of errors": (np.geterr, _set_numpy_errors),
}
"""How to read and to restore each setting, by its name in messages."""
