"""The methods: one paper, one file, one line in `METHODS`. Other packages add theirs by the entry point `chestmap.methods`.

What two papers share belongs in `nn`. A method, and torch with it, is imported when it is first used.

Examples:
    >>> import chestmap
    >>> sorted(chestmap.METHODS)[:3]
    ['ag_cnn', 'attention_mining', 'cam']
    >>> chestmap.METHODS["ham"].paper
    'Ouyang et al., IEEE TMI 40(10) 2021, arXiv 2112.12349'
"""

import ast
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from chestmap.plugins import Registry

if TYPE_CHECKING:
    from chestmap.training.method import Method

METHODS: "Registry[Method]" = Registry(
    "chestmap.methods",
    {
        "ag_cnn": "chestmap.methods.ag_cnn:METHOD",
        "attention_mining": "chestmap.methods.attention_mining:METHOD",
        "cam": "chestmap.methods.cam:METHOD",
        "cia_net": "chestmap.methods.cia_net:METHOD",
        "combined": "chestmap.methods.combined:METHOD",
        "disease_masks": "chestmap.methods.disease_masks:METHOD",
        "ham": "chestmap.methods.ham:METHOD",
        "patch_mil": "chestmap.methods.patch_mil:METHOD",
    },
)


def described(name: str) -> tuple[str, str]:
    """Title and paper of a method. Reads them from its file, because importing it costs seconds; imports it where that fails."""
    module, _, attribute = METHODS.origin(name).partition(":")
    words = _written(module, attribute) if module else {}
    if {"title", "paper"} <= words.keys():
        return words["title"], words["paper"]
    return METHODS[name].title, METHODS[name].paper


def _written(module: str, attribute: str) -> dict[str, str]:
    """The keywords of `ATTRIBUTE = Method(keyword="text", …)` in a module's file."""
    try:
        found = find_spec(module)
        tree = ast.parse(Path(found.origin).read_text(encoding="utf-8")) if found and found.origin else ast.Module([], [])
    except (ImportError, OSError, SyntaxError, ValueError):
        return {}
    for line in tree.body:
        if not isinstance(line, ast.Assign) or not isinstance(line.value, ast.Call):
            continue
        if any(isinstance(one, ast.Name) and one.id == attribute for one in line.targets):
            pairs = [(str(word.arg), word.value) for word in line.value.keywords]
            texts = [(key, value.value) for key, value in pairs if isinstance(value, ast.Constant)]
            return {key: text for key, text in texts if isinstance(text, str)}
    return {}
