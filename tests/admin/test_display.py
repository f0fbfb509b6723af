"""How values look. Pure, but for the rows."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from django.utils import timezone

from deployments import images
from deployments.admin import display
from deployments.admin.deployments import bar, steps
from deployments.admin.policies import aws_console, pullers, risks
from deployments.admin.repositories import settings_of
from deployments.admin.sidebyside import side_by_side
from deployments.aws.partitions import partition_of, partitions, registry_of
from deployments.config import Configuration
from deployments.models import Deployment, DeploymentStatus, EventKind, Repository, RepositoryStatus
from deployments.row_values import ConsumerPull
from tests.support.constants import CLUSTER, HOST, OWNER, POLICY


def test_every_status_has_a_tone() -> None:
    for choices in (DeploymentStatus, RepositoryStatus, EventKind):
        assert [each for each in choices if each not in display.TONES] == []


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0s"), (59.4, "59s"), (60, "1m 00s"), (238, "3m 58s"), (3900, "1h 05m"), (-3, "0s")]
)
def test_a_duration_reads(seconds: float, words: str) -> None:
    assert display.took(timedelta(seconds=seconds)) == words


@pytest.mark.parametrize(
    ("age", "words"),
    [
        (timedelta(seconds=-20), "just now"),
        (timedelta(minutes=5), "5\xa0minutes ago"),
        (timedelta(days=3), "3\xa0days ago"),
    ],
)
def test_a_time_reads_and_says_exactly_when_on_hover(age: timedelta, words: str) -> None:
    html = display.ago(timezone.now() - age)

    assert f">{words}</time>" in html
    assert " UTC" in html


@pytest.mark.parametrize(
    ("left", "words"),
    [
        (timedelta(seconds=20), "in 1\xa0minute"),
        (timedelta(minutes=58, seconds=30), "in 59\xa0minutes"),
        (timedelta(minutes=59, seconds=30), "in 1\xa0hour"),
        (timedelta(hours=23), "in 23\xa0hours"),
        (timedelta(hours=23, minutes=59, seconds=57), "in 1\xa0day"),
        (timedelta(days=2), "in 2\xa0days"),
        (timedelta(days=7) - timedelta(seconds=3), "in 7\xa0days"),
        (timedelta(days=90) - timedelta(seconds=3), "in 90\xa0days"),
        (timedelta(seconds=-90), "1\xa0minute ago"),
    ],
)
def test_a_time_that_comes_reads_as_it_was_asked_for(left: timedelta, words: str) -> None:
    moment = timezone.now() + left + timedelta(seconds=1)  # for the time that the test takes

    shown = display.until(moment)

    assert f">{words}<" in shown
    assert f'title="{moment:%d %b %Y, %H:%M:%S} UTC"' in shown


def test_each_cell_of_a_table_has_the_words_of_its_column_for_the_cards_of_a_phone() -> None:
    table = """<table id="t"><thead><tr>
      <th scope="col"><span><input type="checkbox"></span></th><th scope="col">Name</th>
      <th><div class="sortoptions"><span>1</span></div> <div class="text"><a href="?">When &amp; “where”</a></div></th>
      <th><span class="visually-hidden">Action</span></th>
    </tr></thead><tbody>
      <tr><td class="box">x</td><th scope="row">a</th><td class="when">now</td><td>Go</td></tr>
      <tr><td colspan="2">all</td><td>then</td></tr>
      <tr data-key="b"><td></td><th>b</th><td>later</td></tr>
    </tbody></table>"""

    found = display.with_labels(table)

    assert re.findall(r"<t[dh][^>]*>", found.partition("<tbody>")[2]) == [
        '<td class="box">', '<th scope="row">', '<td data-label="When &amp; “where”" class="when">', "<td>",
        '<td colspan="2">', '<td data-label="Name">',
        "<td>", "<th>", '<td data-label="When &amp; “where”">',
    ]  # fmt: skip
    assert found.startswith('<table class="cards" id="t">')
    assert display.with_labels('<table class="change">').startswith('<table class="cards change">')


def test_a_list_shows_the_beginning_of_a_digest() -> None:
    digest = "sha256:" + "0123456789abcdef" * 4

    assert display.short(f"The image {digest} is gone.") == "The image sha256:0123456789ab… is gone."
    assert display.short(f"{digest}0, sha256:0123") == f"{digest}0, sha256:0123"


def test_an_old_time_reads_as_a_date() -> None:
    assert ">8 Aug 2020<" in display.ago(datetime(2020, 8, 8, 4, tzinfo=UTC))


@pytest.mark.parametrize("target", ["javascript:alert(1)", "http://x", "//x", 5, None, "https://[", ["https://x"]])
def test_only_https_becomes_a_link(target: object) -> None:
    assert display.web_address(target) == ""
    assert display.web_address("https://github.com/a/b") == "https://github.com/a/b"


def test_policies_that_mean_the_same_look_the_same_side_by_side() -> None:
    live = {"Statement": [{"Action": ["b", "a"], "Principal": {"AWS": ["arn:aws-cn:iam::111111111111:root"]}}]}
    desired = {"Statement": [{"Principal": {"AWS": "111111111111"}, "Action": ["a", "b"]}]}

    lines = side_by_side(json.dumps(live), json.dumps(desired), partition="aws-cn")

    assert [line for line in lines if line.differs] == []


def test_a_longer_side_leaves_the_other_one_empty_and_lines_keep_their_numbers() -> None:
    lines = side_by_side('{"a": "x", "c": 1}', '{"a": ["x", "y"], "c": 1}')

    assert [(line.left_number, line.right_number) for line in lines if line.differs] == [
        (2, 2), (None, 3), (None, 4), (None, 5),
    ]  # fmt: skip
    assert (lines[-2].left, lines[-2].right) == ('  "c": 1', '  "c": 1')


def test_a_text_that_is_no_json_is_shown_as_it_is() -> None:
    assert side_by_side("not json", "{}")[0].left == "not json"
    assert display.pretty("not json") == "not json"


def deployment(status: str, **moments: int) -> Deployment:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    at = {name: start + timedelta(seconds=seconds) for name, seconds in moments.items()}
    return Deployment(status=status, created_at=start, **at)


def test_a_timeline_leaves_out_what_was_skipped_and_says_how_long_each_step_took() -> None:
    row = deployment("FAILED", started_at=2, built_at=42, failed_at=50)

    assert [(step.word, step.took and step.took.seconds, step.tone) for step in steps(row)] == [
        ("Created", None, "ok"), ("Started", 2, "ok"), ("Built", 40, "ok"), ("Failed", 8, "bad"),
    ]  # fmt: skip
    assert [(part.start, part.width) for part in bar(row)] == [("0.00", "4.00"), ("4.00", "80.00"), ("84.00", "16.00")]


def test_a_deployment_that_has_just_begun_has_no_bar_yet() -> None:
    assert list(bar(deployment("BUILDING"))) == []


@pytest.mark.parametrize(
    ("host", "start"),
    [
        ("111111111111.dkr.ecr.us-east-1.amazonaws.com", "https://us-east-1.console.aws.amazon.com/"),
        ("111111111111.dkr.ecr.cn-north-1.amazonaws.com.cn", "https://cn-north-1.console.amazonaws.cn/"),
        ("111111111111.dkr.ecr.us-gov-west-1.amazonaws.com", "https://us-gov-west-1.console.amazonaws-us-gov.com/"),
        ("111111111111.dkr-ecr-fips.us-gov-east-1.on.aws", "https://us-gov-east-1.console.amazonaws-us-gov.com/"),
        ("111111111111.dkr.ecr.eusc-de-east-1.amazonaws.eu", "https://eusc-de-east-1.console.amazonaws-eusc.eu/"),
    ],
)
def test_the_link_to_aws_leads_to_the_partition_of_the_registry(host: str, start: str) -> None:
    registry = registry_of(host)
    assert registry is not None
    row = Repository(host=host, account=registry.account, region=registry.region, name="trigger/proj_x")

    assert aws_console(row).startswith(start)


def hosts_of(partition: images.Partition) -> list[str]:
    """The forms of host that ECR has in a partition: plain, FIPS, dual-stack, dual-stack with FIPS."""
    region = min(each for each in partition.regions if partition.has(each))
    return [
        f"{OWNER}.{service}{fips}.{region}.{suffix}"
        for service, suffix in (("dkr.ecr", partition.dns_suffix), ("dkr-ecr", partition.dual_stack_suffix))
        for fips in ("", "-fips")
    ]


@pytest.mark.parametrize("host", [host for partition in partitions() for host in hosts_of(partition)])
def test_the_console_finds_no_fault_in_the_right_policy_of_a_registry_in_any_partition(host: str, db: None) -> None:
    registry = registry_of(host)
    assert registry is not None
    principal = f"arn:{registry.partition}:iam::{CLUSTER}:root"
    text = POLICY.replace(f'"{CLUSTER}"', f'"{principal}"')
    row = Repository(
        host=host, account=OWNER, region=registry.region, name="trigger/proj_x", policy_text=text,
        consumers={CLUSTER: ConsumerPull(verdict="yes", words="")}, last_checked_at=timezone.now(),
    )  # fmt: skip

    assert partition_of(row.region) == registry.partition
    assert [each for each in risks(row) if each.level == "error"] == []
    assert [each.name for each in pullers(row, None)] == [f"account {CLUSTER}"]
    assert not any(line.differs for line in side_by_side(text, POLICY, partition=registry.partition))


@pytest.mark.parametrize("partition", partitions(), ids=lambda partition: partition.name)
def test_the_link_to_aws_has_the_console_of_the_region_or_is_not_there(partition: images.Partition) -> None:
    for host in hosts_of(partition):
        registry = registry_of(host)
        assert registry is not None
        link = aws_console(Repository(host=host, account=OWNER, region=registry.region, name="trigger/proj_x"))
        if partition.name.startswith("aws-iso"):
            assert link == ""
        else:
            assert link.startswith(f"https://{registry.region}.console.")
        assert ("console.aws.amazon.com" in link) is (partition.name == "aws")


def test_a_repository_is_kept_by_the_settings_of_its_account_and_region_whichever_of_the_hosts_they_name(
    configure: Callable[..., Configuration], transactional_db: None
) -> None:
    row = Repository(host=HOST, account=OWNER, region="us-east-1", name="trigger/proj_x")

    configuration = configure(DEPLOY_REGISTRY_HOST=f"{OWNER}.dkr-ecr.us-east-1.on.aws")
    assert settings_of(row) == configuration.v4
    configure(DEPLOY_REGISTRY_HOST=f"{OWNER}.dkr-ecr.eu-west-1.on.aws")
    assert settings_of(row) is None
