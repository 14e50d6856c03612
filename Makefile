# make demo   generate 4M rows, compare minibatch sizes on them in 40 s, leave the table and runs/demo/report.html
# make lint   check format, lint and types
# make check  lint, then the tests of the pure parts (half a minute each)
# make test   lint, then every test but those marked slow, gpu or benchmark
# make bench OUT=runs/bench.json   measure every figure of README.md, on a quiet machine, in about ten minutes
# make docs   build the documentation site in site/, and fail for a link that does not exist
# make release VERSION=0.2.0   set the version, date the changelog, commit, tag, and build dist/
# make cudasim     run every CUDA kernel in Numba's simulator, and compile them where NVIDIA's compilers are
# make gpu-check   measure what a GPU does with this project, in nine minutes at most (GPU_PYTHON: its Python)
# make gpu-bundle  collect the wheels for gpu-check on a machine without a network
# make clean  remove the environment, the runs and the caches
#
# Each makes .venv first, when it is missing or pyproject.toml or constraints.txt changed. Needs python3 >= 3.11.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))

.PHONY: demo lint check test bench docs cudasim gpu-check gpu-bundle release clean
.DELETE_ON_ERROR:
# Write bytecode, whatever the environment says: the tests start many processes.
unexport PYTHONDONTWRITEBYTECODE

demo: $(READY)
	@test -f runs/demo-data/_manifest.json || $(BIN)/streamtrain generate runs/demo-data --kind friedman2 --rows 4M
	@rm -rf runs/demo
	@$(BIN)/streamtrain sweep -c configs/demo.yaml --out runs/demo

lint: $(READY)
	@$(BIN)/ruff format --check --quiet . || { echo "not formatted: run $(BIN)/ruff format ." >&2; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/basedpyright --level error

# The oracle's tests train a model: they compile kernels.
check: lint
	@$(BIN)/python -m pytest -q -n 2 --dist worksteal tests/base tests/plan tests/science tests/test_config.py \
	    tests/test_floors.py tests/test_records.py tests/test_references.py tests/test_structure.py \
	    --ignore tests/science/test_oracle.py

# Kernels are compiled beside the linters; both must succeed. Three workers on two cores: tests of
# stalled networks and of killed processes wait.
test: $(READY)
	@$(BIN)/python -m tests.warm_kernels & warm=$$!; $(MAKE) --no-print-directory lint && wait $$warm
	@$(BIN)/python -m pytest -q -n 3 --dist worksteal $(PYTEST_FLAGS)

bench: $(READY)
	@mkdir -p runs
	@$(BIN)/python -m tests.benchmarks.all --out '$(or $(OUT),runs/bench.json)' $(BENCH_FLAGS)

docs: $(READY)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]' -c constraints.txt
	@$(BIN)/python -m sphinx -W --keep-going -q -c docs . site
	@echo "site/docs/README.html"

release:
	@.ci/release '$(VERSION)' && .ci/wheel

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	    || { echo "streamtrain needs Python 3.11 or newer; $(PYTHON) is: $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12" >&2; exit 1; }
	@echo "installing into .venv (a few minutes the first time)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' -c constraints.txt
	@touch $(READY)

# Those that are not slow run in `make test`.
cudasim: $(READY)
	@$(BIN)/python -m pytest -q -m "slow or not gpu" tests/kernels/test_cuda_layout.py \
	    tests/kernels/test_cuda_minibatch.py tests/kernels/test_cuda_population.py tests/training/test_cuda_engine.py

gpu-check:
	@$(GPU_PYTHON) -m tests.gpu_check.check $(GPU_CHECK_FLAGS)

gpu-bundle: $(READY)
	@$(BIN)/python -m tests.gpu_check.bundle gpu-bundle

clean:
	rm -rf .venv gpu-bundle runs dist site .pytest_cache .hypothesis
	find streamtrain data_gen tests -name __pycache__ -type d -exec rm -rf {} +
