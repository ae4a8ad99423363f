"""Pixels as indices into the values that can occur in them.

Every gray step works value by value, so it is computed once for each value, not for each pixel:
65,536 at most, where a radiograph has millions of pixels.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from stllava.images.windows import Values

T = TypeVar("T", bound=np.generic)


class Pixels(NamedTuple):
    """Stored values of a frame. Where they are not whole or too many, the domain is the pixels."""

    stored: NDArray[Any]  # (H, W)
    domain: NDArray[Any]  # (N,)
    places: NDArray[np.intp] | None  # (H, W): where in the domain

    @classmethod
    def of(cls, stored_HW: NDArray[Any]) -> Pixels:
        """Raises ValueError where no value is finite."""
        if not np.issubdtype(stored_HW.dtype, np.integer):
            finite = stored_HW[np.isfinite(stored_HW)]
            if not finite.size:
                raise ValueError("no finite pixel value")
            low, high = float(finite.min()), float(finite.max())
            domain = np.nan_to_num(stored_HW.astype(np.float64), nan=low, posinf=high, neginf=low)
            return cls(stored_HW, domain.ravel(), None)
        low, high = int(stored_HW.min()), int(stored_HW.max())
        if high - low >= 2**16:
            return cls(stored_HW, stored_HW.ravel().astype(np.float64), None)
        return cls(stored_HW, np.arange(low, high + 1), stored_HW.astype(np.intp) - low)

    def picture(self, table_N: NDArray[T]) -> NDArray[T]:
        """(H, W): for every pixel what the table says of its value."""
        return table_N.reshape(self.stored.shape) if self.places is None else table_N[self.places]

    def outside(self, values_N: Values, padding: tuple[float, float] | None) -> Values:
        """Values of all pixels whose stored value is no padding; of all if every one is."""
        picture_HW = self.picture(values_N)
        if padding is None:
            return picture_HW.ravel()
        kept = picture_HW[(self.stored < padding[0]) | (self.stored > padding[1])]
        return kept if kept.size else picture_HW.ravel()
