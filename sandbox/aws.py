"""What all modules of the sandbox share: AWS's errors, regions, ARNs, calls and service models.

Reads botocore's data files without importing botocore, because the import would take longer than the rest of the start.
Contains nothing about single operations.
"""

from __future__ import annotations

import functools
import gzip
import importlib.util
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from sandbox.iam import Caller
    from sandbox.server import Request

ACCOUNT = re.compile(r"[0-9]{12}\Z")


class AWSError(Exception):
    """An error answer: AWS's ``code`` and ``message``, and the HTTP ``status``."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message, self.status = code, message, status


@dataclass(frozen=True, slots=True)
class Change:
    """A change that a call made, or a read, with the fields of a CloudTrail event."""

    name: str
    sent: Mapping[str, Any]
    answered: Mapping[str, Any]
    arn: str
    read_only: bool = False
    error: str = ""  # code of the error that a read ended with


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceEvent:
    """An event that ECR sends to EventBridge: its detail-type, and the registry that it is about."""

    kind: str
    account: str
    region: str
    detail: Mapping[str, Any]


@dataclass(slots=True)
class Call:
    """One call, independent of its protocol."""

    service: str
    operation: str
    request: Request
    request_id: str
    params: Mapping[str, Any] = field(default_factory=dict)
    region: str = ""
    repository: str = ""
    caller: Caller | None = None
    change: Change | None = None
    events: list[ServiceEvent] = field(default_factory=list)

    @property
    def by(self) -> Caller:
        """The authenticated caller. Use it only after the authentication."""
        if self.caller is None:
            raise AWSError("MissingAuthenticationTokenException", "Missing Authentication Token", 403)
        return self.caller


# -- partitions ------------------------------------------------------------------------------------------------------


@functools.cache
def _data() -> Path:
    spec = importlib.util.find_spec("botocore")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("the sandbox needs botocore's data files: install boto3")
    return Path(spec.submodule_search_locations[0]) / "data"


def _read(path: Path) -> Any:
    if path.exists():
        return json.loads(path.read_bytes())
    return json.loads(gzip.decompress(path.with_name(path.name + ".gz").read_bytes()))


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition of AWS, for example ``aws-cn``."""

    name: str
    suffix: str


@functools.cache
def _partitions() -> tuple[tuple[re.Pattern[str], Partition], ...]:
    rows = _read(_data() / "partitions.json")["partitions"]
    return tuple(
        (re.compile(row["regionRegex"], re.ASCII), Partition(row["id"], row["outputs"]["dnsSuffix"])) for row in rows
    )


@functools.lru_cache(maxsize=1024)
def partition_of(region: str) -> Partition:
    """The partition of a region; ``aws`` for a region that no partition has, as in botocore."""
    for pattern, partition in _partitions():
        if pattern.match(region):
            return partition
    return _partitions()[0][1]


@functools.cache
def partition_names() -> frozenset[str]:
    return frozenset(partition.name for _, partition in _partitions())


@functools.cache
def _registry_host() -> re.Pattern[str]:
    suffixes = {partition.suffix for _, partition in _partitions()} | {"on.aws", "on.amazonwebservices.com.cn"}
    return re.compile(
        rf"([0-9]{{12}})\.dkr[.-]ecr(?:-fips)?\.([a-z0-9-]+)\.(?:{'|'.join(map(re.escape, sorted(suffixes)))})(?::\d+)?"
    )


def registry_of(host: str) -> tuple[str, str] | None:
    """Account and region of an ECR registry host, in any partition, FIPS or dual-stack; None for any other host."""
    match = _registry_host().fullmatch(host)
    return (match[1], match[2]) if match else None


# -- service models --------------------------------------------------------------------------------------------------

Check = Callable[[Any, str], None]


@functools.cache
def model(service: str) -> Model:
    """The model of a service, read at the first call."""
    return Model(service)


