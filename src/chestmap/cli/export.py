"""`chestmap export`: write a model for programs without torch."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Format(StrEnum):  # typer knows no list of literals
    """What `--format` takes; typer knows no list of literals."""

    ONNX = "onnx"
    OPENVINO = "openvino"
    PT2 = "pt2"


def add_to(app: typer.Typer) -> None:
    app.command()(export)


def export(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A run folder, a model folder, or the name of a known model.")
    ],
    out: Annotated[Path | None, typer.Option(help="The export folder; new, or empty.")] = None,
    formats: Annotated[
        list[Format] | None, typer.Option("--format", help="onnx (by default), openvino or pt2; repeatable.")
    ] = None,
    into: Annotated[
        bool, typer.Option("--into", help="Write the ONNX graph into the model folder, so that it predicts without torch.")
    ] = False,
) -> None:
    """Write a model as ONNX, for OpenVINO, or as a torch.export program: canvas pixels in, scores and maps out.

    The folder describes how an image gets on the canvas and needs neither chestmap nor (but for pt2) torch. Each graph is run and
    compared with torch before the folder is there.

    With --into the graph goes into MODEL itself, as `chestmap train` does when it ends: predict, serve and node then use it, and
    need no torch.

    Example: `chestmap export runs/image-labels/model --format onnx --format openvino --out exported`

    Example: `chestmap export --into runs/image-labels/model`
    """
    from chestmap.errors import BadInput
    from chestmap.extras import needs

    needs("train" if into else "export", what="chestmap export")
    from chestmap.api.model_names import model_folder
    from chestmap.methods import METHODS
    from chestmap.models.export import add_graph
    from chestmap.models.export import export as write
    from chestmap.models.folder import open_model

    if into == (out is not None) or (into and formats):
        raise BadInput("give --out FOLDER, with any --format, or --into alone")
    opened = open_model(model_folder(model), METHODS)
    if out is None:
        typer.echo(add_graph(opened))
        return
    typer.echo(write(opened, [one.value for one in dict.fromkeys(formats or [Format.ONNX])], out))
