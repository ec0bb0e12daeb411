"""`chestmap train`, `methods` and `configs`: train a network, and list what can be trained.

`train` takes a TOML file or the name of a shipped config, and prints the run folder. `methods` and `configs` read the
registries, without importing torch.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from chestmap.cli.options import JsonOption, print_rows

ConfigArgument = Annotated[
    str,
    typer.Argument(metavar="CONFIG", help="A TOML file with [run], [data] and [method], or a name of `chestmap configs`."),
]
OverridesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a setting, such as `--set data.source.root=/data/nih`; repeatable."
    ),
]
RootOption = Annotated[
    Path | None, typer.Option(metavar="ROOT", help="The dataset's folder; the same as `--set data.source.root=ROOT`.")
]
OutOption = Annotated[Path | None, typer.Option(help="The run folder; by default runs/ and the config's name.")]
DevicesOption = Annotated[
    int | None, typer.Option(min=1, help="Processes on each machine, one per GPU; the same as `--set run.devices=N`.")
]
NodesOption = Annotated[
    int | None, typer.Option(min=1, help="Machines; start the same command on each, see docs/scale/training.md.")
]
RendezvousOption = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="Where several machines meet; under Slurm it is known.")
]
SearchOption = Annotated[
    bool, typer.Option(help="Search the settings of the config's [search] table instead of training once.")
]


def add_to(app: typer.Typer) -> None:
    app.command()(train)
    app.command()(methods)
    app.command()(configs)


def train(
    config: ConfigArgument,
    overrides: OverridesOption = None,
    root: RootOption = None,
    out: OutOption = None,
    devices: DevicesOption = None,
    nodes: NodesOption = None,
    rendezvous: RendezvousOption = None,
    search: SearchOption = False,
) -> None:
    """Train a config into a run folder; run it again to go on where it stopped.

    Every mistake in the file and the overrides is reported at once. Ctrl-C writes a checkpoint first. What is finished is
    loaded, what was made with other settings, data or code is refused. The trained model is in `model/`.

    With `--devices` several processes train together; torchrun and srun start them too. One that dies ends the job.

    Example: `chestmap train ham/image-labels --root /data/nih --set run.precision=bf16`
    """
    from chestmap.extras import needs

    needs("train", *(["search"] if search else []), what="chestmap train --search" if search else "chestmap train")
    from chestmap.methods import METHODS
    from chestmap.models.export import write_with_graph
    from chestmap.models.folder import read_about
    from chestmap.named_configs import config_path
    from chestmap.training.config import read_config
    from chestmap.training.launch import is_launcher, launch
    from chestmap.training.train import train as train_model

    together = {"run.devices": devices, "run.nodes": nodes, "run.rendezvous": rendezvous, "data.source.root": root}
    asked = [f"{key}={value}" for key, value in together.items() if value is not None]
    path = config_path(config)
    read = read_config(path, [*(overrides or []), *asked], METHODS)
    folder = out or Path("runs") / path.stem
    if search:
        from chestmap.training.search import search as search_settings

        search_settings(read, folder, METHODS)
        typer.echo(folder)
        return
    if is_launcher(read.run):
        launch(read.run, ["-m", "chestmap", *sys.argv[1:]])
        return
    model = train_model(read, folder, write_with_graph)
    about = read_about(model) if (model / "model.json").is_file() else {}
    if reason := about.get("graph", {}).get("refused"):
        typer.echo(f"The model has no graph, so it predicts with torch alone: {reason}", err=True)
    typer.echo(model)


def methods(as_json: JsonOption = False) -> None:
    """List the methods that a config can name, with their papers."""
    from chestmap.methods import METHODS, described

    print_rows(("name", "title", "paper"), [(name, *described(name)) for name in METHODS], as_json=as_json)


def configs(as_json: JsonOption = False) -> None:
    """List the configs that ship with the package, with what each reproduces; `chestmap train NAME` takes them by name."""
    from chestmap.named_configs import config_names, config_path, first_comment

    print_rows(("name", "what"), [(name, first_comment(config_path(name))) for name in config_names()], as_json=as_json)
