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
LOADS ?= 10
SECONDS ?= 60

.PHONY: help install demo serve test test-slow test-cluster test-deaths soak fuzz check bench-core bench-density \
	bench-load format lock swagger-ui clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(STAMP) ## make .venv with the locked dependencies

# requirements.lock pins every version; pip resolves what torch needs on this platform (CPU or CUDA).
$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: install ## train a real flow through the whole system, and show what came of it
	$(BIN)/python examples/demo.py --data $(DATA)

serve: install ## run the service in the foreground (HOST, PORT, DATA)
	$(BIN)/symadj serve --host $(HOST) --port $(PORT) --data $(DATA)

# What starts a Ray needs all cores for itself.
test: install ## run the tests
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m 'not slow and not ray'
	$(BIN)/python -m pytest -m 'ray and not slow and (not deaths or quick_death)'

test-slow: install ## run what `make test` leaves out for being like another test
	$(BIN)/python -m pytest -m slow

test-deaths: install ## kill every part of the system in turn, and check what is left (half an hour)
	$(BIN)/python -m pytest -m deaths tests/deaths

soak: install ## thirty short jobs and a random death every 20 s (a quarter of an hour; SEED repeats one)
	$(BIN)/python -m tests.deaths.soak $(if $(SEED),--seed $(SEED))

fuzz: install ## random specs, trained for three steps each (SEED repeats a run, COUNT, ONLY=number one spec)
	$(BIN)/python -m tests.fuzz $(if $(SEED),--seed $(SEED)) $(if $(COUNT),--count $(COUNT)) $(if $(ONLY),--only $(ONLY))

test-cluster: install ## kill containers of a real cluster, on a container engine (half an hour)
	SYMADJ_TEST_CLUSTER=1 $(BIN)/python -m pytest -s tests/cluster

check: install ## lint, format, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench-core: $(VENV)-bench/.installed ## time and memory of a training step beside torchdiffeq and diffrax
	$(VENV)-bench/bin/python -m benchmarks.core
	$(VENV)-bench/bin/python -m benchmarks.overhead
	$(VENV)-bench/bin/python -m benchmarks.trace
	$(VENV)-bench/bin/python -m benchmarks.keep
	$(VENV)-bench/bin/python -m benchmarks.memory --plot docs/memory.png

bench-density: $(VENV)-bench/.installed ## a neural spline flow on a recipe's data (NAME=flow_cytometry MINUTES=10)
	$(VENV)-bench/bin/python -m benchmarks.density $(NAME) --minutes $(MINUTES)

bench-load: install ## readers, long polls and pages beside a training (LOADS=10 SECONDS=60): what they cost it
	$(BIN)/python -m benchmarks.load --loads $(LOADS) --seconds $(SECONDS)

$(VENV)-bench/.installed: benchmarks/requirements.lock
	$(PYTHON) -m venv $(VENV)-bench
	$(VENV)-bench/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements.lock
	@touch $@

format: install ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: ## resolve the newest allowed versions into requirements.lock
	rm -rf $(VENV)-lock && $(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --quiet --disable-pip-version-check setuptools torch==2.13.0
	$(VENV)-lock/bin/python -m pip install --quiet --disable-pip-version-check -e '.[service,train,dev]'
	{ echo '# Made by `make lock`. torch stands without a local suffix: a CPU or a CUDA build, as the platform has it.'; \
	  $(VENV)-lock/bin/python -m pip freeze --all --exclude-editable \
	  | grep -vE '^(pip|nvidia-|cuda-|triton)' | sed -E 's/^(torch==[^+]*)\+.*/\1/'; } > requirements.lock
	rm -rf $(VENV)-lock

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

clean: ## remove the environment and caches (not the data)
	rm -rf $(VENV) $(VENV)-bench build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
