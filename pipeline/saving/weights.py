"""The weights of a pipe: collected, compared with those of the pipe that its configuration makes, and put in place."""

from collections.abc import Iterator, Mapping
from typing import Final, NoReturn, cast

import torch
from torch import Tensor, nn

from pipeline.checks.module_hooks import FORWARD_HOOKS
from pipeline.errors import LoadError, SaveError

_SCALARS: Final = (bool, int, float, str, type(None))


def list_tensors(pipe: nn.Module) -> dict[str, Tensor]:
    """Return all parameters and buffers by name; a shared one has several names."""
    return {
        **dict(pipe.named_parameters(remove_duplicate=False)),
        **dict(pipe.named_buffers(remove_duplicate=False)),
    }


def list_saved_tensors(pipe: nn.Module, made: nn.Module) -> dict[str, Tensor]:
    """Return the tensors to save, after checking that the pipe made from the configuration has places for all.

    Args:
        pipe: the pipe to save.
        made: the pipe that its configuration makes, on the `meta` device.

    Raises:
        SaveError: naming the module or the tensor that would be lost or different.
    """
    _compare_modules(pipe, made)
    tensors, places = list_tensors(pipe), list_tensors(made)
    caches = set(_list_caches(pipe))
    for name, tensor in tensors.items():
        place = places.get(name)
        if place is None or not _fits(tensor, place):
            if name in caches and place is None:
                continue
            has = "has no such tensor" if place is None else f"has a tensor of {_describe(place)}"
            _reject(f"tensor {name!r} is {_describe(tensor)}, but the pipe made from the configuration {has}")
    missing = next((name for name in places if name not in tensors), None)
    if missing is not None:
        _reject(f"the pipe made from the configuration has a tensor {missing!r}, which this pipe does not have")
    return {name: tensor for name, tensor in tensors.items() if name in places}


def list_frozen(pipe: nn.Module) -> list[str]:
    """Return the names of the parameters that do not require gradients."""
    return [name for name, each in pipe.named_parameters(remove_duplicate=False) if not each.requires_grad]


def put_weights(made: nn.Module, tensors: Mapping[str, Tensor], frozen: frozenset[str]) -> None:
    """Put tensors in the places of those on the `meta` device. A tensor with several names stays one parameter.

    Raises:
        LoadError: if names, shapes or types do not agree, or a place is left without a tensor.
    """
    places = list_tensors(made)
    if places.keys() != tensors.keys():
        differ = sorted(places.keys() ^ tensors.keys())
        msg = (
            f"the weights do not fit the configuration: {len(differ)} names differ, the first is {differ[0]!r:.80}; "
            "save the pipe again."
        )
        raise LoadError(msg, names=differ)
    if not frozen <= places.keys():
        raise LoadError("the configuration freezes a tensor that the pipe does not have; save the pipe again.")
    parameters: dict[int, nn.Parameter] = {}
    for name, place in places.items():
        tensor = tensors[name]
        if not _fits(tensor, place):
            msg = (
                f"tensor {name!r:.80} has {_describe(tensor)}, but the configuration asks for {_describe(place)}; "
                "save the pipe again."
            )
            raise LoadError(msg, tensor=name)
        parent, _, leaf = name.rpartition(".")
        module = made.get_submodule(parent)
        if isinstance(place, nn.Parameter):
            # By identity: aliases in the file are one tensor.
            tensor = parameters.setdefault(id(tensor), nn.Parameter(tensor, requires_grad=name not in frozen))
        setattr(module, leaf, tensor)
    left = next(_list_left(made), None)
    if left is not None:
        msg = f"{left} has no values after loading; register it as a buffer in its class."
        raise LoadError(msg)


def check_complete(made: nn.Module) -> None:
    """Reject a pipe with tensors that are neither parameters nor buffers, and so would have no values when loaded.

    Raises:
        SaveError: naming the tensor.
    """
    left = next(_list_plain(made), None)
    if left is not None:
        _reject(f"{left} is a tensor, but neither a parameter nor a buffer; register it with register_buffer")


