# Everything a developer or a first user types. `make help` lists it.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

HOST ?= 127.0.0.1
PORT ?= 8000
DATA ?= symadj-data
NAME ?= flow_cytometry
MINUTES ?= 10
SEEDS ?= 3
LOADS ?= 10
VISITS ?= 7
SUBMITS ?= 10
STEPS ?= 1000000
SIZE ?= full
TARGET ?= docs
SECONDS ?= 60

.PHONY: help install demo serve test test-with-ray test-without-ray test-slow test-peers test-mlflow test-trackio test-cluster test-deaths test-gpu \
	gpu-wheels soak fuzz attack check bench-core bench-gpu bench-density bench-toys bench-pairing bench-plan bench-auto bench-samplers bench-load bench-followers \
	bench-api bench-requests bench-page bench-start screenshots paper format lock sbom swagger-ui uplot clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(STAMP) ## make .venv with the locked dependencies

PIP := -m pip install --quiet --disable-pip-version-check
# The locks pin every version and every file by its hash. Only torch, and what it brings for an accelerator, is what the
# package index has for this platform (CPU or CUDA): there is no list of hashes that fits both.
$(STAMP): requirements.lock requirements-dev.lock requirements-torch.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(MAKE) --no-print-directory --jobs=2 install-requirements.lock install-requirements-dev.lock
	$(BIN)/python $(PIP) --no-compile -r requirements-torch.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
# On all cores, where pip takes one, and without what is hardly ever imported. Some bring files for other Pythons.
	$(BIN)/python -m compileall -qq -j 0 -x '/(tests?|testing|rllib|serve|tune|llm|moto|cfnlint|mypyc?|setuptools|pip|devtools|lexers|fontTools|graphql|physics)/' $(VENV)/lib || true
	@touch $@

# Side by side: pip takes one core, and no package is in both.
install-%:
	$(BIN)/python $(PIP) --no-compile --require-hashes --no-deps -r $*

demo: install ## train a real flow through the whole system, and show what came of it
	$(BIN)/python examples/demo.py --data $(DATA)

serve: install ## run the service in the foreground (HOST, PORT, DATA)
	$(BIN)/symadj serve --host $(HOST) --port $(PORT) --data $(DATA)

# Side by side, and more processes than cores: what starts a Ray or a server waits more than it computes. Each process
# imports all test files that it is given, for a dozen seconds of a core. Files come in the order of their names: by the
# number of their tests, those of a few long ones would come last, and one process would end long after the others.
test: install ## run the tests
	$(MAKE) --no-print-directory --jobs=2 --keep-going test-with-ray test-without-ray

# Whatever the environment says: else each of the hundreds of processes that the tests start compiles our modules anew.
test-with-ray test-without-ray: export PYTHONDONTWRITEBYTECODE :=
# Nothing here speaks TLS, and each of thousands of HTTP clients would read the authorities' certificates, for 25 ms.
test-with-ray test-without-ray: export SSL_CERT_FILE :=
test-with-ray test-without-ray: export SSL_CERT_DIR := /nowhere

test-with-ray:
	$(BIN)/python -m pytest -m 'ray and not slow and (not deaths or quick_death)' tests/e2e tests/deaths

test-without-ray:
	$(BIN)/python -m pytest --numprocesses 4 --dist loadfile --no-loadscope-reorder -m 'not slow and not ray'

test-slow: install ## run what `make test` leaves out for being like another test
	$(BIN)/python -m pytest -m slow

test-peers: $(VENV)-peers/.installed ## trained flows beside and within other libraries, in an environment of its own
	SYMADJ_TEST_PEERS=1 $(VENV)-peers/bin/python -m pytest -s --confcutdir tests/peers tests/peers

test-mlflow: install $(VENV)-mlflow/.installed ## the MLflow sink beside a real MLflow server, of an environment of its own
	SYMADJ_TEST_MLFLOW=$(VENV)-mlflow/bin/mlflow $(BIN)/python -m pytest tests/mlflow

test-trackio: install $(VENV)-trackio/.installed ## the Trackio sink beside a real Trackio server, of an environment of its own
	SYMADJ_TEST_TRACKIO=$(VENV)-trackio/bin/trackio $(BIN)/python -m pytest tests/trackio

