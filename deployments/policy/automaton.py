"""Which of several patterns can match one text at once: every combination that exists, each with a text as its example.

The patterns run side by side over an alphabet of their own characters and one character more, which stands for all
others. A state is the set of places that the patterns have reached, so texts that end in one state match the same
patterns. The number of states can grow exponentially with `*` inside the patterns: every step is counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from deployments.policy.budget import Budget

_OTHERS = "xzqjkw0179~_"


@dataclass(frozen=True, slots=True)
class Run:
    """What one place of a pattern accepts: these characters, or (`but`) every character except these.

    `many`: any number of such characters, also none; otherwise exactly one.
    """

    characters: str
    but: bool = False
    many: bool = False


class Automaton:
    """Several patterns side by side."""

    def __init__(self, patterns: Sequence[Sequence[Run]], budget: Budget) -> None:
        self._budget = budget
        self._runs: list[Run | None] = []  # None: the end of a pattern
        self._start = self._many = self._end = 0
        self._ends: dict[int, int] = {}  # place of an end → number of its pattern
        for number, pattern in enumerate(patterns):
            budget.take(len(pattern) + 1)
            self._start |= 1 << len(self._runs)
            for run in pattern:
                if run.many:
                    self._many |= 1 << len(self._runs)
                self._runs.append(run)
            self._ends[len(self._runs)] = number
            self._end |= 1 << len(self._runs)
            self._runs.append(None)
        self._start = self._skipped(self._start)
        used = {character for run in self._runs if run for character in run.characters}
        self._other = next(one for one in (*_OTHERS, *map(chr, range(0xE000, 0xF8FF))) if one not in used)

    def _skipped(self, state: int) -> int:
        """The places that are reached without a character: a run of many may be empty."""
        return state | (state & self._many) << 1

    def _places(self, state: int) -> Iterator[int]:
        while state:
            lowest = state & -state
            yield lowest.bit_length() - 1
            state ^= lowest

    def _moves(self, state: int) -> dict[str, int]:
        """Character → the next state. Characters that are not in it lead where `_other` leads."""
        runs = [
            (run, 1 << (place if run.many else place + 1))
            for place in self._places(state)
            if (run := self._runs[place]) is not None
        ]
        characters = {self._other}.union(*(run.characters for run, _ in runs))
        self._budget.take(2 + len(runs) + 2 * len(characters) * (1 + len(runs) // 8))
        moves = {}
        for character in characters:
            reached = 0
            for run, target in runs:
                if (character in run.characters) is not run.but:
                    reached |= target
            moves[character] = self._skipped(reached)
        return moves

    def matched(self, state: int) -> int:
        """The patterns that match a text which ends in this state, as bits."""
        return sum(1 << self._ends[place] for place in self._places(state & self._end))

    def of_text(self, text: str) -> int:
        """The patterns that match a text, as bits."""
        state = self._start
        for character in text:
            if not state:
                break
            moves = self._moves(state)
            state = moves.get(character, moves[self._other])
        return self.matched(state)

    def combinations(self, examples: int) -> dict[int, list[str]]:
        """Every set of patterns (as bits) that some text matches and no other pattern does → up to `examples` texts."""
        found: dict[int, list[str]] = {}
        seen = {self._start}
        waiting = [(self._start, -1, "")]  # a state, from which one it was reached, and by which character

        def add(state: int, came_from: int, character: str) -> None:
            texts = found.setdefault(self.matched(state), [])
            if len(texts) < examples:
                letters = [character]
                while came_from >= 0:
                    self._budget.take()
                    _, came_from, character = waiting[came_from]
                    letters.append(character)
                texts.append("".join(reversed(letters)))

        add(self._start, -1, "")
        for at, (state, _, _) in enumerate(waiting):  # grows while it is read
            for character, reached in sorted(self._moves(state).items()):
                if reached not in seen:
                    seen.add(reached)
                    waiting.append((reached, at, character))
                add(reached, at, character)
        return found
