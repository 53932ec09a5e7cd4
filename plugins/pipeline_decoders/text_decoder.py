"""The base class of heads that generate a text from the states of another."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final, Generic, Protocol, Self, TypedDict, TypeVar, cast, final

import attrs
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from typing_extensions import Unpack, override

from pipeline import Texts, Tokenize
from pipeline.extend import (
    IGNORED,
    BatchMetadata,
    CompositionError,
    Decoded,
    Drawn,
    GenerateSettings,
    Generation,
    Ids,
    InferenceOptions,
    MaybeCausal,
    ModuleStage,
    OptionError,
    Packed,
    Padded,
    ShapeError,
    Spec,
    States,
    StepScores,
    UnknownOptionError,
    check_optional_int,
    find_continuations,
)

MAX_NEW_TOKENS: Final = 100
"""The maximum number of tokens of a text by default."""


class SearchOptions(TypedDict, total=False):
    """How a decoder searches for a text when it predicts; as in `StreamChain.generate`.

    Attributes:
        max_new_tokens: the maximum number of tokens of a text, eos included; 100 by default.
        num_beams: the number of texts that a beam search keeps; 1, the default, takes the most probable token each
            time.
        length_penalty: in a beam search, the power of the length by which log-probabilities are divided; 1 by default.
        do_sample: draw each token at random; False by default.
        temperature: divides the scores before a draw.
        top_k: draw from the k most probable tokens only.
        top_p: draw from the fewest most probable tokens whose probabilities sum up to p.
        num_return_sequences: the number of texts per row, for `predict(scores=True)`.
        seed: with the number of the row, it determines what is drawn; 0 by default.
    """

    max_new_tokens: int
    num_beams: int
    length_penalty: float
    do_sample: bool
    temperature: float
    top_k: int | None
    top_p: float | None
    num_return_sequences: int
    seed: int


def read_search(search: object) -> SearchOptions:
    """Return the options of a search as they were passed to a decoder; for None there are none.

    Raises:
        OptionError: if they are no mapping from names.
    """
    if search is None:
        return {}
    given = search
    if not isinstance(given, Mapping) or not all(
        isinstance(name, str) for name in cast("Mapping[object, object]", given)
    ):
        msg = (
            f"search must be a mapping of options, got {search!r:.200}; pass them by name, such as {{'num_beams': 4}}."
        )
        raise OptionError(msg, search=search)
    return cast("SearchOptions", search)


class DecoderMemory(Protocol):
    """What a decoder remembers of each row: of its source, and of the tokens so far."""

    def select(self, rows: Int64[Tensor, " selected"]) -> Self:
        """Return the memory of some rows, by their indices on the CPU."""
        ...


M = TypeVar("M", bound=DecoderMemory)


class TextDecoder(ModuleStage[States[MaybeCausal], Decoded[str]], Generic[M]):
    """A head that learns to generate target texts, and generates texts: encode the source, decode the target.

    In training it scores each token of the target, given the true tokens before it (teacher forcing), in one pass. In
    evaluation it also generates. For a row without steps it generates too, with nothing to attend to; in training such
    a row has no weight, and neither has one whose target is an empty text.

    Args:
        target: the tokenizer of the targets, with bos and eos, as in `Pad(targets=Texts(target))`.
        input_size: the number of features of the states; None until the stage is joined.
        name: the stage's name in its chain.
        search: see `SearchOptions`.
        max_positions: the number of tokens for which positions are learned; None for no limit.

    Raises:
        OptionError: if the tokenizer has no bos or eos, or an option is out of its range.
    """

    default_metrics: ClassVar[list[str]] = ["perplexity", "accuracy", "exact_match"]

    def __init__(
        self,
        target: Tokenize,
        input_size: int | None,
        name: str | None,
        search: SearchOptions | None,
        max_positions: int | None = None,
    ) -> None:
        super().__init__()
        check_optional_int("input_size", input_size, minimum=1)
        Texts(target)  # rejects a tokenizer without bos or eos
        self.target = target
        self.tokens: int = target.vocab_size
        self.name = name
        self.input_size = input_size
        self.longest = max_positions
        self.search: SearchOptions = {"max_new_tokens": MAX_NEW_TOKENS, "do_sample": False, "seed": 0}
        self.settings: GenerateSettings = GenerateSettings.of(**self.search)
        self.set_search(**read_search(search))

    def set_search(self, **search: Unpack[SearchOptions]) -> None:
        """Change how texts are generated from now on; options that are left out stay as they are.

        Raises:
            UnknownOptionError: for an option that does not exist.
            OptionError: if an option is out of its range, or two exclude each other.
        """
        known = SearchOptions.__annotations__
        unknown = next((option for option in search if option not in known), None)
        if unknown is not None:
            msg = f"a search has no option {unknown!r}; its options are {', '.join(known)}."
            raise UnknownOptionError(msg, option=unknown)
        changed: SearchOptions = {**self.search, **search}
        settings = GenerateSettings.of(**changed)
        if self.longest is not None and settings.max_new_tokens > self.longest:
            msg = (
                f"max_new_tokens must be at most max_positions={self.longest} with learned positions, got "
                f"{settings.max_new_tokens}; raise max_positions."
            )
            raise OptionError(msg, max_positions=self.longest)
        self.settings, self.search = settings, changed

    @abstractmethod
    def make_weights(self, size: int) -> None:
        """Create the weights that depend on the size of the states."""

    @abstractmethod
    def read_source(self, states: States[MaybeCausal]) -> M:
        """Return the memory of each row before its first token."""

    @abstractmethod
    def teach(self, inputs: Packed[Ids], memory: M) -> Float[Tensor, "steps token"]:
        """Return the scores of the token after each input token, given all those before it in its row."""

    @abstractmethod
    def step(self, tokens: Int64[Tensor, " batch"], memory: M) -> tuple[Float[Tensor, "batch token"], M]:
        """Return the scores of the token after the next one of each row, and the new memory."""

    @property
    @abstractmethod
    def source_axes(self) -> Mapping[str, Sequence[str]]:
        """The names and axes of the tensors of the source that each step of an exported decoder reads.

        Axes of fixed size are empty. One is "batch".
        """

    @property
    @abstractmethod
    def state_axes(self) -> Mapping[str, Sequence[str]]:
        """The names and axes of the tensors that change from one step to the next."""

    @abstractmethod
    def flatten_memory(self, memory: M) -> Mapping[str, Tensor]:
        """Return the tensors of `source_axes` and `state_axes`. Works in graphs."""

    @abstractmethod
    def restore_memory(self, tensors: Mapping[str, Tensor]) -> M:
        """Return the memory that consists of these tensors. Works in graphs."""

    @property
    def is_lazy(self) -> bool:
        """True if weights are not made yet, because the size of the states is not known."""
        return self.input_size is None

    @override
    def build(self, spec: Spec, /) -> Spec:
        name = type(self).__name__
        if self.input_size is None:
            spec.reject_unsized(name)
        if self.input_size is None and spec.size is not None:
            self.input_size = spec.size
            self.make_weights(spec.size)
        if spec.size not in {None, self.input_size}:
            msg = (
                f"the input has size {spec.size} along the axis 'hidden', but {name} has input_size={self.input_size}; "
                "leave input_size out, or make the two equal."
            )
            raise CompositionError(msg, axis="hidden", size=spec.size, input_size=self.input_size)
        return Spec()

    def explain_not_stepwise(self) -> str:
        """Return why `generate`, which continues texts, does not run it."""
        return "it generates a text of each source by itself; call predict, and choose how to search with set_search"

    def explain_not_exportable(self) -> str | None:
        """Return why it cannot be exported: tokens are drawn; None if they are not."""
        if not self.settings.do_sample:
            return None
        return (
            "search draws tokens at random (do_sample=True), and an exported decoder takes the best ones or searches "
            "with beams; call set_search(do_sample=False, temperature=1.0, top_k=None, top_p=None)"
        )

    def prepare_for_inference(self, options: InferenceOptions, /) -> None:
        """Reject the promise of equal bits, which a search over products of whole batches does not keep.

        Raises:
            OptionError: if it is asked for.
        """
        if options.deterministic:
            msg = (
                f"deterministic=True is not possible with {type(self).__name__}, whose scores may differ in their last "
                "bits from batch to batch; leave it out."
            )
            raise OptionError(msg, deterministic=True)

    @override
    def forward(self, value: States[MaybeCausal]) -> Decoded[str]:
        """Return the scores of the target texts, and, in evaluation mode, generated texts.

        Raises:
            CompositionError: if the size of the states is not known yet.
            ShapeError: if the states have another size.
            TargetError: if the batch has targets, but no texts.
        """
        name, size = type(self).__name__, value.steps.values.shape[-1]
        if self.input_size is None:
            msg = f"{name} does not know its input size yet; join it after an encoder, or pass input_size=..."
            raise CompositionError(msg)
        if size != self.input_size:
            msg = f"{name} has input_size={self.input_size}, got states of {size} features; make the two equal."
            raise ShapeError(msg, size=size, input_size=self.input_size)
        memory = self.read_source(value)
        is_known = value.metadata.targets is not None and "" in (value.metadata.target_lengths or {})
        scores = self._score_targets(value.metadata, memory) if is_known else None
        generated = None if self.training or value.final.is_meta else self._generate(value.metadata, memory)
        return Decoded(scores, generated, metadata=value.metadata)

    def _score_targets(self, metadata: BatchMetadata, memory: M) -> StepScores[int]:
        targets, lengths = metadata.targets, (metadata.target_lengths or {})[""]
        assert targets is not None
        first = torch.full_like(targets[:, :1], self.target.first_ids[0])
        # The input at each step is the target before it.
        inputs = torch.cat([first, targets], 1)[:, : targets.shape[1]]
        inputs = inputs.masked_fill(inputs == IGNORED, 0)
        batch: Packed[Ids] = Padded(Ids, inputs, lengths, metadata=BatchMetadata(metadata.row_ids)).packed()
        scores = self.teach(batch, memory)
        made = BatchMetadata(metadata.row_ids, targets)
        return StepScores(scores, lengths, range(self.tokens), metadata=made, order=batch.order)

    def _generate(self, metadata: BatchMetadata, memory: M) -> Sequence[Sequence[Generation[str]]]:
        prompts = [self.target.first_ids] * len(metadata.row_ids)
        numbers = [max(int(row_id), 0) for row_id in metadata.row_ids]
        eos = frozenset(self.target.last_ids)
        found = find_continuations(_Stepper(self, memory), prompts, self.settings, eos, self._find_blocked, numbers)
        return [[self._decode(each) for each in row] for row in found]

    @property
    def blocked_ids(self) -> Sequence[int]:
        """The tokens that never occur within a text: bos and the padding."""
        pad = self.target.tokenizer.pad_token
        padding = [] if pad is None else [self.target.tokenizer.vocabulary[pad]]
        return sorted({self.target.first_ids[0], *padding} - set(self.target.last_ids))

    def _find_blocked(self, scores: Tensor) -> Bool[Tensor, " token"]:
        blocked = torch.zeros(self.tokens, dtype=torch.bool, device="cpu")
        blocked[list(self.blocked_ids)] = True
        return blocked.to(scores.device)

    def _decode(self, drawn: Drawn) -> Generation[str]:
        text = self.target.decode(list(drawn.ids[:-1] if drawn.ended else drawn.ids))
        return Generation(text, list(drawn.ids), list(drawn.log_probabilities), drawn.ended)

    def get_config(self) -> Mapping[str, object]:
        """Return the arguments with which this stage can be made again."""
        return {"target": self.target, "input_size": self.input_size, "name": self.name, "search": dict(self.search)}


@final
@attrs.frozen(eq=False)
class _Stepper(Generic[M]):
    """A decoder with the memory of its rows, in the form that a search takes."""

    decoder: TextDecoder[M]
    memory: M

    def read(self, prompts: Sequence[Sequence[int]]) -> tuple[Float[Tensor, "row token"], M]:
        device = next(self.decoder.parameters()).device
        return self.decoder.step(torch.tensor([prompt[0] for prompt in prompts], device=device), self.memory)

    def step(self, tokens: Int64[Tensor, " row"], carry: M) -> tuple[Float[Tensor, "row token"], M]:
        return self.decoder.step(tokens, carry)
