# Two commands are enough on a fresh machine: `make demo` and `make test`.
unexport PYTHONDONTWRITEBYTECODE
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo browser test test-fast test-all check audit format bench bench-metrics bench-resume bench-scale bench-decision bench-pipeline bench-speed bench-peer bench-watch bench-gpu gpu-kit chaos ten-models published docs lock bundle bundle-check bundle-image kind-check clean

help: ## Show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

setup: $(READY) ## Create .venv from the lock (once; again only when the lock changes)

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $(READY)

demo: $(READY) ## Compare the models on real solar cells and one generated line; ends with what to run and the report's path
	$(BIN)/raybench demo

browser: ## Install Debian's Chromium for the tests of the report, where that can be done
	@command -v chromium >/dev/null || (apt-get update -qq && apt-get install -qq -y chromium) >/dev/null 2>&1 \
	  || echo "no Chromium, and none can be installed here: the tests of the report in a browser will be skipped"

PYTEST := $(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder -q

test: $(READY) browser ## Run the tests: real Ray, real S3 server; no network, no GPU needed
	$(PYTEST) -m "not long"

test-fast: $(READY) ## Run the tests without Ray, S3 server and browser, for whoever edits; under two minutes
	$(PYTEST) -m "not cluster and not s3 and not slow and not browser and not long"

test-all: $(READY) browser ## Run all tests, the long ones included
	$(PYTEST)

check: $(READY) audit ## Format, lint (ruff's security rules included), types, the direction of imports, known vulnerabilities
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/api/test_layers.py

audit: $(READY) ## Look the lock's packages up among known vulnerabilities; says what could not be looked up
	@found=$$(timeout 120 $(BIN)/pip-audit -r requirements.lock --disable-pip --no-deps --progress-spinner off --timeout 10 2>&1); \
	code=$$?; unknown=$$(echo "$$found" | grep -c 'could not be audited'); all=$$(grep -c '^[^ #].*==' requirements.lock); \
	case "$$code:$$found" in \
	0:*) echo "pip-audit: $$((all - unknown)) of $$all packages looked up, no known vulnerabilities" ;; \
	124:*|127:*|*ConnectionError*|*"Max retries"*|*Timeout*) echo "pip-audit: not run, it is not installed or there is no network" ;; \
	*) echo "$$found"; exit 1 ;; \
	esac

format: $(READY) ## Format the code and fix what ruff can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY) ## Measure packing, streaming, memory and metrics, side by side with the peers
	$(BIN)/python -m benchmarks

bench-metrics: $(READY) ## Measure the metrics alone, side by side with the peers
	$(BIN)/python -m benchmarks.metrics

chaos: $(READY) ## Break real runs on purpose, by a seeded schedule, and compare them with a quiet one; about 20 minutes
	$(BIN)/python -m benchmarks.chaos

bench-resume: $(READY) ## Time to run a finished run of 10,000 fake units again; some minutes to make it
	$(BIN)/python -m benchmarks.resume

bench-scale: $(READY) ## What 10,000 fake units cost the driver, and what 1,000 GPUs would; writes docs/scale.md; SCALE="--workers"
	$(BIN)/python -m benchmarks.scale $(SCALE)

bench-decision: $(READY) ## Check the decision against known truth: coverage, calibration, regret; DECISION="calibration --repeats 100"
	OMP_NUM_THREADS=1 $(BIN)/python -W ignore -m benchmarks.decision $(DECISION)

bench-pipeline: $(READY) ## Scoring as a task does it, beside the bare loop over the model, on one core; PIPELINE="--sides 1024 --models dfm"
	OMP_NUM_THREADS=1 $(BIN)/python -W ignore -m benchmarks.pipeline $(PIPELINE)

bench-speed: $(READY) ## Scoring one image: anomalib's module, raybench, and the exported file; the line in DATA (layout mvtec)
	$(BIN)/python -W ignore -m benchmarks.speed $(DATA)

bench-peer: $(READY) ## The whole job of 1, 2 and 4 lines below DATA (layout mvtec), beside `anomalib benchmark`; on a quiet machine
	$(BIN)/python -W ignore -m benchmarks.peer $(DATA)

bench-watch: $(READY) ## A month of a line whose lamp ages, watched, and how often a stable line has an alarm; the line in DATA (layout mvtec)
	OMP_NUM_THREADS=1 $(BIN)/python -W ignore -m benchmarks.watch $(DATA)

bench-gpu: $(READY) ## Check and measure raybench on this machine's GPU; GPU="train unit --models padim", or "--device cpu --quick"
	$(BIN)/python -m benchmarks.gpu $(GPU)

gpu-kit: $(READY) ## Put the wheels that a GPU machine without network needs into .whl
	$(BIN)/python -m benchmarks.gpu.kit

ten-models: $(READY) ## Compare ten models on the lines below DATA (layout mvtec) and write docs/ten-models.md; about an hour
	$(BIN)/python -m benchmarks.ten_models $(DATA)

published: $(READY) ## Published numbers of MVTec AD beside raybench's, for what DATA (layout mvtec) and WEIGHTS (a store) have
	TQDM_DISABLE=1 $(BIN)/python -W ignore -m benchmarks.published $(DATA) $(if $(WEIGHTS),--weights $(WEIGHTS))

docs: $(READY) ## Build the documentation into out/docs; no network, and a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --site-dir out/docs

bundle: $(READY) ## Pack wheels, weights and experiments for machines without internet; BUNDLE="--python 3.12 --weights FOLDER"
	$(BIN)/python cluster/bundle.py $(BUNDLE)

bundle-image: $(READY) ## Build the image for a Kubernetes without internet, with its digest and what is in it; scan and sign it (takes Docker)
	mkdir -p dist && docker buildx build --file cluster/Dockerfile $(if $(PLATFORM),--platform $(PLATFORM)) --output type=oci,dest=dist/image.tar .
	$(BIN)/python cluster/image.py dist/image.tar
	cluster/image_check.sh dist/raybench-image

kind-check: ## Try the overlay `kind` in a Kubernetes that is made for it; says so where kind, kubectl, helm or Docker is missing
	cluster/kind_check.sh

bundle-check: ## Install dist/raybench-bundle.tar into a clean environment with the network refused, and compare two models there
	rm -rf out/bundle && mkdir -p out/bundle && tar -xf dist/raybench-bundle.tar -C out/bundle
	cd out/bundle && unshare --net --map-root-user env -u PYTHONPATH sh -c 'ip link set lo up \
	  && ./install.sh venv $(PYTHON) && venv/bin/raybench models && venv/bin/python cluster/smoke.py'

lock: $(READY) ## Compile requirements.lock anew from pyproject.toml
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --no-header --no-emit-index-url --quiet -o requirements.lock

clean: ## Remove the environment, caches and outputs
	rm -rf .venv out dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
