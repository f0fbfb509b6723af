"""The journal of calls: a count for each operation, and the last calls in order.

A call is counted when it arrives, whether it is answered, refused or dropped by a fault. The journal has a maximum
length and drops the oldest calls; the counts are kept until a reset.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from typing import Any

from sandbox.aws import Call

LENGTH = 10_000
LONGEST = 500  # the most characters of a parameter in the journal


class Journal:
    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._entries: deque[dict[str, Any]] = deque(maxlen=LENGTH)

    def arrived(self, call: Call) -> None:
        self.counts[f"{call.service}:{call.operation}"] += 1

    def ended(self, call: Call, outcome: str) -> None:
        """Stores the end of a call. ``outcome`` is ``ok``, AWS's error code, or the fault that dropped the answer."""
        # Only a small part of the call is kept, because the call contains the whole body of its request.
        self._entries.append(
            {
                "time": time.time(),
                "service": call.service,
                "operation": call.operation,
                "caller": call.caller.arn if call.caller else None,
                "region": call.region,
                "repository": call.repository or None,
                "params": {key: _short(value) for key, value in call.params.items()},
                "outcome": outcome,
                "request_id": call.request_id,
            }
        )

    def reset_counts(self) -> None:
        self.counts.clear()

    def shown(self) -> list[dict[str, Any]]:
        """The last calls, oldest first."""
        return list(self._entries)


def _short(value: Any) -> Any:
    return f"{value[:LONGEST]}…" if isinstance(value, str) and len(value) > LONGEST else value
