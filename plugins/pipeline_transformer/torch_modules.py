"""Weights from torch's own transformer encoder."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, relu

from pipeline.extend import OptionError, has_hooks
from pipeline_transformer.feed_forward import Activation
from pipeline_transformer.transformer import BaseTransformer, Options


def read_options(module: nn.TransformerEncoder) -> tuple[int, Options]:
    """Return the size and the options of an encoder with the shapes of torch's.

    Raises:
        OptionError: if an encoder of ours cannot have its weights.
    """
    layers = _list_layers(module)
    first, *others = (_read_layer(layer) for layer in layers)
    for number, other in enumerate(others, start=1):
        for (name, value), wanted in zip(other.items(), first.values(), strict=True):
            if value != wanted:
                msg = f"all layers must have one {name}, got {wanted!r} in layer 0 and {value!r} in layer {number}."
                raise OptionError(msg, layer=number)
    options: Options = {"num_layers": len(layers), **first, "final_norm": module.norm is not None}
    norms = [norm for layer in layers for norm in (layer.norm1, layer.norm2)]
    norms += [module.norm] if isinstance(module.norm, nn.LayerNorm) else []
    for norm in norms:
        if norm.eps != norms[0].eps:
            msg = f"all norms must have one eps, got {norms[0].eps} and {norm.eps}; make them equal."
            raise OptionError(msg, layer_norm_eps=norm.eps)
    if not options.get("bias") and "bias" in norms[-1].state_dict():
        msg = "module.norm has a bias, but the layers have none; make it an nn.LayerNorm(..., bias=False)."
        raise OptionError(msg, bias=False)
    return layers[0].self_attn.embed_dim, options


def _read_layer(layer: nn.TransformerEncoderLayer) -> Options:
    return {
        "num_heads": layer.self_attn.num_heads,
        "feedforward_size": layer.linear1.out_features,
        "dropout": layer.dropout1.p,
        "attention_dropout": layer.self_attn.dropout,
        "activation": _read_activation(layer),
        "norm": "pre" if layer.norm_first else "post",
        "bias": "linear1.bias" in layer.state_dict(),
        "layer_norm_eps": layer.norm1.eps,
    }


def _list_layers(module: nn.TransformerEncoder) -> Sequence[nn.TransformerEncoderLayer]:
    """Return the layers, all of torch's own class and without hooks."""
    layers = list(module.layers)
    for layer in layers:
        if type(layer) is not nn.TransformerEncoderLayer or has_hooks(layer):
            msg = (
                f"module must be an nn.TransformerEncoder of nn.TransformerEncoderLayer without hooks, got a layer "
                f"{type(layer).__name__}."
            )
            raise OptionError(msg, layer=type(layer).__name__)
    norm = module.norm
    if norm is not None and type(norm) is not nn.LayerNorm:
        msg = f"module.norm must be an nn.LayerNorm or None, got {type(norm).__name__}."
        raise OptionError(msg, norm=type(norm).__name__)
    return cast("Sequence[nn.TransformerEncoderLayer]", layers)


def _read_activation(layer: nn.TransformerEncoderLayer) -> Activation:
    given = cast("object", layer.activation)
    if given is relu or isinstance(given, nn.ReLU):
        return "relu"
    if given is gelu or (isinstance(given, nn.GELU) and given.approximate == "none"):
        return "gelu"
    msg = f"the activation must be relu or gelu, got {given!r:.60}."
    raise OptionError(msg, activation=given)


def copy_weights(module: nn.TransformerEncoder, encoder: BaseTransformer[Any]) -> None:
    """Copy weights, `requires_grad`, dtype, device and mode of torch's encoder.

    Raises:
        OptionError: if the options of both differ.
    """
    size, options = read_options(module)
    own = {**encoder.get_config()}
    own["feedforward_size"] = encoder.list_layers()[0].feed_forward.contract.in_features
    own["final_norm"] = isinstance(encoder.norm_after, nn.LayerNorm)
    own["num_kv_heads"] = encoder.form.kv_heads
    wanted = {"input_size": size, "hidden_size": size, **options, "num_kv_heads": options.get("num_heads")}
    for name in ("dropout", "attention_dropout"):  # of no weight
        del wanted[name]
    for name, value in wanted.items():
        if own[name] != value:
            msg = f"{name} must be {value!r}, as in the module, got {own[name]!r}; or use Transformer.from_torch."
            raise OptionError(msg, **{name: own[name]})
    weight = next(module.parameters())
    encoder.to(weight.device, weight.dtype)
    for layer, theirs in zip(encoder.list_layers(), _list_layers(module), strict=True):
        attention = theirs.self_attn
        _copy(layer.projection, attention.in_proj_weight, attention.in_proj_bias)
        for ours, other in (
            (layer.output, attention.out_proj),
            (layer.feed_forward.expand, theirs.linear1),
            (layer.feed_forward.contract, theirs.linear2),
            (layer.attention_norm, theirs.norm1),
            (layer.feed_forward_norm, theirs.norm2),
        ):
            _copy(ours, other.weight, other.bias)
    if isinstance(encoder.norm_after, nn.LayerNorm) and isinstance(module.norm, nn.LayerNorm):
        _copy(encoder.norm_after, module.norm.weight, module.norm.bias)
    encoder.train(module.training)


def _copy(module: nn.Linear | nn.LayerNorm, weight: Tensor | None, bias: Tensor | None) -> None:
    with torch.no_grad():
        # A norm of torch's without weights is one with ones and zeros.
        for own, other, default in ((module.weight, weight, 1.0), (module.bias, bias, 0.0)):
            if other is not None:
                own.copy_(other)
                own.requires_grad_(other.requires_grad)
            elif cast("Tensor | None", own) is not None:
                own.fill_(default)
