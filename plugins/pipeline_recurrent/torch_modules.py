"""Torch's own modules: what can be copied into an encoder."""

from typing import Final, TypeAlias

from torch import nn

TorchModule: TypeAlias = nn.LSTM | nn.GRU | nn.RNN

TORCH_FORWARDS: Final[tuple[object, ...]] = (nn.LSTM.forward, nn.GRU.forward, nn.RNN.forward)

HOOKS: Final = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


def is_parametrized(module: nn.Module) -> bool:
    """Return whether a module computes its weights, by pruning or weight norm for example."""
    return bool(getattr(module, "parametrizations", None))


def explain_not_loadable(module: TorchModule, own: TorchModule) -> str | None:
    """Return why a torch module cannot be copied into an encoder's own one, as a clause after "module"; or None."""
    if own.mode != module.mode or own.proj_size != module.proj_size:
        kind = own.mode.partition("_")[0] + (f" with {own.mode[4:].lower()}" if own.mode.startswith("RNN") else "")
        projections = f"with proj_size={own.proj_size}" if own.proj_size else "without projections"
        return f"must be an nn.{kind} {projections}"
    if getattr(module, "parametrizations", None) or any(getattr(module, hooks, None) for hooks in HOOKS):
        return (
            "must have no hooks and no parametrizations, which would be lost; remove them first (prune.remove, "
            "remove_parametrizations), and apply them to the encoder's `rnn`"
        )
    if type(module).forward not in TORCH_FORWARDS:
        return "must have torch's own forward, because an encoder computes with the weights only"
    if len(list(module.parameters())) < len(module.state_dict()):
        return "must have no shared weights, which would be copied separately"
    if any(getattr(weight, "_backward_hooks", None) for weight in module.parameters()):
        return "must have no hooks on its weights, which would be lost; register them on the encoder's weights"
    shapes, own_shapes = (
        {name: tuple(weight.shape) for name, weight in each.state_dict().items()} for each in (module, own)
    )
    return None if shapes == own_shapes else f"must have the sizes of the encoder's rnn, {own}"