def _fits(tensor: Tensor, place: Tensor) -> bool:
    """Return whether a tensor can take a place; the number of bits may differ, as of a model in bfloat16."""
    return tensor.shape == place.shape and _get_class(tensor.dtype) == _get_class(place.dtype)


def _get_class(dtype: torch.dtype) -> object:
    return "float" if dtype.is_floating_point else "complex" if dtype.is_complex else dtype


def _describe(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} of {str(tensor.dtype).removeprefix('torch.')}"


def _list_caches(pipe: nn.Module) -> Iterator[str]:
    """Yield the names of buffers that their module leaves out of its state-dict."""
    for prefix, module in _list_modules(pipe):
        left_out = cast("set[str]", getattr(module, "_non_persistent_buffers_set"))  # noqa: B009 - torch has no other way
        yield from (f"{prefix}.{name}" if prefix else name for name in left_out)


def _list_modules(pipe: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield every module by name; a shared one has several names. Torch leaves the type open."""
    return cast("Iterator[tuple[str, nn.Module]]", pipe.named_modules(remove_duplicate=False))


def _compare_modules(pipe: nn.Module, made: nn.Module) -> None:
    modules, others = dict(_list_modules(pipe)), dict(_list_modules(made))
    for name in [*modules, *others]:
        one, other = modules.get(name), others.get(name)
        if type(one) is not type(other):
            got, wanted = (type(each).__name__ if each is not None else "no module" for each in (one, other))
            _reject(f"module {name!r} is {got}, but the pipe made from the configuration has {wanted}")
        if one is not None and other is not None:
            _compare_attributes(name, one, other)


def _compare_attributes(name: str, one: nn.Module, other: nn.Module) -> None:
    """Reject a module with settings or hooks that the configuration does not reproduce."""
    if type(one).get_extra_state is not nn.Module.get_extra_state:
        _reject(f"module {name!r} has an extra state, which is no tensor; make it a buffer, or an option")
    for hooks in FORWARD_HOOKS:
        if len(vars(one)[hooks]) > len(vars(other)[hooks]):
            _reject(f"module {name!r} has a forward hook, which is code; remove it before")
    values, others = _get_settings(one), _get_settings(other)
    for key in [*values, *others]:
        if key not in values or key not in others or values[key] != others[key]:
            got, wanted = (each.get(key, "nothing") for each in (values, others))
            _reject(
                f"attribute {key!r} of module {name!r} is {got!r:.60}, but {wanted!r:.60} in the pipe made from the "
                "configuration; make it an option of the class, or return it from get_config"
            )


def _get_settings(module: nn.Module) -> dict[str, object]:
    """Return the public attributes that are plain values; NaN equals itself by its text."""
    found = ((name, value) for name, value in vars(module).items() if not name.startswith("_") and name != "training")
    return {name: str(value) if value != value else value for name, value in found if isinstance(value, _SCALARS)}  # noqa: PLR0124


def _list_plain(made: nn.Module) -> Iterator[str]:
    for prefix, module in _list_modules(made):
        for name, value in vars(module).items():
            items = cast("list[object]", value) if isinstance(value, list | tuple) else [value]
            # Torch's recurrent layers keep a list of their parameters.
            if any(isinstance(item, Tensor) and not isinstance(item, nn.Parameter) for item in items):
                yield f"attribute {name!r} of module {prefix!r}"


def _list_left(made: nn.Module) -> Iterator[str]:
    yield from (f"tensor {name!r}" for name, tensor in list_tensors(made).items() if tensor.is_meta)
    for prefix, module in _list_modules(made):
        for name, value in vars(module).items():
            items = cast("list[object]", value) if isinstance(value, list | tuple) else [value]
            if any(isinstance(item, Tensor) and item.is_meta for item in items):
                yield f"attribute {name!r} of module {prefix!r}"


def _reject(reason: str) -> NoReturn:
    msg = f"the pipe cannot be saved completely: {reason}. Nothing was written."
    raise SaveError(msg, reason=reason)
