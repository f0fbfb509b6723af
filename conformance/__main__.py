"""`python -m conformance --live ACCOUNT_ID`: run the probes against an AWS account, the caller's own.

Prints first what it will create, and asks. What it creates has a random prefix, stands in a journal before, and is
deleted in any ending; after kill -9, by the next run or by `--clean JOURNAL`. Exit status: 0 all that ran is as
assumed, 1 something differs, 2 something could not run, or is left.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from conformance import document
from conformance.account import Account, Clients, registry_has
from conformance.assumptions import ASSUMPTIONS, Assumption, Differs, NotRun
from conformance.journal import Busy, Journal, code_of

AS_ASSUMED, DIFFERS, NOT_SEEN, NOT_RUN = "as assumed", "DIFFERS", "not seen", "not run"
#: Parts of error codes that say something of this caller, of quotas or of load, and nothing of what is assumed.
UNSEEN = ("AccessDenied", "Unauthorized", "Throttl", "TooManyRequests", "LimitExceeded", "OptInRequired", "Expired",
          "InvalidClientTokenId", "UnrecognizedClient", "Signature")  # fmt: skip
#: The calls of a probe on the average, with its creations and deletions; a test compares it with the calls of a run.
CALLS = 10
SECONDS_A_PROBE = 6


class Stop(Exception):
    """The run cannot begin. The text says why."""


class Stopped(BaseException):
    """A signal came. No `except Exception` of a library shall take it for its own."""


@dataclass(frozen=True, slots=True)
class Result:
    """What one probe found."""

    assumption: Assumption
    outcome: str
    saw: str = ""


def run(assumption: Assumption, account: Account) -> Result:
    """Run one probe."""
    if assumption.probe is None:
        return Result(assumption, NOT_RUN, f"Cannot be probed from one account: {assumption.cannot}.")
    try:
        assumption.probe(account)
    except Differs as difference:
        return Result(assumption, DIFFERS, str(difference))
    except NotRun as why:
        return Result(assumption, NOT_RUN, f"Needs {why}.")
    except ClientError as error:
        said = f"{error.operation_name}: {code_of(error)}: {error.response['Error'].get('Message', '')}"
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        unseen = status >= 500 or any(word in code_of(error) for word in UNSEEN)
        return Result(assumption, NOT_SEEN if unseen else DIFFERS, said)
    except (BotoCoreError, HTTPException, OSError) as error:
        return Result(assumption, NOT_SEEN, f"{type(error).__name__}: {error}")
    except (
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
    ) as error:  # an answer of another form than the probe reads
        return Result(assumption, DIFFERS, f"AWS answered in another form: {type(error).__name__}: {error}")
    return Result(assumption, AS_ASSUMED)


# ---------------------------------------------------------------------------------------------------------- beginning


def arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="conformance", description="Does AWS do what this project assumes of it?")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--live", metavar="ACCOUNT_ID", help="run the probes in this account, which must be the caller's")
    what.add_argument("--clean", metavar="JOURNAL", type=Path, help="delete what a run has left, by its journal")
    what.add_argument("--document", action="store_true", help="print docs/aws-assumptions.md")
    parser.add_argument("--region", help="default: that of the AWS configuration")
    parser.add_argument("--only", metavar="ID", action="append", default=[], help="this assumption only; several times")
    parser.add_argument(
        "--slow", action="store_true", help="also the probes that wait: for a session's end, for events"
    )
    parser.add_argument("--registry-wide", action="store_true", help="also the probes that change the registry itself")
    parser.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the results to this file too")
    parser.add_argument("--journals", metavar="FOLDER", type=Path, default=Path(".conformance"))
    parser.add_argument("--endpoint", help=argparse.SUPPRESS)  # a rehearsal: make conformance
    return parser.parse_args(given)


def connect(options: argparse.Namespace, region: str | None, account: str) -> tuple[Clients, str]:
    """Clients, and the caller's ARN. Raises Stop unless the caller is of this account."""
    region = region or boto3.session.Session().region_name
    if not region:
        raise Stop("No region is set: add --region.")
    if options.endpoint:
        if urlsplit(options.endpoint).hostname not in ("127.0.0.1", "::1", "localhost"):
            raise Stop("--endpoint is for a rehearsal on this machine.")
        print(f"*** A REHEARSAL, NOT AWS: every call goes to {options.endpoint} ***", file=sys.stderr)
    clients = Clients(region, endpoint=options.endpoint or "")
    try:
        caller = clients("sts").get_caller_identity()
    except (ClientError, BotoCoreError) as error:
        raise Stop(f"AWS does not say who calls: {error}") from None
    if caller["Account"] != account:
        raise Stop(f"The caller is of account {caller['Account']}, not of {account}. Nothing was done.")
    return clients, str(caller["Arn"])


