"""System checks: what stops the start (E) and what is merely unwise (W), each with an id and a hint."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register

from deployments import config


@register("configuration")
def configuration_is_readable(**kwargs: Any) -> Iterable[CheckMessage]:
    """E001: a variable is malformed. W001: one was read, but not all of it."""
    configuration: config.Configuration = settings.CONFIGURATION
    for problem in configuration.problems:
        yield Error(f"{problem.variable}: {problem.message}", hint=problem.hint, id="deployments.E001")
    for warning in configuration.warnings:
        yield Warning(f"{warning.variable}: {warning.message}", hint=warning.hint, id="deployments.W001")
