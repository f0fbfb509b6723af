"""The processing of one request: find service and operation, authenticate, apply faults, answer, write the journal.

The only module that uses all other modules. It has the whole state (``World``), which a reset replaces, and answers the
control API under ``/_sandbox/``. An unexpected exception becomes an InternalFailure with status 500.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
import time
import traceback
import uuid
from collections.abc import Awaitable, Callable, Mapping
from email.utils import formatdate
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import parse_qsl

from sandbox import image_events, layer_urls, registry, signature
from sandbox.aws import AWSError, Call, to_xml
from sandbox.ecr import ECR
from sandbox.events import Events
from sandbox.faults import Fault, Faults
from sandbox.iam import IAM
from sandbox.journal import Journal
from sandbox.registry import RegistryV2
from sandbox.server import Dropped, Request, Response
from sandbox.sqs import SQS
from sandbox.store import MAX_LAYER, Store
from sandbox.sts import STS

# Account id, access key, secret. They work only in a sandbox; because of EXAMPLE, scanners for leaked keys ignore them.
OWNER = ("111111111111", "AKIAOWNER1111EXAMPLE", "sandbox/owner/111111111111/EXAMPLESECRET")
CLUSTER = ("222222222222", "AKIACLUST2222EXAMPLE", "sandbox/cluster/222222222222/EXAMPLEKEY0")

MAX_BODY = 80 * 1024 * 1024  # bytes; the largest one is a layer part of 20 MiB in base64
MAX_MANIFEST = 4 * 1024 * 1024  # the length of imageManifest in ECR's service model
TARGETS = {"AmazonEC2ContainerRegistry_V20150921": "ecr", "AmazonSQS": "sqs", "AWSEvents": "events"}
NAMESPACES = {"sts": "https://sts.amazonaws.com/doc/2011-06-15/", "iam": "https://iam.amazonaws.com/doc/2010-05-08/"}
Answer = Response | Awaitable[Response]


class World:
    """The whole state of the sandbox between two resets."""

    def __init__(self) -> None:
        self.offset = 0.0  # seconds by which the control API has moved the clock
        self.journal = Journal()
        self.faults = Faults()
        self.iam = IAM(self.now)
        for account, access_key, secret in (OWNER, CLUSTER):
            self.iam.add_account(account, access_key, secret)
        self.store = Store(self.now)
        self.ecr = ECR(self.store, self.iam, self.faults)
        self.registry = RegistryV2(self.store, self.iam, self.ecr)
        self.sts = STS(self.iam)
        self.sqs = SQS(self.iam)
        self.events = Events(self.iam, self.sqs)

    def now(self) -> float:
        """The sandbox's time in epoch seconds: real time plus what the control API has added."""
        return time.time() + self.offset

    def settle(self) -> None:
        """Does what the clock has made due: forgets abandoned uploads, sends the events of restores that ended."""
        if self.store.uploads:
            self.store.forget_abandoned_uploads()
        self.events.emit(image_events.transitioned(*each) for each in self.store.restored())

    def expire(self, names: str) -> dict[str, int]:
        """Runs the lifecycle policies of the repositories with these names (a glob) now. Returns how many."""
        chosen = [each for each in self.store.repositories() if each.lifecycle and fnmatchcase(each.name, names)]
        for repository in chosen:
            self.events.emit(self.ecr.lifecycle.run(repository))
        return {"evaluated": len(chosen)}


