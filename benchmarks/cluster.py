"""A cluster with failing nodes, simulated: what predicting a long list takes, and how much of it is done twice.

The unit is the shard, a block of the input list that becomes one part of the predictions folder. What a process had of a shard
when its node died is done again, finished shards stay. Times are seconds.

    python benchmarks/cluster.py --images 10000000 --workers 64 --shard 512 --image-s 0.1 --node-mtbf-s 86400 [--seeds 20]

takes every field of `Cluster`; `python benchmarks/cluster_plan.py` prints the tables of docs/scale.md and draws its picture.
"""

import argparse
import heapq
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class Cluster:
    """`heavy` images take `weight` times as long; `spread` is a shard's coefficient of variation beyond that."""

    images: int
    shard: int  # images in each but the last
    workers: int
    image_s: float  # on an ordinary worker
    shard_s: float = 0.0  # on top, for each shard: opening its block, syncing its files
    start_s: float = 0.0  # of a process, until its first image
    node_size: int = 1  # workers that die together
    node_mtbf_s: float = math.inf  # mean time from coming up to dying, exponential
    node_repair_s: float = 0.0  # until the node, or another one for it, is up
    driver_mtbf_s: float = math.inf  # all workers die with the driver
    driver_repair_s: float = 0.0
    slow: float = 0.0  # share of nodes that are slow
    slowness: float = 1.0  # how much longer these take
    spread: float = 0.0
    heavy: float = 0.0  # share of the images
    weight: float = 1.0
    order: Literal["mixed", "first", "last"] = "mixed"  # where in the list the heavy ones stand
    hand_out: Literal["queue", "array"] = "queue"  # array: worker i has shards i, i + workers, …, and nobody else's
    kills: tuple[tuple[float, int], ...] = ()  # (time, node) besides those drawn

    @property
    def shards(self) -> int:
        return -(-self.images // self.shard)

    @property
    def work_s(self) -> float:
        """Of all shards, each done once by an ordinary worker."""
        return self.images * self.image_s * (1 + self.heavy * (self.weight - 1)) + self.shards * self.shard_s


@dataclass(frozen=True)
class Outcome:
    """`kept_s` and `twice_s` are worker seconds that went into shards that were finished, and that were lost."""

    makespan_s: float
    kept_s: float
    twice_s: float
    deaths: int  # of nodes and drivers
    utilization: float  # kept_s of all worker seconds until the end

    @property
    def twice(self) -> float:
        """Share of the work."""
        return self.twice_s / (self.kept_s + self.twice_s)


def shard_costs(cluster: Cluster, random: np.random.Generator) -> np.ndarray:
    """Seconds of each shard, in the order of the list."""
    edges = np.minimum(np.arange(cluster.shards + 1) * cluster.shard, cluster.images) / cluster.images
    heavy, light = cluster.heavy * cluster.weight, 1 - cluster.heavy
    knots = {"mixed": ([0, 1], [0, heavy + light]), "first": ([0, cluster.heavy, 1], [0, heavy, heavy + light])}
    knots["last"] = ([0, light, 1], [0, light, heavy + light])
    costs = np.diff(np.interp(edges, *knots[cluster.order])) * cluster.images * cluster.image_s
    if cluster.spread:
        sigma = math.sqrt(math.log1p(cluster.spread**2))
        costs *= random.lognormal(-(sigma**2) / 2, sigma, len(costs))
    return costs + cluster.shard_s


class Simulation:
    """Events in a heap; those of a node that has died since they were planned are passed over."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self.cluster, self.random = cluster, np.random.default_rng(seed)
        self.costs = shard_costs(cluster, self.random).tolist()
        nodes = -(-cluster.workers // cluster.node_size)
        self.node_of = [worker // cluster.node_size for worker in range(cluster.workers)]
        slow = self.random.permutation(nodes)[: round(cluster.slow * nodes)]
        self.factor = [cluster.slowness if node in set(slow.tolist()) else 1.0 for node in range(nodes)]
        lists = cluster.workers if cluster.hand_out == "array" else 1
        self.todo = [deque(range(first, len(self.costs), lists)) for first in range(lists)]
        self.life, self.up_at = [0] * nodes, [0.0] * nodes
        self.busy: dict[int, tuple[int, float]] = {}  # worker → shard and when it began
        self.idle: list[int] = []
        self.heap: list[tuple[float, int, str, int, int]] = []
        self.planned, self.left, self.deaths, self.kept, self.twice = 0, len(self.costs), 0, 0.0, 0.0

    def run(self) -> Outcome:
        cluster = self.cluster
        for node in range(len(self.life)):
            self.plan(0.0, "up", node, node)
        for time, node in cluster.kills:
            self.plan(time, "kill", node, node)
        self.plan_driver(0.0)
        now = 0.0
        while self.left:
            now, _, what, who, life = heapq.heappop(self.heap)
            if what in {"driver", "kill"} or life == self.life[self.node_of[who] if what in {"free", "done"} else who]:
                getattr(self, f"on_{what}")(now, who)
        return Outcome(now, self.kept, self.twice, self.deaths, self.kept / (now * cluster.workers))

    def plan(self, time: float, what: str, who: int, node: int) -> None:
        self.planned += 1
        heapq.heappush(self.heap, (time, self.planned, what, who, self.life[node]))

    def plan_driver(self, now: float) -> None:
        if math.isfinite(self.cluster.driver_mtbf_s):
            self.plan(now + self.random.exponential(self.cluster.driver_mtbf_s), "driver", 0, 0)

    def workers_of(self, node: int) -> range:
        first = node * self.cluster.node_size
        return range(first, min(first + self.cluster.node_size, self.cluster.workers))

    def on_up(self, now: float, node: int) -> None:
        for worker in self.workers_of(node):
            self.plan(now + self.cluster.start_s, "free", worker, node)
        if math.isfinite(self.cluster.node_mtbf_s):
            self.plan(now + self.random.exponential(self.cluster.node_mtbf_s), "fail", node, node)

    def on_free(self, now: float, worker: int) -> None:
        todo = self.todo[worker % len(self.todo)]
        if not todo:
            self.idle.append(worker)
            return
        shard, node = todo.popleft(), self.node_of[worker]
        self.busy[worker] = shard, now
        self.plan(now + self.costs[shard] * self.factor[node], "done", worker, node)

    def on_done(self, now: float, worker: int) -> None:
        _, began = self.busy.pop(worker)
        self.kept += now - began
        self.left -= 1
        self.on_free(now, worker)

    def on_fail(self, now: float, node: int) -> None:
        self.deaths += 1
        self.stop(now, node, now + self.cluster.node_repair_s)

    on_kill = on_fail

    def on_driver(self, now: float, _: int) -> None:
        """Finished shards stay; a node that is down anyway comes back when both are."""
        self.deaths += 1
        back = now + self.cluster.driver_repair_s
        for node in range(len(self.life)):
            self.stop(now, node, max(back, self.up_at[node]))
        self.plan_driver(back)

    def stop(self, now: float, node: int, back: float) -> None:
        self.life[node] += 1
        workers = self.workers_of(node)
        self.idle = [worker for worker in self.idle if worker not in workers]
        for worker in workers:
            if worker in self.busy:
                shard, began = self.busy.pop(worker)
                self.twice += now - began
                self.put_back(now, shard, worker)
        self.up_at[node] = back
        self.plan(back, "up", node, node)

    def put_back(self, now: float, shard: int, worker: int) -> None:
        """A queue gives it to whoever is free next; in an array it waits for its own worker."""
        todo = self.todo[worker % len(self.todo)]
        todo.appendleft(shard)
        if len(self.todo) == 1 and self.idle:
            free = self.idle.pop()
            self.plan(now, "free", free, self.node_of[free])


def simulate(cluster: Cluster, seed: int) -> Outcome:
    return Simulation(cluster, seed).run()


def several(cluster: Cluster, seeds: int) -> list[Outcome]:
    return [simulate(cluster, seed) for seed in range(seeds)]


def interval(outcomes: Sequence[Outcome], what: str) -> tuple[float, float, float]:
    """Median, 5th and 95th percentile."""
    middle, low, high = np.percentile([getattr(one, what) for one in outcomes], (50, 5, 95))
    return float(middle), float(low), float(high)


def undisturbed_s(cluster: Cluster) -> float:
    """The makespan without deaths, spread and slow nodes: rounds of equal shards."""
    shard = min(cluster.shard, cluster.images) * cluster.image_s + cluster.shard_s
    return cluster.start_s + math.ceil(cluster.shards / cluster.workers) * shard


def expected_twice_s(cluster: Cluster) -> float:
    """What exponential deaths cost: a shard of d seconds is begun until it lives so long, E[lost] = (exp(rd) - 1) / r - d."""
    rate, d = death_rate(cluster), cluster.work_s / cluster.shards
    return cluster.shards * (math.expm1(rate * d) / rate - d) if rate else 0.0


def death_rate(cluster: Cluster) -> float:
    """Deaths a second that a worker sees: of its node and of the driver."""
    return 1 / cluster.node_mtbf_s + 1 / cluster.driver_mtbf_s


def best_shard(cluster: Cluster) -> int:
    """Images in the shard that loses least time: o/d for each shard, rd/2 done twice, d/2T at the end, where workers run dry."""
    total_s = cluster.images * cluster.image_s / cluster.workers
    return max(1, round(math.sqrt(2 * cluster.shard_s / (death_rate(cluster) + 1 / total_s)) / cluster.image_s))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seeds", type=int, default=20)
    for one in fields(Cluster):
        if one.name != "kills":
            kind, needed = one.type if one.type in {int, float} else str, one.default is MISSING
            options.add_argument(f"--{one.name.replace('_', '-')}", type=kind, required=needed, default=one.default)
    chosen = vars(options.parse_args())
    seeds, cluster = chosen.pop("seeds"), Cluster(**chosen)
    found = several(cluster, seeds)
    print("| | median | 5 % | 95 % of seeds |\n|---|---:|---:|---:|")
    for what in ("makespan_s", "kept_s", "twice_s", "deaths", "utilization"):
        print(f"| {what} |" + "".join(f" {value:,.4g} |" for value in interval(found, what)))
    print(
        f"\nexpected twice_s {expected_twice_s(cluster):,.4g}; best shard {best_shard(cluster) if cluster.shard_s else 1:,} images"
    )


if __name__ == "__main__":
    main()
