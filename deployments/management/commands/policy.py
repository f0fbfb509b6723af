"""`manage.py policy`: compare two repository policies, lint one, ask who may pull.

It reads files or standard input and uses no AWS, no database and none of our settings, so it also works while the
policy setting is broken. Standard output has only the answer. Exit status: 0 identical, cosmetic, no finding, yes; 1
access, incomparable, a finding, no, depends; 2 unreadable, or not JSON (for lint that is a finding).
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from deployments import policy
from deployments.policy.actions import PREFIX

MAX_BYTES = 4 * 1024 * 1024  # a larger file is not a policy but a wrong file


class Command(BaseCommand):
    help = "Compare and lint ECR repository policies in files (or - for standard input), and ask who may pull."
    requires_system_checks = []  # the command is used to find a broken setting

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True, metavar="compare|lint|who")
        compare = verbs.add_parser("compare", help="what B grants beyond A (+), and A beyond B (-)")
        compare.add_argument("a", metavar="A", help="a policy file, or -")
        compare.add_argument("b", metavar="B", help="a policy file, or -")
        lint = verbs.add_parser("lint", help="errors and risks in a policy")
        lint.add_argument("file", metavar="FILE", help="a policy file, or -")
        lint.add_argument(
            "--allow-public", action="store_true", help="report a public policy as a warning, not an error"
        )
        who = verbs.add_parser("who", help="by this policy alone: who may pull, or whether an account may")
        who.add_argument("file", metavar="FILE", help="a policy file, or -")
        who.add_argument(
            "--action", metavar="ACTION", help="ask about this action instead of pulling, e.g. ecr:PutImage"
        )
        for verb in (compare, who):
            verb.add_argument("--region", required=True, help="the registry's region, e.g. eu-central-1")
        lint.add_argument("--region", help="the registry's region (default: taken from the ARNs in the policy)")
        who.add_argument("--account", metavar="ID", help="the 12 digits of an account")
        lint.add_argument(
            "--account",
            metavar="ID",
            action="append",
            default=[],
            help="an account that must be able to pull (may be repeated)",
        )
        lint.add_argument(
            "--writer",
            metavar="ARN|ID",
            help="the role, or the account, that writes the policy to ECR (usually the registry's account)",
        )
        for verb in (compare, lint, who):
            verb.add_argument("--json", action="store_true", help="print one JSON value")

    def handle(self, *args: Any, **options: Any) -> None:
        answer = {"compare": self.compare, "lint": self.lint, "who": self.who}[options["verb"]]
        try:
            right = answer(options)
            self.stdout.flush()
        except BrokenPipeError:  # the reader (such as `head`) has closed the pipe
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python prints an error when it exits
            sys.exit(1)
        if not right:
            sys.exit(1)

    def compare(self, options: dict[str, Any]) -> bool:
        """Whether the two policies give the same access."""
        partition = _partition(options["region"])
        if options["a"] == options["b"] == "-":
            raise CommandError("Only one of A and B can be standard input (-).", returncode=2)
        a, b = _read(options["a"]), _read(options["b"])
        for path, text in ((options["a"], a), (options["b"], b)):
            _parsed(path, text)
        found = policy.compare(a, b, partition=partition)
        if options["json"]:
            self._json(found.as_document())
            if found.why:
                self.stderr.write(found.why)
        else:
            self._lines(found.level, *([found.why] if found.why else []))
            self._lines(*(f"+ {grant.words}" for grant in found.gained))
            self._lines(*(f"- {grant.words}" for grant in found.lost), *found.more)
        return found.level in ("identical", "cosmetic")

    def lint(self, options: dict[str, Any]) -> bool:
        """Whether the policy has no findings."""
        partition = _partition(options["region"]) if options["region"] else None
        accounts = [_account(text) for text in options["account"]]
        text = _read(options["file"])
        found = policy.lint(
            text,
            partition=partition,
            allow_public=options["allow_public"],
            consumer_accounts=accounts,
            writer=_writer(options["writer"]) if options["writer"] else None,
        )
        if options["json"]:
            self._json([finding.as_document() for finding in found])
        elif not found:
            self._lines("No findings.")
        else:
            for finding in found:
                self._lines(f"{finding.level} {finding.id}: {finding.message}", f"    {finding.hint}")
        return not found

    def who(self, options: dict[str, Any]) -> bool:
        """Whether the account (without --account: anybody) may use the action, by default pull."""
        partition = _partition(options["region"])
        account = _account(options["account"]) if options["account"] is not None else None
        action = _action(options["action"]) if options["action"] is not None else None
        value = _parsed(options["file"], _read(options["file"]))
        if account is None:
            return self._everybody(value, action, options["json"], partition)
        pull = policy.can_pull(value, account, partition=partition)
        document: dict[str, Any] = {"pull": pull.verdict, "account": account}
        answer = pull
        if action is not None:
            answer = policy.may(value, account, action, partition=partition)
            document |= {"action": action, "verdict": answer.verdict}
        if options["json"]:
            self._json(document | {"statement": answer.statement, "words": answer.words})
        else:
            self._lines(f"{answer.verdict}: {answer.words}")
        return answer.verdict == "yes"

    def _everybody(self, value: policy.Policy, action: str | None, as_json: bool, partition: str) -> bool:
        pullers = policy.holders(value, partition=partition)
        asked = pullers if action is None else policy.holders(value, [action], partition=partition)
        verdict = _best(value, asked)
        if as_json:
            document: dict[str, Any] = {"pull": _best(value, pullers)}
            if action is not None:
                document |= {"action": action, "verdict": verdict}
            key = "pull" if action is None else "verdict"
            document["principals"] = [
                {
                    "principal": one.principal,
                    key: one.answer.verdict,
                    "statement": one.answer.statement,
                    "words": one.answer.words,
                }
                for one in asked
            ]
            self._json(document)
        else:
            self._lines(verdict)
            self._lines(*(f"{one.answer.verdict}: {one.answer.words}" for one in asked))
        return verdict == "yes"

    def _json(self, value: Any) -> None:
        self._lines(json.dumps(value, indent=2))

    def _lines(self, *lines: str) -> None:
        """Print lines. A character that the terminal's encoding lacks is printed as its code."""
        encoding = getattr(self.stdout, "encoding", None) or "utf-8"
        for line in lines:
            self.stdout.write(line.encode(encoding, "backslashreplace").decode(encoding))


