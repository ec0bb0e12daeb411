"""`chestmap data deidentify`: make DICOM radiographs that may leave the hospital's network."""

import secrets
from pathlib import Path
from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    app.command()(deidentify)


def deidentify(
    inputs: Annotated[
        list[str], typer.Argument(metavar="INPUT…", help="DICOM files, folders, globs, zip archives, a DICOMDIR or a list.")
    ],
    out: Annotated[Path, typer.Option(help="The folder to write; files are named by their new identifiers.")],
    new_key: Annotated[
        bool, typer.Option("--new-key", help="Forget the key afterwards: no later batch can be matched, not even by you.")
    ] = False,
    keep_age_sex: Annotated[
        bool, typer.Option("--keep-age-sex", help="Keep age (90 at most) and sex, an option of PS3.15.")
    ] = False,
    shift_dates: Annotated[
        bool, typer.Option("--shift-dates", help="Keep dates, shifted by one span for all images of a patient.")
    ] = False,
    show_names: Annotated[
        bool, typer.Option("--show-names", help="Name the files that were left out; names may tell of patients.")
    ] = False,
) -> None:
    """Write copies without names, dates, ids and private elements (DICOM PS3.15, basic profile).

    New identifiers are keyed hashes: the images of a patient stay together, within a batch and, with the key of this user or
    `CHESTMAP_KEY`, over batches. Text in the pixels is not looked for; files that admit to it are left out, with exit code 1.

    Example: `chestmap data deidentify /pacs/export --out /share/study-7`
    """
    from chestmap.extras import needs

    needs("dicom", what="chestmap data deidentify")
    from chestmap.errors import BadImage
    from chestmap.prediction.decoding import content
    from chestmap.prediction.inputs import Inputs
    from chestmap.prediction.pseudonym import own_key
    from chestmap.progress import progress_of
    from chestmap.reports.dicom.deidentify import KeepOptions, write_deidentified

    found = Inputs(inputs)
    salt = secrets.token_bytes(32) if new_key else own_key()
    out.mkdir(parents=True, exist_ok=True)
    left_out, silent, written = 0, 0, 0
    with progress_of("deidentify", found.count(), show=True, unit="files") as advance:
        for place, source in enumerate(found, 1):
            try:
                if source.problem:
                    raise BadImage(source.problem)
                silent += not write_deidentified(content(source), salt, out, KeepOptions(keep_age_sex, shift_dates))
                written += 1
            except BadImage as problem:
                left_out += 1
                reason = str(problem).removeprefix("image: ")
                typer.echo(f"file {place}{f' ({source.name})' if show_names else ''}: {reason}", err=True)
            advance(1)
    typer.echo(f"{written:,} files in {out}", err=True)
    if silent:
        typer.echo(f"{silent:,} of them do not say whether text is burned into the pixels: look at them", err=True)
    if left_out:
        typer.echo(f"{left_out:,} files were left out", err=True)
        raise typer.Exit(1)