class Gateway:
    def __init__(self) -> None:
        self.world = World()

    @staticmethod
    def limit(path: str) -> int:
        """The largest body that a path takes, in bytes."""
        if not path.startswith("/v2/"):
            return MAX_BODY
        return MAX_LAYER if "/blobs/uploads/" in path else MAX_MANIFEST

    def handle(self, request: Request) -> Answer:
        """The answer to a request: of AWS's APIs, of the registry, or of the control API."""
        path = request.path
        try:
            self.world.settle()
            if request.too_large:
                return _too_large(request, self.limit(path))
            if path == "/v2" or path.startswith("/v2/"):
                return self._data_plane(request)
            if path.startswith("/_sandbox/"):
                return self._control(request)
            if path.startswith(layer_urls.PATH):
                return self.world.ecr.images.urls.answer(request)
            return self._aws(request)
        except Exception:
            return _broken(request)

    # -- AWS's API --

    def _aws(self, request: Request) -> Answer:
        world, request_id = self.world, str(uuid.uuid4())
        claim = signature.read(request)
        target, _, operation = request.headers.get("x-amz-target", "").partition(".")
        if operation:
            service = TARGETS.get(target, claim.service if claim else "unknown")
            params = _json(request.body)
        else:
            fields = dict(parse_qsl(request.body.decode("latin-1"), keep_blank_values=True))
            service, operation, params = (claim.service if claim else "sts"), fields.get("Action", ""), fields
        call = Call(service, operation, request, request_id, params or {}, claim.region if claim else "")
        call.repository = _repository(call.params)

        def run() -> Answer:
            if params is None:
                raise AWSError("SerializationException", "The body is not a JSON object")
            result: Mapping[str, Any] | Awaitable[Mapping[str, Any]]
            match service:
                case "ecr":
                    result = world.ecr.answer(call)
                case "sts":
                    result = world.sts.answer(call)
                case "iam":
                    result = world.iam.answer(call)
                case "sqs":
                    result = world.sqs.answer(call)
                case "events":
                    result = world.events.answer(call)
                case _:
                    raise AWSError("UnknownOperationException", f"The sandbox has no service {service}")
            if isinstance(result, Mapping):
                return _answered(call, result)
            return _answered_later(call, result)

        def authenticate() -> None:
            if claim is None:
                raise AWSError("MissingAuthenticationTokenException", "Missing Authentication Token", 403)
            call.caller = world.iam.authenticate(request, claim)
            if claim.service != service:
                raise AWSError("InvalidSignatureException", f"Credential should be scoped to service: '{service}'.")

        return self._perform(call, authenticate, run, lambda error: _refused(call, error))

    def _data_plane(self, request: Request) -> Answer:
        world = self.world
        call, target = world.registry.route(request, str(uuid.uuid4()))

        def refuse(error: AWSError) -> Response:
            return registry.refusal(error, call)

        def authenticate() -> None:
            world.registry.authenticate(call)

        return self._perform(call, authenticate, lambda: world.registry.answer(call, target), refuse)

    def _perform(
        self,
        call: Call,
        authenticate: Callable[[], None],
        run: Callable[[], Answer],
        refuse: Callable[[AWSError], Response],
    ) -> Answer:
        world = self.world
        world.journal.arrived(call)
        try:
            authenticate()
        except AWSError as error:
            world.journal.ended(call, error.code)
            return refuse(error)
        faults = world.faults.strike(call)
        if faults:
            return _perform_under(world, call, run, refuse, faults)
        return _run(world, call, run, refuse)

    # -- the control API --

    def _control(self, request: Request) -> Response:
        # A web page in the operator's browser can send requests to loopback; browsers mark such requests.
        if "origin" in request.headers:
            return _shown({"error": "not for web pages"}, 403)
        if request.method == "POST" and request.path == "/_sandbox/reset":
            self.world = World()
            return _shown({})
        body = _json(request.body) if request.body else {}
        if body is None:
            return _shown({"error": "the body is not a JSON object"}, 400)
        try:
            answer = self._controlled(f"{request.method} {request.path.removeprefix('/_sandbox/')}", body, request)
        except (ValueError, TypeError, KeyError) as error:
            return _shown({"error": str(error)}, 400)
        except AWSError as error:
            return _shown({"error": str(error)}, 400)
        return _shown({"error": "no such address"}, 404) if answer is None else _shown(answer)

    def _controlled(self, what: str, body: dict[str, Any], request: Request) -> Any:
        world = self.world
        match what:
            case "GET health":
                return {"status": "ok"}
            case "GET calls":
                return dict(world.journal.counts)
            case "POST calls/reset":
                world.journal.reset_counts()
                return {}
            case "GET journal":
                return world.journal.shown()
            case "GET faults":
                return world.faults.shown()
            case "POST faults":
                return world.faults.add(body)
            case "DELETE faults":
                world.faults.clear()
                return {}
            case "POST accounts":
                key = world.iam.add_account(
                    str(body["account"]), body.get("access_key_id"), body.get("secret_access_key")
                )
                return {
                    "account": key.owner.account,
                    "access_key_id": key.access_key,
                    "secret_access_key": key.secret,
                }
            case "POST clock":
                world.offset += float(body["advance"])
                world.settle()
                for each in world.ecr.lifecycle.due():
                    world.events.emit(world.ecr.lifecycle.run(each))
                return {"offset": world.offset}
            case "POST lifecycle":
                return world.expire(str(body.get("repository", "*")))
            case "POST events":
                return world.events.subscribe(body, request)
            case _:
                return None


# -- running ---------------------------------------------------------------------------------------------------------


def _run(
    world: World, call: Call, run: Callable[[], Answer], refuse: Callable[[AWSError], Response], outcome: str = "ok"
) -> Answer:
    """``outcome``: the outcome of a success in the journal."""
    try:
        answer = run()
    except AWSError as error:
        world.journal.ended(call, error.code)
        world.events.emit_refused(call, error.code)
        return refuse(error)
    if inspect.isawaitable(answer):
        return _run_later(world, call, answer, refuse, outcome)
    world.journal.ended(call, outcome)
    world.events.emit_call(call)
    return answer


async def _run_later(
    world: World, call: Call, answer: Awaitable[Response], refuse: Callable[[AWSError], Response], outcome: str
) -> Response:
    try:
        response = await answer
    except AWSError as error:
        world.journal.ended(call, error.code)
        return refuse(error)
    except Exception:
        return _broken(call.request)
    world.journal.ended(call, outcome)
    return response


