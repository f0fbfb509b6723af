"""The list as a document: docs/aws-assumptions.md."""

from __future__ import annotations

from conformance import ecr, ecr_images, ecr_log_ins, ecr_policies, ecr_registry, events, sqs, sts, unprobed
from conformance.assumptions import ASSUMPTIONS, Assumption

FILES = (ecr, ecr_policies, ecr_images, ecr_log_ins, ecr_registry, sts, sqs, events, unprobed)

_HEAD = """# What we assume of AWS

Made from `conformance/` by `python -m conformance --document`. The program and its sandbox rely on each of these
sentences. None was tried against AWS when it was written: the sources are AWS's pages and what people report.
`make conformance` tries them against the sandbox. `make conformance ARGS='--live ACCOUNT_ID'` tries them against AWS,
in an account of yours, and prints where AWS differs: please report that.

- The account must be the caller's own. Best is an account for tests. With an administrator's log-in every probe runs;
  what the caller may not do is “not seen”, never “as assumed”.
- All that a run creates has a random prefix (`conformance-…`), is printed before the run asks for a yes, and is
  deleted in any ending. After `kill -9` the next run deletes it, or `--clean JOURNAL`. Each deletion looks for the
  mark of the run first, so nothing else is deleted.
- `--slow` adds the probes that wait (for a session's end, a restore, events), `--registry-wide` those that change the
  registry itself. These refuse where the registry has a policy, a pull time exclusion or such a setting, and put back
  what was there. `--only ID` runs one.
- `--yes` asks nothing, `--json FILE` writes the results too. Exit status: 0 all that ran is as assumed, 1 something
  differs, 2 something could not run, or is left.
"""
_TABLE = "| id | assumption | source | relied on by | probe |\n| - | - | - | - | - |\n"


def text() -> str:
    """The document."""
    parts = [_HEAD]
    for module in FILES:
        name = module.__name__.rpartition(".")[2]
        about = " ".join((module.__doc__ or "").split())
        parts.append(f"\n## `conformance/{name}.py`\n\n{about}\n\n{_TABLE}")
        parts += [_row(each) for each in ASSUMPTIONS if each.service == name]
    return "".join(parts)


def _row(each: Assumption) -> str:
    probe = ", ".join(
        words
        for words, holds in (
            (f"none: {each.cannot}", each.cannot),
            ("runs", not each.cannot and not each.minutes and not each.registry_wide),
            (f"`--slow`, up to {each.minutes} minutes", each.minutes),
            ("`--registry-wide`", each.registry_wide),
        )
        if holds
    )
    files = ", ".join(dict.fromkeys(f"`{each.partition(' ')[0]}`" for each in each.used))
    return f"| `{each.id}` | {each.sentence} | {each.source} | {files} | {probe} |\n"