def chosen(options: argparse.Namespace) -> tuple[list[Assumption], list[Result]]:
    """The assumptions to run, and the results of those that were not asked for."""
    names = {each.id for each in ASSUMPTIONS}
    if unknown := set(options.only) - names:
        raise Stop(f"There is no assumption {', '.join(sorted(unknown))}.")
    to_run, others = [], []
    for each in ASSUMPTIONS:
        if options.only and each.id not in options.only:
            continue
        if each.minutes and not options.slow:
            others.append(Result(each, NOT_RUN, f"Needs --slow (up to {each.minutes} minutes)."))
        elif each.registry_wide and not options.registry_wide:
            others.append(Result(each, NOT_RUN, "Needs --registry-wide."))
        else:
            to_run.append(each)
    return sorted(to_run, key=lambda each: each.minutes), others


def announce(to_run: list[Assumption], clients: Clients, caller: str, journal: Path, prefix: str) -> None:
    """Print what the run will do."""
    probes = [each for each in to_run if each.probe]
    minutes = len(probes) * SECONDS_A_PROBE // 60 + 1 + sum(each.minutes for each in probes)
    print(f"Account {caller.split(':')[4]}, region {clients.region}, caller {caller}")
    print(f"{len(probes)} probes, about {len(probes) * CALLS} calls, up to {minutes} minutes.")
    print("Estimated cost: less than 0.01 USD, for some kilobytes of storage and some requests to SQS. AWS charges")
    print("nothing for calls of ECR, STS and IAM. The bytes of an archived image count for 90 days.")
    print("Created, and deleted again:")
    for each in probes:
        for kind, name in each.names(prefix):
            print(f"  {kind} {name}" + "  CHANGES THE REGISTRY" * (kind in ("registry_policy", "exclusion", "setting")))
    print(f"Journal: {journal} (after kill -9: --clean {journal})")


def confirm(options: argparse.Namespace, question: str) -> None:
    """Raises Stop unless the person says yes."""
    if options.yes:
        return
    print(f"{question} Type yes: ", end="", flush=True)
    if sys.stdin.readline().strip() != "yes":
        raise Stop("Nothing was done.")


@contextlib.contextmanager
def deleting(journal: Journal, clients: Clients, problems: list[str]) -> Iterator[None]:
    """Delete all that stands in the journal, in any ending of the block; a signal ends the block with Stopped."""

    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def ignore() -> None:  # the deletion goes to its end
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)

    def stop(number: int, _: object) -> NoReturn:
        ignore()
        raise Stopped(f"Stopped by {signal.Signals(number).name}.")

    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        try:
            ignore()
        finally:
            problems += journal.undo(clients)
            journal.close()
            for number, handler in before.items():
                signal.signal(number, handler)


def clean_before(options: argparse.Namespace, clients: Clients, account: str) -> None:
    """Delete what earlier runs in this account and region have left. Raises Stop if it does not go."""
    for path in sorted(options.journals.glob("*.jsonl")):
        try:
            journal = Journal(path)
        except (Busy, ValueError) as error:
            print(f"{error}: {path}")
            continue
        if (journal.run["account"], journal.run["region"]) != (account, clients.region):
            print(f"A run in another account or region, for --clean: {path}")
            journal.close()
            continue
        print(f"An earlier run has left: {', '.join(each['name'] for each in journal.left()) or 'nothing'} ({path})")
        confirm(options, "Delete it?")
        problems = journal.undo(clients)
        journal.close()
        if problems:
            raise Stop("\n".join(problems))


