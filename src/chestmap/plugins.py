"""Registries: finds methods, datasets and output formats by name, those of this package and those of others.

A package of your own names its entry under a group such as `chestmap.methods` in its pyproject.toml; nothing is imported before
its name is asked for.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, MutableMapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

from chestmap.errors import BadInput, did_you_mean

Entry = TypeVar("Entry")


class Registry(MutableMapping[str, Entry]):
    """Maps names to entries and imports an entry when it is first used. An own name wins over the same name of a plug-in."""

    def __init__(self, group: str, own: Mapping[str, str]) -> None:
        """`own` holds "module:attribute" for each name."""
        self.group, self._own = group, dict(own)
        self._loaded: dict[str, Entry] = {}
        self._found: dict[str, EntryPoint] | None = None

    @property
    def plugins(self) -> dict[str, EntryPoint]:
        """Entries of other packages by name, not yet imported."""
        if self._found is None:
            found = {point.name: point for point in entry_points(group=self.group)}
            self._found = {name: point for name, point in sorted(found.items()) if name not in self._own}
        return self._found

    @property
    def in_help(self) -> str:
        """All names for a help text. Other packages are looked for where help is asked, since that takes time at every start."""
        return ", ".join(self if {"-h", "--help"} & set(sys.argv) else self._own)

    def origin(self, name: str) -> str:
        """Where an entry comes from, as "module:attribute"; empty for one that was set at run time."""
        if name in self._own:
            return self._own[name]
        return self.plugins[name].value if name in self.plugins else ""

    def __getitem__(self, name: str) -> Entry:
        if name not in self._loaded:
            place = self.origin(name)
            if not place:
                raise KeyError(name)
            self._loaded[name] = self._load(name, place)
        return self._loaded[name]

    def _load(self, name: str, place: str) -> Entry:
        """Imports an entry. A fault of another package is one line that names it; a fault of this package is raised."""
        module, _, attribute = place.partition(":")
        try:
            entry = import_module(module)
            for part in attribute.split("."):
                entry = getattr(entry, part)
        except Exception as error:  # what the import of another package's module may raise is unknown
            if name in self._own:
                raise
            raise BadInput(
                f'{self.group}: "{name}" of package {self._package(name)} cannot be loaded '
                f"({type(error).__name__}: {str(error)[:200]}); update or remove that package"
            ) from error
        if getattr(entry, "name", None) != name:
            raise BadInput(
                f'{self.group}: "{name}" of package {self._package(name)}: {place} has the name '
                f"{getattr(entry, 'name', None)!r}; both names must be the same"
            )
        return entry  # pyright: ignore[reportReturnType] -- what a package gives is known when it runs

    def _package(self, name: str) -> str:
        distribution = self.plugins[name].dist if name in self.plugins else None
        return f"{distribution.name} {distribution.version}" if distribution else "chestmap"

    def named(self, name: object, where: str) -> Entry:
        """The entry, or one line with the allowed names; `where` begins the line."""
        if not isinstance(name, str) or name not in self:
            raise BadInput(f"{where}: allowed: {', '.join(self)} (got {name!r}){did_you_mean(str(name), self)}")
        return self[name]

    def __setitem__(self, name: str, entry: Entry) -> None:
        self._loaded[name] = entry

    def __delitem__(self, name: str) -> None:
        del self._loaded[name]

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in self._loaded or name in self.plugins

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*self._own, *self.plugins, *self._loaded)))

    def __len__(self) -> int:
        return len(list(iter(self)))
