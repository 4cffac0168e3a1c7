"""Other ways to keep a state in few bits, in plain NumPy: considered, measured and not taken.

Each keeps conv_state as bf16 (its error does not matter: three samples later it is gone) and rounds ssm_state.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from model.evaluation.handed_over import Keep

Singles = NDArray[np.float32]
Curve = Callable[[Singles], Singles]


def bf16(x: Singles) -> Singles:
    """The nearest bf16 numbers."""
    bits = x.view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    values: Singles = rounded.astype(np.uint32).view(np.float32)
    return values


def scaled(ssm: Singles, group: int, squeeze: Curve, stretch: Curve, draws: np.random.Generator | None) -> Singles:
    """8 bits per value, evenly over `squeeze(value / largest of the group)`; with `draws`, dither added and taken out."""
    x = ssm.reshape(*ssm.shape[:-1], -1, group)
    largest = np.abs(x).max(axis=-1, keepdims=True)
    share = squeeze(np.divide(x, largest, out=np.zeros_like(x), where=largest > 0))
    if draws is None:
        levels, dither = np.float32(127), np.zeros((), np.float32)
    else:
        levels, dither = np.float32(126.5), draws.random(x.shape[1:], np.float32) - np.float32(0.5)
    values: Singles = stretch((np.rint(share * levels + dither) - dither) / levels) * largest
    return values.reshape(ssm.shape)


def power(exponent: float) -> tuple[Curve, Curve]:
    """Small values finer, large ones coarser: |x|^exponent."""

    def curve(exponent: float) -> Curve:
        return lambda x: (np.sign(x) * np.abs(x) ** np.float32(exponent)).astype(np.float32)

    return curve(exponent), curve(1 / exponent)


def logarithm(mu: float) -> tuple[Curve, Curve]:
    """The mu-law of telephony (ITU-T G.711): nearly a constant relative error."""
    whole = np.log1p(mu)
    return (
        lambda x: (np.sign(x) * np.log1p(mu * np.abs(x)) / whole).astype(np.float32),
        lambda y: (np.sign(y) * np.expm1(np.abs(y) * whole) / mu).astype(np.float32),
    )


LINEAR = power(1.0)


def scheme(group: int, curve: tuple[Curve, Curve], *, dithered: bool) -> Keep:
    """A scheme as something to hand states over by."""

    def keep(last: int, conv: Singles, ssm: Singles) -> tuple[Singles, Singles]:
        draws = np.random.default_rng(last) if dithered else None
        return bf16(conv), scaled(ssm, group, *curve, draws)

    return keep


def fp16(_: int, conv: Singles, ssm: Singles) -> tuple[Singles, Singles]:
    """IEEE half precision: three more bits than bf16, and a range that ends at 65,504."""
    return conv.astype(np.float16).astype(np.float32), ssm.astype(np.float16).astype(np.float32)


SCHEMES: dict[str, Keep] = {
    "row": scheme(64, LINEAR, dithered=False),
    "16 values": scheme(16, LINEAR, dithered=False),
    "8 values": scheme(8, LINEAR, dithered=False),
    "row, square root": scheme(64, power(0.5), dithered=False),
    "row, power 0.7": scheme(64, power(0.7), dithered=False),
    "row, mu-law 255": scheme(64, logarithm(255.0), dithered=False),
    "row, dither": scheme(64, LINEAR, dithered=True),
    "8 values, dither": scheme(8, LINEAR, dithered=True),
    "16 values, power 0.7, dither": scheme(16, power(0.7), dithered=True),
    "row, square root, dither": scheme(64, power(0.5), dithered=True),
    "fp16": fp16,
}
