"""The spacing of a sweep's calls, on a clock that the test moves."""

from __future__ import annotations

from collections import deque

import pytest

from deployments.reconcile.pace import Pace


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


def test_a_rate_that_was_learned_is_kept_for_ten_seconds_without_a_refusal() -> None:
    world = World(1000)
    pace = Pace(100, ceiling=100, clock=world.time, sleep=world.sleep)
    for _ in range(20):
        pace.accepted()
    pace.refused()
    learned = pace.rate

    world.now += 9
    assert pace.rate == learned
    world.now += 3
    assert learned < pace.rate < learned * 1.1


def test_a_burst_of_refusals_teaches_one_lesson() -> None:
    world = World(1000)
    pace = Pace(100, ceiling=100, clock=world.time, sleep=world.sleep)
    for _ in range(50):
        pace.accepted()
    pace.refused()
    learned = pace.rate

    world.now += 0.5
    pace.refused()

    assert pace.rate == learned == 50
