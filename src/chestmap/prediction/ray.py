"""Runs the parts of a job on a Ray cluster: actors hold the model, tasks decode, the driver hands out numbers.

All nodes see model, inputs and predictions folder under the same paths. An actor or a driver that dies costs the parts that it had
not finished.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from chestmap.errors import BadInput
from chestmap.prediction.job_plan import PlanGone
from chestmap.prediction.ray_decoding import decode_apart
from chestmap.prediction.ray_session import ClusterSettings, connected, got, shape
from chestmap.progress import progress_of

if TYPE_CHECKING:
    from chestmap.prediction.completing import Share
    from chestmap.prediction.job import Job
    from chestmap.prediction.request import Request

AHEAD = 4
"""Tasks that decode for one actor at once."""

TRIES = 3
QUEUED = 2
"""Parts that an actor knows of, so that it does not wait for the driver between two."""


class PartActor:
    """Opens the job at the first call, so that what is wrong with it comes to the driver as it is."""

    def __init__(self, request: Request, shards: int, *, apart: bool) -> None:
        self.request, self.shards, self.apart, self.changed = request, shards, apart, 0

    @cached_property
    def _job(self) -> Job:
        return self.request.job(self.shards)

    def missing(self) -> dict[int, int]:
        """Parts that are to be made, with how many inputs each has."""
        numbers, self.changed = self._job.missing(range(self._job.blocks.parts))
        return {number: self._job.blocks.inputs_in([number]) for number in numbers}

    def predict(self, number: int) -> int:
        """Makes one part, unless it is there; returns its number, so that the driver can count."""
        job = self._job
        if not job.place.has(number):
            with suppress(PlanGone):  # another driver has completed the folder
                for _ in job.predict([number], self._decode, lambda *_: None):
                    pass
        return number

    def _decode(self, inputs: Any) -> Any:
        job = self._job
        if self.apart and self.request.dataset is None:
            return decode_apart(inputs, job.reading, AHEAD)
        return job.provider.decode(inputs, job.reading, 0, 0)

    def complete(self) -> Share:
        """Completes the folder after the last part, and counts what all parts hold."""
        from chestmap.prediction.completing import complete

        return complete(self._job, range(self._job.blocks.parts), self.changed)


def predict_on_cluster(
    request: Request, settings: ClusterSettings, tell: Callable[[str], None], *, progress: bool = True
) -> Share:
    """`tell` is called with what the user should know of the cluster."""
    with connected(settings.address, tell) as ray:
        actors, gpus, apart = shape(ray, settings)
        kind = ray.remote(num_cpus=settings.cpus, num_gpus=gpus, max_restarts=-1, max_task_retries=TRIES)(PartActor)
        tell(f"{actors} actors of {settings.cpus:g} CPU and {gpus:g} GPU; decoding {'apart' if apart else 'in the actors'}")
        first = kind.remote(request, actors, apart=apart)
        missing = got(ray, first.missing.remote())
        others = min(actors, max(len(missing), 1)) - 1
        crew = _Crew(ray, [first, *(kind.remote(request, actors, apart=apart) for _ in range(others))], tell)
        with progress_of("predict", sum(missing.values()), show=progress) as advance:
            for number in crew.run(missing):
                advance(missing[number])
        return got(ray, crew.actors[0].complete.remote())


@dataclass(eq=False)
class _Crew:
    """Actors at work. Ray starts one that died again, and repeats what it was at; one that stays dead is done without."""

    ray: Any
    actors: list[Any]
    tell: Callable[[str], None]
    tries: Counter[int] = field(default_factory=Counter)

    def run(self, missing: dict[int, int]) -> Iterator[int]:
        """Numbers of parts as they are finished."""
        todo, running = deque(missing), dict[Any, tuple[Any, int]]()
        free = deque(actor for _ in range(QUEUED) for actor in self.actors)
        while todo or running:
            while todo and free:
                actor, number = free.popleft(), todo.popleft()
                running[actor.predict.remote(number)] = (actor, number)
            done, _ = self.ray.wait(list(running), num_returns=1, timeout=300)
            if not done:
                self.tell(f"nothing finished for five minutes; {len(running)} parts are under way: {self._free()}")
            for reference in done:
                actor, number = running.pop(reference)
                try:
                    yield got(self.ray, reference)
                except self.ray.exceptions.RayActorError as error:
                    todo.append(number)
                    self._drop_actor(actor, number, error)
                if actor in self.actors:
                    free.append(actor)
            free = deque(actor for actor in free if actor in self.actors)

    def _drop_actor(self, actor: Any, number: int, error: Exception) -> None:
        """Goes on without an actor that died; gives up where none is left, or where one part kills them again and again."""
        self.tries[number] += 1
        if actor in self.actors:
            self.actors.remove(actor)
        said = " ".join(str(error).split())[:300]
        if not self.actors or self.tries[number] >= TRIES:
            raise BadInput(
                f"part {number}: its actors die again and again ({said}); call again, or --shard to see why"
            ) from None
        self.tell(f"an actor is lost, {len(self.actors)} go on: {said}")

    def _free(self) -> str:
        return ", ".join(
            f"{name} {count:g} free" for name, count in sorted(self.ray.available_resources().items()) if "PU" in name
        )
