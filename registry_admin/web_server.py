"""How gunicorn runs the web process: threads, because requests wait for AWS and for the database, not for the CPU. At
most half of a process's threads wait for AWS (`deployments.reconcile.bulkhead`).

The application is loaded once, before the workers are forked; each worker then keeps a row of its own that says that it
lives (`deployments.reconcile.processes`). So SIGHUP makes new workers, and neither code nor settings are read again.

`registry-admin web` names this module to gunicorn; `gunicorn.conf.py` of a checkout has the same content. An option of
gunicorn's command line counts more than the settings BIND, WEB_CONCURRENCY and WEB_THREADS.
"""

import gc
import os
import shutil
import sys
import tempfile
from typing import Any

worker_class = "registry_admin.slow_clients.Worker"
preload_app = True
# Names no header. By default a request may change its own path with SCRIPT_NAME, and so pass a proxy's rule for a path.
forwarder_headers = "none"
timeout = 120
graceful_timeout = 30
keepalive = 5
control_socket_disable = True  # nobody here uses it, and it would lie in the user's home

# All workers count in this directory, so that each of them answers /metrics with the sums. It is new at each start,
# unless the environment names another one (docs/logs-and-metrics.md). The application reads the variable when loaded.
_COUNTERS, _OURS = "PROMETHEUS_MULTIPROC_DIR", "registry-admin-counters-"
_OF_THIS_MASTER = f"{_OURS}{os.getpid()}-"
_given = os.environ.get(_COUNTERS, "")
if not _given or (_OURS in _given and _OF_THIS_MASTER not in _given):  # a reload keeps it, a new master does not
    os.environ[_COUNTERS] = tempfile.mkdtemp(prefix=_OF_THIS_MASTER)

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "registry_admin.settings")
from django.core.exceptions import ImproperlyConfigured  # noqa: E402

try:
    from registry_admin.settings import CONFIGURATION
except ImproperlyConfigured as error:  # a setting without which Django cannot start; the sentence says which
    sys.exit(str(error))
from registry_admin import cgroups, malloc  # noqa: E402

bind = CONFIGURATION.bind
threads = CONFIGURATION.web_threads
workers = CONFIGURATION.web_processes or cgroups.web_processes(cgroups.limits())

malloc.give_back()


def when_ready(server: Any) -> None:
    """In the master, before the workers are forked. What the loaded application has in memory stays until the end: the
    garbage collector need not look at it again in each worker, which took a tenth of the CPU time of a deploy.
    """
    from deployments.reconcile import connection_count

    connection_count.warn(threads=server.cfg.threads, web=server.cfg.workers)
    gc.collect()
    gc.freeze()


def on_exit(server: Any) -> None:
    """The master ends. When a worker ends, its counts stay."""
    if _OF_THIS_MASTER in os.environ[_COUNTERS]:
        shutil.rmtree(os.environ[_COUNTERS], ignore_errors=True)


def post_worker_init(worker: Any) -> None:
    from deployments.models import ProcessRole
    from deployments.reconcile import bulkhead, generation, processes

    bulkhead.limit(worker.cfg.threads)
    processes.keep_alive(ProcessRole.WEB, configuration=generation.held, each=generation.settle)


def on_reload(server: Any) -> None:
    """A reload gives gunicorn's logger a handler of its own again, which would write each line a second time."""
    server.log.error_log.handlers.clear()
    server.log.warning("New web processes, with the code and the settings of the start. To read others, restart.")


def worker_exit(server: Any, worker: Any) -> None:
    """Also after SIGTERM, when the requests have ended. A worker that is killed says nothing."""
    from django.db import Error

    from deployments.reconcile import processes

    try:
        processes.end()
    except Error:
        pass  # its row goes silent
