"""The usual installation of a test: its accounts, its registry, its policy, and who acts."""

from __future__ import annotations

import json

from deployments.access.audit import Actor, Trail

OWNER, CLUSTER = "111111111111", "222222222222"
HOST = f"{OWNER}.dkr.ecr.us-east-1.amazonaws.com"
PULL = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
#: Who acts in a test that is not about who acts.
TRAIL = Trail(actor=Actor.command("test"))
#: The policy of a cluster's account, as an operator writes it.
POLICY = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Principal": {"AWS": CLUSTER}, "Action": PULL}],
    }
)
