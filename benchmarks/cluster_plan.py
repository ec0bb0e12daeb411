"""The tables and the picture of docs/scale.md: `python benchmarks/cluster_plan.py`, a minute. `cluster.py` says what is simulated."""

from dataclasses import replace
from pathlib import Path

from cluster import Cluster, best_shard, expected_twice_s, interval, several

from chestmap.reports.svg_plot import Axis, Chart, Line, svg

DAY = 86_400
PICTURE = Path(__file__).parents[1] / "docs" / "scale.svg"
IMAGES = 10_000_000
COSTS = {"HAM, two cores": 1.55, "0.1 s": 0.1, "GPU (assumed)": 0.005}
"""Seconds of an image on one worker. The first is measured (benchmarks/inference.md), the last is not."""

SIZES = (64, 101, 200, 512, 1024, 2048, 4096, 8192, 16384)
CALM = Cluster(IMAGES, 4096, 64, 0.1, shard_s=1, start_s=14, node_mtbf_s=DAY, node_repair_s=300)
"""Nodes of a kind that may be taken away: one death a day each (assumed)."""

ROUGH = replace(CALM, driver_mtbf_s=30 * DAY, driver_repair_s=600, slow=0.05, slowness=2.0, spread=0.1)
"""Besides, a driver that dies once in 30 days, and every twentieth node at half speed (assumed)."""

STYLE = """
svg { background: #fff; --line: #cfd4da; } text { font: 13px system-ui, sans-serif; fill: #4a525c; } path { fill: none; }
.gridline { stroke: #dfe3e8; } .line { stroke-width: 2; stroke-linejoin: round; } .leader { stroke: none; }
.ours { --ink: #a84b00; } .own { --ink: #0a67a8; } .oracle { --ink: #7a3aa8; } .guide { --ink: #6b7480; }
.line { stroke: var(--ink); } .line.guide { stroke-width: 1; stroke-dasharray: 2 3; } text.label { fill: var(--ink); }
circle { fill: var(--ink); } text.tick { font-size: 12px; }
"""


def span(values: tuple[float, float, float], unit: float = 1.0, digits: int = 1) -> str:
    middle, low, high = (value / unit for value in values)
    return f"{middle:,.{digits}f} ({low:,.{digits}f}–{high:,.{digits}f})"


def table(seeds: int) -> None:
    print("| an image | workers | shard | ideal, h | makespan, h | done twice, % | utilization, % |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, seconds in COSTS.items():
        for workers in (16, 64, 256):
            plan = replace(ROUGH, image_s=seconds, workers=workers)
            best = max(101, min(4096, best_shard(plan)))
            for shard in sorted({best, 4096}):
                one = replace(plan, shard=shard)
                runs = several(one, seeds)
                took = [interval(runs, what) for what in ("makespan_s", "twice", "utilization")]
                ideal = IMAGES * seconds / workers / 3600
                cells = (span(took[0], 3600, 2 if ideal < 20 else 1), span(took[1], 0.01, 2), span(took[2], 0.01))
                print(
                    f"| {name} | {workers} | {shard:,} | {ideal:,.{1 if ideal > 2 else 2}f} | {' | '.join(cells)} |",
                    flush=True,
                )


def causes(seeds: int) -> None:
    """One thing wrong at a time, 64 workers."""
    print("\n| what goes wrong | makespan beyond the ideal, % | done twice, % |\n|---|---:|---:|")
    plain = replace(CALM, node_mtbf_s=float("inf"), image_s=0.1, shard=1024)
    daily = replace(plain, node_mtbf_s=DAY)
    cases = {
        "nothing": plain,
        "a node dies once in 264 days": replace(plain, node_mtbf_s=264 * DAY),
        "once a day": daily,
        "once an hour": replace(plain, node_mtbf_s=DAY / 24),
        "once an hour, eight workers to a node": replace(plain, node_mtbf_s=DAY / 24, node_size=8),
        "the driver dies once an hour": replace(plain, driver_mtbf_s=DAY / 24, driver_repair_s=600),
        "every twentieth node is half as fast; a queue": replace(plain, slow=0.05, slowness=2),
        "the same; an array": replace(plain, slow=0.05, slowness=2, hand_out="array"),
        "a tenth of the images is ten times as heavy, mixed": replace(plain, heavy=0.1, weight=10),
        "they stand first in the list": replace(plain, heavy=0.1, weight=10, order="first"),
        "last": replace(plain, heavy=0.1, weight=10, order="last"),
        "last; an array": replace(plain, heavy=0.1, weight=10, order="last", hand_out="array"),
    }
    for name, one in cases.items():
        ideal = one.work_s / one.workers - one.shards * one.shard_s / one.workers
        runs = several(one, seeds)
        beyond = [value / ideal - 1 for value in interval(runs, "makespan_s")]
        print(f"| {name} | {span((beyond[0], beyond[1], beyond[2]), 0.01)} | {span(interval(runs, 'twice'), 0.01, 2)} |")


def picture(seeds: int) -> None:
    lines = []
    for style, (name, seconds) in zip(("ours", "own", "oracle"), COSTS.items(), strict=True):
        ideal = IMAGES * seconds / CALM.workers
        found, formula = [], []
        for size in SIZES:
            one = replace(CALM, image_s=seconds, shard=size)
            found.append(100 * (interval(several(one, seeds), "makespan_s")[0] / ideal - 1))
            end = size * seconds / 2
            formula.append(100 * (one.shards * one.shard_s + expected_twice_s(one)) / IMAGES / seconds + 100 * end / ideal)
        lines.append(Line(x=SIZES, y=formula, name=f"{name}, formula", style="guide"))
        lines.append(Line(x=SIZES, y=found, name=name, style=style, label=name, sizes=(2.5,) * len(SIZES)))
        print(f"\n{name}: best shard by the formula {best_shard(replace(CALM, image_s=seconds)):,}, simulated {found}")
    x = Axis(
        label="images in a shard",
        low=SIZES[0],
        high=SIZES[-1],
        ticks=(64, 256, 1024, 4096, 16384),
        log=True,
        names=("64", "256", "1,024", "4,096", "16,384"),
    )
    y = Axis(
        label="time beyond the ideal, %",
        low=0.2,
        high=500,
        ticks=(0.2, 1, 5, 20, 100, 500),
        log=True,
        names=("0.2", "1", "5", "20", "100", "500"),
    )
    title = "Small shards pay for their start and end, large ones for what is done twice and for workers that run dry"
    drawn = svg(Chart(title=title, x=x, y=y, lines=tuple(lines), size=(640, 360), right=130))
    drawn = drawn.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" width="640" height="360" ', 1)
    head, rest = drawn.split(">", 1)
    PICTURE.write_text(f"{head}><style>{STYLE}</style>{rest}\n", encoding="utf-8")


if __name__ == "__main__":
    causes(10)
    picture(3)
    table(6)
