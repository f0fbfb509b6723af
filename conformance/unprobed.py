"""What is assumed of AWS and cannot be tried from one account, each with the reason."""

from __future__ import annotations

from conformance.assumptions import unprobed

unprobed(
    "lost-answer",
    "If the answer of CreateRepository is lost, botocore's second try is RepositoryAlreadyExistsException.",
    "not documented",
    "aws/ecr.py UNSURE",
    why="an answer of AWS cannot be lost on purpose",
)
unprobed(
    "throttling",
    "Too many calls are ThrottlingException or ThrottleException; AWS counts them with a bucket of tokens.",
    "guide:service-quotas; ThrottleException with status 400 is not documented",
    "catalogue.py ThrottleException",
    "reconcile/pace.py bucket",
    why="it would take calls from everybody who uses the account",
)
unprobed(
    "quotas",
    "Beyond the quotas (100,000 repositories in a region, 100,000 images in one) ECR says LimitExceededException.",
    "guide:service-quotas",
    "catalogue.py LimitExceededException; sandbox/store.py MAX_REPOSITORIES",
    why="100,000 repositories would have to be made",
)
unprobed(
    "kms-failures",
    "A KMS key that is missing, disabled or not permitted is KmsException, or a failure code that begins with Kms.",
    "api:CreateRepository",
    "catalogue.py KmsException",
    why="it needs a KMS key, which costs a month's price and stays for a week after its deletion",
)
unprobed(
    "name-begins-with-letter",
    "A repository's name begins with a letter, although the pattern of the API allows a digit.",
    "guide:repository-create",
    "sandbox/ecr.py must start with a letter",
    why="the name would stand outside of the run's prefix",
)
unprobed(
    "pull-through-cache",
    "Below a pull-through cache rule, an image that its upstream does not have is UnableToGetUpstreamImageException.",
    "api:BatchGetImage",
    "catalogue.py UnableToGetUpstreamImageException",
    why="a rule counts for the whole registry, and needs an upstream registry",
)
unprobed(
    "principal-of-new-role",
    "ECR may say “Principal not found” about a role for some minutes after it was made.",
    "seen:hashicorp/terraform-provider-aws/issues/39064",
    "reconcile/repositories.py BOUNDED_ERRORS_RETRYABLE_FOR",
    why="it happens sometimes; `deleted-role` waits for it",
)
unprobed(
    "cross-account",
    "A pull from another account needs an Allow in the repository policy and in an identity policy of that account.",
    "iam:reference_policies_evaluation-logic-cross-account",
    "policy/effective.py effective",
    why="it needs a second account; a probe role (`DEPLOY_REGISTRY_ECR_PROBE_ROLE_ARNS`) tries it at each promotion",
)
unprobed(
    "lifecycle-run",
    "A lifecycle policy runs within 24 hours after an image becomes due, and after the policy was put.",
    "guide:LifecyclePolicies",
    "reconcile/lifecycle_safety.py preview",
    why="it would take a day",
)
unprobed(
    "pull-time-once-a-day",
    "ECR records a pull at least once in 24 hours, so a pull time may be a day old.",
    "api:ImageDetail",
    "aws/ecr.py last_pull",
    why="it would take days",
)
unprobed(
    "image-order",
    "DescribeImages gives images in no documented order, at most 1,000 in a page.",
    "api:DescribeImages",
    "reconcile/repository_images.py does not document",
    why="the absence of an order cannot be seen",
)
unprobed(
    "registry-policy-scope",
    "With the scope V1, a registry policy counts for ReplicateImage, BatchImportUpstreamImage and CreateRepository.",
    "guide:registry-permissions-create",
    "policy/effective.py V1; sandbox/ecr_registry.py V1_ACTIONS",
    why="AWS advises against a return to V1, and does not say that every registry can leave it again",
)
unprobed(
    "organisation-words",
    "A policy of the organisation, of a VPC endpoint or a permissions boundary is named in the message of its refusal.",
    "iam:troubleshoot_access-denied",
    "pull_failures.py service|resource) control policy",
    why="it needs an organisation and a VPC endpoint",
)
unprobed(
    "region-disabled",
    "In a region where STS is not active for the account, AssumeRole is RegionDisabledException.",
    "sts:AssumeRole",
    "catalogue.py RegionDisabledException",
    why="it needs the account to deactivate a region",
)
unprobed(
    "clock-skew",
    "A request whose time differs from AWS's by more than fifteen minutes is refused.",
    "iam:reference_sigv-troubleshooting",
    "sandbox/signature.py SKEW",
    why="the clock of this machine would have to be wrong",
)
unprobed(
    "policy-execution-event",
    "The run of a lifecycle policy is an event PolicyExecutionEvent with the digests of its images.",
    "guide:logging-using-cloudtrail",
    "reconcile/change_events.py PolicyExecutionEvent; sandbox/ecr_lifecycle.py PolicyExecutionEvent",
    why="a lifecycle policy runs within a day",
)
unprobed(
    "events-repeat",
    "An event may come twice, late, or after a newer one.",
    "docs:eventbridge/latest/userguide/eb-what-is",
    "reconcile/change_events.py at least once",
    why="it happens seldom, and not on purpose",
)
