"""The VOI step: which of the scanner's values are shown, and how bright.

Source: DICOM PS3.3, C.11.2; padding: C.7.5.1.1.2. Shape: N values, of pixels or of all that can
occur in them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from stllava.config import ImagesSection
from stllava.images.dicom.domain import Pixels
from stllava.images.dicom.header import Header
from stllava.images.dicom.modality import Rescaled, look_up
from stllava.images.windows import (
    PRESETS,
    Values,
    Window,
    apply_window,
    percentile_range,
    shows_something,
    stretch,
)

ORDINALS = ("first", "second", "third")


class Shown(NamedTuple):
    """Values after the VOI step."""

    values: Values  # (N,), 0 black to 1 white
    step: str
    window: tuple[float, float] | None  # real values shown black and white; None: by a table


def voi(rescaled: Rescaled, pixels: Pixels, header: Header, options: ImagesSection) -> Shown:
    """By the preset, else the header's VOI LUT, else its first sound window, else percentiles."""
    values_N = rescaled.values
    if options.window in PRESETS and is_hounsfield(rescaled, header):
        window = Window(*PRESETS[options.window])
        step = f"window {options.window} {window}"
        return Shown(apply_window(values_N, window), step, window.ends)
    note = "percentiles"
    if options.window != "percentile":
        tables, windows = header.first("VOILUTSequence"), _windows(header)
        if tables:
            shown_N, bits = look_up(values_N, tables[0], header)
            return Shown(shown_N / (2.0**bits - 1), "VOI LUT" + _which(0, len(tables)), None)
        shown = _first_sound(rescaled, windows) or _whole(rescaled, header)
        if shown is not None:
            return shown
        note += "; no sound window in the header" if windows else ""
    low, high = percentile_range(pixels.outside(values_N, _padding(header)))
    return Shown(stretch(values_N, low, high), f"window {low:g}..{high:g} ({note})", (low, high))


def _whole(rescaled: Rescaled, header: Header) -> Shown | None:
    """8-bit values without a window are meant as they are, unless they would be nearly black."""
    if header.bits_stored > 8 or header.is_signed or rescaled.step:
        return None
    window = 0.0, rescaled.storable
    shown_N = stretch(rescaled.values, *window)
    return Shown(shown_N, "", window) if shown_N.max() - shown_N.min() >= 16 / 255 else None


def _first_sound(rescaled: Rescaled, windows: list[Window]) -> Shown | None:
    for number, window in enumerate(windows):
        if not window.is_sound:
            continue
        shown_N = apply_window(rescaled.values, window)
        if shows_something(rescaled.values, shown_N, window, rescaled.storable):
            step = f"window {window}{_which(number, len(windows))}"
            return Shown(shown_N, step, window.ends)
    return None


def is_hounsfield(rescaled: Rescaled, header: Header) -> bool:
    """Presets are in Hounsfield units, which only CT has."""
    return header.first("Modality") == "CT" and not rescaled.is_table


def _which(number: int, count: int) -> str:
    if count < 2:
        return ""
    return f" ({ORDINALS[number] if number < len(ORDINALS) else number + 1} of {count})"


def _windows(header: Header) -> list[Window]:
    """All windows of the header in its order, sound or not; none where they are no numbers."""
    function = str(header.first("VOILUTFunction") or "LINEAR").strip().upper()
    try:
        centers, widths = (_numbers(header.first(f"Window{end}")) for end in ("Center", "Width"))
    except (ValueError, TypeError):
        return []
    known = function if function in ("LINEAR_EXACT", "SIGMOID") else "LINEAR"
    return [Window(*pair, known) for pair in zip(centers, widths, strict=False)]


def _numbers(value: Any) -> list[float]:
    """A value, or each of several; an empty one is not a number."""
    is_list = hasattr(value, "__iter__") and not isinstance(value, str)
    values = value if is_list else [] if value is None else [value]
    return [float("nan") if v in (None, "") else float(v) for v in values]


def _padding(header: Header) -> tuple[float, float] | None:
    """Stored values that only fill the frame, e.g. outside the scanner's circle."""
    value, limit = (header.first(f"PixelPadding{end}") for end in ("Value", "RangeLimit"))
    if not isinstance(value, int):
        return None
    other = limit if isinstance(limit, int) else value
    return min(value, other), max(value, other)
