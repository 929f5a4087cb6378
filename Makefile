# The one entry for people and CI. `make` alone prints what there is.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --warn-undefined-variables --no-print-directory

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Arguments for the command behind a target: make logs ARGS=worker, make test ARGS="-k mail".
ARGS ?=
# What `make faults` hurts; `plain` is Celery as a popular template configures it.
TARGET ?= containers,embedded
export CELERIAC_REVISION ?= $(shell git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)

STACK := $(PYTHON) -m deploy.stack
PYTHON_CODE := app bench deploy tests
SHELL_SCRIPTS := .ci/run .ci/docker-engine .ci/browser .ci/prometheus deploy/docker/entrypoint \
	deploy/prometheus/alertmanager-configuration \
	$(addprefix deploy/docker/airgap/,build debian-mirror mailpit postgres-entrypoint redis-entrypoint)
# Settings refuse to load without an environment; checks and tests use this one.
TEST_ENVIRONMENT := set -a; . tests/test.env; set +a; export PYTHONPATH=app:.;
DEPLOY_PROMETHEUS := PYTHONPATH=app:. $(BIN)/python -m deploy.prometheus

##@ Start
.PHONY: up down ps logs shell demo load doctor
up: .env-tools ## Start everything, wait until it is healthy, print addresses and sign-in
	@$(STACK) up $(ARGS)
down: ## Stop everything; data stays (ARGS=--volumes deletes it)
	@$(STACK) down $(ARGS)
ps: ## Show the services, their state and health
	@$(STACK) ps $(ARGS)
logs: ## Follow the logs (ARGS=worker: of one service)
	@$(STACK) logs $(ARGS)
shell: ## Open a Django shell inside the stack
	@$(STACK) shell $(ARGS)
demo: ## Send a newsletter to 500 people and watch it arrive (ARGS="--recipients 5000")
	@$(STACK) demo $(ARGS)
load: ## Submit a steady mix of jobs for a minute (ARGS="--rate 5 --failures 0.05 --burst 50/30")
	@$(PYTHON) -m deploy.load $(ARGS)

doctor: install ## Check what must agree, in files and in the running stack, and say what to do
	@PYTHONPATH=app:. $(BIN)/python -m deploy.doctor

# Without Docker the stack runs from the virtual environment; with Docker it needs none.
.PHONY: .env-tools
.env-tools:
	@if [ "$$($(STACK) runtime 2>/dev/null)" = embedded ]; then $(MAKE) --silent $(VENV)/embedded.installed; fi

##@ Develop
.PHONY: install lock fmt migrations openapi dashboards prometheus-configuration metrics-doc rules
install: $(VENV)/dev.installed ## Make the virtual environment with every tool
fmt: install ## Format the code
	$(BIN)/ruff check --fix-only --quiet $(PYTHON_CODE)
	$(BIN)/ruff format $(PYTHON_CODE)
openapi: install ## Write docs/openapi.json, the contract of the HTTP API
	$(TEST_ENVIRONMENT) $(BIN)/python -W ignore app/manage.py openapi docs/openapi.json
dashboards: install ## Write the JSON of Grafana's dashboards from their Python
	PYTHONPATH=app:. $(BIN)/python -m deploy.grafana.dashboards
prometheus-configuration: install ## Write deploy/prometheus/prometheus.yml from its table of jobs
	$(BIN)/python -m deploy.prometheus.scrape_configuration > deploy/prometheus/prometheus.yml
metrics-doc: install ## Write the tables of docs/metrics.md from the table of metrics
	$(TEST_ENVIRONMENT) $(BIN)/python -W ignore app/manage.py metrics_doc docs/metrics.md
rules: install ## Write the alerting rules, and their table in docs/alerts.md
	$(DEPLOY_PROMETHEUS) rules
	$(DEPLOY_PROMETHEUS) alerts-doc
migrations: install ## Write migrations for changed models
	$(TEST_ENVIRONMENT) $(BIN)/python -W ignore app/manage.py makemigrations $(ARGS)
lock: install ## Compile the lock files (ARGS=--upgrade for newer versions)
	$(call compile,app)
	$(call compile,embedded,--group embedded --constraint requirements/app.txt)
	$(call compile,dev,--group dev --constraint requirements/embedded.txt)
	$(compile_file) deploy/docker/airgap/upstream-exporter.in \
	  --output-file deploy/docker/airgap/upstream-exporter.txt

# Universal: one file for every platform. No index address is written: it is the host's affair.
compile_file = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --custom-compile-command "make lock" $(ARGS)
compile = $(compile_file) $(2) pyproject.toml --output-file requirements/$(1).txt

# pip, not uv: it follows the mirrors and certificates that the host has configured.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; name one with make PYTHON=python3.13" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
	  || { rm -rf $(VENV); echo "No virtual environment; on Debian: apt-get install python3-venv" >&2; exit 1; }
$(VENV)/%.installed: requirements/%.txt | $(VENV)/bin/python
	@echo "Installing requirements/$*.txt into $(VENV) ..."
	@$(BIN)/python -m pip --disable-pip-version-check install --quiet --no-deps --require-hashes \
	  --requirement requirements/$*.txt
	@touch $@

