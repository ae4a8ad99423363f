"""Positions with three axes (time, height, width), as Qwen's models count them.

    grids = {"xray": inputs["image_grid_thw"][0], ...}
    batch = pack(sequences, images, positions_of=rope_positions(model, grids))

An image takes as many positions as its longer side has patches, not as it has tokens.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stllava.tree.batch import PositionsOf


def rope_positions(core: Any, grids: Mapping[Hashable, Tensor]) -> PositionsOf:
    """What `pack` asks for each sequence; `grids` has every image's row of `image_grid_thw`."""
    image_id = core.config.image_token_id

    def positions(ids: Sequence[int], image: Hashable) -> np.ndarray:
        """(3, L), by the model itself."""
        ids_1L = torch.tensor([list(ids)])
        positions_31L, _ = core.model.get_rope_index(
            ids_1L,
            mm_token_type_ids=(ids_1L == image_id).int(),
            image_grid_thw=grids[image][None].cpu(),
        )
        found: np.ndarray = positions_31L[:, 0].numpy()
        return found

    return positions
