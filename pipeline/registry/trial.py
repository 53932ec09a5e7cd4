"""The trial of a plugin's part when it is first created: laws that show whether its declared attributes are true."""

import copy
import inspect
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias, cast

import attrs
import torch
from torch import nn

from pipeline.laws import attentions, data, encoders, law, pools, rows, stages, tokenizers
from pipeline.registry.sampling import preserve_global_state, read_parameters

_Laws: TypeAlias = Sequence[law.Law[Any]]

TIME_LIMIT: Final = 2.0
"""Seconds after which no further law starts: a user who writes `Encode("name")` is waiting."""

# Texts for tokenizers, since the user's own texts may be an iterator that can be read only once.
_TEXTS: Final = ("a fine film", "a dull film")

# Larger integers among the options are reduced to this, or to the next multiple that suits the smaller ones.
_SIZE: Final = 8

# Options that count layers are reduced to this: two layers show as much as twelve.
_LAYERS: Final = 2

_LAYER_WORDS: Final = ("layer", "block", "depth")

# The laws about declared attributes, by hook, because stages rely on these. The other laws take longer, and belong in
# the tests of the plugin.
_LAWS: Final[Mapping[str, _Laws]] = {
    "pipeline_encoders": (
        encoders.declared_attributes_are_valid,
        encoders.output_sizes_match_declared,
        encoders.metadata_is_passed_on,
        encoders.empty_rows_return_initial_carry,
        rows.causal_steps_do_not_look_ahead,
        encoders.bidirectional_reads_from_both_ends,
        encoders.carry_matches_declared,
    ),
    "pipeline_attentions": (attentions.attention_sizes_match_declared, attentions.compare_of_project_equals_score),
    "pipeline_pools": (pools.pooled_sizes_match_declared, pools.empty_rows_give_zeros),
    "pipeline_tokenizers": (tokenizers.vocabulary_is_valid, tokenizers.ids_are_in_vocabulary),
    "pipeline_stages": (stages.stages_pass_metadata_on, stages.build_returns_output_size),
    "pipeline_embedders": (stages.stages_pass_metadata_on, stages.build_returns_output_size),
    "pipeline_heads": (stages.stages_pass_metadata_on, stages.predictions_are_per_row),
    "pipeline_policies": (data.room_does_not_grow_with_length,),
    "pipeline_metrics": (data.merged_metrics_equal_the_whole,),
}


@attrs.frozen
class Outcome:
    """Result of a trial.

    Attributes:
        problem: the rule that the part breaks, as the end of a sentence; None if it breaks none.
        cause: the error that showed it.
        not_run: names of the laws for which there was no time.
    """

    problem: str | None = None
    cause: Exception | None = None
    not_run: Sequence[str] = ()


def try_part(hook: str, factory: Callable[..., object], options: Mapping[str, object]) -> Outcome:
    """Run the laws about declared attributes on parts that a factory creates.

    A law first runs on a small part: the user's options, with all sizes reduced. If the law is broken, it runs again
    with the user's own sizes, so that a reduced size is never the reason for an error. Global state is restored.

    Args:
        hook: the hook through which the part is offered.
        factory: creates the part.
        options: the options that the user wrote.

    Example:
        >>> from pipeline_recurrent import GRU
        >>> try_part("pipeline_encoders", GRU, {"input_size": 3, "hidden_size": 2_048, "num_layers": 12})
        Outcome(problem=None, cause=None, not_run=())
    """
    if hook not in _LAWS:
        # Sources and engines: a trial would read the user's data, or needs what only the engine's package knows.
        return Outcome()
    # On the CPU and with gradients, whatever device and mode the caller has set.
    with preserve_global_state(), torch.device("cpu"), torch.inference_mode(mode=False):
        if hook == "pipeline_tokenizers":
            exact = reduced = {**options, "texts": _TEXTS}
        else:
            exact = _drop_device_and_dtype(factory, options)
            reduced = reduce_sizes(factory, exact)
        # The reduced sizes first. A factory may reject them, for example because two sizes no longer fit each other.
        make = next((make for make in (_bind(factory, reduced), _bind(factory, exact)) if _can_make(make)), None)
        if make is None:
            # Options that cannot be copied, such as an open file, allow no second part.
            return Outcome()
        # Both objects exist at the same time here, so they cannot share an address by accident.
        if make() is make():
            return Outcome("returned the same object twice; create a new part at every call")
        return _run_laws(_LAWS[hook], make, _bind(factory, exact))


