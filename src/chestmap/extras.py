"""The optional parts of an installation: which verb needs which extra, and one line where it is missing."""

from importlib.util import find_spec

from chestmap.errors import BadInput

EXTRAS = {
    "cluster": ("ray",),
    "dicom": (
        "dicomanonymizer",
        "dicomweb_client",
        "highdicom",
        "imagecodecs",
        "pydicom",
        "jpeg_ls",
        "pylibjpeg",
        "pynetdicom",
    ),
    "export": ("onnx", "onnxruntime", "onnxscript", "openvino", "torch"),
    "hub": ("huggingface_hub",),
    "infer": ("onnxruntime",),
    "search": ("optuna",),
    "serve": ("alembic", "fastapi", "prometheus_client", "python_multipart", "sqlalchemy", "uvicorn"),
    "train": (
        "lightning_fabric",
        "onnx",
        "onnxruntime",
        "onnxscript",
        "safetensors",
        "tensorboard",
        "timm",
        "torch",
        "torchvision",
    ),
}
"""Modules of each extra of pyproject.toml, as they are imported."""


def missing(extra: str) -> list[str]:
    """Modules of the extra that are not installed; none is imported."""
    return [name for name in EXTRAS[extra] if not _is_there(name)]


def _is_there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def needs(*extras: str, what: str) -> None:
    """Refuses where an extra is not installed; `what` is the verb or option as the user typed it."""
    for extra in extras:
        if absent := missing(extra):
            raise BadInput(f'{what} needs {", ".join(absent)}: pip install "chestmap[{extra}]"')
