"""What is assumed of repository policies and lifecycle policies: what ECR refuses, and what it makes of a text."""

from __future__ import annotations

import json
from typing import Any

from conformance.account import MANIFEST, PROPAGATION_SECONDS, Account, Json, allow, document, on, shown
from conformance.assumptions import Differs, NotRun, assumed, expect


def put(aws: Account, name: str, text: str) -> Json:
    """The policy as ECR shows it after SetRepositoryPolicy."""
    aws.ecr.set_repository_policy(**on(name), policyText=text)
    return read(aws, name)


def read(aws: Account, name: str) -> Json:
    """The repository's policy."""
    return dict(json.loads(aws.ecr.get_repository_policy(**on(name))["policyText"]))


def meaning(policy: Json) -> list[Any]:
    """What two texts of the same access have in common: statements with sorted lists instead of scalars."""

    def settled(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: settled(each) for key, each in value.items() if key != "Sid"}
        return sorted({str(each) for each in (value if isinstance(value, list) else [value])})

    return sorted((settled(each) for each in many(policy["Statement"])), key=str)


def many(value: Any) -> list[Any]:
    """The value as a list."""
    return value if isinstance(value, list) else [value]


@assumed("no-policy", "api:GetRepositoryPolicy", "aws/ecr.py RepositoryPolicyNotFoundException")
def no_policy(aws: Account) -> None:
    """GetRepositoryPolicy of a repository without a policy is RepositoryPolicyNotFoundException."""
    name = aws.repository()
    aws.refused("RepositoryPolicyNotFoundException", lambda: aws.ecr.get_repository_policy(**on(name)))


@assumed(
    "account-becomes-root",
    "iam:reference_policies_elements_principal; seen:crossplane-contrib/provider-aws/issues/701",
    "policy/compare.py partition; sandbox/documents.py _aws_principal",
)
def account_becomes_root(aws: Account) -> None:
    """A bare account id in Principal comes back as the ARN of the account's root, in the partition of the registry."""
    found = put(aws, aws.repository(), document(allow(aws.account)))
    who = many(many(found["Statement"])[0]["Principal"]["AWS"])
    expect(who == [aws.root], who)


@assumed(
    "same-meaning",
    "seen:hashicorp/terraform-provider-aws/issues/19365",
    "policy/compare.py identical; sandbox/documents.py _settled",
)
def same_meaning(aws: Account) -> None:
    """SetRepositoryPolicy replaces the whole policy. ECR may give its lists in another order and lists of one element
    as scalars, and changes nothing of its meaning.
    """
    name, org = aws.repository(), {"StringEquals": {"aws:PrincipalOrgID": ["o-abcdefghij"]}}
    put(aws, name, document(allow(aws.root, Sid="Before")))
    actions = ("ecr:GetDownloadUrlForLayer", "ecr:BatchGetImage", "ecr:BatchCheckLayerAvailability")
    sent = document(
        allow([aws.root], *actions, Sid="One", Condition=org), {**allow("*"), "Effect": "Deny", "Condition": org}
    )
    found = put(aws, name, sent)
    expect(meaning(found) == meaning(json.loads(sent)), shown(found))


@assumed(
    "service-statement",
    "docs:lambda/latest/dg/images-create",
    "policy/service_statements.py LambdaECRImageRetrievalPolicy",
)
def service_statement(aws: Account) -> None:
    """The statement that AWS Lambda adds is accepted, and comes back with its Sid and the same meaning."""
    statement = {
        "Sid": "LambdaECRImageRetrievalPolicy",
        "Effect": "Allow",
        "Principal": {"Service": "lambda.amazonaws.com"},
        "Action": ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
        "Condition": {"StringLike": {"aws:sourceArn": f"arn:{aws.partition}:lambda:{aws.region}:{aws.account}:*"}},
    }
    found = put(aws, aws.repository(), document(statement))
    same_sid = many(found["Statement"])[0].get("Sid") == statement["Sid"]
    expect(same_sid and meaning(found) == meaning({"Statement": statement}), shown(found))


