"""Hugging Face transformers: encoders and decoders with small random weights."""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, Final

from torch import nn

from court.case import Case, Library

_SIZES: Final = {
    "vocab_size": 50,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 700,
}
_EMPTY: Final = "a text has special tokens, and so is never empty"


def list_cases() -> Sequence[Case]:
    """Return the modules."""
    library: Any = import_module("transformers")

    def make(kind: str, **options: object) -> Callable[[], nn.Module]:
        def create() -> nn.Module:
            config: Any = getattr(library, f"{kind}Config")(**{**_SIZES, **options})
            model: nn.Module = getattr(library, f"{kind}Model")(config)
            return model

        return create

    special: dict[str, object] = {"bos_token_id": 1, "eos_token_id": 2}
    gpt: dict[str, object] = {"n_positions": 700, "n_embd": 8, "n_layer": 1, "n_head": 2, **special}
    modernbert: dict[str, object] = {"pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2, **special}
    kinds: dict[str, tuple[Callable[[], nn.Module], bool]] = {
        "BertModel": (make("Bert"), False),
        "ModernBertModel": (make("ModernBert", **modernbert), False),
        "GPT2Model": (make("GPT2", **gpt), True),
        "LlamaModel": (make("Llama"), True),
    }
    return [
        Case(
            name=name,
            call=f"{name}(config)(input_ids=ids, attention_mask=mask).last_hidden_state",
            make=create,
            options={
                "vocab_size": 50,
                "call": "attention_mask",
                "names": ["input_ids", "attention_mask"],
                "result": "last_hidden_state",
                "each": "step",
                "causal": causal,
                "empty_rows": False,
            },
            unsupported={"empty_rows_have_no_effect": _EMPTY},
        )
        for name, (create, causal) in kinds.items()
    ]


LIBRARY = Library(
    name="transformers",
    packages=["transformers"],
    list_cases=list_cases,
    better="It has the pretrained weights of hundreds of architectures. This library runs its encoders on packed rows, "
    "as a plugin: see [Hugging Face encoders](parts/hugging-face.md).",
)
