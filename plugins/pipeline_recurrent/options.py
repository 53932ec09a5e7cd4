"""Checks of the options that recurrent and scanned encoders share, and the modules of these options."""

from typing import get_args

from torch import nn

from pipeline.extend import OptionError, check_bool, check_int, check_probability
from pipeline_recurrent.merge import Merge


def check_stack(
    input_size: int,
    hidden_size: int,
    num_layers: int,
    dropout: float,
    *,
    layer_norm: bool,
    residual: bool,
    highway: bool = False,
) -> None:
    """Reject sizes and options that a stack of layers cannot have.

    Raises:
        OptionError: naming the option.
    """
    for option, number in (("input_size", input_size), ("hidden_size", hidden_size), ("num_layers", num_layers)):
        check_int(option, number, minimum=1)
    check_probability("dropout", dropout)
    if dropout and num_layers == 1:
        msg = f"dropout={dropout} acts between layers, but num_layers is 1; use the Dropout stage around Encode."
        raise OptionError(msg, dropout=dropout)
    for option, given in (("layer_norm", layer_norm), ("residual", residual), ("highway", highway)):
        check_bool(option, given)
        if given and num_layers == 1:
            msg = f"{option}=True acts between layers, but num_layers is 1; add a stage of its kind after Encode."
            raise OptionError(msg, **{option: given})
    if highway and residual:
        msg = "highway=True and residual=True both join a layer's output with its input; choose one."
        raise OptionError(msg, highway=True, residual=True)


def check_merge(merge: str, *, bidirectional: bool) -> None:
    """Reject a merge of directions that does not exist, or without a second direction.

    Raises:
        OptionError: naming the choices.
    """
    check_bool("bidirectional", bidirectional)
    if merge not in get_args(Merge):
        msg = f"merge must be concat, mean, sum, max or mul, got {merge!r}."
        raise OptionError(msg, merge=merge)
    if merge != "concat" and not bidirectional:
        msg = (
            f"merge={merge!r} joins two directions, but bidirectional is False; leave merge out, or set "
            "bidirectional=True."
        )
        raise OptionError(msg, merge=merge)


def check_regularization(dropout_per: str, weight_dropout: float, zoneout: float, zoneout_cell: float) -> None:
    """Reject probabilities out of their range, and unknown kinds of masks.

    Raises:
        OptionError: naming the option.
    """
    if dropout_per not in ("step", "row"):
        msg = f"dropout_per must be step or row, got {dropout_per!r}."
        raise OptionError(msg, dropout_per=dropout_per)
    given = {"weight_dropout": weight_dropout, "zoneout": zoneout, "zoneout_cell": zoneout_cell}
    for option, number in given.items():
        check_probability(option, number)


def check_projection(proj_size: int, hidden_size: int, *, is_lstm: bool, has_zoneout: bool) -> None:
    """Reject a size of projections that is not below the hidden size, or that the encoder cannot have.

    Raises:
        OptionError: naming the option.
    """
    if check_int("proj_size", proj_size, minimum=0) >= hidden_size:
        msg = f"proj_size must be below hidden_size={hidden_size}, or 0 for no projection, got {proj_size}."
        raise OptionError(msg, proj_size=proj_size)
    if proj_size and not is_lstm:
        msg = f"proj_size={proj_size} projects the h of an LSTM, which a GRU or RNN does not have; leave it out."
        raise OptionError(msg, proj_size=proj_size)
    if proj_size and has_zoneout:
        msg = "zoneout is computed without projections; leave out zoneout or proj_size."
        raise OptionError(msg, proj_size=proj_size)


def make_highway(size: int) -> nn.Linear:
    """Return the linear layer of a highway's gate, which lets the layer's input through at the beginning.

    Source: Srivastava, Greff and Schmidhuber 2015, "Highway Networks", arXiv:1505.00387, with their bias below 0.
    """
    linear = nn.Linear(size, size)
    nn.init.constant_(linear.bias, -1.0)
    return linear