def _refusing(name: str, sentence: str, text: str, source: str, rule: str, says: str = "") -> None:
    """Put on the list: ECR refuses this text as a repository policy. IAM: and FOREIGN: begin ARNs of the account."""

    def probe(aws: Account) -> None:
        repository, foreign = aws.repository(), "aws-cn" if aws.partition == "aws" else "aws"
        policy = text.replace("IAM:", f"arn:{aws.partition}:iam::{aws.account}:")
        policy = policy.replace("FOREIGN:", f"arn:{foreign}:iam::{aws.account}:")
        message = aws.refused(
            "InvalidParameterException", lambda: aws.ecr.set_repository_policy(**on(repository), policyText=policy)
        )
        expect(says in message, message)

    probe.__doc__ = f"A repository policy is InvalidParameterException if {sentence}."
    assumed(name, source, rule, "sandbox/documents.py _Bad")(probe)


_GRAMMAR, _PRINCIPAL = "iam:reference_policies_grammar", "iam:reference_policies_elements_principal"
_POLICIES, _SET = "guide:repository-policies", "api:SetRepositoryPolicy"
_WHO, _ALLOW, _GET = '"Principal":{"AWS":"IAM:root"}', '"Effect":"Allow"', '"Action":"ecr:BatchGetImage"'
_PLAIN = f'{{"Version":"2012-10-17","Statement":[{{{_WHO},{_ALLOW},{_GET}}}]}}'
_OK = f"{_ALLOW},{_GET}"
#: Id, sentence, statement of the policy, source, rule of `ecr_rules.py`.
_REFUSED = (
    ("resource", "a statement has a Resource", f'{_WHO},{_OK},"Resource":"*"', _POLICIES, "E104"),
    ("no-principal", "a statement has no Principal", _OK, _GRAMMAR, "E105"),
    ("foreign-action", "an action is another service's", f'{_WHO},{_ALLOW},"Action":"s3:Get*"', _POLICIES, "E107"),
    ("unknown-action", "ECR has no such action", f'{_WHO},{_ALLOW},"Action":"ecr:No"', "not documented", "E108"),
    ("wildcard-arn", "an ARN has a wildcard", f'"Principal":{{"AWS":"IAM:*"}},{_OK}', _PRINCIPAL, "E109"),
    ("short-account", "an account has 11 digits", f'"Principal":{{"AWS":"12345678901"}},{_OK}', _PRINCIPAL, "E109"),
    ("partition", "an ARN is of another partition", f'"Principal":{{"AWS":"FOREIGN:root"}},{_OK}', _PRINCIPAL, "E109"),
    ("star-list", "Principal is a list", f'"Principal":["*"],{_OK}', _GRAMMAR, "E103"),
    ("number-sid", "a Sid is a number", f'"Sid":1,{_WHO},{_OK}', _GRAMMAR, "E103"),
    ("operator", "IAM has no such operator", f'{_WHO},{_OK},"Condition":{{"Is":{{"aws:a":"x"}}}}', _GRAMMAR, "E112"),
    ("service", "its service is no service's name", f'"Principal":{{"Service":"nobody"}},{_OK}', _PRINCIPAL, "E114"),
)
_INVALID = "Invalid repository policy provided"
for _name, _sentence, _statement, _source, _rule in _REFUSED:
    _text = _PLAIN.replace(f"{_WHO},{_OK}", _statement)
    _refusing(f"refuses-{_name}", _sentence, _text, _source, f"ecr_rules.py {_rule}", _INVALID)
_refusing("refuses-no-json", "it is not JSON", "{", _GRAMMAR, "ecr_rules.py E101", _INVALID)
_refusing("refuses-length", "it has more than 10,240 characters", _PLAIN.ljust(10_241), _SET, "ecr_rules.py E102")
_DENY = _PLAIN.replace(_OK, '"Effect":"Deny","Action":"ecr:SetRepositoryPolicy"')
_refusing(
    "refuses-lockout", "it denies its writer SetRepositoryPolicy (without force)", _DENY, _SET, "ecr_rules.py E115"
)
_refusing(
    "refuses-unknown-role", "a role that it names does not exist; the message has “Principal not found”",
    _PLAIN.replace("IAM:root", "IAM:role/no-such-role-of-conformance"),
    "seen:hashicorp/terraform-provider-aws/issues/39064", "catalogue.py principal not found", "Principal not found",
)  # fmt: skip