async def _perform_under(
    world: World,
    call: Call,
    run: Callable[[], Answer],
    refuse: Callable[[AWSError], Response],
    faults: list[Fault],
) -> Response:
    try:
        wait = sum(fault.seconds for fault in faults if fault.kind == "latency")
        await asyncio.sleep(wait / 2)
        for fault in faults:
            match fault.kind:
                case "error" | "throttle":
                    world.journal.ended(call, fault.error().code)
                    return refuse(fault.error())
                case "hang":
                    world.journal.ended(call, "hang")
                    await call.request.gone.wait()
                    raise Dropped
                case "reset":
                    world.journal.ended(call, "reset")
                    raise Dropped
        outcome = next((fault.kind for fault in faults if fault.kind in ("lost", "unanswered")), "ok")
        answer = _run(world, call, run, refuse, outcome)
        response = answer if isinstance(answer, Response) else await answer
        await asyncio.sleep(wait / 2)
        if outcome == "unanswered":
            await call.request.gone.wait()
        if outcome != "ok":
            raise Dropped
        return response
    except Dropped:
        raise
    except Exception:
        return _broken(call.request)


# -- protocols -------------------------------------------------------------------------------------------------------


def _json(body: bytes) -> dict[str, Any] | None:
    try:
        content = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _repository(params: Mapping[str, Any]) -> str:
    """The repository of a call, for faults and the journal."""
    name = params.get("repositoryName")
    if name is None and isinstance(names := params.get("repositoryNames"), list) and len(names) == 1:
        name = names[0]
    if name is None and isinstance(arn := params.get("resourceArn"), str):
        name = arn.partition(":repository/")[2]
    return name if isinstance(name, str) else ""


def _answered(call: Call, result: Mapping[str, Any]) -> Response:
    # Real time, like the times of the signatures: clients compare their clock with AWS's by this header.
    headers = {"x-amzn-RequestId": call.request_id, "Date": formatdate(usegmt=True)}
    if call.service not in NAMESPACES:
        kind = "application/x-amz-json-1.0" if call.service == "sqs" else "application/x-amz-json-1.1"
        return Response(200, json.dumps(result).encode(), {"Content-Type": kind, **headers})
    body = (
        f'<{call.operation}Response xmlns="{NAMESPACES[call.service]}">'
        f"<{call.operation}Result>{to_xml(result)}</{call.operation}Result>"
        f"<ResponseMetadata><RequestId>{call.request_id}</RequestId></ResponseMetadata></{call.operation}Response>"
    )
    return Response(200, body.encode(), {"Content-Type": "text/xml", **headers})


async def _answered_later(call: Call, result: Awaitable[Mapping[str, Any]]) -> Response:
    return _answered(call, await result)


def _refused(call: Call, error: AWSError) -> Response:
    headers = {"x-amzn-RequestId": call.request_id}
    if call.service in NAMESPACES:
        fault = {"Type": "Sender" if error.status < 500 else "Receiver", "Code": error.code, "Message": error.message}
        body = (
            f'<ErrorResponse xmlns="{NAMESPACES[call.service]}"><Error>{to_xml(fault)}</Error>'
            f"<RequestId>{call.request_id}</RequestId></ErrorResponse>"
        )
        return Response(error.status, body.encode(), {"Content-Type": "text/xml", **headers})
    content = {"__type": error.code, "message": error.message}
    kind = "application/x-amz-json-1.1"
    if call.service == "sqs":
        kind = "application/x-amz-json-1.0"
        # Clients of SQS's older protocol expect the older names of its errors.
        content["__type"] = f"com.amazonaws.sqs#{error.code}"
        headers["x-amzn-query-error"] = f"{OLD_NAMES.get(error.code, error.code)};Sender"
    return Response(error.status, json.dumps(content).encode(), {"Content-Type": kind, **headers})


OLD_NAMES = {
    "QueueDoesNotExist": "AWS.SimpleQueueService.NonExistentQueue",
    "QueueNameExists": "QueueAlreadyExists",
    "EmptyBatchRequest": "AWS.SimpleQueueService.EmptyBatchRequest",
    "TooManyEntriesInBatchRequest": "AWS.SimpleQueueService.TooManyEntriesInBatchRequest",
}


def _shown(content: Any, status: int = 200) -> Response:
    return Response(status, json.dumps(content).encode() + b"\n", {"Content-Type": "application/json"})


def _too_large(request: Request, limit: int) -> Response:
    """What ECR says to a body that is too large is not documented: OCI's 413, and the words of AWS Lambda."""
    message = f"Request must be smaller than {limit} bytes"
    if request.path.startswith("/v2/"):
        error = AWSError("SIZE_INVALID", message, 413)
        return registry.refusal(error, Call("v2", "", request, str(uuid.uuid4())))
    content = {"__type": "RequestEntityTooLargeException", "message": message}
    return Response(413, json.dumps(content).encode(), {"Content-Type": "application/x-amz-json-1.1"})


def _broken(request: Request) -> Response:
    """An unexpected exception of the sandbox: print it, and answer with AWS's InternalFailure."""
    traceback.print_exc(file=sys.stderr)
    content = {"__type": "InternalFailure", "message": f"The sandbox broke on {request.method} {request.path}"}
    return Response(500, json.dumps(content).encode(), {"Content-Type": "application/x-amz-json-1.1"})
