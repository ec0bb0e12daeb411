"""Finds models by name: those that the package knows, and those of a hub (`hf://owner/name`), pinned by hash.

Only text and safetensors come in or go out; nothing from a hub is unpickled or executed. `CHESTMAP_HUB` may name a folder that is
used as the hub, with a folder owner/name for each model: for a network without the internet, and for tests.
"""

from __future__ import annotations

import os
import re
import shutil
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from chestmap.errors import BadInput, BadModel, Unreachable
from chestmap.extras import needs
from chestmap.models.cards.hub_card import front_matter
from chestmap.models.folder import read_about
from chestmap.storage.atomic import write_text
from chestmap.storage.manifest import seal

SCHEME = "hf://"
ADDRESS = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w.-]+))?(#sha256=(?P<sha256>[0-9a-f]{64}))?")
FILES = (
    "model.json",
    "weights.safetensors",
    "graph.onnx",
    "config.toml",
    "README.md",
    "figures.json",
    "reliability.svg",
    "SHA256SUMS",
)
"""All that a model folder holds; whatever else a hub has under that name stays there."""


@dataclass(frozen=True)
class Address:
    """`hf://owner/name`, with a revision and the hash of the weights where they are pinned."""

    repo: str
    revision: str | None = None
    sha256: str | None = None

    @classmethod
    def of(cls, text: str) -> Address:
        """Reads `hf://OWNER/NAME`, with `@REVISION` and `#sha256=HASH` where they are given."""
        found = ADDRESS.fullmatch(text)
        if found is None:
            raise BadInput(f"{text}: expected hf://OWNER/NAME, with @REVISION and #sha256=HASH where it is pinned")
        return cls(found["repo"], found["revision"], found["sha256"])


def known_models() -> Mapping[str, Mapping[str, Any]]:
    """Name to title, place and hash of the models that this version knows."""
    return tomllib.loads(resources.files("chestmap.models").joinpath("known_models.toml").read_text(encoding="utf-8"))


def known_model(name: str) -> Path | None:
    """The folder of a known model; None where the name is not known."""
    entry = known_models().get(name)
    if entry is None:
        return None
    place = str(entry["place"])
    if place.startswith(SCHEME):
        return pull(f"{place}#sha256={entry['sha256']}")
    folder = Path(str(resources.files("chestmap"))) / place
    return _pinned(folder, str(entry["sha256"]), name)


def pull(address: str, out: Path | None = None) -> Path:
    """Fetches a model into the hub's cache, or into a new folder `out`; returns the model folder."""
    where = Address.of(address)
    if out is not None:
        _check_new(out)
    local = os.environ.get("CHESTMAP_HUB")
    folder = Path(local) / where.repo if local else _fetched(where, address)
    if not (folder / "model.json").is_file():
        raise BadModel(f"{address}: no model.json there; expected a model that `chestmap model push` wrote")
    _pinned(folder, where.sha256, address)
    if out is None:
        return folder
    _copy(folder, out)
    return out


def _fetched(where: Address, address: str) -> Path:
    """Fetches a model through the hub's own client and cache; without a network the cached copy serves."""
    needs("hub", what=address)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(where.repo, revision=where.revision, allow_patterns=list(FILES)))
    except RepositoryNotFoundError:
        raise BadInput(f"{address}: the hub has no such model, or it is private; log in with `hf auth login`") from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise Unreachable(
            f"{address}: not in the cache, and the hub cannot be reached ({type(error).__name__}); fetch it where there is a "
            f"network with `chestmap model pull {address} --out FOLDER`, and use that folder"
        ) from None


def push(model: Path, address: str, license_id: str = "other") -> str:
    """Sends a model folder with a card that the hub reads; returns where it is."""
    where, about = Address.of(address), read_about(model)
    if where.revision or where.sha256:
        raise BadInput(f"{address}: a push goes to OWNER/NAME, without revision and hash")
    card = front_matter(model, about, license_id)
    local = os.environ.get("CHESTMAP_HUB")
    if local:
        target = Path(local) / where.repo
        shutil.rmtree(target, ignore_errors=True)
        _with_card(model, card, target)
        return str(target)
    needs("hub", what=address)
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    hub = HfApi()
    try:
        with TemporaryDirectory() as place:
            _with_card(model, card, Path(place))
            hub.create_repo(where.repo, exist_ok=True)
            hub.upload_folder(repo_id=where.repo, folder_path=place, allow_patterns=list(FILES))
    except (HfHubHTTPError, OSError) as error:
        raise Unreachable(
            f"{address}: the hub did not take it ({type(error).__name__}: {str(error)[:120]}); log in with `hf auth login`"
        ) from None
    return f"https://huggingface.co/{where.repo}"


def _with_card(model: Path, card: str, out: Path) -> None:
    """Copies the model with another card, and seals what is then there."""
    _copy(model, out)
    write_text(out / "README.md", card)
    seal(out)


def _check_new(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"{out}: is not empty; give a new folder")


def _copy(model: Path, out: Path) -> None:
    _check_new(out)
    out.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        if (model / name).is_file():
            shutil.copyfile(model / name, out / name)


def _pinned(folder: Path, sha256: str | None, name: str) -> Path:
    """The weights themselves are compared with model.json when the model is opened."""
    found = read_about(folder)["sha256"]
    if sha256 is not None and found != sha256:
        raise BadModel(f"{name}: weights of hash {found[:12]}…, expected {sha256[:12]}…; the model there was changed")
    return folder
