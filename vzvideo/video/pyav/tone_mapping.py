"""Pictures of high dynamic range (PQ, HLG) as an ordinary screen shows them. Plain numpy.

Light is measured in that of white paper, 203 cd/m2 (ITU-R BT.2408). What is darker than 0.6 of it
is shown as it is, what is brighter is compressed, to white at about 1000 cd/m2.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

_PQ, _HLG, _BT2020 = 16, 18, 9  # as H.273 numbers them
HDR_TRANSFERS = (_PQ, _HLG)
_WHITE = 203.0  # cd/m2
_HLG_PEAK, _HLG_GAMMA = 1000.0, 1.2  # of the screen that HLG is meant for
_KNEE = 0.6
_SCREEN_GAMMA = 2.4  # BT.1886
_LUMA_2020 = np.array([0.2627, 0.6780, 0.0593], np.float32)
# From BT.2020's primaries to BT.709's, ITU-R BT.2087.
_TO_709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)


def tone_mapped(codes: NDArray[np.uint16], transfer: int, primaries: int) -> NDArray[np.uint8]:
    """uint16 (H, W, 3) RGB as coded -> uint8 (H, W, 3), BT.709.

    transfer, primaries: as H.273 numbers them.
    """
    light = _light(transfer)[codes]
    if transfer == _HLG:  # of the scene; its screen's share comes on top
        luma = np.maximum(light @ _LUMA_2020, 1e-6)
        light *= (_HLG_PEAK / _WHITE * luma ** (_HLG_GAMMA - 1))[..., None]
    if primaries == _BT2020:
        light = np.maximum(light @ _TO_709.T, 0.0)
    # By the brightest of the three, so that colours stay what they are.
    most = np.maximum(light.max(axis=2, keepdims=True), 1e-6)
    over = 1 - _KNEE
    kept = np.where(most > _KNEE, _KNEE + over * -np.expm1((_KNEE - most) / over), most)
    shown = np.clip(light * (kept / most), 0.0, 1.0) ** np.float32(1 / _SCREEN_GAMMA)
    return np.rint(255 * shown).astype(np.uint8)


@cache
def _light(transfer: int) -> NDArray[np.float32]:
    """Of every code, float32 (65536,): in white papers for PQ, the scene's, 0..1, for HLG."""
    code = np.arange(65536) / 65535
    if transfer == _HLG:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        return np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12).astype("f4")
    m1, m2, c1, c2, c3 = 0.1593017578125, 78.84375, 0.8359375, 18.8515625, 18.6875
    root = code ** (1 / m2)
    light = (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1)
    return (light * 10000 / _WHITE).astype(np.float32)
