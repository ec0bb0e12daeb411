"""Reads the maps of one part of a predictions folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float16


@dataclass(frozen=True, eq=False)
class PartMaps:
    """Open only where a slice is in use: a process may hold 1,024 files open, and a folder has more parts than that."""

    path: Path
    shape: tuple[int, ...]  # (image, finding, h, w)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> Float16[np.ndarray, "image finding h w"]:
        """A read-only memory map."""
        return np.load(self.path, mmap_mode="r", allow_pickle=False)[rows]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:  # noqa: FBT001 - as NumPy calls it
        return np.array(self[:], dtype)
