"""Whom a model saw: short salted hashes of its training images, their pixels and their patients, kept with the model.

They are kept for public sources. Those of others can be asked for, as an id of few digits can be guessed from its hash.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from secrets import token_hex
from typing import Any

import numpy as np

from chestmap.errors import BadModel

LENGTH = 5
"""Bytes of a hash: among 100,000 training images and as many others, one in a hundred checks meets a hash by chance."""


@dataclass(frozen=True, eq=False)
class Overlap:
    """How many of the images, and of their patients, trained the model, by their ids."""

    images: int
    patients: int


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainingHashes:
    """Hashes as sorted unsigned integers. `pixels` are those of each image on the model's canvas; none in older models."""

    salt: str
    source: str
    images: np.ndarray
    patients: np.ndarray
    pixels: np.ndarray

    @classmethod
    def of(
        cls,
        source: str,
        images: Iterable[str],
        patients: Iterable[str],
        pixels: Iterable[bytes] = (),
        *,
        salt: str = "",
    ) -> TrainingHashes:
        """`pixels` are `pixel_hash`es of canvases, as a pack keeps them."""
        salt = salt or token_hex(8)
        image, patient = _hashed(salt, "image", images), _hashed(salt, "patient", patients)
        return cls(
            salt=salt,
            source=source,
            images=image,
            patients=patient,
            pixels=_hashed(salt, "pixels", (one.hex() for one in pixels)),
        )

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any], where: object) -> TrainingHashes:
        """Read what `as_dict` wrote; `where` names the file in an error."""
        try:
            images, patients = _unpacked(stored["images"]), _unpacked(stored["patients"])
            return cls(
                salt=str(stored["salt"]),
                source=str(stored["source"]),
                images=images,
                patients=patients,
                pixels=_unpacked(stored.get("pixels", "")),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BadModel(f"{where}: whom the model saw cannot be read ({error}); copy the model folder again") from None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for `model.json`; the hashes are packed as text."""
        kept = {key: _packed(getattr(self, key)) for key in ("images", "patients", "pixels")}
        return {"salt": self.salt, "source": self.source} | kept

    def overlap(self, images: Iterable[str], patients: Iterable[str]) -> Overlap:
        """Counts images and patients that the model saw in training; chance matches are rarer than one in a million."""
        image, patient = _hashed(self.salt, "image", images), _hashed(self.salt, "patient", patients)
        return Overlap(int(np.isin(image, self.images).sum()), int(np.isin(patient, self.patients).sum()))

    def same_pixels(self, pixels: Iterable[bytes]) -> int:
        """How many of these canvases trained the model."""
        return int(np.isin(_hashed(self.salt, "pixels", (one.hex() for one in pixels)), self.pixels).sum())

    @cached_property
    def counts(self) -> tuple[int, int]:
        """Numbers of images and of patients that trained."""
        return len(self.images), len(self.patients)


def _hashed(salt: str, kind: str, names: Iterable[str]) -> np.ndarray:
    """Each different name once; an empty name is nobody."""
    key = f"{salt}{kind}".encode()
    found = (blake2b(one.encode(), key=key, digest_size=LENGTH).digest() for one in set(names) if one)
    return np.unique(np.array([int.from_bytes(one, "big") for one in found], dtype=np.uint64))


def _packed(hashes: np.ndarray) -> str:
    wide = hashes.astype(">u8").view(np.uint8).reshape(-1, 8)
    return b64encode(wide[:, 8 - LENGTH :].tobytes()).decode()


def _unpacked(text: str) -> np.ndarray:
    held = np.frombuffer(b64decode(text, validate=True), np.uint8).reshape(-1, LENGTH)
    wide = np.zeros((len(held), 8), np.uint8)
    wide[:, 8 - LENGTH :] = held
    return wide.view(">u8").ravel().astype(np.uint64)
