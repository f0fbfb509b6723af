"""The policy engine against an independent evaluator, and the work that its worst cases take.

    make bench PART=policies                                      (2,000 pairs, and the worst cases)
    .venv/bin/python -m bench.policies judge [NUMBER] [SEED]      (20,000 made-up pairs, seed 1)
    .venv/bin/python -m bench.policies worst [SEED]

`judge` compares made-up pairs of policies and checks each answer with requests (`tests/policy/made_up.py`): "missed" is
a difference that a request shows and the engine does not, "invented" one that the engine reports and no request shows.
Ends with 1 if there is one of either, or more than 1 % incomparable.

`worst` makes policies of almost 10,240 characters in many shapes and prints the steps and the seconds of CPU that
compare, who and lint take for each. Ends with 1 if one question takes more than a second, or its words 20,000
characters.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Callable

from bench.report import Row
from deployments.policy import compare, holders, lint, may, parse
from tests.policy.made_up import judge
from tests.policy.worst import DEFAULT, SHAPES, shaped

SECOND, CHARACTERS = 1.0, 20_000


def measure() -> list[Row]:
    """The two questions as rows. Their tables go to standard error."""
    with contextlib.redirect_stdout(sys.stderr):
        right = judged(2_000, 1)
        began = time.process_time()
        quick = worst(1)
        seconds = time.process_time() - began
    return [
        Row(
            figure="2,000 pairs of policies against a second evaluator",
            measured="as it judges" if right else "not as it judges",
            reference="",
            ratio=None,
            goal="0 missed, 0 invented, ≤ 1% incomparable",
            met=right,
            reason="its words stand above",
        ),
        Row(
            figure="one question about the worst policies",
            measured=f"all in {seconds:.1f} s of CPU",
            reference="",
            ratio=None,
            goal=f"each ≤ {SECOND:g} s of CPU and {CHARACTERS:,} characters",
            met=quick,
            reason="its line stands above",
        ),
    ]


def judged(number: int, seed: int) -> bool:
    """Judge so many pairs; True if all is well."""
    verdicts: Counter[str] = Counter()
    steps = 0
    started = time.process_time()
    for one in range(number):
        found = judge(one, seed)
        verdicts[found.verdict] += 1
        steps = max(steps, found.steps)
        if found.words:
            print(f"{found.verdict} {found.words}", flush=True)
    share = verdicts["incomparable"] / number
    print(
        f"{number} pairs (seed {seed}): {verdicts['same']} the same, {verdicts['different']} different,"
        f" {verdicts['missed']} missed, {verdicts['invented']} invented, {share:.2%} incomparable;"
        f" at most {steps} steps, {time.process_time() - started:.0f} s of CPU"
    )
    return not verdicts["missed"] and not verdicts["invented"] and share <= 0.01


def worst(seed: int) -> bool:
    """Measure every shape; True if all is within the limits."""
    well = True
    print(f"{'shape':<38}{'chars':>7}{'answer':>14}{'steps':>9}{'compare':>9}{'who':>8}{'lint':>8}{'words':>8}")
    for name in SHAPES:
        a, b = shaped(name, seed), shaped(name, seed + 1)
        who, lint_seconds = _seconds(ask, a), _seconds(lint_it, a)
        for suffix, other in (("", b), (" / default", DEFAULT)):
            compared = _seconds(compare_them, other, a)
            found = compare(other, a, partition="aws")
            characters = sum(len(grant.words) for grant in (*found.gained, *found.lost))
            print(
                f"{name + suffix:<38}{len(a):>7}{found.level:>14}{found.steps:>9}"
                f"{compared:>8.2f}s{who:>7.2f}s{lint_seconds:>7.2f}s{characters:>8}"
            )
            well = well and max(compared, who, lint_seconds) <= SECOND and characters <= CHARACTERS
    return well


def compare_them(a: str, b: str) -> None:
    """What a sweep asks."""
    compare(a, b, partition="aws")


def ask(text: str) -> None:
    """What the page of a policy asks."""
    policy = parse(text)
    holders(policy, partition="aws")
    may(policy, "111111111111", "ecr:*", partition="aws")


def lint_it(text: str) -> None:
    """What the start and the what-if page ask."""
    lint(text, partition="aws", consumer_accounts=["111111111111"])


def _seconds(call: Callable[..., None], *texts: str) -> float:
    started = time.process_time()
    call(*texts)
    return time.process_time() - started


if __name__ == "__main__":
    words = sys.argv[1:]
    if words[:1] == ["judge"]:
        sys.exit(not judged(*([int(word) for word in words[1:]] + [20_000, 1][len(words) - 1 :])))
    if words[:1] == ["worst"]:
        sys.exit(not worst(int(words[1]) if len(words) > 1 else 1))
    sys.exit(__doc__)