def _run_laws(laws: _Laws, make: Callable[[], object], make_exact: Callable[[], object]) -> Outcome:
    start = time.monotonic()
    for number, each in enumerate(laws):
        if time.monotonic() - start > TIME_LIMIT:
            return Outcome(not_run=[law.get_name(other) for other in laws[number:]])
        # The second run takes place only if the first one fails, so a large part costs nothing if all is well.
        broken = _run_law(each, make) and _run_law(each, make_exact)
        if broken is not None:
            reason = str(broken).removeprefix("law broken: ").rstrip(".")
            return Outcome(f"breaks a law: {reason}", broken)
    return Outcome()


def _run_law(each: law.Law[Any], make: Callable[[], object]) -> law.LawBrokenError | None:
    try:
        each(make)
    except law.LawBrokenError as error:
        return error
    return None


def _bind(factory: Callable[..., object], options: Mapping[str, object]) -> Callable[[], object]:
    """Return a function that creates a part from copies of the options, since parts must not share a module."""

    def make() -> object:
        # Tensors are shared: laws do not write into them, and pretrained weights may take gigabytes.
        memo: dict[int, object] = {id(value): value for value in options.values() if isinstance(value, torch.Tensor)}
        part = factory(**copy.deepcopy(dict(options), memo))
        return part.to("cpu") if isinstance(part, nn.Module) else part

    return make


def _can_make(make: Callable[[], object]) -> bool:
    try:
        make()
    except Exception:  # noqa: BLE001 - a factory may reject reduced sizes, or options that are copies
        return False
    return True


def _drop_device_and_dtype(factory: Callable[..., object], options: Mapping[str, object]) -> dict[str, object]:
    """Leave out an optional `device` and `dtype`: the laws use float64 on the CPU."""
    parameters = read_parameters(factory)
    return {
        name: value
        for name, value in options.items()
        if name not in {"device", "dtype"} or parameters[name].default is inspect.Parameter.empty
    }


def reduce_sizes(factory: Callable[..., object], options: Mapping[str, object]) -> dict[str, object]:
    """Reduce every integer among a factory's options and defaults to a small size.

    Large sizes become equal, and a multiple of the small ones, because a size often has to be divisible by another
    (features by heads), and two sizes often have to agree.

    Example:
        >>> def factory(input_size: int, heads: int = 3, hidden_size: int = 2_048, num_layers: int = 12) -> None: ...
        >>> reduce_sizes(factory, {"input_size": 300})
        {'input_size': 9, 'hidden_size': 9, 'num_layers': 2}
    """
    integers = dict(_list_integers(factory, options))
    layers = {name for name in integers if any(word in name for word in _LAYER_WORDS)}
    factors = [value for name, value in integers.items() if 1 < value <= _SIZE and name not in layers]
    # At most 24 (of 3 and 8): a multiple of many small numbers would be a large size again.
    multiple = min(math.lcm(*factors), 3 * _SIZE)
    size = math.ceil(_SIZE / multiple) * multiple
    reduced = dict(options)
    for name, value in integers.items():
        limit = _LAYERS if name in layers else size
        if value > limit:
            reduced[name] = limit
    return reduced


def _list_integers(factory: Callable[..., object], options: Mapping[str, object]) -> Iterator[tuple[str, int]]:
    """Yield the integers among the options, and among the defaults of the options that are left out."""
    for name, parameter in read_parameters(factory).items():
        value = options.get(name, cast("object", parameter.default))
        if isinstance(value, int) and not isinstance(value, bool) and parameter.kind is not parameter.POSITIONAL_ONLY:
            yield name, value