def _best(value: policy.Policy, holders: tuple[policy.Holder, ...]) -> policy.Verdict:
    """Whether any principal may. A part of the policy that is not understood could be a grant: “depends”."""
    verdicts = {one.answer.verdict for one in holders}
    if "yes" in verdicts:
        return "yes"
    return "depends" if "depends" in verdicts or value.all_puzzles else "no"


def _partition(region: str) -> str:
    from deployments.aws.partitions import partition_of  # boto3's data loads slowly, and lint does not need it

    try:
        return partition_of(region)
    except ValueError as error:
        raise CommandError(f"{str(error).rstrip('.')}.", returncode=2) from None


def _account(text: str) -> str:
    if found := re.fullmatch(r"(?:arn:[a-z-]+:iam::)?([0-9]{12})(?::root)?", text):
        return found[1]
    raise CommandError("An account is 12 digits.", returncode=2)


def _writer(text: str) -> str:
    if re.fullmatch(r"arn:[a-z-]+:iam::[0-9]{12}:role/.+", text):
        return text
    return _account(text)


def _action(text: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9*?-]+(:[A-Za-z0-9*?-]+)?", text):
        return text if ":" in text or text == "*" else PREFIX + text
    raise CommandError("An action looks like ecr:BatchGetImage.", returncode=2)


def _read(path: str) -> str:
    """The text of a file or of standard input, unchanged: no newline is translated. UTF-8 only."""
    name = "standard input" if path == "-" else path
    try:
        if path == "-":
            data = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with Path(path).open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise CommandError(f"{name} is too large to be a policy.", returncode=2)
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise CommandError(f"{name} is not UTF-8 text.", returncode=2) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a file name"
        raise CommandError(f"{name} cannot be read: {reason}.", returncode=2) from None


def _parsed(path: str, text: str) -> policy.Policy:
    try:
        return policy.parse(text)
    except policy.PolicyError as error:
        name = "Standard input" if path == "-" else path
        raise CommandError(f"{name}: {error}", returncode=2) from None