##@ Check and test
.PHONY: check lint types contracts migrations-check openapi-check dashboards-check metrics-doc-check rules-check
.PHONY: test test-unit test-rules test-integration test-browser test-stack faults fire-alerts
check: lint types contracts migrations-check openapi-check dashboards-check metrics-doc-check rules-check ## Everything that needs no running service

lint: install ## Style of Python, shell, Dockerfiles, YAML
	$(BIN)/ruff check $(PYTHON_CODE)
	$(BIN)/ruff format --check $(PYTHON_CODE)
	$(BIN)/shellcheck $(SHELL_SCRIPTS)
	$(BIN)/hadolint $$(git ls-files '*Dockerfile')
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml deploy/docker/images.yaml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.renovate .github/renovate.json
types: install ## Types (mypy, strict)
	$(TEST_ENVIRONMENT) $(BIN)/mypy $(PYTHON_CODE)
contracts: install ## Direction of imports
	$(TEST_ENVIRONMENT) $(BIN)/lint-imports --no-logo
migrations-check: install ## Models and migrations agree
	$(TEST_ENVIRONMENT) $(BIN)/python -W ignore app/manage.py makemigrations --check --dry-run
openapi-check: install ## docs/openapi.json says what the routes say
	$(TEST_ENVIRONMENT) $(BIN)/python -W ignore app/manage.py openapi docs/openapi.json --check
dashboards-check: install ## The dashboards' JSON is what their Python says
	PYTHONPATH=app:. $(BIN)/python -m deploy.grafana.dashboards --check
metrics-doc-check: install ## docs/metrics.md says what the table of metrics says
	$(TEST_ENVIRONMENT) $(BIN)/python -W ignore app/manage.py metrics_doc docs/metrics.md --check
rules-check: install ## The alerting rules and docs/alerts.md say what the rulebook says
	$(DEPLOY_PROMETHEUS) rules --check
	$(DEPLOY_PROMETHEUS) alerts-doc --check

test: install ## All tests; those that need Docker or a browser are skipped without
	$(BIN)/python -m pytest $(ARGS)
test-unit: install ## Tests without any service
	$(BIN)/python -m pytest tests/unit $(ARGS)
test-rules: install ## Tests of the alerting rules, by promtool
	$(BIN)/python -m pytest tests/rules $(ARGS)
test-integration: install ## Tests with a real PostgreSQL, Redis and worker, no Docker
	$(BIN)/python -m pytest tests/integration $(ARGS)
test-browser: install ## Tests of the console in a real browser (Chromium or Chrome)
	$(BIN)/python -m pytest tests/browser $(ARGS)
test-stack: install ## Tests of the real Compose stack (needs Docker)
	$(BIN)/python -m pytest tests/stack $(ARGS)
faults: install ## Every fault under load: lost, doubled, seconds (TARGET=containers|embedded|plain)
	FAULT_TARGETS=$(TARGET) $(BIN)/python -m pytest tests/faults $(ARGS)

fire-alerts: install ## Fire every alert by its real fault; write the table in docs/alerts.md
	ALERTS_REPORT=write $(BIN)/python -m pytest tests/observability/test_alerts_fire.py $(ARGS)

##@ Measure
.PHONY: bench compare-exporters
bench: install ## Cost of a durable task against a plain one, in one run (ARGS="--tasks 1000")
	$(BIN)/python -m bench.durable_task $(ARGS)

compare-exporters: install ## Public exporter, ours and the ledger on the same tasks; write the table of docs/decisions/0028
	EXPORTERS_REPORT=write $(BIN)/python -m pytest tests/observability/test_upstream_exporter.py $(ARGS)

##@ Pictures
#: A program that draws a dashboard's JSON; see docs/dashboards.md.
DASHBOARD_RENDERER ?=
PROMETHEUS_URL ?= http://127.0.0.1:9090
.PHONY: screenshots dashboard-pictures
screenshots: install ## Take the pictures of the console in docs/pictures (Chromium or Chrome)
	$(BIN)/python -m tests.browser.screenshots $(ARGS)
dashboard-pictures: install ## Draw the dashboards (DASHBOARD_RENDERER=program PROMETHEUS_URL=...; docs/dashboards.md)
	@PYTHONPATH=app:. $(BIN)/python -m deploy.grafana.dashboards.pictures \
	  --renderer "$(DASHBOARD_RENDERER)" --prometheus "$(PROMETHEUS_URL)" $(ARGS)

##@ Images
.PHONY: image image-size images-airgap
image: ## Build the application's image
	docker compose build migrate
image-size: ## Print the size of the application's image, and of its parts
	@docker image inspect celeriac:$${CELERIAC_TAG:-local} \
	  --format '{{.Size}}' | awk '{printf "celeriac: %.0f MB\n", $$1 / 1e6}'
	@docker history --format '{{.Size}}\t{{.CreatedBy}}' celeriac:$${CELERIAC_TAG:-local} | head -n 12
images-airgap: ## Build stand-ins for all third-party images from Debian packages, without a registry
	deploy/docker/airgap/build

##@ Help
.PHONY: help
help: ## Print this
	@awk 'BEGIN {FS = ":.*## "} \
	  /^##@/ {printf "\n\033[1m%s\033[0m\n", substr($$0, 5)} \
	  /^[a-z-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
