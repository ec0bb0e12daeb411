"""Settings: pydantic models read from TOML, overridden by `--set key=value`, every mistake reported at once in our words.

Every TOML file and every `--set` goes through `checked`. An unknown key is a mistake with the nearest known key.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from chestmap.errors import BadSettings, did_you_mean

Tree = dict[str, Any]

DEEPEST = 32
"""Tables in tables; no setting is half as deep."""
Model = TypeVar("Model", bound="Settings")


class Settings(BaseModel):
    """Frozen, and an unknown key is a mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, defer_build=True)


def cache_folder() -> Path:
    """`$CHESTMAP_CACHE`, or chestmap/ in `$XDG_CACHE_HOME` or ~/.cache; what chestmap itself put there can be deleted."""
    if given := os.environ.get("CHESTMAP_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "chestmap"


def read_toml(path: Path) -> Tree:
    """Read a TOML file; one line where it is missing or no TOML."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        beside = [entry.name for entry in path.parent.glob("*.toml")] if path.parent.is_dir() else []
        raise BadSettings(f"{path}: no such settings file{did_you_mean(path.name, beside)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadSettings(f"{path}: cannot be read as text ({error.__class__.__name__}); expected a TOML file") from None
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadSettings(f"{path}: not TOML: {error}") from None
    except (RecursionError, ValueError):
        raise BadSettings(f"{path}: nested too deeply, or with a number too long, for settings") from None
    if _is_deep(tree):
        raise BadSettings(f"{path}: nested more than {DEEPEST} deep; no setting is")
    return tree


def _is_deep(value: object) -> bool:
    """Without recursion, since its depth is what is asked."""
    level = [value]
    for _ in range(DEEPEST):
        level = [
            below
            for one in level
            if isinstance(one, dict | list)
            for below in (one.values() if isinstance(one, dict) else one)
        ]
    return bool(level)


def with_overrides(tree: Tree, overrides: Iterable[str]) -> Tree:
    """The tree after `a.b=value` overrides; values are read as TOML, and as plain text where they are not TOML."""
    changed = _copied(tree)
    mistakes = [message for text in overrides if (message := _override(changed, text))]
    if mistakes:
        raise BadSettings("\n".join(mistakes))
    return changed


def _copied(tree: Tree) -> Tree:
    return {key: _copied(value) if isinstance(value, dict) else value for key, value in tree.items()}


def _override(tree: Tree, text: str) -> str:
    """Applies one `key=value` to the tree in place; returns what is wrong with it, or nothing."""
    key, equals, value = text.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not equals or not all(parts):
        return f"--set {text[:200]}: expected key=value, such as --set step.learning_rate=1e-4"
    if len(parts) > DEEPEST:
        return f"--set {text[:60]}…: {len(parts):,} tables deep; at most {DEEPEST} are read"
    for part in parts[:-1]:
        below = tree.setdefault(part, {})
        if not isinstance(below, dict):
            return f'--set {text}: "{part}" is a value, not a table'
        tree = below
    try:
        tree[parts[-1]] = read = _toml_value(value.strip())
    except (RecursionError, ValueError):
        return f"--set {text[:60]}…: nested too deeply, or with a number too long, for a setting"
    return f"--set {text[:60]}…: nested more than {DEEPEST} deep; no setting is" if _is_deep(read) else ""


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def checked(model: type[Model], tree: Tree, *, name: str) -> Model:
    """`tree` as settings of type `model`, or one `BadSettings` that lists every mistake; `name` is the file's name."""
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        lines = [_in_our_words(model, name, dict(problem)) for problem in error.errors()]
        raise BadSettings("\n".join(dict.fromkeys(lines))) from None


def load(model: type[Model], path: Path, overrides: Sequence[str] = ()) -> Model:
    """Settings from a TOML file and overrides."""
    return checked(model, with_overrides(read_toml(path), overrides), name=path.name)


def _in_our_words(model: type[BaseModel], name: str, problem: Mapping[str, Any]) -> str:
    """Says one of pydantic's problems as key, what came, and what is allowed."""
    where = [part for part in problem["loc"] if not str(part).startswith("function-")]
    key = ".".join(
        part if len(part) <= 60 else f"{part[:40]}… ({len(part):,} letters)"
        for part in map(str, _without_tags(model, where))
    )
    got = problem.get("input")
    match problem["type"]:
        case "extra_forbidden":
            allowed = _keys_at(model, where[:-1])
            hint = did_you_mean(str(where[-1]), allowed) or (f"; allowed: {', '.join(sorted(allowed))}" if allowed else "")
            return f"{name}: {key}: not a setting (got {_short(got)}){hint}"
        case "missing":
            return f"{name}: {key}: missing; this setting has no default"
        case "literal_error":
            allowed = [word.strip().strip("'") for word in problem["ctx"]["expected"].replace(" or ", ", ").split(",")]
            hint = did_you_mean(str(got), allowed)
            return f"{name}: {key}: allowed: {', '.join(allowed)} (got {_short(got)}){hint}"
        case "union_tag_invalid" | "union_tag_not_found":
            return _tag_in_our_words(name, key, problem)
        case "value_error":
            return f"{name}: {key or 'settings'}: {problem['ctx']['error']}"
    message = problem["msg"][:1].lower() + problem["msg"][1:]
    return f"{name}: {key or 'settings'}: {message} (got {_short(got)})"


def _tag_in_our_words(name: str, key: str, problem: Mapping[str, Any]) -> str:
    context = problem["ctx"]
    key = f"{key}.{context['discriminator'].strip(chr(39))}"
    if "tag" not in context:
        return f"{name}: {key}: missing; this setting has no default"
    allowed = [word.strip(" '") for word in context["expected_tags"].split(",")]
    return f"{name}: {key}: allowed: {', '.join(allowed)} (got {context['tag']!r}){did_you_mean(context['tag'], allowed)}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _keys_at(model: type[BaseModel], where: Sequence[object]) -> list[str]:
    """The settings allowed at a place in the tree; unions (a table chosen by its name) offer those of each choice."""
    models: list[type[BaseModel]] = [model]
    for part in where:
        found: list[type[BaseModel]] = []
        for one in models:
            if part in one.model_fields:
                found += _models_in(one.model_fields[str(part)].annotation)
        models = found or [one for one in models if _tag(one) == part] or models
    return [key for one in models for key in one.model_fields]


def _without_tags(model: type[BaseModel], where: Sequence[object]) -> list[object]:
    """The key as a file has it: pydantic also names the choice that was made between tables."""
    models: list[type[BaseModel]] = [model]
    key: list[object] = []
    for part in where:
        inside = [one for one in models if part in one.model_fields]
        chosen = [one for one in models if _tag(one) == part]
        if inside or not chosen:
            key.append(part)
            models = [found for one in inside for found in _models_in(one.model_fields[str(part)].annotation)]
        else:
            models = chosen
    return key


def _models_in(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for argument in get_args(annotation) for found in _models_in(argument)]


def _tag(model: type[BaseModel]) -> object:
    return model.model_fields["name"].default if "name" in model.model_fields else None
