"""Opens a dataset by the name of its reader."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import reduce
from operator import or_
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from chestmap.datasets.registry import SOURCES
from chestmap.errors import BadInput, BadSettings, did_you_mean
from chestmap.settings import checked

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Protocol

    from chestmap.datasets.source import Source

    class SourceSettings(Protocol):
        """What the settings of all layouts have."""

        name: str
        root: Path

else:

    def _working() -> list[type]:
        """The settings of every reader; a plug-in that cannot be loaded is named when it is asked for."""
        found = []
        for name in SOURCES:
            try:
                found.append(SOURCES[name].settings)
            except BadInput:
                continue
        return found

    SourceSettings = Annotated[reduce(or_, _working()), Field(discriminator="name")]


def source_settings(tree: Mapping[str, Any], *, name: str = "source") -> SourceSettings:
    """Settings of the source that `tree["name"]` names, with every mistake in one message, each prefixed with `name`."""
    kind = tree.get("name")
    if not isinstance(kind, str) or kind not in SOURCES:
        raise BadSettings(f"{name}: allowed names: {', '.join(SOURCES)} (got {kind!r}){did_you_mean(str(kind), SOURCES)}")
    return checked(SOURCES[kind].settings, dict(tree), name=name)  # pyright: ignore[reportReturnType] -- of plug-ins too


@contextmanager
def tables_as_files(settings: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The settings with frames of polars or pandas written to CSV files, which are there while the source is read."""
    with TemporaryDirectory() as folder:
        named = dict(settings)
        for key, value in settings.items():
            path = Path(folder) / f"{key}.csv"
            if hasattr(value, "write_csv"):
                value.write_csv(path)
            elif hasattr(value, "to_csv"):
                value.to_csv(path, index=False)
            else:
                continue
            named[key] = str(path)
        try:
            yield named
        except BadInput as problem:  # nobody knows the passing file
            raise BadInput(str(problem).replace(f"{folder}{os.sep}", "")) from None


def open_source(settings: SourceSettings) -> Source:
    """Reads the tables; no image is opened. What was noticed on the way is in the source's `problems`."""
    return SOURCES[settings.name].read(settings)