@assumed(
    "accepts-odd-policies",
    "iam:access-analyzer-reference-policy-checks; a bare * as action is not documented",
    "sandbox/documents.py EMPTY_OBJECT_CONDITION; sandbox/documents.py Whether AWS accepts a bare",
)
def accepts_odd_policies(aws: Account) -> None:
    """An empty Condition, block and list of values are accepted, and so are the actions ecr:Batch* and a bare *."""
    name = aws.repository()
    conditions: tuple[Json, ...] = ({}, {"StringEquals": {}}, {"StringEquals": {"aws:SourceArn": []}})
    statements = [allow(aws.root, Condition=each) for each in conditions]
    for each in (*statements, allow(aws.root, "ecr:Batch*"), allow(aws.root, "*")):
        aws.ecr.set_repository_policy(**on(name), policyText=document(each))


@assumed(
    "deleted-role",
    "iam:reference_policies_elements_principal",
    "policy/atoms.py AROA; sandbox/documents.py UNIQUE_ID",
    makes="repository role",
)
def deleted_role(aws: Account) -> None:
    """A role in a policy is shown by its ARN; after it is deleted, by its unique id AROA…, also when its name is made
    again.
    """
    name, role, iam = aws.repository(), aws.role(), aws.clients("iam")
    unique_id = iam.get_role(RoleName=aws.short)["Role"]["RoleId"]

    def who() -> str:
        return str(many(many(read(aws, name)["Statement"])[0]["Principal"]["AWS"])[0])

    def known() -> bool:
        text = document(allow(role))
        return (
            aws.answers("InvalidParameterException", lambda: aws.ecr.set_repository_policy(**on(name), policyText=text))
            is not None
        )

    expect(aws.until(known, seconds=PROPAGATION_SECONDS), "Principal not found for a minute")
    expect(who() == role, who())
    iam.delete_role(RoleName=aws.short)
    aws.until(lambda: who() != role, seconds=PROPAGATION_SECONDS)
    expect(who() == unique_id and unique_id.startswith("AROA"), f"{who()} of the role {unique_id}")
    aws.role()
    expect(who() == unique_id, who())


# --------------------------------------------------------------------------------------------------- lifecycle policies


def lifecycle(**selection: object) -> str:
    """A lifecycle policy with one rule, which expires untagged images, with other elements of its selection; None:
    without.
    """
    chosen = {"tagStatus": "untagged", "countType": "sinceImagePushed", "countUnit": "days", "countNumber": 14}
    chosen = {key: value for key, value in {**chosen, **selection}.items() if value is not None}
    rule = {
        "rulePriority": 1,
        "description": "Images without a tag, of the probes of conformance",
        "selection": chosen,
        "action": {"type": "expire"},
    }
    return json.dumps({"rules": [rule]})


@assumed(
    "lifecycle-stored",
    "api:GetLifecyclePolicy",
    "aws/ecr.py LifecyclePolicyNotFoundException; reconcile/desired.py lifecycle",
)
def lifecycle_stored(aws: Account) -> None:
    """A repository has no lifecycle policy at first (LifecyclePolicyNotFoundException); the text that was put comes
    back as the same JSON.
    """
    name = aws.repository()
    aws.refused("LifecyclePolicyNotFoundException", lambda: aws.ecr.get_lifecycle_policy(**on(name)))
    aws.ecr.put_lifecycle_policy(**on(name), lifecyclePolicyText=lifecycle())
    found = aws.ecr.get_lifecycle_policy(**on(name))["lifecyclePolicyText"]
    expect(json.loads(found) == json.loads(lifecycle()), found)