# ------------------------------------------------------------------------------------------------------------- ending


def report(results: list[Result], options: argparse.Namespace, about: dict[str, object]) -> None:
    """Print the table, and write the JSON."""
    width = max((len(each.assumption.id) for each in results), default=0)
    for result in results:
        print(f"{result.assumption.id:{width}}  {result.outcome:10}  {' '.join(result.saw.split())}".rstrip())
    for result in results:
        if result.outcome == DIFFERS:
            each = result.assumption
            print(f"\n{each.id}\n  assumed:   {each.sentence}\n  seen:      {result.saw}")
            print(f"  source:    {each.source}\n  relied on: {'; '.join(each.used)}")
    counts = {kind: sum(each.outcome == kind for each in results) for kind in (AS_ASSUMED, DIFFERS, NOT_SEEN, NOT_RUN)}
    print("\n" + ", ".join(f"{count} {kind}" for kind, count in counts.items()))
    if options.json:
        rows = [
            {"id": r.assumption.id, "outcome": r.outcome, "saw": r.saw, "assumed": r.assumption.sentence,
             "source": r.assumption.source, "used": r.assumption.used}
            for r in results
        ]  # fmt: skip
        options.json.write_text(json.dumps({**about, "results": rows}, indent=2) + "\n")


def live(options: argparse.Namespace, wait: Callable[[float], None]) -> int:
    clients, caller = connect(options, options.region, options.live)
    to_run, results = chosen(options)
    clean_before(options, clients, options.live)
    if options.registry_wide and (found := registry_has(clients)):
        raise Stop(f"This registry has {found}, so no probe changes it: leave --registry-wide out.")
    prefix = f"conformance-{secrets.token_hex(6)}"
    path = options.journals.resolve() / f"{prefix}.jsonl"
    announce(to_run, clients, caller, path, prefix)
    confirm(options, "Begin?")
    about = {"prefix": prefix, "account": options.live, "region": clients.region, "caller": caller}
    journal, problems, stopped = Journal(path, about), list[str](), ""
    clients.count[0] = 0
    try:
        with deleting(journal, clients, problems):
            for each in to_run:
                results.append(run(each, Account(clients, journal, each, wait=wait)))
                journal.undo(clients)  # what does not go now is tried again at the end
    except Stopped as why:
        stopped = str(why)
    at = datetime.now(UTC).isoformat(timespec="seconds")
    report(results, options, {**about, "at": at, "calls": clients.count[0], "left": problems, "stopped": stopped})
    for line in (stopped, *problems):
        if line:
            print(line, file=sys.stderr)
    if problems:
        print(f"Not all is deleted. Try again: --clean {path}", file=sys.stderr)
    outcomes = {each.outcome for each in results}
    return 1 if DIFFERS in outcomes else 2 if stopped or problems or NOT_SEEN in outcomes else 0


def clean(options: argparse.Namespace) -> int:
    try:
        journal = Journal(options.clean)
    except (Busy, OSError, ValueError) as error:
        raise Stop(f"The journal cannot be used: {error}") from None
    clients, _ = connect(options, journal.run["region"], journal.run["account"])
    left = journal.left()
    print("\n".join(f"{each['kind']} {each['name']}" for each in left) or "Nothing is left.")
    problems = list[str]()
    if left:
        confirm(options, "Delete it?")
    with deleting(journal, clients, problems):
        pass
    for line in problems:
        print(line, file=sys.stderr)
    return 2 if problems else 0


def main(given: Sequence[str] | None = None, wait: Callable[[float], None] = time.sleep) -> int:
    """Run the command line. `wait`: a rehearsal moves the sandbox's clock instead."""
    options = arguments(sys.argv[1:] if given is None else given)
    os.umask(0o077)
    try:
        if options.document:
            print(document.text(), end="")
            return 0
        return clean(options) if options.clean else live(options, wait)
    except (Stop, ClientError, BotoCoreError, OSError) as why:
        print(why, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
