"""The public errors are complete, and each is a built-in exception too."""

import builtins
import inspect

from pipeline import errors
from pipeline.errors import PipelineError


def test_all_errors_are_public() -> None:
    """`__all__` has every class of the module."""
    classes = {name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, Exception)}
    assert set(errors.__all__) == classes
    assert sorted(errors.__all__) == errors.__all__


def test_every_error_is_a_builtin_exception() -> None:
    """Callers can catch it without importing the library."""
    for name in errors.__all__:
        cls = getattr(errors, name)
        assert issubclass(cls, PipelineError)
        if cls is not PipelineError:
            assert any(vars(builtins).get(base.__name__) is base for base in cls.__bases__), name