@assumed(
    "lifecycle-refuses",
    "guide:lifecycle_policy_parameters",
    "ecr_rules.py lifecycle; sandbox/documents.py Lifecycle policy validation failure",
)
def lifecycle_refuses(aws: Account) -> None:
    """A lifecycle policy is refused with InvalidParameterException if two rules have one priority, if a rule for tagged
    images names no tags, if a unit is missing, if an element is unknown, or if it has fewer than 100 characters.
    """
    name, rule = aws.repository(), json.loads(lifecycle())["rules"][0]
    for wrong in (
        json.dumps({"rules": [rule, rule]}),
        lifecycle(tagStatus="tagged"),
        lifecycle(countUnit=None),
        lifecycle(olderThan=3),
        '{"rules":[]}',
    ):
        aws.refused(
            "InvalidParameterException",
            lambda: aws.ecr.put_lifecycle_policy(**on(name), lifecyclePolicyText=wrong),  # noqa: B023
        )


@assumed("lifecycle-archives", "guide:lifecycle_policy_examples", "ecr_rules.py count-action")
def lifecycle_archives(aws: Account) -> None:
    """sinceImagePulled is accepted with the action transition to archive, and refused with expire."""
    name, unpulled = aws.repository(), lifecycle(countType="sinceImagePulled", tagStatus="any")
    archive = unpulled.replace('{"type": "expire"}', '{"type": "transition", "targetStorageClass": "archive"}')
    aws.ecr.put_lifecycle_policy(**on(name), lifecyclePolicyText=archive)
    aws.refused(
        "InvalidParameterException", lambda: aws.ecr.put_lifecycle_policy(**on(name), lifecyclePolicyText=unpulled)
    )


def preview(aws: Account, **request: object) -> Json:
    """The complete preview of this probe's repository."""

    def complete() -> Json | None:
        answer = aws.ecr.get_lifecycle_policy_preview(**on(aws.name), **request)
        return answer if answer["status"] == "COMPLETE" else None

    found = aws.until(complete, seconds=120)
    if found is None:
        raise Differs("A preview is not complete after two minutes")
    return found


@assumed(
    "lifecycle-preview",
    "api:GetLifecyclePolicyPreview",
    "reconcile/lifecycle_safety.py preview; aws/ecr.py LifecyclePolicyPreviewInProgressException",
)
def lifecycle_preview(aws: Account) -> None:
    """A preview is missing at first (LifecyclePolicyPreviewNotFoundException), is not made twice at once
    (LifecyclePolicyPreviewInProgressException), becomes COMPLETE, names of the asked images those that would go, with
    digest, action EXPIRE and the rule's priority, and changes no image.
    """
    name, ecr = aws.repository(), aws.ecr
    older, newer = aws.push(name, "v1"), aws.push(name, "v2", annotations={"second": "yes"})
    text = lifecycle(tagStatus="any", countType="imageCountMoreThan", countUnit=None, countNumber=1)
    ids = {"imageIds": [{"imageDigest": older}, {"imageDigest": newer}]}
    aws.refused("LifecyclePolicyPreviewNotFoundException", lambda: ecr.get_lifecycle_policy_preview(**on(name)))
    start = {**on(name), "lifecyclePolicyText": text}
    ecr.start_lifecycle_policy_preview(**start)
    running = "LifecyclePolicyPreviewInProgressException"
    second = aws.answers(running, lambda: ecr.start_lifecycle_policy_preview(**start))
    found = preview(aws, **ids)
    results = [
        (each["imageDigest"], each["action"]["type"], each["appliedRulePriority"]) for each in found["previewResults"]
    ]
    expect(results == [(older, "EXPIRE", 1)], shown(found))
    expect(aws.image(name, older)["imageTags"] == ["v1"], "another image")
    if second is not None:
        raise NotRun("a preview that takes longer than a call; the rest is as assumed")


@assumed("lifecycle-referrers", "not documented", "sandbox/lifecycle.py no rule selects or counts a referrer")
def lifecycle_referrers(aws: Account) -> None:
    """No rule of a lifecycle policy counts a referrer, or selects it while its subject is there."""
    name = aws.repository()
    subject = {"mediaType": MANIFEST, "digest": aws.push(name, "v1"), "size": 1}
    aws.push(name, artifactType="application/vnd.example.sbom", subject=subject)
    text = lifecycle(tagStatus="any", countType="imageCountMoreThan", countUnit=None, countNumber=1)
    aws.ecr.start_lifecycle_policy_preview(**on(name), lifecyclePolicyText=text)
    found = preview(aws)["previewResults"]
    expect(found == [], found)
