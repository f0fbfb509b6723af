"""The operator's console, made with Django's admin.

Thin: the models have the rows and the use cases have the actions. This package has list columns, filters, one-line
display methods and the pages for rows that only the program writes. Styles are in `static/admin_theme/`, templates in
`templates/admin/` (changed pages of Django) and `templates/registry_admin/` (our pages).
"""

from deployments.admin import (
    audit,
    deployments,
    keys,
    notifications,
    people,
    policy_versions,
    projects,
    repositories,
    sweeps,
    trust,
)

__all__ = [
    "audit", "deployments", "keys", "notifications", "people", "policy_versions", "projects", "repositories", "sweeps",
    "trust",
]  # fmt: skip
