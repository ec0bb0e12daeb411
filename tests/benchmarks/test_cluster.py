"""The simulated cluster against closed forms and against cases worked by hand."""

import importlib.util
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

PLACE = Path(__file__).parents[2] / "benchmarks" / "cluster.py"


@pytest.fixture(scope="module")
def cluster():
    spec = importlib.util.spec_from_file_location("cluster", PLACE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["cluster"] = module  # where dataclasses look up annotations
    spec.loader.exec_module(module)
    yield module
    del sys.modules["cluster"]


@pytest.mark.parametrize("hand_out", ["queue", "array"])
@pytest.mark.parametrize(("shards", "workers"), [(1, 1), (7, 1), (7, 3), (9, 3), (2, 5), (1000, 64)])
def test_without_deaths_it_takes_rounds_of_shards(cluster, shards, workers, hand_out):
    plan = cluster.Cluster(10 * shards, 10, workers, image_s=0.5, shard_s=2.0, start_s=3.0, hand_out=hand_out)
    found = cluster.simulate(plan, 0)
    assert found.makespan_s == pytest.approx(3.0 + math.ceil(shards / workers) * 7.0)
    assert found.makespan_s == pytest.approx(cluster.undisturbed_s(plan))
    assert (found.twice_s, found.deaths) == (0, 0)
    assert found.kept_s == pytest.approx(7.0 * shards)


def test_the_last_shard_holds_what_is_left(cluster):
    assert cluster.simulate(cluster.Cluster(25, 10, 1, image_s=1.0, shard_s=1.0), 0).makespan_s == pytest.approx(28)


@pytest.mark.parametrize("hand_out", ["queue", "array"])
@pytest.mark.parametrize(
    ("shard_s", "node_mtbf_s", "driver_mtbf_s"), [(100, 400, math.inf), (50, 1000, 700), (30, math.inf, 90)]
)
def test_exponential_deaths_cost_what_the_formula_says(cluster, shard_s, node_mtbf_s, driver_mtbf_s, hand_out):
    """As a driver's death hits all workers at once, these counts depend on each other: hence many seeds of few workers."""
    plan = cluster.Cluster(
        500, 1, 3, shard_s, node_mtbf_s=node_mtbf_s, node_repair_s=20, driver_mtbf_s=driver_mtbf_s, driver_repair_s=10,
        start_s=5, hand_out=hand_out,
    )  # fmt: skip
    runs = [cluster.simulate(plan, seed) for seed in range(30)]
    lost = np.array([one.twice_s for one in runs])
    rate = 1 / node_mtbf_s + 1 / driver_mtbf_s
    expected = 500 * ((math.exp(rate * shard_s) - 1) / rate - shard_s)
    assert cluster.expected_twice_s(plan) == pytest.approx(expected)
    assert abs(lost.mean() - expected) < 3 * lost.std(ddof=1) / math.sqrt(len(lost))
    assert lost.mean() == pytest.approx(expected, rel=0.08)
    assert all(one.kept_s == pytest.approx(500 * shard_s) for one in runs)


def test_one_worker_needs_the_expected_time(cluster):
    """E = (1/r + repair)(exp(rd) - 1) for each shard, where no time passes between them."""
    plan = cluster.Cluster(4000, 1, 1, 10.0, node_mtbf_s=50.0, node_repair_s=4.0)
    found = np.mean([cluster.simulate(plan, seed).makespan_s for seed in range(5)])
    assert found == pytest.approx(4000 * (50 + 4) * (math.exp(10 / 50) - 1), rel=0.02)


def test_a_kill_worked_by_hand(cluster):
    """Two workers, four shards of 10 s, node 0 killed at 14 and back at 17 + 1."""
    plan = cluster.Cluster(40, 10, 2, image_s=1.0, start_s=1.0, node_repair_s=3.0, kills=((14.0, 0),))
    found = cluster.simulate(plan, 0)
    assert found.makespan_s == pytest.approx(18 + 10)
    assert found.twice_s == pytest.approx(14 - 11)
    late = cluster.simulate(replace(plan, kills=((20.5, 0),), node_repair_s=30.0), 0)  # worker 1 takes it over at 21
    assert late.makespan_s == pytest.approx(31)
    assert cluster.simulate(replace(plan, kills=((20.5, 0),), node_repair_s=30.0, hand_out="array"), 0).makespan_s == 61.5


def test_workers_of_a_node_die_together(cluster):
    plan = cluster.Cluster(4, 1, 4, image_s=10.0, node_size=2, node_repair_s=1.0, kills=((4.0, 1),))
    found = cluster.simulate(plan, 0)
    assert (found.makespan_s, found.twice_s, found.deaths) == (15.0, 8.0, 1)


def test_an_idle_worker_takes_what_a_dead_one_had(cluster):
    plan = cluster.Cluster(3, 1, 4, image_s=10.0, node_repair_s=100.0, kills=((4.0, 0),))
    assert cluster.simulate(plan, 0).makespan_s == 14.0


@pytest.mark.parametrize(("order", "makespan_s"), [("mixed", 80.0), ("first", 90.0), ("last", 120.0)])
def test_heavy_images_at_the_end_of_the_list_leave_workers_idle(cluster, order, makespan_s):
    """8 shards, one of them nine times as long, two workers: 9 + 7 shards' time of work."""
    plan = cluster.Cluster(80, 10, 2, image_s=1.0, heavy=1 / 8, weight=9, order=order)
    assert sum(cluster.shard_costs(plan, np.random.default_rng(0))) == pytest.approx(160)
    found = cluster.simulate(plan, 0)
    assert found.makespan_s == pytest.approx(makespan_s)


def test_a_slow_worker_holds_up_an_array_more_than_a_queue(cluster):
    plan = cluster.Cluster(120, 1, 4, image_s=1.0, slow=0.25, slowness=3.0)
    queue, array = cluster.simulate(plan, 0), cluster.simulate(replace(plan, hand_out="array"), 0)
    assert array.makespan_s == pytest.approx(30 * 3)
    assert 120 / (3 + 1 / 3) <= queue.makespan_s <= 120 / (3 + 1 / 3) + 3


def test_the_best_shard_is_no_worse_than_others(cluster):
    plan = cluster.Cluster(200_000, 1, 8, 0.1, shard_s=1.0, start_s=10, node_mtbf_s=1800, node_repair_s=60, spread=0.1)
    best = cluster.best_shard(plan)
    assert best == pytest.approx(math.sqrt(2 / (1 / 1800 + 8 / 20_000)) / 0.1, abs=0.5)
    spans = [
        cluster.interval(cluster.several(replace(plan, shard=size), 3), "makespan_s")[0]
        for size in (best // 8, best, best * 8)
    ]
    assert spans[1] == min(spans)


def test_seeds_repeat_and_differ(cluster):
    plan = cluster.Cluster(1000, 10, 4, 1.0, node_mtbf_s=100, node_repair_s=5, spread=0.3)
    assert cluster.simulate(plan, 3) == cluster.simulate(plan, 3) != cluster.simulate(plan, 4)
