"""`manage.py policy`: compare two repository policies, lint one, ask who may pull; roll out versions of the default.

`compare`, `lint` and `who` read files or standard input and use no AWS, no database and none of our settings, so they
also work while the policy setting is broken. Only `who --stored-registry-policy` reads the database. Standard output
has only the answer. The verbs about versions are in `deployments.management.policy_versions`.
Exit status: 0 identical, cosmetic, no finding, yes; 1 access, incomparable, a finding, no, depends, unknown; 2
unreadable, or not JSON (for lint that is a finding).
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
from deployments.management import policy_versions
from deployments.policy.actions import PREFIX

MAX_BYTES = 4 * 1024 * 1024  # a larger file is not a policy but a wrong file


class Command(BaseCommand):
    help = (
        "Compare and lint ECR repository policies in files (or - for standard input), and ask who may pull. Or show, "
        "start, pause, resume and roll back the versions of the default policy."
    )
    requires_system_checks = []  # the command is used to find a broken setting

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
        policy_versions.add_arguments(verbs)
        compare = verbs.add_parser("compare", help="what B grants beyond A (+), and A beyond B (-)")
        compare.add_argument("a", metavar="A", help="a policy file, or -")
        compare.add_argument("b", metavar="B", help="a policy file, or -")
        lint = verbs.add_parser("lint", help="errors and risks in a policy")
        lint.add_argument("file", metavar="FILE", help="a policy file, or -")
        lint.add_argument(
            "--allow-public", action="store_true", help="report a public policy as a warning, not an error"
        )
        who = verbs.add_parser(
            "who", help="by this policy alone, or with the registry policy: who may pull, or whether an account may"
        )
        who.add_argument("file", metavar="FILE", help="a policy file, or -")
        who.add_argument(
            "--action", metavar="ACTION", help="ask about this action instead of pulling, e.g. ecr:PutImage"
        )
        registry = who.add_mutually_exclusive_group()
        registry.add_argument(
            "--registry-policy", metavar="FILE", help="the policy of the registry: both policies together decide a pull"
        )
        registry.add_argument(
            "--stored-registry-policy", action="store_true", help="the registry policy as Registry Admin has read it"
        )
        who.add_argument(
            "--registry-scope",
            choices=("V1", "V2"),
            default="",
            help="the scope of the registry policy in the file, as get-account-setting prints it",
        )
        who.add_argument(
            "--repository", metavar="ARN", help="of which repository the policy is; the registry policy needs it"
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
        try:
            if options["verb"] in policy_versions.VERBS:
                policy_versions.run(options, self._lines)
                right = True
            else:
                answer = {"compare": self.compare, "lint": self.lint, "who": self.who}[options["verb"]]
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
        if options["registry_policy"] is not None or options["stored_registry_policy"]:
            return self._by_both(options, account, partition)
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

    def _by_both(self, options: dict[str, Any], account: str | None, partition: str) -> bool:
        """The answer of the repository policy and the registry policy together, and on what it rests."""
        if options["action"] is not None:
            raise CommandError("The registry policy is evaluated for pulls only: leave out --action.", returncode=2)
        if options["file"] == options["registry_policy"] == "-":
            raise CommandError("Only one of the two policies can be standard input (-).", returncode=2)
        arn = options["repository"] or ""
        of = re.fullmatch(rf"arn:{partition}:ecr:([a-z0-9-]+):([0-9]{{12}}):repository/.+", arn)
        if of is None or of[1] != options["region"]:
            words = "With the registry policy, --repository is the ARN of a repository in the region."
            raise CommandError(words, returncode=2)
        text = _read(options["file"])
        unclear = bool(_parsed(options["file"], text).all_puzzles)
        if options["stored_registry_policy"]:
            registry, source = _stored(account=of[2], region=of[1])
        else:
            theirs = _read(options["registry_policy"])
            _parsed(options["registry_policy"], theirs)
            registry = policy.RegistryPolicy(text=theirs, scope=options["registry_scope"])
            source = {"source": options["registry_policy"], "read_at": None, "scope": registry.scope}
        if account is None:
            named = policy.named(text, registry, arn=arn, partition=partition)
        else:
            access = policy.effective(text, registry, account, arn=arn, partition=partition)
            named = ((f"account {account}", access),)
        verdicts = {access.verdict for _, access in named} | ({"unknown"} if registry is None and not named else set())
        verdicts |= {"depends"} if unclear and not named else set()
        verdict = next((each for each in ("yes", "depends", "unknown") if each in verdicts), "no")
        basis = policy.effective(text, registry, of[2], arn=arn, partition=partition).basis
        if options["json"]:
            principals = [
                {
                    "name": name,
                    "pull": access.verdict,
                    "layer": access.layer,
                    "statement": access.statement,
                    "words": access.words,
                }
                for name, access in named
            ]
            self._json(
                {"pull": verdict, "principals": principals, "basis": basis, "registry_policy": source}
                | ({"account": account} if account is not None else {})
            )
        else:
            self._lines(*([verdict] if account is None else []))
            self._lines(
                *(f"{access.verdict}: {access.words}" for _, access in named), f"{basis} {_age(source)}".strip()
            )
        return verdict == "yes"

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


def _stored(*, account: str, region: str) -> tuple[policy.RegistryPolicy | None, dict[str, Any]]:
    """The registry policy as it was last read (None: it was not), and where it is from."""
    from django.db import Error

    from deployments.reconcile import registry_policies  # the other answers need no database

    try:
        row = registry_policies.reading(account=account, region=region)
        found = registry_policies.seen(account=account, region=region)
    except Error:
        raise CommandError(
            "The database cannot be read, so there is no stored registry policy.", returncode=2
        ) from None
    at = row.read_at if row is not None else None
    scope = found.scope if found is not None else ""
    source = {"source": "stored", "read_at": at.isoformat() if at else None, "scope": scope}
    return found, source | ({"error": row.error} if row is not None and row.error else {})


def _age(source: dict[str, Any]) -> str:
    """When a stored registry policy was read, in words."""
    if source["source"] != "stored":
        return ""
    at = f"The registry policy was last read at {source['read_at']}." if source["read_at"] else ""
    return f"{at or 'No sweep has read the registry policy yet.'} {source.get('error', '')}".strip()


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