$(VENV)-trackio/.installed:
	$(PYTHON) -m venv $(VENV)-trackio
	$(VENV)-trackio/bin/python $(PIP) trackio==0.43.0
	@touch $@

$(VENV)-peers/.installed: requirements.lock requirements-torch.lock tests/peers/requirements.lock
	$(PYTHON) -m venv $(VENV)-peers
	$(VENV)-peers/bin/python $(PIP) --require-hashes --no-deps -r requirements.lock -r tests/peers/requirements.lock
	$(VENV)-peers/bin/python $(PIP) -r requirements-torch.lock
	@touch $@

test-deaths: install ## kill every part of the system in turn, and check what is left (half an hour)
	$(BIN)/python -m pytest -m deaths tests/deaths

# On a machine that has torch and a GPU, and nothing of .venv: GPU_PYTHON is its Python, SYMADJ_TEST_DEVICE=cpu proves it
# elsewhere. Of the core's tests those of what computes.
OF_CORE := gradients solve capture checkpoints flows divergence regularisers compiled
test-gpu: export SYMADJ_TEST_DEVICE ?= cuda
test-gpu: ## the core and a training on a CUDA device, without a network; skipped where there is none (docs/gpu.md)
	tests/gpu/run -m pytest --confcutdir tests/gpu tests/gpu $(OF_CORE:%=tests/core/test_%.py)

gpu-wheels: install ## what test-gpu and bench-gpu need beside torch, as wheels in parts below 40 MiB, in build/gpu-wheels
	$(BIN)/python -m tests.gpu.wheels build/gpu-wheels

soak: install ## thirty short jobs and a random death every 20 s (a quarter of an hour; SEED repeats one)
	$(BIN)/python -m tests.deaths.soak $(if $(SEED),--seed $(SEED))

fuzz: install ## random specs, trained for three steps each (SEED repeats a run, COUNT, ONLY=number one spec)
	$(BIN)/python -m tests.fuzz $(if $(SEED),--seed $(SEED)) $(if $(COUNT),--count $(COUNT)) $(if $(ONLY),--only $(ONLY))

attack: install ## schemathesis with every role's key against a real API (STORE=postgresql, EXAMPLES=5); ten minutes
	$(BIN)/python -m tests.attack $(if $(STORE),--store $(STORE)) $(if $(EXAMPLES),--examples $(EXAMPLES))

test-cluster: install ## kill containers of a real cluster, on a container engine (half an hour)
	SYMADJ_TEST_CLUSTER=1 $(BIN)/python -m pytest -s tests/cluster

check: install ## lint, format, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench-core: $(VENV)-bench/.installed ## time and memory of a training step beside torchdiffeq, torchode, zuko, diffrax and gradsolve
	$(VENV)-bench/bin/python -m benchmarks.core
	$(VENV)-bench/bin/python -m benchmarks.overhead
	$(VENV)-bench/bin/python -m benchmarks.trace
	$(VENV)-bench/bin/python -m benchmarks.products
	$(VENV)-bench/bin/python -m benchmarks.keep
	$(VENV)-bench/bin/python -m benchmarks.memory --plot docs/memory.png

bench-gpu: ## a training step on a CUDA device beside torchdiffeq (DEVICE=cpu to prove it elsewhere)
	tests/gpu/run -m benchmarks.gpu $(if $(DEVICE),--device $(DEVICE))

bench-density: $(VENV)-bench/.installed ## a neural spline flow on a recipe's data (NAME=flow_cytometry MINUTES=10)
	$(VENV)-bench/bin/python -m benchmarks.density $(NAME) --minutes $(MINUTES)

bench-toys: install ## the default spec on the toys and the built-in sets (SETS=rings SEEDS=3 RECIPE=FILE)
	$(BIN)/python -m benchmarks.toys $(SETS) --seeds $(SEEDS) $(if $(RECIPE),--recipe $(RECIPE))

bench-pairing: install ## minibatch optimal transport of rows that have contexts of their own, beside none (SEEDS=5)
	$(BIN)/python -m benchmarks.pairing --seeds $(SEEDS)

bench-plan: install ## the memory that is forecast beside what a step takes: every gradient, seven flows (FLOWS="images stack")
	$(BIN)/python -m benchmarks.planning $(FLOWS)

