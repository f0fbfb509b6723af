"""gunicorn for the bare view: the worker class of the program, without its hooks."""

worker_class = "registry_admin.slow_clients.Worker"
preload_app = True
timeout = 120
keepalive = 5
