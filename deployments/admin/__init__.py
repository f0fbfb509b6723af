"""The face: Django's admin as the operator's console.

Thin. Rows come from the models, what happens comes from the use cases; here stand tuples, one-line display methods
and the pages of rows that only the program writes. The look is in `static/admin_theme/`, the markup in
`templates/admin/` (Django's pages, changed) and `templates/registry_admin/` (ours).
"""

from deployments.admin import audit, deployments, keys, notifications, people, projects, repositories, sweeps

__all__ = ["audit", "deployments", "keys", "notifications", "people", "projects", "repositories", "sweeps"]
