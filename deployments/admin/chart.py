"""Deployments per day, as the numbers of a bar chart that the template draws as SVG, and of a table.

Each bar and each number leads to its deployments in the list.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, timedelta
from urllib.parse import urlencode

from django.utils import timezone

from deployments.deploys import tally
from deployments.models import DeploymentStatus

DAYS = 30
HEIGHT = 100.0  # of the drawing in SVG units; a day is 10 units wide
_GOOD = (DeploymentStatus.DEPLOYED,)
_BAD = (DeploymentStatus.FAILED, DeploymentStatus.TIMED_OUT)
_OTHER = tuple(status for status in DeploymentStatus if status not in (*_GOOD, *_BAD))
#: Tone of a bar → its statuses, from below to above, and their word.
PARTS = {"ok": (_GOOD, "deployed"), "idle": (_OTHER, "other"), "bad": (_BAD, "failed or timed out")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A part of a day's bar, in SVG units, its words, and the query of the list of its deployments."""

    tone: str
    y: str
    height: str
    words: str
    query: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """A day in UTC: the numbers of its deployments by result, and its bars."""

    day: date
    good: int
    bad: int
    other: int  # canceled, or not ended yet
    x: float
    bars: tuple[Bar, ...]
    labelled: bool

    @property
    def all(self) -> int:
        """The number of deployments of the day."""
        return self.good + self.bad + self.other

    @property
    def query(self) -> str:
        """The query of the list of the day's deployments."""
        return _query(self.day)

    @property
    def parts(self) -> list[tuple[int, str]]:
        """(number, query of the list) of the deployed ones, those that failed or timed out, and the others."""
        numbers = {"ok": self.good, "bad": self.bad, "idle": self.other}
        return [(number, _query(self.day, *PARTS[tone][0])) for tone, number in numbers.items()]

    @property
    def words(self) -> str:
        """“3 Nov: 5 deployed, 1 failed or timed out”."""
        parts = [f"{self.good} deployed"]
        parts += [f"{self.bad} failed or timed out"] if self.bad else []
        parts += [f"{self.other} other"] if self.other else []
        return f"{self.day.day} {self.day:%b}: {', '.join(parts)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """The days of the chart, oldest first."""

    days: list[Day]
    top: int  # the number at the upper line

    @property
    def width(self) -> int:
        """The width of the drawing in SVG units."""
        return 10 * len(self.days)

    @property
    def half(self) -> str:
        """The number at the middle line."""
        return f"{self.top / 2:g}"

    @property
    def number(self) -> int:
        """The number of deployments of all days."""
        return sum(day.all for day in self.days)

    def last(self, days: int) -> dict[str, object]:
        """The sums of the newest days, today included."""
        newest = self.days[-days:]
        good, bad = sum(day.good for day in newest), sum(day.bad for day in newest)
        ended = good + bad  # canceled deployments do not count for the success rate
        rate = f"{good / ended * 100:.1f} %" if ended else "–"
        return {"all": sum(day.all for day in newest), "good": good, "bad": bad, "success": rate}


def per_day() -> Chart:
    """The chart of the last DAYS days. Two queries."""
    today = timezone.now().astimezone(UTC).date()
    return draw(today, tally.by_day(today - timedelta(days=DAYS - 1)))


def draw(today: date, counts: Mapping[tuple[str, str], int]) -> Chart:
    """The chart for (day, status) → number. Pure."""
    numbers = []
    for back in range(DAYS - 1, -1, -1):
        day = today - timedelta(days=back)
        of_day = {status: number for (text, status), number in counts.items() if text == day.isoformat()}
        good = sum(of_day.get(status, 0) for status in _GOOD)
        bad = sum(of_day.get(status, 0) for status in _BAD)
        numbers.append((day, good, bad, sum(of_day.values()) - good - bad))
    top = _round(max((good + bad + other for _, good, bad, other in numbers), default=0))
    days = []
    for place, (day, good, bad, other) in enumerate(numbers):
        bars, y = [], HEIGHT
        for tone, number in (("ok", good), ("idle", other), ("bad", bad)):
            if number:
                height = number / top * HEIGHT
                y -= height
                statuses, word = PARTS[tone]
                words = f"{day.day} {day:%b}: {number} {word}"
                query = _query(day, *statuses)
                bars.append(Bar(tone=tone, y=f"{y:.2f}", height=f"{height:.2f}", words=words, query=query))
        days.append(
            Day(
                day=day,
                good=good,
                bad=bad,
                other=other,
                x=place * 10 + 1.5,
                bars=tuple(bars),
                labelled=(len(numbers) - 1 - place) % 6 == 0,
            )
        )
    return Chart(days=days, top=top)


def _query(day: date, *statuses: str) -> str:
    """The query of the list of deployments for a day in UTC, and for these statuses; without one, for all."""
    status = [("status", status) for status in statuses]
    return "?" + urlencode([("created_at_from", day), ("created_at_to", day), *status])


def _round(most: int) -> int:
    """The next even, round number at or above `most`, for the axis."""
    ten = 1
    while True:
        for factor in (2, 3, 4, 5, 6, 8, 10):
            if most <= factor * ten and factor * ten % 2 == 0:
                return factor * ten
        ten *= 10
