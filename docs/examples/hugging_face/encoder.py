"""A stage that runs an encoder of Hugging Face `transformers` on packed rows."""

import inspect
import json
from collections.abc import Iterator, Mapping
from importlib import import_module
from os import PathLike
from typing import Any, Final, Generic, cast, final, overload

import torch
from torch import Tensor, nn
from typing_extensions import override

from hugging_face.attention import NAME, RowOrder, attend_groups
from pipeline import JoinedPair
from pipeline.errors import LengthError, OptionError, ShapeError, ValuesError
from pipeline.extend import (
    Batch,
    Ids,
    InferenceOptions,
    K,
    Kind,
    MaybeCausal,
    ModuleStage,
    Packed,
    Spec,
    States,
    first_by_row,
)

transformers: Final[Any] = import_module("transformers")  # untyped for the most part
transformers.AttentionInterface.register(NAME, attend_groups)


def _make_no_mask(*_: object, **_options: object) -> None:
    """Return None: rows are apart from each other, so that no mask is needed."""


transformers.AttentionMaskInterface.register(NAME, _make_no_mask)


@final
class HuggingFaceEncoder(ModuleStage[Batch[K], States[MaybeCausal]], Generic[K]):
    """Turn ids into states with a model of `transformers`, such as BERT, RoBERTa or ModernBERT, without padding.

    The model embeds ids itself, so that this stage takes the place of `Embed` and `Encode`. For the model, all steps of
    a batch are one long row, with the positions of each row from 0; attention is computed within each row. The final
    state of a row is that of its first step, such as `[CLS]`; an empty row has zeros.

    Args:
        config: the model's configuration, as in its `config.json`. Weights are random; `from_pretrained` reads them.
        kind: `Ids`, or `JoinedPair` for pairs whose segments the model should know.
        name: the stage's name in its chain.

    Raises:
        OptionError: if `transformers` does not know the model's type, if its attention cannot be replaced, or if it
            takes no segments.

    Source: Wolf et al. 2020, "Transformers: State-of-the-Art Natural Language Processing", arXiv:1910.03771.

    Example:
        >>> from pipeline import Packed
        >>> sizes = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 8}
        >>> encoder = HuggingFaceEncoder({"model_type": "bert", "vocab_size": 9, **sizes})
        >>> encoder(Packed(Ids, torch.tensor([3, 5, 4]), torch.tensor([2, 0, 1]))).steps.values.shape
        torch.Size([3, 8])
    """

    @overload
    def __init__(self: "HuggingFaceEncoder[Ids]", config: Mapping[str, object], *, name: str | None = None) -> None: ...
    @overload
    def __init__(self, config: Mapping[str, object], kind: type[K], *, name: str | None = None) -> None: ...
    def __init__(self, config: Mapping[str, object], kind: type[Kind] = Ids, *, name: str | None = None) -> None:
        super().__init__()
        self.name = name
        self.kind: Final = kind
        self.model: Final = _make_model(config)
        if kind is JoinedPair and "token_type_ids" not in inspect.signature(self.model.forward).parameters:
            msg = f"kind must be Ids for {type(self.model).__name__}, which takes no segments; select JoinedPair.token."
            raise OptionError(msg, kind=kind)
        self._config: Final[Any] = self.model.config
        # RoBERTa's positions begin after that of padding.
        padding: object = getattr(getattr(self.model, "embeddings", None), "padding_idx", None)
        self._first_position: Final = padding + 1 if isinstance(padding, int) else 0

    @classmethod
    def from_pretrained(cls, path: str | PathLike[str], *, name: str | None = None) -> "HuggingFaceEncoder[Ids]":
        """Read a model from a folder that `transformers` wrote, or from the Hub by its name. Its code is never run."""
        model = transformers.AutoModel.from_pretrained(path, trust_remote_code=False)
        return cls.from_model(model, name=name)

    @classmethod
    def from_model(cls, model: nn.Module, *, name: str | None = None) -> "HuggingFaceEncoder[Ids]":
        """Take the weights of a model of `transformers`; they are not copied. A pooler is left out."""
        with torch.device("meta"):
            stage = HuggingFaceEncoder(read_config(model), name=name)
        given = dict(model.named_parameters()) | dict(model.named_buffers())
        for part, own in list_modules(stage.model):
            prefix = f"{part}." if part else ""
            for key in list(dict(own.named_parameters(recurse=False)) | dict(own.named_buffers(recurse=False))):
                setattr(own, key, given[prefix + key])
        return stage.train(model.training)

    def get_config(self) -> Mapping[str, object]:
        """Return the arguments with which this stage can be made again: data alone, and no code."""
        return {"config": read_config(self.model), "kind": self.kind, "name": self.name}

    @override
    def build(self, spec: Spec, /) -> Spec:
        return Spec(self._config.hidden_size, causal=False)

    @override
    def forward(self, value: Batch[K]) -> States[MaybeCausal]:
        """Return the states of a batch, packed.

        Raises:
            ShapeError: if the batch is of another kind.
            LengthError: if a row is longer than the model's positions.
            ValuesError: if an id is not in the model's vocabulary.
        """
        if value.kind is not self.kind:
            msg = f"the batch must be of {self.kind.__name__}, got {value.kind.__name__}; pass the kind to the stage."
            raise ShapeError(msg)
        batch = value.packed()
        segments: Tensor | None = None
        ids = batch.values
        if self.kind is JoinedPair:
            pairs = cast("Packed[JoinedPair]", batch)
            ids, segments = JoinedPair.token(pairs).values, JoinedPair.segment(pairs).values
        self._check(batch, ids)
        hidden = self._run(batch, ids, segments) if ids.shape[0] else self._make_empty()
        steps = batch.with_values(hidden)
        return States(steps, first_by_row(steps), bidirectional=True)

    def prepare_for_inference(self, options: InferenceOptions, /) -> None:
        """Do nothing: the model is as it is.

        Raises:
            OptionError: if results must be deterministic, since the kernels of the model do not promise it.
        """
        if options.deterministic:
            msg = "deterministic=True is not supported by HuggingFaceEncoder; leave it out, or use another encoder."
            raise OptionError(msg, deterministic=True)

    def _run(self, batch: Packed[K], ids: Tensor, segments: Tensor | None) -> Tensor:
        rows = RowOrder.of(batch.order)
        given = {
            "input_ids": rows.arrange(ids).unsqueeze(0),
            "position_ids": rows.arrange(batch.order.time_of_step).unsqueeze(0) + self._first_position,
        }
        if segments is not None:
            given["token_type_ids"] = rows.arrange(segments).unsqueeze(0)
        output: Any = self.model(**given, groups=rows.groups)
        hidden: Tensor = output.last_hidden_state
        return hidden[0][rows.places]

    def _make_empty(self) -> Tensor:
        weight = next(self.model.parameters())
        return weight.new_zeros(0, self._config.hidden_size)

    def _check(self, batch: Packed[K], ids: Tensor) -> None:
        room = self._config.max_position_embeddings - self._first_position
        longest = batch.order.longest
        if longest > room:
            row = int(batch.metadata.row_ids[int(batch.lengths.argmax())])
            msg = f"row {row} has {longest} steps, but the model has {room} positions; set max_length in Tokenize."
            raise LengthError(msg, row=row)
        # On a GPU this would wait for all work queued on it.
        if ids.device.type != "cpu" or not ids.shape[0]:
            return
        first, last, tokens = int(ids.min()), int(ids.max()), self._config.vocab_size
        if not 0 <= first <= last < tokens:
            msg = f"ids must be 0 to {tokens - 1}, got {first} to {last}; read the tokenizer of the model."
            raise ValuesError(msg)


