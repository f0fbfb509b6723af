# One image for every process: web (the default), worker, events, migrate, and each other command of registry-admin.
#   docker build -t registry-admin .
# docs/deploy.md says how it runs. It needs a writable /tmp, and with SQLite a writable /var/lib/registry-admin.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS packages
COPY requirements.txt /build/
RUN python3 -m venv /opt/venv \
 && /opt/venv/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r /build/requirements.txt

# A local ECR for rehearsals, which is built only with --target sandbox.
FROM packages AS sandbox
COPY requirements-sandbox.txt /build/
RUN /opt/venv/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r /build/requirements-sandbox.txt
COPY sandbox /app/sandbox
WORKDIR /app
USER 10001:10001
EXPOSE 4566
ENTRYPOINT ["/opt/venv/bin/python", "-m", "sandbox", "--port", "4566", "--host", "0.0.0.0", "--allow-any-bind"]

FROM packages AS program
COPY . /app
WORKDIR /app
# collectstatic makes no key and opens no database.
RUN rm -r sandbox requirements-sandbox.txt && chmod -R a+rX . && chmod 0755 manage.py \
 && /opt/venv/bin/python manage.py collectstatic --noinput --verbosity 0 \
 && /opt/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash .

FROM ${BASE}
ARG VERSION=0.3.0
LABEL org.opencontainers.image.title="Registry Admin" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="MIT"
RUN groupadd --gid 10001 registry-admin \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/registry-admin registry-admin \
 && install -d -m 0700 -o 10001 -g 10001 /var/lib/registry-admin \
 && ln -s /app/manage.py /usr/local/bin/registry-admin
COPY --from=packages /opt/venv /opt/venv
COPY --from=program /app /app
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    ENV_FILE=/dev/null \
    STATE_DIR=/var/lib/registry-admin \
    BIND=0.0.0.0:8000
WORKDIR /app
USER 10001:10001
EXPOSE 8000
# No shell stands between the process and SIGTERM. The web process ends its requests within 30 seconds.
ENTRYPOINT ["registry-admin"]
CMD ["web"]
STOPSIGNAL SIGTERM
# Of the web process. For the others: registry-admin worker --check, registry-admin events --check.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
