# The commands of this project. `make` alone prints them.
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
ARGS   ?=
SECONDS ?= 120
# Each process of the tests has a database and a sandbox of its own; all of a run share one PostgreSQL server.
ABREAST := -n auto --dist worksteal
# Keep the tests' bytecode. Containers often forbid it; then each process would rewrite every assertion again.
export PYTHONDONTWRITEBYTECODE :=

# Run a command and show a dot for each second of it: nobody looks at a silent terminal.
ticking = { while sleep 1; do printf .; done & dots=$$!; $(1); status=$$?; kill $$dots; echo; exit $$status; }

.DEFAULT_GOAL := help
.PHONY: help demo dev test fast walks conformance mutants format lint requirements audit run worker attack faults soak bench bench-policies image-check screens clean

help: ## Print this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one with make PYTHON=python3.12 …"; exit 1; }
	@echo "Making a virtual environment in $(VENV) …"
	@$(call ticking,$(PYTHON) -m venv $(VENV))
	@touch $@

$(VENV)/.sandbox: $(VENV)/.python requirements-sandbox.txt
	@echo "Installing what the program and its sandbox need …"
	@$(call ticking,$(PY) -m pip install --disable-pip-version-check --require-hashes -r requirements-sandbox.txt)
	@touch $@

$(VENV)/.dev: $(VENV)/.python requirements-dev.txt
	@echo "Installing what the tests need …"
	@$(call ticking,$(PY) -m pip install --disable-pip-version-check --require-hashes -r requirements-dev.txt)
	@touch $@ $(VENV)/.sandbox

demo: $(VENV)/.sandbox ## The main job, for real: a local ECR, a deploy, a pull from another account (ARGS=--once ends after it)
	@$(PY) -m sandbox.demo $(ARGS)

dev: $(VENV)/.sandbox ## To change the code on: a local ECR, SQLite in .dev, an operator, the server with reload, a worker
	@$(PY) -m sandbox.dev $(ARGS)

ifdef T
test: $(VENV)/.dev
	@$(PY) -m pytest -p no:xdist $(T) $(ARGS)
else
test: $(VENV)/.dev ## Every test: on SQLite, on a real PostgreSQL, and with the real CLI; T=path::name runs that one only
	$(PY) -m pytest -m "not slow" $(ABREAST) $(ARGS)
	TEST_DATABASE=postgresql $(PY) -m pytest -m "not slow or postgresql" --database-only --ignore tests/policy --ignore tests/sandbox --ignore tests/attack $(ABREAST) $(ARGS)
	$(PY) -m pytest -m slow -n 4 --dist loadfile --no-loadscope-reorder $(ARGS)
endif

fast: $(VENV)/.dev ## The fast tests on SQLite only, without the tables of many cases, the costly tests and the hostile suite
	$(PY) -m pytest -m "not slow and not wide and not costly" --ignore tests/attack $(ABREAST) $(ARGS)

walks: $(VENV)/.dev ## Through how many of our modules do a deploy, a finalize and a sweep go? CONTRIBUTING has the figures
	@$(PY) -m tests.walks

conformance: $(VENV)/.sandbox ## Does the sandbox do what we assume of AWS? ARGS='--live ACCOUNT_ID': does AWS, in an account of yours?
	@$(PY) -m $(if $(findstring --live,$(ARGS))$(findstring --clean,$(ARGS)),,tests.)conformance $(ARGS)

mutants: $(VENV)/.dev ## Do the tests notice broken guards? Each listed change to a copy of the code must fail one (ARGS=deployments/access/keys.py)
	@$(PY) -m tests.mutants $(ARGS)

format: $(VENV)/.dev ## Format the code and the templates, and sort the imports
	$(VENV)/bin/ruff check --select I --fix-only .
	$(VENV)/bin/ruff format .
	$(VENV)/bin/djhtml --tabwidth 2 templates

lint: $(VENV)/.dev ## ruff, djhtml, mypy --strict, the layers of imports, Django's checks, also for production, missing migrations
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/djhtml --check --tabwidth 2 templates
	$(VENV)/bin/mypy deployments registry_admin sandbox conformance tests
	PYTHONPATH=. $(VENV)/bin/lint-imports --no-cache
	$(PY) manage.py check --fail-level WARNING
	env -i $$(cat tests/production.env) ENV_FILE=/dev/null DATABASE_URL=sqlite:///:memory: \
		$(PY) manage.py check --deploy --fail-level WARNING
	$(PY) manage.py makemigrations --check --dry-run

requirements: $(VENV)/.dev ## Write the pins and hashes in requirements*.txt again after a change of a requirements*.in (ARGS=--upgrade: newest versions)
	for name in requirements requirements-sandbox requirements-dev; do \
		$(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
			--custom-compile-command "make requirements" $(ARGS) $$name.in -o $$name.txt || exit 1; done

audit: $(VENV)/.dev ## Does a published advisory name a pinned package? Says so if the advisory service cannot be reached (ARGS='--ignore ID')
	@$(PY) -m tests.advisories $(ARGS)

run: $(VENV)/.sandbox ## The web server, on port 8000
	$(PY) manage.py migrate --verbosity 0
	$(PY) manage.py web $(if $(ARGS),-- $(ARGS))

worker: $(VENV)/.sandbox ## The worker
	$(PY) manage.py worker $(ARGS)

attack: $(VENV)/.dev ## The whole hostile suite, of which the tests above run a sample; says how many requests it sent
	$(PY) -m pytest tests/attack -m attack -n 2 --dist loadfile $(ARGS)

faults: $(VENV)/.dev ## Every fault × every operation, at most half an hour (ARGS='-k F6-O1' runs a part)
	$(PY) -m pytest tests/faults -m faults -n 4 --dist worksteal -p no:randomly $(ARGS)

soak: $(VENV)/.dev ## All operations at once on PostgreSQL with random faults, then an audit (SECONDS=120 SEED=…)
	$(PY) -m tests.faults.soak --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

bench: $(VENV)/.dev ## The goals of docs/performance.md, in ten minutes; PART=deploys: one part; ARGS=--write: into the document
	@$(PY) -m bench $(PART) $(ARGS)

bench-policies: $(VENV)/.dev ## Check the policy engine with 20,000 made-up pairs; ARGS=worst: what its worst cases take
	$(PY) -m bench.policies $(or $(ARGS),judge)

image-check: $(VENV)/.dev ## Build the image, run its processes confined and end them: as root on Debian, in minutes (BASE=…: another base image)
	$(PY) -m tests.deploy.image

screens: $(VENV)/.dev ## Take the screenshots in docs/screens (needs Debian's chromium-headless-shell or chromium)
	$(PY) docs/screens.py $(ARGS)

clean: ## Remove the virtual environment, caches and the demo's files; never your database
	rm -rf $(VENV) build *.egg-info .cache .demo .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find staticfiles -mindepth 1 ! -name .gitignore -delete
