"""Two rows that read networks of other rows once more: `python benchmarks/real.py FILMS WORK run combined-patches FOLD`.

`combined-views` shows the row `combined` nine views of each film, the plain one and eight drawn augmentations, moves its cells back
and takes the mean. `combined-patches` adds three parts in ten of `patch-80`, plain, its cells scaled to the same peak. Both draw the
best rectangle, as `combined` does. Shares were chosen on folds 1 to 3, before any figure of folds 4 and 5 was seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from real import Films, chunk_of, part_of, seen_by, setting_of, writer_of
from real_rows import ONCE_MORE, ROWS
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from chestmap.methods import METHODS
from chestmap.methods.combined import OWN_RULE, Combined
from chestmap.nn.boxes import between, resized, warp_maps
from chestmap.packs.loader import Loader, LoaderSettings
from chestmap.packs.views import Views
from chestmap.predictions.folder import Chunk

VIEWS = 9
GRID = 32
PATCH_SHARE = 0.3


def network_of(films: Films, name: str, fold: int) -> torch.nn.Module:
    """What the row learned on the fold."""
    method, settings = METHODS[ROWS[name].method], setting_of(films, ROWS[name], name)
    network = method.build(settings, films.source.findings, films.pack.settings.canvas).eval()
    (path,) = (films.work / "runs" / f"{name}-{fold + 1}").glob("1-*/weights.safetensors")
    learner = network.members[0] if isinstance(network, Combined) else network
    learner.load_state_dict({key.removeprefix("network."): value for key, value in load_file(path).items()})
    return network


@torch.inference_mode()
def cells_of(
    films: Films, network: torch.nn.Module, views: Views, ids: tuple[str, ...], count: int
) -> tuple[Tensor, Tensor]:
    """The mean of logits and of chances over the first `count` views, the chances where the plain view has them."""
    rows = films.pack.rows(ids)
    plain = [films.pack.frame(int(row)) for row in rows]
    total, covered, logits = torch.zeros(()), torch.zeros(()), torch.zeros(())
    for view in range(count):
        seen = network(torch.from_numpy(views.read(rows, [view] * len(ids))).float())
        chances = functional.adaptive_avg_pool2d(seen.maps, min(GRID, network_grid(network)))
        sides = chances.shape[-1], chances.shape[-2]
        frames = [views.frame(frame, one, view).resized(sides) for frame, one in zip(plain, ids, strict=True)]
        back = [between(frame, base.resized(sides)) for frame, base in zip(frames, plain, strict=True)]
        moved = warp_maps(torch.cat([chances, torch.ones_like(chances[:, :1])], 1), back, sides)
        total, covered, logits = total + moved[:, :-1] * moved[:, -1:], covered + moved[:, -1:], logits + seen.logits
    return resized(total / covered.clamp_min(1e-3), GRID, GRID), logits / count


def network_grid(network: torch.nn.Module) -> int:
    return GRID if isinstance(network, Combined) else GRID // 2


def joined(cells: Tensor, patches: Tensor) -> Tensor:
    """Patches scaled to the peak of the cells: whether a finding is there is no matter of where."""
    peaks = [maps.amax((-2, -1), keepdim=True) for maps in (cells, patches)]
    return (1 - PATCH_SHARE) * cells + PATCH_SHARE * (patches * peaks[0] / peaks[1].clamp_min(1e-3)).clamp_max(1)


def write_rows(films: Films, fold: int) -> None:
    """The second row only where `patch-80` has learned the fold."""
    views = seen_by(films, ROWS["combined"])
    assert views is not None
    first = network_of(films, "combined", fold)
    assert isinstance(first, Combined)
    shown = Combined(list(first.members), first.settings.model_copy(update={"decode": "rectangle"})).shown
    first.settings = first.settings.model_copy(update={"decode": "cells"})
    both = any((films.work / "runs" / f"patch-80-{fold + 1}").glob("1-*/done.json"))
    second = network_of(films, "patch-80", fold) if both else None
    part, found = part_of(films, films.test_ids(fold), None), []
    for batch in Loader(part=part, settings=LoaderSettings(batch_size=16), shuffle=False).epoch(0):
        cells, logits = cells_of(films, first, views, batch.ids, VIEWS)
        scores, maps = [torch.sigmoid(logits)], [cells]
        if second is not None:
            patches, others = cells_of(films, second, views, batch.ids, 1)
            scores.append((1 - PATCH_SHARE) * scores[0] + PATCH_SHARE * torch.sigmoid(others))
            maps.append(joined(cells, patches))
        pairs = zip(scores, maps, strict=True)
        found.append([chunk_of(films, batch, score.numpy(), one_by_one(shown, one)) for score, one in pairs])
    for number, name in enumerate(ONCE_MORE[: 1 + both]):
        writer = writer_of(films, name, OWN_RULE)
        if not writer.has(fold):
            writer.write(fold, len(part), chunks(found, number))
        writer.finish()


def one_by_one(shown: Callable[[Tensor], Tensor], maps: Tensor) -> np.ndarray:
    """All rectangles of one map fit the processor's cache: four times as fast as those of a batch."""
    return torch.cat([shown(one[None, None]) for one in maps.flatten(0, 1)]).reshape(maps.shape).half().numpy()


def chunks(found: list[list[Chunk]], number: int) -> Iterator[Chunk]:
    return (one[number] for one in found)