bench-auto: install ## what `gradient.kind: auto` and microbatches cost beside the same choice named
	$(BIN)/python -m benchmarks.auto

bench-samplers: install ## what each sampler takes to choose a sweep's next trial, beside `random`: CPU and memory (RUNS=5)
	$(BIN)/python -m benchmarks.samplers $(if $(RUNS),--runs $(RUNS))

bench-load: install ## readers, long polls and pages beside a training (LOADS=10 SECONDS=60): what they cost it
	$(BIN)/python -m benchmarks.load --loads $(LOADS) --seconds $(SECONDS)

bench-followers: install ## 50 followers and 20 open pages beside a training (LOADS=10 SECONDS=60): what they cost it
	$(BIN)/python -m benchmarks.load --readers 0 --long-polls 0 --followers 50 --pages 20 --points 1000 --stored 0 --quiet 10 \
	  --loads $(LOADS) --seconds $(SECONDS)

bench-api: install $(VENV)-mlflow/.installed ## telemetry and jobs over HTTP beside an earlier build and MLflow (STEPS=1000000)
	$(BIN)/python -m benchmarks.api --mlflow $(VENV)-mlflow/bin/mlflow --steps $(STEPS)

bench-requests: install ## the API's CPU for a request of each kind, beside an earlier build (BEFORE=commit)
	$(BIN)/python -m benchmarks.requests $(if $(BEFORE),--before $(BEFORE))

bench-start: install ## from a submit to the first step, and what a rank holds, beside an earlier build (SUBMITS=10, CLUSTER="docker compose": in containers)
	$(BIN)/python -m benchmarks.start --submits $(SUBMITS) $(if $(CLUSTER),--compose "$(CLUSTER)")

bench-page: install $(VENV)-mlflow/.installed ## the page beside MLflow's in one Chromium: first paint, rows, curves (VISITS=7, SEEDED=FOLDER: its data stay there)
	$(BIN)/python -m benchmarks.page --mlflow $(VENV)-mlflow/bin/mlflow --visits $(VISITS) $(if $(SEEDED),--data $(SEEDED))

# Of 3.18.0 the package index has mlflow alone, which has all that its server needs of the packages beside it.
$(VENV)-mlflow/.installed:
	$(PYTHON) -m venv $(VENV)-mlflow
	$(VENV)-mlflow/bin/python $(PIP) mlflow==3.17.2
	$(VENV)-mlflow/bin/python $(PIP) --no-deps mlflow==3.18.0
	@touch $@

screenshots: install ## the pictures of the page in docs, of small trainings in a Chromium
	$(BIN)/python -m benchmarks.screenshots --out docs

paper: install ## the paper's claims at a reduced size, into docs/paper.md (SIZE=quick TARGET=FOLDER); ten minutes
	$(BIN)/python -m benchmarks.paper --size $(SIZE) --target $(TARGET)

$(VENV)-bench/.installed: benchmarks/requirements.lock
	$(PYTHON) -m venv $(VENV)-bench
	$(VENV)-bench/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements.lock
	@touch $@

format: install ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# uv reads the metadata of all files of a version, those for other platforms too, and downloads none.
UV := $(VENV)-lock/bin/uv pip compile --quiet --no-header --no-annotate --generate-hashes --python-version 3.11 \
	--constraint requirements-torch.lock $(addprefix --constraint ,$(KEEP)) pyproject.toml -
NAMES := /^[a-zA-Z]/
OF_TORCH := /^(torch|triton|cuda-|nvidia-)/
# What torch brings along on any machine that has it.
WITH_TORCH := /^(torch=|triton|cuda-|nvidia-|filelock|jinja2|markupsafe|mpmath|networkx|setuptools|sympy)/

