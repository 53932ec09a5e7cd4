"""Stages joined by `>>` that take one value at a time."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, NoReturn, Self, TypeVar, cast, final

from torch import Tensor
from typing_extensions import override

from pipeline.core.chain_base import ChainBase
from pipeline.core.contexts import evaluating
from pipeline.core.inference import InferenceOptions, Precision
from pipeline.core.running import run_stages
from pipeline.core.stage import I_contra, ModuleStage, O_co, TypePreserving
from pipeline.errors import CompositionError

if TYPE_CHECKING:
    from pipeline.inference.generation.step import StepCarry
    from pipeline.summary.inspection import Inspection

A = TypeVar("A")
D = TypeVar("D")
R = TypeVar("R")
T_contra = TypeVar("T_contra", contravariant=True)


@final
class Chain(ChainBase, ModuleStage[I_contra, O_co], border=False):
    """Stages in order, as one stage: an ordinary `nn.Module` whose state-dict keys begin with the stages' names.

    Example:
        >>> from pipeline import Classify, Embed, Pack, Pool
        >>> head = Pool("max") >> Classify(6, input_size=8)
        >>> sorted(head.state_dict())
        ['classify.linear.bias', 'classify.linear.weight']
    """

    @override
    def forward(self, value: I_contra) -> O_co:
        return cast("O_co", run_stages(self._numbered(), value))

    def fit(self, *examples: object, **options: object) -> NoReturn:
        """Reject a call that is meant for a pipe: `fit` makes batches too.

        Raises:
            CompositionError: always.
        """
        del examples, options
        msg = (
            f"fit trains a pipe, which makes batches of examples, got `{self!r}`, which takes batches; join the stages "
            "that make them before it: FromIds() >> Bucket(rows=32) >> Pad() >> model."
        )
        raise CompositionError(msg)

    def step(self, value: "I_contra | Tensor", carry: "StepCarry | None" = None) -> "tuple[O_co, StepCarry]":
        """Run the next steps of each row without running earlier ones again; return the output and a new carry.

        The outputs equal those of the whole rows at these steps. Runs in evaluation mode without gradients. It needs
        causal stages: a stateful encoder, `AttendEarlier`, heads per step such as `Tag` and `NextToken`.

        Args:
            value: one id or one vector per row, as a tensor; or a batch with any number of next steps per row, such as
                a prompt.
            carry: the carry that the call before returned; None at the beginning of the rows.

        Raises:
            CompositionError: if a stage cannot run step by step, or the carry is of another model.
            ShapeError: if the value has another number of rows than the carry.

        Example:
            >>> import torch
            >>> from pipeline import language_model
            >>> model, carry = language_model(9, embedding_dim=2, hidden_size=3), None
            >>> for ids in torch.tensor([[5, 7], [5, 8]]):
            ...     scores, carry = model.step(ids, carry)
            >>> scores.values.shape, carry.steps.tolist()
            (torch.Size([2, 9]), [2, 2])
        """
        from pipeline.inference.generation.step import run_steps  # noqa: PLC0415 - as in `_summarize`

        with evaluating(self):
            return run_steps(self.stages, value, carry)

    def for_inference(
        self,
        *,
        precision: Precision = "float32",
        deterministic: bool = False,
        examples: Iterable[I_contra] | None = None,
    ) -> Self:
        """Return a copy for inference, with fixed weights that are packed for the kernels; see the method of a pipe.

        Args:
            precision: the precision of products.
            deterministic: whether a row's result has the same bits in every batch.
            examples: batches on which to compare the copy with this model; it must end with a head.

        Raises:
            CompositionError: if a stage waits for its input size.
            OptionError: if an option does not suit the weights, or the output of the model.
        """
        from pipeline.inference.compare import score_batches  # noqa: PLC0415 - as in `_summarize`
        from pipeline.inference.prepare import prepare  # noqa: PLC0415

        return prepare(self, InferenceOptions(precision, deterministic), examples, score_batches)

    def inspect(self, value: I_contra) -> "Inspection":
        """Run one value through every stage, and return a table of each stage's output."""
        return self._inspect(value)


@final
class TypePreservingChain(ChainBase, TypePreserving[T_contra], border=False):
    """Several `TypePreserving` stages in order, as one."""

    def forward(self, value: A) -> A:
        """Run a value through every stage."""
        return cast("A", run_stages(self._numbered(), value))
