"""Laws about any `nn.Module`, also one that does not use this library."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, TypedDict, cast

from torch import nn
from typing_extensions import Unpack

from pipeline.checks.options import check_bool
from pipeline.errors import OptionError, UnknownOptionError
from pipeline.laws.calls import Call, CalledModule, CallFunction, Convention, Result
from pipeline.laws.common import COMMON_LAWS
from pipeline.laws.law import Law, LawBrokenError, check_laws, get_name, reject_instance
from pipeline.laws.long_rows import many_and_long_rows_are_independent
from pipeline.laws.parts import PlainModule
from pipeline.laws.rows import (
    ROW_LAWS,
    causal_steps_do_not_look_ahead,
    empty_rows_have_no_effect,
    no_gradient_reaches_padding,
    padding_values_have_no_effect,
)
from pipeline.laws.training import training_obeys_laws_of_rows
from pipeline.laws.weights import evaluation_is_deterministic
from pipeline.text import suggest_name

MODULE_LAWS: Final[tuple[Law[PlainModule], ...]] = (
    evaluation_is_deterministic,
    padding_values_have_no_effect,
    no_gradient_reaches_padding,
    causal_steps_do_not_look_ahead,
    *COMMON_LAWS,
)
"""Every law of a plain module, the quick ones first. They take the module inside a `PlainModule`."""

RAGGED_LAWS: Final[tuple[Law[PlainModule], ...]] = (
    evaluation_is_deterministic,
    padding_values_have_no_effect,
    no_gradient_reaches_padding,
    causal_steps_do_not_look_ahead,
    *ROW_LAWS,
    training_obeys_laws_of_rows,
    many_and_long_rows_are_independent,
)
"""The laws of `MODULE_LAWS` about padding, batchmates and order, which `ragged` tests by default."""


class ModuleOptions(TypedDict, total=False):
    """How a module is called, and what it declares: the options of `check_module` and `ragged`.

    Attributes:
        input_size: the features per step, for a module that takes vectors.
        vocab_size: the number of ids, for a module that takes ids.
        call: the convention: `lengths` (by default), `mask` (True is a real step), `padding_mask` (True is padding),
            `attention_mask` (1 and 0, int64), `packed`, `nested`, `rows` or `values`; or a function that calls a module
            with padded values and lengths.
        names: the names of its arguments, if they must be passed by name.
        result: the part of its output that is checked: an attribute or key, an index, or a function of the output; by
            default the output itself, or the first tensor in it.
        batch_first: whether the batch is the first axis, and not time; True by default.
        padding_id: the id in the padding; 0 by default.
        nan_in_padding: False if padding must hold ordinary numbers, and neither NaN, infinity nor 1e38. Attention
            weights of 0 times NaN are NaN, so modules that mask scores only, such as `nn.TransformerEncoder`, need it.
            True by default.
        each: "step" if the result is batch x time x anything, "row" if it is batch x anything. If left out, a result
            with three or more axes, of which the second is as long as the input's, is taken for one per step.
        causal: True if step t of the result depends on steps up to t only.
        empty_rows: False if rows must have at least one step; True by default.
        exportable: True if `torch.export` and `torch.compile(fullgraph=True)` accept the module.
    """

    input_size: int
    vocab_size: int
    call: Call | CallFunction
    names: Sequence[str]
    result: Result | None
    batch_first: bool
    padding_id: int
    nan_in_padding: bool
    each: Literal["step", "row"] | None
    causal: bool
    empty_rows: bool
    exportable: bool


def check_module(
    make: Callable[[], nn.Module], *, laws: Sequence[Law[PlainModule]] = MODULE_LAWS, **options: Unpack[ModuleOptions]
) -> None:
    """Check modules against laws, by default all of `MODULE_LAWS`.

    Values are batch x time x feature; row i has lengths[i] real steps, which come first; lengths are int64 on the CPU.
    The module may be a whole model: anything whose results padding and batchmates must not change.

    Args:
        make: takes no arguments and creates a new module at every call.
        laws: the laws to check, such as `RAGGED_LAWS`.
        options: how these modules are called, and what they declare; see `ModuleOptions`.

    Raises:
        LawBrokenError: if a law is broken; the error lists all broken laws.
        OptionError: if `make` is a module instead of a function that creates one, or an option is out of range.

    Example:
        >>> class Mean(nn.Module):
        ...     def forward(self, values, lengths):
        ...         return values.mean(1)
        >>> check_module(Mean, input_size=3)
        Traceback (most recent call last):
        pipeline.laws.law.LawBrokenError: 9 of 32 laws of modules are broken; ...
    """
    reject_instance(make, "check_module")
    adapt = make_adapter(options)
    check_laws(laws, lambda: adapt(make()), "modules", "MODULE_LAWS")


def ragged(
    *,
    laws: Sequence[Law[PlainModule]] = RAGGED_LAWS,
    xfail: Mapping[str, str] | None = None,
    **options: Unpack[ModuleOptions],
) -> Callable[[Callable[[], nn.Module]], Callable[..., None]]:
    """Turn a function that creates a module into pytest tests of that module, one per law.

    Args:
        laws: the laws; by default those about padding, batchmates and order.
        xfail: the reason why a law is expected to fail, by its name. A law that then holds fails the test, so that the
            mark does not outlive the fault.
        options: how the module is called, and what it declares; see `ModuleOptions`.

    Laws about what the module does not declare are skipped: causal steps without `causal=True`, and empty rows with
    `empty_rows=False`.

    Raises:
        OptionError: if an option is out of range, or `xfail` names another law or gives no reason.
        UnknownOptionError: if there is no such option.

    Example:
        >>> class Last(nn.Module):
        ...     def forward(self, values, lengths):
        ...         return values[torch.arange(len(values)), lengths - 1]
        >>> @ragged(input_size=3, empty_rows=False)
        ... def test_last():
        ...     return Last()
        >>> len(test_last.pytestmark[0].args[1])
        10
    """
    import pytest  # noqa: PLC0415 - needed by tests only

    adapt = make_adapter(options)
    names = [get_name(law) for law in laws]
    expected = _check_xfail({} if xfail is None else xfail, names)
    marks = {
        name: pytest.mark.xfail(reason=reason, strict=True, raises=LawBrokenError) for name, reason in expected.items()
    }
    if not options.get("causal", False):
        reason = "causal=True was not passed: steps of the result may depend on later ones"
        marks[get_name(causal_steps_do_not_look_ahead)] = pytest.mark.skip(reason=reason)
    if not options.get("empty_rows", True):
        marks[get_name(empty_rows_have_no_effect)] = pytest.mark.skip(reason="empty_rows=False was passed")
    cases = [
        pytest.param(law, id=name, marks=[marks[name]] if name in marks else [])
        for law, name in zip(laws, names, strict=True)
    ]

    def decorate(make: Callable[[], nn.Module]) -> Callable[..., None]:
        reject_instance(make, "ragged")

        def run(law: Law[PlainModule]) -> None:
            __tracebackhide__ = True  # pytest then shows the law's message alone
            law(lambda: adapt(make()))

        # Not functools.wraps: pytest would read the arguments of the function that is wrapped.
        run.__name__, run.__qualname__, run.__module__ = make.__name__, make.__qualname__, make.__module__
        run.__doc__ = make.__doc__
        return pytest.mark.parametrize("law", cases)(run)

    return decorate


def _check_xfail(given: object, names: Sequence[str]) -> Mapping[str, str]:
    if not isinstance(given, Mapping):
        msg = f"xfail must be a mapping from names of laws to reasons, got {given!r:.200}."
        raise OptionError(msg, xfail=given)
    xfail = cast("Mapping[str, str]", given)
    for name, reason in xfail.items():
        if name not in names:
            msg = f"xfail must have names of laws, {', '.join(names)}, got {name!r}.{suggest_name(name, names)}"
            raise OptionError(msg, law=name)
        if not reason:
            msg = f"xfail must have a reason for each law, got none for {name!r}."
            raise OptionError(msg, law=name)
    return xfail


def make_adapter(options: ModuleOptions) -> Callable[[nn.Module], PlainModule]:
    """Return a function that adapts a module for the laws.

    Raises:
        OptionError: if neither or both of `input_size` and `vocab_size` are given, or an option is out of range.
        UnknownOptionError: if there is no such option.
    """
    known = [*ModuleOptions.__annotations__]
    for name in options:
        if name not in known:
            msg = f"there is no option {name!r}; options are {', '.join(known)}.{suggest_name(name, known)}"
            raise UnknownOptionError(msg, option=name)
    for name in ("nan_in_padding", "causal", "empty_rows", "exportable", "batch_first"):
        if name in options:
            check_bool(name, cast("Mapping[str, object]", options)[name])
    if options.get("each") not in {None, "step", "row"}:
        msg = f"each must be 'step', 'row' or None, got {options.get('each')!r}."
        raise OptionError(msg, each=options.get("each"))
    size, vocab_size = options.get("input_size"), options.get("vocab_size")
    if (size is None) == (vocab_size is None):
        got = "neither" if size is None else "both"
        msg = f"either input_size, for vectors, or vocab_size, for ids, must be given, got {got}."
        raise OptionError(msg)
    convention = make_convention(options)

    def adapt(module: nn.Module) -> PlainModule:
        # A module that follows the convention of the laws is checked as it is.
        called = module if convention == Convention() else CalledModule(module, convention)
        return PlainModule(
            called,
            input_size=1 if size is None else size,
            each=options.get("each"),
            causal=options.get("causal", False),
            empty_rows=options.get("empty_rows", True),
            exportable=options.get("exportable", False),
        )

    return adapt


def make_convention(options: ModuleOptions) -> Convention:
    """Return how modules are called.

    Raises:
        OptionError: if an option is out of range.
    """
    return Convention(
        options.get("call", "lengths"),
        options.get("names", ()),
        options.get("result"),
        batch_first=options.get("batch_first", True),
        vocab_size=options.get("vocab_size"),
        padding_id=options.get("padding_id", 0),
        nan_in_padding=options.get("nan_in_padding", True),
    )
