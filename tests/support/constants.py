"""The usual installation of a test: its accounts, registry, policy and actor."""

from __future__ import annotations

import json
from datetime import timedelta

from deployments.access.audit import Actor, Trail

OWNER, CLUSTER = "111111111111", "222222222222"
HOST = f"{OWNER}.dkr.ecr.us-east-1.amazonaws.com"
PULL = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
#: The actor in a test that is not about actors.
TRAIL = Trail(actor=Actor.command("test"))
#: A repository policy that lets the cluster's account pull, as an operator writes it.
POLICY = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Principal": {"AWS": CLUSTER}, "Action": PULL}],
    }
)
#: A freshness that every earlier look is older than. With 0 a deploy would read every part of the repository.
A_MOMENT = timedelta(milliseconds=1)
