"""gunicorn reads this file when it is started in a checkout. `registry-admin web` names the module itself."""

from registry_admin.web_server import *  # noqa: F403