def list_modules(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield every module by name, the whole one included; torch leaves the type open."""
    return cast("Iterator[tuple[str, nn.Module]]", module.named_modules())


def read_config(model: nn.Module) -> dict[str, object]:
    """Return the configuration of a model of `transformers` as JSON, without the code and the place that it names."""
    config: Any = model.config
    found: dict[str, object] = json.loads(config.to_json_string(use_diff=False))
    return {key: value for key, value in found.items() if key not in {"auto_map", "_name_or_path"}}


def _make_model(config: Mapping[str, object]) -> nn.Module:
    kind = config.get("model_type")
    if kind not in transformers.CONFIG_MAPPING:
        msg = f"config must have a model_type that transformers knows, such as 'bert', got {kind!r:.60}."
        raise OptionError(msg, model_type=kind)
    # `from_dict` changes the mapping that it gets.
    made = transformers.CONFIG_MAPPING[kind].from_dict(json.loads(json.dumps(dict(config))))
    model: Any = transformers.AutoModel.from_config(made, trust_remote_code=False)
    if not model._supports_attention_backend:  # noqa: SLF001 - transformers has no other way
        msg = f"the attention of {type(model).__name__} cannot be replaced; choose a model such as BERT or ModernBERT."
        raise OptionError(msg, model_type=kind)
    model.set_attn_implementation(NAME)
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # `Pool` takes its place; untrained weights would be an error
    return cast("nn.Module", model)
