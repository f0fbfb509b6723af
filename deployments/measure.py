"""Counters and durations of this process, and the only importer of prometheus_client.

`deployments.metrics` adds the numbers that are read from rows, and answers `/metrics`. docs/logs-and-metrics.md lists
all metrics. Labels never contain input: an unknown HTTP method counts as “other”, and a URL without a route has an
empty label.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric, disable_created_metrics
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from deployments import catalogue

PREFIX = "registry_admin_"
_BUCKETS = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0)  # seconds
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

disable_created_metrics()  # type: ignore[no-untyped-call]  # otherwise each counter gets an additional gauge with its creation time
_registry = CollectorRegistry()
_requests = Histogram(
    f"{PREFIX}request_duration_seconds",
    "Requests by route, method and class of status, with their durations.",
    ("route", "method", "status"),
    buckets=_BUCKETS,
    registry=_registry,
)
_aws_calls = Histogram(
    f"{PREFIX}aws_call_duration_seconds",
    "Calls to AWS by operation and outcome (ok or the error's code), with their durations.",
    ("operation", "outcome"),
    buckets=_BUCKETS,
    registry=_registry,
)
_repository_writes = Counter(
    f"{PREFIX}repository_writes",
    "Calls that change a repository in ECR, by operation and outcome.",
    ("operation", "outcome"),
    registry=_registry,
)
_deploys = Counter(
    f"{PREFIX}deploys",
    "Deploys by what happened to them: refused, created, indexed, deployed, promoted, failed, canceled, timed_out.",
    ("result",),
    registry=_registry,
)
for _result in ("refused", "created", "indexed", "deployed", "promoted", "failed", "canceled", "timed_out"):
    _deploys.labels(_result)  # from the start, so that Prometheus sees the first one as an increase
_refusals = Counter(
    f"{PREFIX}refusals",
    "Refused requests and finalizes, by the code in docs/errors.md; other: a code that is not in it.",
    ("code",),
    registry=_registry,
)
_log_ins = Counter(
    f"{PREFIX}log_ins",
    "Log-ins to the console by what happened to them: done, failed, throttled, busy.",
    ("result",),
    registry=_registry,
)
for _result in ("done", "failed", "throttled", "busy"):
    _log_ins.labels(_result)


def request(*, route: str, method: str, status: int, seconds: float) -> None:
    """Count an answered request. `route`: its URL pattern, never its path."""
    known = method if method in _METHODS else "other"
    _requests.labels(route, known, f"{status // 100}xx").observe(seconds)


def aws_call(*, operation: str, outcome: str, seconds: float, is_write: bool) -> None:
    """Count a call to AWS. `outcome`: ok, or the error's code; `is_write`: it changes a repository."""
    _aws_calls.labels(operation, outcome).observe(seconds)
    if is_write:
        _repository_writes.labels(operation, outcome).inc()


def deploy(result: str) -> None:
    """Count a change of a deployment: created, promoted, failed …"""
    _deploys.labels(result).inc()


def refusal(code: str) -> None:
    """Count a refused request or finalize. A `code` that is not in the catalogue counts as “other”."""
    _refusals.labels(code if catalogue.find(code) is not None else "other").inc()


def log_in(result: str) -> None:
    """Count a log-in to the console: done, failed, throttled, busy."""
    _log_ins.labels(result).inc()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A number that was read from rows: its metric name without PREFIX, help text, value and labels."""

    name: str
    help: str
    value: float
    labels: dict[str, str] = field(default_factory=dict)


class _Rows(Collector):
    def __init__(self, samples: Iterable[Sample]) -> None:
        self._samples = samples

    def collect(self) -> Iterator[Metric]:
        families: dict[str, list[Sample]] = {}
        for sample in self._samples:
            families.setdefault(sample.name, []).append(sample)
        for name, samples in families.items():
            family = GaugeMetricFamily(PREFIX + name, samples[0].help, labels=list(samples[0].labels))
            for sample in samples:
                family.add_metric(list(sample.labels.values()), round(sample.value, 3))
            yield family


def exposition(samples: Iterable[Sample], *, directory: str, accept: str) -> tuple[bytes, str]:
    """The text of all metrics and its content type, in the form that `accept` asks for.

    Samples of one name are one family, also if they do not stand together. `directory` is PROMETHEUS_MULTIPROC_DIR,
    where all processes count; empty: this process counts alone, in its memory.
    """
    registry = CollectorRegistry()
    if directory:
        MultiProcessCollector(registry, path=directory)  # type: ignore[no-untyped-call]
    else:
        registry.register(_registry)
    registry.register(_Rows(samples))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type
