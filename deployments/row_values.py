"""What columns of rows hold, as values. Pure; `deployments.models` reads and writes them."""

from __future__ import annotations

from enum import StrEnum


class Management(StrEnum):
    """How much of a repository is ours to keep as configured (`deployments.reconcile.ownership`)."""

    UNMANAGED = "unmanaged"  # a sweep discovered it, and nobody adopted it
    ADOPTED = "adopted"  # a lifecycle policy and a tag mutability that somebody else chose stay
    FULL = "full"  # we created it, or an operator took it over


#: A sweep looks at the repositories of these.
MANAGED = (Management.ADOPTED, Management.FULL)
