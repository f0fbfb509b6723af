"""The spacing of a sweep's calls, on a clock that the test moves."""

from __future__ import annotations

import functools
import heapq
import itertools
from collections import deque
from collections.abc import Callable

import pytest

from deployments.reconcile import chunks
from deployments.reconcile.pace import Measurement, Pace


class World:
    """A clock, and an AWS that accepts a fixed rate with a burst of one second's worth."""

    def __init__(self, rate: float) -> None:
        self.now, self.rate, self.tokens, self.filled = 100.0, rate, rate, 100.0
        self.accepted = self.refused = 0

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def takes(self) -> bool:
        self.tokens = min(self.rate, self.tokens + (self.now - self.filled) * self.rate)
        self.filled = self.now
        if self.tokens < 1:
            self.refused += 1
            return False
        self.tokens -= 1
        self.accepted += 1
        return True


def sweep(world: World, pace: Pace, count: int) -> float:
    """Seconds that a sweep over so many repositories takes, one call after the other."""
    started, line = world.now, deque(range(count))
    while line:
        pace.wait()
        world.now += 0.0005
        if world.takes():
            pace.accepted()
            line.popleft()
        else:
            pace.refused()
    return world.now - started


class Worker:
    """A process with sixteen threads that works on one chunk after the other."""

    def __init__(self) -> None:
        self.pace: Pace | None = None  # kept from chunk to chunk
        self.line: deque[int] = deque()  # for each repository that waits: how often its call was refused
        self.left = self.idle = 0  # repositories of the chunk without a result; threads without work


