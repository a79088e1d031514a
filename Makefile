# Two commands are enough on a fresh machine: `make demo` and `make test`.
unexport PYTHONDONTWRITEBYTECODE
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format bench ten-models lock clean

help: ## Show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(READY) ## Create .venv from the lock (once; again only when the lock changes)

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $(READY)

demo: $(READY) ## Compare the models on real solar cells and one generated line; prints the board and the report's path
	$(BIN)/raybench demo

test: $(READY) ## Run the tests (no network, no GPU needed)
	$(BIN)/python -m pytest -n 2 --dist loadgroup -q

check: $(READY) ## Format, lint, types and the direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_layers.py

format: $(READY) ## Format the code and mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY) ## Measure packing, streaming, memory and metrics, side by side with the peers
	$(BIN)/python -m benchmarks

ten-models: $(READY) ## Compare ten models on the lines below DATA (layout mvtec) and write docs/ten-models.md; about an hour
	$(BIN)/python -m benchmarks.ten_models $(DATA)

lock: $(READY) ## Compile requirements.lock anew from pyproject.toml
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --no-header --no-emit-index-url --quiet -o requirements.lock

clean: ## Remove the environment, caches and outputs
	rm -rf .venv out dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
