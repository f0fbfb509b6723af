"""How much work one question about two policies may take, counted in steps and not in seconds.

ECR takes a policy of 10,240 characters from anyone who may write it, and the question whether two sets of statements
cover each other is hard in the worst case. So every loop whose length depends on the texts takes its steps from one
budget. The same texts take the same number of steps on every machine.
"""

from __future__ import annotations

# One step is about a microsecond of CPU on a small machine. A usual comparison takes a few hundred steps.
MAX_STEPS = 400_000


class TooComplexError(Exception):
    """The steps are used up. The caller answers `incomparable` or `depends`: it is not known what the policy gives."""


class Budget:
    """The steps that are left. Not a limit of time: nothing here reads a clock."""

    def __init__(self, steps: int = MAX_STEPS) -> None:
        self.steps = steps
        self.left = steps

    def take(self, steps: int = 1) -> None:
        """Count steps. Raises TooComplexError if none is left."""
        self.left -= steps
        if self.left < 0:
            raise TooComplexError

    @property
    def taken(self) -> int:
        """The steps that were taken so far."""
        return self.steps - self.left
