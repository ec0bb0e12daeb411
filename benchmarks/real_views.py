"""Rows that read networks of other rows once more, trained on nothing new: `python benchmarks/real.py FILMS WORK run combined-joined FOLD`.

A network is shown several views of a film: the plain one, then drawn augmentations. Its cells are moved back and their mean is taken.
Cells of several networks are scaled to the same peak and joined by shares. The best rectangle is drawn, as `combined` does. Shares
of `combined-patches` were chosen on folds 1 to 3, what `combined-joined` joins on tuning patients of fold 1.
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

GRID = 32


def network_of(films: Films, name: str, fold: int) -> torch.nn.Module:
    """What the row learned on the fold."""
    method, settings = METHODS[ROWS[name].method], setting_of(films, ROWS[name], name)
    network = method.build(settings, films.source.findings, films.pack.settings.canvas).eval()
    (path,) = (films.work / "runs" / f"{name}-{fold + 1}").glob("1-*/weights.safetensors")
    learner = network.members[0] if isinstance(network, Combined) else network
    learner.load_state_dict({key.removeprefix("network."): value for key, value in load_file(path).items()})
    if isinstance(network, Combined):
        network.settings = network.settings.model_copy(update={"decode": "cells"})
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


def joined(cells: list[Tensor], shares: list[float]) -> Tensor:
    """All scaled to the peak of the first: whether a finding is there is no matter of where."""
    peaks = [maps.amax((-2, -1), keepdim=True) for maps in cells]
    scaled = [(maps * peaks[0] / peak.clamp_min(1e-3)).clamp_max(1) for maps, peak in zip(cells, peaks, strict=True)]
    return torch.stack([share * maps for share, maps in zip(shares, scaled, strict=True)]).sum(0)


def write_row(films: Films, name: str, fold: int) -> None:
    """Predicts the test films of a fold by the networks of the fold that the row reads."""
    readings = ONCE_MORE[name]
    shown = Combined([], setting_of(films, ROWS["combined"], "combined")).shown
    read = [(network_of(films, one.row, fold), views_of_row(films, one.row), one.views) for one in readings]
    part, writer = part_of(films, films.test_ids(fold), None), writer_of(films, name, OWN_RULE)

    def chunks() -> Iterator[Chunk]:
        for batch in Loader(part=part, settings=LoaderSettings(batch_size=16), shuffle=False).epoch(0):
            seen = [cells_of(films, network, views, batch.ids, count) for network, views, count in read]
            shares = [one.share for one in readings]
            scores = sum(share * torch.sigmoid(logits) for share, (_, logits) in zip(shares, seen, strict=True))
            assert isinstance(scores, Tensor)
            maps = joined([cells for cells, _ in seen], shares)
            yield chunk_of(films, batch, scores.numpy(), one_by_one(shown, maps))

    if not writer.has(fold):
        writer.write(fold, len(part), chunks())
    writer.finish()


def views_of_row(films: Films, name: str) -> Views:
    views = seen_by(films, ROWS[name])
    assert views is not None, "a row that reads kept features"
    return views


def one_by_one(shown: Callable[[Tensor], Tensor], maps: Tensor) -> np.ndarray:
    """All rectangles of one map fit the processor's cache: four times as fast as those of a batch."""
    return torch.cat([shown(one[None, None]) for one in maps.flatten(0, 1)]).reshape(maps.shape).half().numpy()