class Model:
    """The operations of a service and the constraints of their input, from botocore's service model."""

    def __init__(self, service: str) -> None:
        versions = sorted(path for path in (_data() / service).iterdir() if path.is_dir())
        self._model = _read(versions[-1] / "service-2.json")
        self._checks: dict[str, Check] = {}
        self.operations = frozenset(self._model["operations"])

    def check(self, operation: str, params: Mapping[str, Any]) -> None:
        """Raises InvalidParameterException or SerializationException if the input does not match the shapes."""
        check = self._checks.get(operation)
        if check is None:
            check = self._checks[operation] = self._compile(self._model["operations"][operation]["input"]["shape"])
        check(params, "")

    def _compile(self, name: str) -> Check:
        shape = self._model["shapes"][name]
        match shape["type"]:
            case "structure":
                return self._structure(shape)
            case "list":
                return _list(self._compile(shape["member"]["shape"]), shape)
            case "map":
                return _map(self._compile(shape["value"]["shape"]))
            case "string":
                return _string(shape)
            case "integer" | "long":
                return _integer(shape)
            case "boolean":
                return _typed(bool)
            case "blob":
                return _typed(str)
            case _:
                return lambda value, path: None

    def _structure(self, shape: Mapping[str, Any]) -> Check:
        members = {name: self._compile(member["shape"]) for name, member in shape["members"].items()}
        required = shape.get("required", ())

        def check(value: Any, path: str) -> None:
            if not isinstance(value, dict):
                raise AWSError("SerializationException", f"Expected a structure at '{path or '/'}'")
            for name in required:
                if value.get(name) is None:
                    raise invalid(_join(path, name), "must not be null")
            for name, item in value.items():
                if item is not None and name in members:
                    members[name](item, _join(path, name))

        return check


def invalid(where: str, constraint: str) -> AWSError:
    """ECR's error for an invalid parameter."""
    return AWSError(
        "InvalidParameterException", f"Invalid parameter at '{where}' failed to satisfy constraint: '{constraint}'"
    )


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _typed(kind: type) -> Check:
    def check(value: Any, path: str) -> None:
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise AWSError("SerializationException", f"{type(value).__name__} can not be converted at '{path}'")

    return check


def _bounds(shape: Mapping[str, Any], measure: str) -> Callable[[int, str], None]:
    low, high = shape.get("min"), shape.get("max")

    def check(size: int, path: str) -> None:
        if low is not None and size < low:
            raise invalid(path, f"Member must have {measure} greater than or equal to {low}")
        if high is not None and size > high:
            raise invalid(path, f"Member must have {measure} less than or equal to {high}")

    return check


def _list(member: Check, shape: Mapping[str, Any]) -> Check:
    typed, bounds = _typed(list), _bounds(shape, "length")

    def check(value: Any, path: str) -> None:
        typed(value, path)
        bounds(len(value), path)
        for index, item in enumerate(value, 1):
            member(item, f"{path}.{index}.member")

    return check


def _map(member: Check) -> Check:
    typed = _typed(dict)

    def check(value: Any, path: str) -> None:
        typed(value, path)
        for key, item in value.items():
            member(item, _join(path, key))

    return check


def _string(shape: Mapping[str, Any]) -> Check:
    typed, bounds = _typed(str), _bounds(shape, "length")
    try:
        pattern = re.compile(shape["pattern"], re.ASCII) if "pattern" in shape else None
    except re.error:  # the patterns are Java's, and a few use syntax that Python does not have
        pattern = None
    enum = shape.get("enum")

    def check(value: Any, path: str) -> None:
        typed(value, path)
        bounds(len(value), path)
        if pattern and not pattern.fullmatch(value):
            raise invalid(path, f"must satisfy regular expression '{pattern.pattern}'")
        if enum and value not in enum:
            raise invalid(path, f"Member must satisfy enum value set: [{', '.join(enum)}]")

    return check


def _integer(shape: Mapping[str, Any]) -> Check:
    typed, bounds = _typed(int), _bounds(shape, "value")

    def check(value: Any, path: str) -> None:
        typed(value, path)
        bounds(value, path)

    return check


# -- the query protocol ----------------------------------------------------------------------------------------------


def to_xml(value: Any) -> str:
    """A result of the query protocol: structures nest, lists are ``member`` elements, None is left out."""
    if isinstance(value, dict):
        return "".join(f"<{name}>{to_xml(item)}</{name}>" for name, item in value.items() if item is not None)
    if isinstance(value, list):
        return "".join(f"<member>{to_xml(item)}</member>" for item in value)
    if isinstance(value, bool):
        return str(value).lower()
    return escape(str(value))


def timestamp(moment: float) -> str:
    """The time (epoch seconds) in the form of AWS's XML and events: 2026-01-02T03:04:05Z."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@functools.cache
def snake(operation: str) -> str:
    """The name of an operation's method: ``create_repository`` for ``CreateRepository``."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", operation).lower()
