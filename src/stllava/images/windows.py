"""Windows: which stored values are shown as black and white, and how those between are.

Source: DICOM PS3.3, C.11.2.1.2 and C.11.2.1.3 (LINEAR, SIGMOID, LINEAR_EXACT). Shown values are
0 (black) to 1 (white). Shape: N values, of a picture or of all that can be stored in it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

PERCENTILES = (0.5, 99.5)  # of the stored values; the ends saturate

# Center and width in Hounsfield units, as in https://radiopaedia.org/articles/windowing-ct
PRESETS = {
    "lung": (-600.0, 1500.0),
    "mediastinum": (50.0, 350.0),
    "abdomen": (50.0, 400.0),
    "liver": (30.0, 150.0),
    "soft-tissue": (40.0, 400.0),
    "bone": (400.0, 1800.0),
    "brain": (40.0, 80.0),
}


class Window(NamedTuple):
    """Center and width as a DICOM header gives them."""

    center: float
    width: float
    function: str = "LINEAR"

    def __str__(self) -> str:
        function = "" if self.function == "LINEAR" else f" {self.function}"
        return f"{self.center:g}/{self.width:g}{function}"

    @property
    def is_sound(self) -> bool:
        """Finite, and as wide as its function needs (the standard: LINEAR 1, the others > 0)."""
        finite = bool(np.isfinite(self.center) and np.isfinite(self.width))
        return finite and (self.width >= 1 if self.function == "LINEAR" else self.width > 0)

    @property
    def ends(self) -> tuple[float, float]:
        """Values up to the first are black, from the second on white; SIGMOID only nears them."""
        if self.function == "LINEAR":
            middle, half = self.center - 0.5, (self.width - 1) / 2
        else:
            middle, half = self.center, self.width / 2
        return middle - half, middle + half


def apply_window(values_N: Values, window: Window) -> Values:
    """Shown values, 0..1; `window.is_sound` must hold."""
    if window.function == "SIGMOID":
        exponent_N = np.clip(-4 * (values_N - window.center) / window.width, -700, 700)
        return np.asarray(1 / (1 + np.exp(exponent_N)))
    low, high = window.ends
    if low == high:  # LINEAR of width 1 is a step
        return (values_N > high).astype(np.float64)
    return stretch(values_N, low, high)


def stretch(values_N: Values, low: float, high: float) -> Values:
    """`low` and below are 0, `high` and above 1; a range of no width shows what exceeds it."""
    return np.clip((values_N - low) / max(high - low, 1e-12), 0, 1)


def percentile_range(values_N: Values) -> tuple[float, float]:
    """Ends of a window that the values themselves suggest. Raises ValueError: none is finite."""
    finite_N = values_N[np.isfinite(values_N)]
    if finite_N.size == 0:
        raise ValueError("no finite pixel value")
    low, high = np.percentile(finite_N, PERCENTILES)
    if low == high:  # nearly everything is one value, as in a mask
        low, high = finite_N.min(), finite_N.max()
    return float(low), float(high)


def shows_something(values_N: Values, shown_N: Values, window: Window, storable: float) -> bool:
    """False for a window that says nothing about these values, as broken exports hold them.

    A narrow window that misses values spread wider than itself (a blank picture), or one as wide
    as all that could be stored (`storable`) while the picture uses a sliver of it. A window that
    shows a uniform picture black, as 40/400 does with a slice of air, is a good one.
    """
    contrast = float(shown_N.max() - shown_N.min())
    spread = float(values_N.max() - values_N.min())
    if contrast < 1 / 255 and spread > window.width:
        return False
    return not (contrast < 16 / 255 and window.width >= storable)
