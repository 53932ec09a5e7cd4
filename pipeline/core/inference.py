"""How the parts of a pipe take part in `for_inference`."""

from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, final, get_args, runtime_checkable

import attrs
import torch

from pipeline.checks.options import check_bool, check_precision

if TYPE_CHECKING:
    from pipeline.core.stage import StageBase

Precision: TypeAlias = Literal["float32", "bfloat16", "int8"]
"""The precision of the products of inputs and weights in a pipe for inference."""


@final
@attrs.frozen
class InferenceOptions:
    """How a pipe for inference computes.

    Attributes:
        precision: the precision of products. A part without kernels of this precision computes in float32.
        deterministic: whether a row's result has the same bits alone and in any batch, in any order, with any number
            of threads.

    Raises:
        OptionError: if an option is not one of its values.

    Example:
        >>> InferenceOptions("bfloat16")
        InferenceOptions(precision='bfloat16', deterministic=False)
    """

    precision: Precision = "float32"
    deterministic: bool = False

    def __attrs_post_init__(self) -> None:
        check_precision(self.precision, get_args(Precision))
        check_bool("deterministic", self.deterministic)


@runtime_checkable
class PreparesForInference(Protocol):
    """A module that prepares itself for inference, for example by packing its weights for a kernel.

    `for_inference` calls the method once, on each module that has it, a module before its children. The module belongs
    to a copy of the pipe. It is in evaluation mode, and its weights have values, need no gradients, and change no more.
    The weights have to stay where they are: `for_inference` and other parts may read them. What the method adds is not
    saved: a saved pipe has the weights and the options, and is prepared again when it is loaded. It must survive
    `copy.deepcopy` and `pickle`.
    """

    def prepare_for_inference(self, options: InferenceOptions, /) -> None:
        """Prepare for inference with fixed weights.

        Args:
            options: the precision, and whether results may depend on the other rows of a batch. A module that cannot
                compute so leaves itself as it is, or raises `OptionError` if it would break the promise of
                `deterministic`.
        """
        ...


@runtime_checkable
class FusesForInference(Protocol):
    """A stage, or the encoder, attention or pooling of a stage, that can do the work of the stage before it as well.

    `for_inference` calls the method once on each stage after another one, before `prepare_for_inference`, on the same
    copy of the pipe. Stages that do nothing in evaluation, such as `Dropout`, were left out already.
    """

    def fuse_for_inference(self, before: "StageBase", options: InferenceOptions, /) -> "StageBase | None":
        """Return one stage that computes the same as `before` and this stage; None to leave both as they are.

        Args:
            before: the stage before. It is not changed.
            options: see `PreparesForInference`.
        """
        ...


@final
@attrs.frozen
class Difference:
    """Absolute differences between the numbers of two pipes.

    Attributes:
        largest: the largest one.
        mean: their mean.
    """

    largest: float
    mean: float

    def __str__(self) -> str:
        return f"{self.largest:.1e} at most and {self.mean:.1e} on average"


@final
@attrs.frozen
class InferenceReport:
    """The comparison of a pipe for inference with the pipe that it was made of.

    Attributes:
        rows: the number of compared rows.
        predictions: the number of predicted classes: one per row, or one per step, of each head.
        changed: how many of them differ.
        probabilities: the differences of the probabilities of all classes; None without classes.
        numbers: the differences of predicted numbers; None without such.

    Example:
        >>> print(InferenceReport(40, 40, 1, Difference(0.02, 0.003), None))
        on 40 rows: 1 of 40 predictions changed (2.50%); probabilities differ by 2.0e-02 at most and 3.0e-03 on average
    """

    rows: int
    predictions: int
    changed: int
    probabilities: Difference | None
    numbers: Difference | None

    def __str__(self) -> str:
        """Return a sentence, without its full stop."""
        parts: list[str] = []
        if self.predictions:
            share = self.changed / self.predictions
            parts.append(f"{self.changed:,} of {self.predictions:,} predictions changed ({share:.2%})")
        for name, found in (("probabilities", self.probabilities), ("predicted numbers", self.numbers)):
            if found is not None:
                parts.append(f"{name} differ by {found}")
        return f"on {self.rows:,} rows: {'; '.join(parts)}"


@final
@attrs.frozen(eq=False)
class Prepared:
    """What a pipe for inference knows of itself.

    Attributes:
        options: how it computes.
        original: a copy of the pipe that it was made of, with which it shares the weights.
        device: the device of the weights; None without weights.
        report: its comparison with the original on examples; None without examples.
    """

    options: InferenceOptions
    original: "StageBase"
    device: torch.device | None = None
    report: InferenceReport | None = None

    def __str__(self) -> str:
        """Return sentences for people: how the pipe computes, and its error."""
        rule = ", the same bits in every batch" if self.options.deterministic else ""
        error = "" if self.report is None else f" Compared with the original {self.report}."
        return f"For inference in {self.options.precision}{rule}, with fixed weights.{error}"
