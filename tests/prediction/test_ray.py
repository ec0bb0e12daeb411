"""The driver's own decisions against a stand-in for Ray; `test_ray_killed.py` has a real one."""

from collections import Counter
from types import SimpleNamespace

import pytest

from chestmap.errors import BadInput, Refused
from chestmap.imaging.decoders import DIED
from chestmap.prediction import ray as cluster
from chestmap.prediction import ray_decoding as cluster_decoding
from chestmap.prediction.decoding import Decoded, Failed
from chestmap.prediction.inputs import Inputs
from chestmap.prediction.job import JobSettings, reading_for
from chestmap.prediction.ray import ClusterSettings
from prediction.predict_small import small_predictor
from training.small import write_dataset


class RayError(Exception):
    pass


class RayActorError(RayError):
    pass


class RayTaskError(RayError):
    def __init__(self, cause):
        self.cause = cause


class StandIn:
    """Calls run when their result is asked for."""

    exceptions = SimpleNamespace(RayError=RayError, RayActorError=RayActorError, RayTaskError=RayTaskError)

    def __init__(self, **resources):
        self.resources = resources

    def cluster_resources(self):
        return self.resources

    available_resources = cluster_resources

    def put(self, value):
        return value

    def get(self, reference):
        return reference()

    def wait(self, references, num_returns, timeout):
        return references[:1], references[1:]

    def remote(self, **options):
        return lambda function: SimpleNamespace(remote=lambda *words: lambda: function(*words))


@pytest.mark.parametrize(
    ("there", "settings", "shape"),
    [
        ({"CPU": 16.0}, {}, (8, 0.0, True)),
        ({"CPU": 16.0}, {"cpus": 4}, (3, 0.0, True)),
        ({"CPU": 2.0}, {"actors": 2}, (2, 0.0, False)),
        ({"CPU": 1.0}, {}, (1, 0.0, False)),
        ({"CPU": 16.0, "GPU": 4.0}, {}, (4, 1.0, True)),
        ({"CPU": 16.0, "GPU": 4.0}, {"gpus": 0.5}, (8, 0.5, True)),
        ({"CPU": 4.0, "GPU": 4.0}, {"gpus": 0.5}, (4, 0.5, False)),
        ({"CPU": 16.0, "GPU": 4.0}, {"gpus": 0}, (8, 0.0, True)),
    ],
)
def test_actors_never_take_what_others_wait_for(there, settings, shape):
    assert cluster.shape(StandIn(**there), ClusterSettings(**settings)) == shape


@pytest.mark.parametrize(
    ("there", "settings"),
    [({"CPU": 1.0}, {"cpus": 2}), ({"CPU": 8.0}, {"gpus": 1}), ({"CPU": 8.0}, {"actors": 9}), ({}, {})],
)
def test_what_the_cluster_cannot_hold_is_told_before_anything_waits(there, settings):
    with pytest.raises(BadInput, match="cluster has"):
        cluster.shape(StandIn(**there), ClusterSettings(**settings))


class Actor:
    """Dies for good at the calls that are named."""

    def __init__(self, name, calls, deaths=(), error=None):
        self.calls, self.deaths, self.name = calls, deaths, name
        self.error = error or RayActorError("killed")
        self.predict = SimpleNamespace(remote=lambda number: lambda: self.run(number))

    def run(self, number):
        self.calls.append((self.name, number))
        if len(self.calls) in self.deaths:
            raise self.error
        return number


def test_a_lost_actor_costs_the_part_it_was_at():
    calls, told = [], []
    crew = cluster._Crew(StandIn(), [Actor("a", calls, {3}), Actor("b", calls)], told.append)
    assert sorted(crew.run(dict.fromkeys(range(20), 1))) == list(range(20))
    assert max(Counter(number for _, number in calls).values()) <= 2
    assert len(calls) == 21
    assert [one[:32] for one in told] == ["an actor is lost, 1 go on: killed"[:32]]


def test_a_part_at_which_all_die_ends_the_call():
    calls = []
    crew = cluster._Crew(StandIn(), [Actor(str(name), calls, set(range(99))) for name in range(8)], lambda text: None)
    with pytest.raises(BadInput, match="its actors die again and again"):
        list(crew.run({0: 1}))
    assert len(calls) == cluster.TRIES


def test_our_own_errors_come_as_they_are():
    crew = cluster._Crew(StandIn(), [Actor("a", [], {1}, RayTaskError(Refused("other inputs")))], lambda text: None)
    with pytest.raises(Refused, match=r"^other inputs$"):
        list(crew.run({0: 1}))


def test_a_picture_that_kills_is_found_among_its_group(run_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("CHESTMAP_KEY", "of the tests")
    films = write_dataset(tmp_path / "films", count=10)
    monkeypatch.setattr(cluster_decoding, "MOST", 4)
    monkeypatch.setattr(cluster_decoding, "ray_or_told", StandIn)
    decode_some = cluster_decoding.decode_some

    def dying(sources, reading):
        if any(source.name == "005.png" for source in sources):
            raise RayError("worker crashed")
        return decode_some(sources, reading)

    monkeypatch.setattr(cluster_decoding, "decode_some", dying)
    reading = reading_for(small_predictor(run_folder / "model"), JobSettings())
    found = list(cluster_decoding.decode_apart(Inputs([str(films)]), reading, 2))
    assert [source.name for source, _ in found] == [f"{number:03d}.png" for number in range(10)]
    assert [one for _, one in found if isinstance(one, Failed)] == [Failed("005.png", DIED)]
    assert all(one.image_id == source.name for source, one in found if isinstance(one, Decoded))