lock: ## resolve the newest allowed versions into the locks (KEEP=FILE: those that it has stay)
	rm -rf $(VENV)-lock && $(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python $(PIP) uv==0.13.9
	echo setuptools | $(UV) --extra service --extra train --extra postgresql --extra s3 > $(VENV)-lock/users
	{ echo '# What users install, but for torch: made by `make lock`.'; \
	  awk '$(NAMES) { skip = $(OF_TORCH) } !skip' $(VENV)-lock/users; } > requirements.lock
	echo setuptools | $(UV) --all-extras --constraint $(VENV)-lock/users > $(VENV)-lock/all
	{ echo '# What developers install besides: made by `make lock`.'; \
	  awk 'NR == FNR { known[$$1]; next } $(NAMES) { skip = $$1 in known || $(OF_TORCH) } !skip' \
	    $(VENV)-lock/users $(VENV)-lock/all; } > requirements-dev.lock
	cat tests/peers/requirements.in | $(UV) --extra service --extra train --extra postgresql --extra s3 \
	  --constraint $(VENV)-lock/all > $(VENV)-lock/peers
	{ echo '# What tests/peers needs besides: made by `make lock`.'; \
	  awk 'NR == FNR { known[$$1]; next } $(NAMES) { skip = $$1 in known || $(OF_TORCH) } !skip' \
	    $(VENV)-lock/users $(VENV)-lock/peers; } > tests/peers/requirements.lock
	cat tests/gpu/requirements.in | $(subst 3.11,3.12,$(UV)) --constraint $(VENV)-lock/all > $(VENV)-lock/gpu
	{ echo '# What tests/gpu needs beside torch, for Python 3.12: made by `make lock`.'; \
	  awk '$(NAMES) { skip = $(WITH_TORCH) } !skip' $(VENV)-lock/gpu; } > tests/gpu/requirements.lock
	rm -rf $(VENV)-lock

sbom: ## write what users install as a bill of materials (sbom.json, CycloneDX)
	rm -rf $(VENV)-sbom && $(PYTHON) -m venv $(VENV)-sbom
	$(VENV)-sbom/bin/python $(PIP) cyclonedx-bom==7.5.0
	cat requirements.lock requirements-torch.lock | $(VENV)-sbom/bin/cyclonedx-py requirements \
	  --pyproject pyproject.toml --output-reproducible --output-file sbom.json -
	rm -rf $(VENV)-sbom

# The viewer of /docs, from npm's package; SHA256SUMS in its folder is what `make test` compares the files with.
SWAGGER_UI := swagger-ui-dist-5.35.0
SWAGGER_UI_SHA512 := 534eaba4cb56f55dd73c638179a993512af4674f63317e0826e00da44fc465b021c341bc0a0c2bcd4e18997927fe1d3008336c5dd19aad334d1c2dec53cc9551
SWAGGER_UI_FILES := LICENSE NOTICE favicon-32x32.png swagger-ui-bundle.js swagger-ui-bundle.js.LICENSE.txt swagger-ui.css

swagger-ui: ## put the files of Swagger UI into api/swagger_ui anew (needs npm)
	mkdir -p build
	cd build && npm pack --silent $(subst dist-,dist@,$(SWAGGER_UI))
	echo "$(SWAGGER_UI_SHA512)  build/$(SWAGGER_UI).tgz" | sha512sum --check --quiet
	tar -xzf build/$(SWAGGER_UI).tgz -C api/swagger_ui --strip-components=1 $(addprefix package/,$(SWAGGER_UI_FILES))
	cd api/swagger_ui && sha256sum $(SWAGGER_UI_FILES) > SHA256SUMS

UPLOT := uplot-1.6.32
UPLOT_SHA512 := 2883159c6ebccefbb95d751b0b82d010f9e1c0ec41b8bc96d401eda66e882935c89a46cb824332fa369b8cb8122cc6ac36e186cd09bf7a9ded3a4c93c6989023

uplot: ## put the files of uPlot, which draws the page's curves, into api/uplot anew (needs npm)
	mkdir -p build
	cd build && npm pack --silent $(subst uplot-,uplot@,$(UPLOT))
	echo "$(UPLOT_SHA512)  build/$(UPLOT).tgz" | sha512sum --check --quiet
	tar -xzf build/$(UPLOT).tgz -C api/uplot --strip-components=1 package/LICENSE
	tar -xzf build/$(UPLOT).tgz -C api/uplot --strip-components=2 package/dist/uPlot.iife.min.js package/dist/uPlot.min.css
	cd api/uplot && sha256sum LICENSE uPlot.iife.min.js uPlot.min.css > SHA256SUMS

clean: ## remove the environment and caches (not the data)
	rm -rf $(VENV) $(VENV)-bench $(VENV)-peers $(VENV)-mlflow $(VENV)-trackio build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
