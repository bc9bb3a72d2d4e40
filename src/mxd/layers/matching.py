"""Parameter matching: how wide each architecture must be to cost what a transcoder costs."""

import math

from mxd.errors import UserError

RULES = ("exact", "paper")


def match_experts(
    d_in: int,
    d_out: int,
    d_hidden: int,
    expansion: int | float = 32,
    glu: bool = False,
    rule: str = "exact",
) -> int:
    """Number of experts N at which an MxD has as many parameters as a transcoder.

    Args:
        d_in: width of the input.
        d_out: width of the output.
        d_hidden: H, width of the MxD's dense hidden units.
        expansion: the transcoder's width in units of d_in.
        glu: whether the MxD has the GLU form.
        rule: `exact`, or `paper` for the numbers of the paper's experiments (Table 2), whose count
            charges an MLP's base for the transcoder's encoder bias instead of its own, and rounds a
            GLU's down.

    Raises:
        UserError: unknown rule, or the dense branch alone costs more than the transcoder.
    """
    if rule not in RULES:
        raise UserError(f"got rule {rule!r}, expected one of {', '.join(RULES)}")
    width = _whole(expansion * d_in)
    budget = _transcoder_parameters(d_in, d_out, width)
    base = _mlp_parameters(d_in, d_out, d_hidden, glu)
    if rule == "paper" and not glu:
        base += width - d_hidden
    exact = (budget - base) / (d_in + 1 + d_out)
    return _checked(math.floor(exact) if rule == "paper" and glu else round(exact), expansion)


def match_latents(
    architecture: str,
    d_in: int,
    d_out: int,
    d_hidden: int,
    expansion: int | float = 32,
    glu: bool = False,
) -> int:
    """Number of units at which `architecture` has as many parameters as a transcoder, exactly.

    Args: as `match_experts`; `architecture` is one of the registered names. A dense MLP has none.
    """
    width = _whole(expansion * d_in)
    budget = _transcoder_parameters(d_in, d_out, width)
    if architecture in ("mxd", "mlp_transcoder"):
        return match_experts(d_in, d_out, d_hidden, expansion, glu)
    if architecture == "dense_mlp":
        return 0
    if architecture == "skip_transcoder":
        width = round((budget - d_out - d_in * d_out) / (d_in + 1 + d_out))
    elif architecture == "topk_autoencoder":  # it reads and writes d_out
        width = round((budget - d_out) / (2 * d_out + 1))
    elif architecture != "transcoder":
        raise UserError(f"got architecture {architecture!r}, expected a registered one")
    return _checked(width, expansion)


def _transcoder_parameters(d_in: int, d_out: int, width: int) -> int:
    return width * (d_in + 1 + d_out) + d_out


def _mlp_parameters(d_in: int, d_out: int, d_hidden: int, glu: bool) -> int:
    return d_hidden * (d_in + 1) * (2 if glu else 1) + d_hidden * d_out + d_out


def _whole(width: int | float) -> int:
    if not 1 <= width < math.inf:
        raise UserError(
            f"got a transcoder width of {width:g}, expected at least 1; change the expansion"
        )
    return round(width)


def _checked(n: int, expansion: int | float) -> int:
    if n < 1:
        raise UserError(
            f"got expansion {expansion:g}, which leaves no parameters for units beside the dense "
            "ones; expected a larger expansion"
        )
    return n
