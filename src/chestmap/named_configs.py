"""The configs that ship with the package, by name: `ham/image-labels`."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from chestmap.errors import BadSettings, did_you_mean


def configs_folder() -> Path:
    """In an installed package, or at the top of a checkout."""
    package = Path(str(resources.files("chestmap")))
    inside = package / "configs"
    return inside if inside.is_dir() else package.parents[1] / "configs"


def config_names() -> list[str]:
    """Every shipped config as FOLDER/NAME or NAME, sorted."""
    folder = configs_folder()
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.toml"))


def config_path(text: str) -> Path:
    """A TOML file, or the shipped config of that name."""
    path = Path(text)
    if path.is_file():
        return path
    if path.is_dir():
        own = path / "chestmap.toml"
        what = f"train with {own}" if own.is_file() else f"`chestmap init {path}` writes a config for its images"
        raise BadSettings(f"{path}: is a folder, and a settings file is needed; {what}")
    names = config_names()
    short = text.removeprefix("configs/").removesuffix(".toml")
    if short in names:
        return configs_folder() / f"{short}.toml"
    beside = [entry.name for entry in path.parent.glob("*.toml")] if path.parent.is_dir() else []
    hint = did_you_mean(path.name, beside) or did_you_mean(short, names)
    raise BadSettings(f"{text}: no such settings file, and no shipped config; `chestmap configs` lists these{hint}")


def first_comment(path: Path) -> str:
    """What a config reproduces: its comment lines at the top without the command."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return " ".join(line for line in lines if not line.startswith("chestmap train"))
