"""Finds a model folder by what a user calls it."""

from __future__ import annotations

from pathlib import Path

from chestmap.errors import BadModel, did_you_mean


def model_folder(name: str | Path) -> Path:
    """A model folder, the one inside a run folder, one of the hub (`hf://owner/name`), or that of a known name."""
    text = str(name)
    if text.startswith("hf://"):
        from chestmap.models.hub import pull

        return pull(text)
    folder = Path(name)
    if folder.is_file():
        raise BadModel(f"{folder}: is a file, no model; MODEL comes first, then the images")
    inside = folder / "model"
    if (inside / "model.json").is_file() and not (folder / "model.json").is_file():
        return inside
    if not folder.exists() and "/" not in text:
        from chestmap.models.hub import known_model, known_models

        found = known_model(text)
        if found is None:
            known = ", ".join(known_models()) or "none"
            raise BadModel(
                f"{text}: no such folder, and no known model (known: {known}){did_you_mean(text, known_models())}; "
                "expected a run folder, a model folder or hf://OWNER/NAME"
            )
        return found
    return folder