class Sweeps:
    """Sweeps of several workers with sixteen threads each, as events on the clock of a World.

    A call takes 20 ms and reaches AWS in the middle. A call that was refused is repeated: at once, then after pauses.
    Each worker begins DELAY after the one before. What they store takes 5 ms.
    """

    THREADS, LATENCY, DELAY = 16, 0.02, 0.0

    def __init__(self, world: World, workers: int) -> None:
        self.world, self.workers = world, workers
        self.learned: Measurement | None = None
        self.active = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def _at(self, seconds: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.world.now + seconds, next(self._numbers), do))

    def sweep(self, count: int, *, ceiling: float = 1000, chunk: int = 250) -> tuple[float, float]:
        """The time of a sweep as a multiple of the best possible one, and the part of the calls that was refused."""
        world = self.world
        started, refused, left, unclaimed = world.now, world.refused, count, count
        workers = [Worker() for _ in range(self.workers)]

        def holders() -> int:
            return max(1, sum(each.left > 0 for each in workers))

        def claim(worker: Worker) -> None:
            nonlocal unclaimed
            worker.left = min(chunk, unclaimed)
            if not worker.left:
                return
            unclaimed -= worker.left
            worker.line, worker.idle = deque([0] * worker.left), 0
            if worker.pace is None:
                base = self.learned
                rate = base.rate_at(self.active) if base else ceiling
                worker.pace = Pace(
                    rate,
                    ceiling=ceiling,
                    workers=holders(),
                    rested=base is not None and world.now - self.active > chunks.RESTED_AFTER.total_seconds(),
                    stored=base,
                    alone=False,
                    clock=world.time,
                )
            for _ in range(self.THREADS):
                begin(worker, worker.pace)

        def begin(worker: Worker, pace: Pace) -> None:
            if not worker.line:
                worker.idle += 1
                return
            tries = worker.line.popleft()
            turn = max(pace._take()[0], world.now)
            self._at(turn - world.now + self.LATENCY / 2, lambda: arrive(worker, pace, tries))

        def arrive(worker: Worker, pace: Pace, tries: int) -> None:
            taken = world.takes()
            self._at(self.LATENCY / 2, lambda: answer(worker, pace, tries, taken))

        def answer(worker: Worker, pace: Pace, tries: int, taken: bool) -> None:
            nonlocal left
            if taken:
                left -= 1
                worker.left -= 1
                pace.accepted()
            else:
                if not tries:
                    pace.refused()
                    if pace.due:
                        self._at(0.005, lambda: share(worker))
                self._at(chunks.rest_seconds(tries + 1), lambda: again(worker, pace, tries + 1))
            begin(worker, pace)
            if not worker.left:
                share(worker)
                self._at(self.LATENCY, lambda: claim(worker))

        def again(worker: Worker, pace: Pace, tries: int) -> None:
            worker.line.appendleft(tries)
            if worker.idle:
                worker.idle -= 1
                begin(worker, pace)

        def share(worker: Worker) -> None:
            if worker.pace is not None:
                merged = worker.pace.merged(self.learned)
                if merged is not None:
                    self.learned, self.active = merged, world.now
                worker.pace.keep(merged, workers=1 + sum(each.left > 0 for each in workers if each is not worker))

        def learn(worker: Worker) -> None:
            share(worker)
            if left:
                self._at(1, lambda: learn(worker))

        for number, worker in enumerate(workers):
            self._at(number * self.DELAY, functools.partial(claim, worker))
            self._at(number * self.DELAY + chunks.FIRST_CHECK_SECONDS, functools.partial(learn, worker))
        while left:
            world.now, _, do = heapq.heappop(self._events)
            do()
        took, self._events = world.now - started, []
        refused = world.refused - refused
        return took / ((count - world.rate) / world.rate), refused / (count + refused)

    def scheduled(self, number: int, count: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """The times and the refused parts of so many sweeps, one every ten minutes."""
        results = []
        for _ in range(number):
            began = self.world.now
            results.append(self.sweep(count))
            self.world.now = began + 600
        times, refusals = zip(*results, strict=True)
        return times, refusals


@pytest.mark.parametrize("rate", [100, 50, 20])
def test_the_first_and_the_tenth_sweep_come_within_five_per_cent_of_the_best_and_a_known_rate_is_hardly_refused(
    rate: int,
) -> None:
    times, refusals = Sweeps(World(rate), 1).scheduled(10, 1000)

    assert max(times) <= 1.05, times
    assert refusals[0] <= 0.1
    assert max(refusals[1:]) <= 0.03, refusals


@pytest.mark.costly
def test_a_sweep_finds_a_rate_that_became_higher_and_one_that_became_lower() -> None:
    world = World(20)
    sweeps = Sweeps(world, 1)
    sweeps.sweep(500)

    world.now, world.rate = world.now + 600, 100.0
    higher, _ = sweeps.sweep(20_000)
    world.now, world.rate = world.now + 600, 20.0
    lower, refused = sweeps.sweep(1000)

    assert higher < 1.5
    assert lower <= 1.05
    assert refused < 0.15


@pytest.mark.parametrize("workers", [2, 4])
@pytest.mark.parametrize("rate", [100, 50, 20])
@pytest.mark.parametrize("latency", [0.02, 0.2])
@pytest.mark.parametrize("delay", [0, 0.7], ids=["at once", "one after the other"])
def test_several_workers_soon_make_all_the_calls_that_aws_accepts_however_they_begin(
    delay: float, latency: float, rate: int, workers: int
) -> None:
    sweeps = Sweeps(World(rate), workers)
    sweeps.DELAY, sweeps.LATENCY = delay, latency

    times, refusals = sweeps.scheduled(5, 2000)

    assert max(times) <= 1.1, times  # a second before the end, the calls of the last chunks are not divided anew
    assert sum(times) / len(times) <= 1.09, times
    assert refusals[0] <= 0.15, refusals
    assert max(refusals[1:]) <= 0.032, refusals


def test_a_first_sweep_of_a_registry_whose_bucket_others_have_emptied_still_finds_the_rate() -> None:
    world = World(50)
    world.tokens = 0

    took, refused = Sweeps(world, 1).sweep(1000)

    assert took <= 1.2
    assert refused < 0.1


def test_many_threads_that_are_slower_than_the_ceiling_still_find_the_rate() -> None:
    world = World(100)
    world.tokens = 300
    sweeps = Sweeps(world, 1)
    sweeps.LATENCY = 0.1  # sixteen threads make at most 160 calls a second

    took, refused = sweeps.sweep(2000)

    assert took < 1.05
    assert refused < 0.1


def test_calls_are_spaced_by_the_rate() -> None:
    world = World(1000)
    pace = Pace(50, ceiling=50, clock=world.time, sleep=world.sleep)

    assert 9.5 < sweep(world, pace, 500) < 10.5


def test_under_throttling_a_sweep_comes_near_the_best_there_is_and_leaves_nothing_undone() -> None:
    for rate in (20, 50, 100):
        world = World(rate)
        pace = Pace(1000, ceiling=1000, clock=world.time, sleep=world.sleep)

        took, ideal = sweep(world, pace, 1000), (1000 - rate) / rate

        assert world.accepted == 1000
        assert took < 1.15 * ideal, (rate, took, ideal)
        assert world.refused < 0.2 * world.accepted, (rate, world.refused)


def test_a_remembered_rate_is_hardly_ever_refused() -> None:
    world = World(50)
    world.tokens = 0
    pace = Pace(48, ceiling=1000, clock=world.time, sleep=world.sleep)

    sweep(world, pace, 1000)

    assert world.refused < 30


def test_the_rate_grows_back_to_the_ceiling_when_aws_has_calmed_down() -> None:
    world = World(20)
    pace = Pace(100, ceiling=100, clock=world.time, sleep=world.sleep)
    sweep(world, pace, 200)
    assert pace.rate < 40
    world.rate = 10_000

    sweep(world, pace, 20_000)

    assert pace.rate == 100


def test_calls_that_do_not_wait_for_their_turn_make_the_others_wait_the_longer() -> None:
    world = World(1000)
    pace = Pace(10, ceiling=10, clock=world.time, sleep=world.sleep)
    pace.wait()
    started = world.now

    for _ in range(10):
        pace.spend()
    pace.wait()

    assert world.now - started == pytest.approx(11 / 10)


def test_a_stop_is_noticed_while_a_call_waits_for_its_turn() -> None:
    world = World(1000)
    pace = Pace(1 / 60, ceiling=1, clock=world.time, sleep=world.sleep)
    pace.wait()

    assert not pace.wait(lambda: world.now > 105)
    assert world.now < 106
    assert pace.wait()
    assert world.now == pytest.approx(160)  # the turn that nobody used is the next one's


def test_a_rate_that_was_learned_is_kept_for_four_seconds_without_a_refusal() -> None:
    world = World(1000)
    pace = Pace(100, ceiling=100, clock=world.time, sleep=world.sleep)
    world.now += 1
    for _ in range(20):
        pace.accepted()
    pace.refused()
    learned = pace.rate

    world.now += 3.9
    assert pace.rate == learned
    world.now += 3
    assert learned < pace.rate < learned * 1.02


def test_a_burst_of_refusals_teaches_one_lesson() -> None:
    world = World(1000)
    pace = Pace(100, ceiling=100, clock=world.time, sleep=world.sleep)
    world.now += 1
    for _ in range(50):
        pace.accepted()
    pace.refused()
    learned = pace.rate

    world.now += 0.5
    for _ in range(12):
        pace.accepted()
    pace.refused()

    assert pace.rate == learned == 50


def test_a_refusal_after_a_pause_measures_nothing_because_the_bucket_may_have_been_full() -> None:
    world = World(1000)
    pace = Pace(100, ceiling=1000, clock=world.time, sleep=world.sleep)
    pace.wait()
    pace.refused()
    world.now += 20

    for _ in range(40):
        pace.wait()
        pace.accepted()
    pace.refused()

    assert pace.rate >= 100  # and not the 40 calls of 20 seconds
