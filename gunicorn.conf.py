"""How gunicorn runs the web process: threads, because requests wait for AWS and for the database, not for the CPU.

The application is loaded once, before the workers are forked: a worker that is replaced later must not register
its configuration as the newest one again (`deployments.provisioning.register_desired_state`).
"""

import multiprocessing

bind = "127.0.0.1:8000"
workers = multiprocessing.cpu_count()
threads = 8
worker_class = "gthread"
preload_app = True
timeout = 120
graceful_timeout = 30
keepalive = 5
control_socket_disable = True  # nobody here uses it, and it would lie in the user's home
