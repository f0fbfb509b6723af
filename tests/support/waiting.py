"""Wait for a condition, or act at a chosen moment, without a fixed sleep."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def wait_for(condition: Callable[[], Any], seconds: float = 40) -> Any:
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.1)
    return found


def before_the_first(word: str, happens: Callable[[], object]) -> Any:
    """For `connection.execute_wrapper`: call `happens` just before the first statement that contains the word."""
    done: list[str] = []

    def wrapper(execute: Any, sql: str, parameters: Any, many: bool, context: Any) -> Any:
        if word in sql and not done:
            done.append(sql)
            happens()
        return execute(sql, parameters, many, context)

    return wrapper
