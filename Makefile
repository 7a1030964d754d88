# `make demo` and `make test` need only Python 3.11+, make and a compiler.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
GPU_VENV ?= .venv-gpu
CORPUS ?= pydoc

.DEFAULT_GOAL := help
.PHONY: help install demo test stress gpu-check lint format protos sync bench constraints clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

# Reinstalled only when the dependencies change.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

install: $(VENV)/.installed ## create the virtual environment

demo: install ## train, export, serve, generate and score; CORPUS=PATH uses your own text
	$(BIN)/segue demo "$(CORPUS)"

test: install ## run every test
	$(BIN)/pytest -n 2 --dist loadfile

# Half an hour on two cores, with nothing else running beside it.
stress: install ## attack the server in every way known, and print a table
	cd tests && ../$(BIN)/python -m attacks.stress

# On a host with an NVIDIA driver in an environment of its own: onnxruntime and onnxruntime-gpu exclude each other.
gpu-check: ## check everything that a GPU must show; without one, only the check itself. ARGS="--minutes 10"
	@if command -v nvidia-smi >/dev/null; then \
		$(MAKE) $(GPU_VENV)/.installed && $(GPU_VENV)/bin/python benchmarks/gpu_check.py $(ARGS); \
	else \
		$(MAKE) install && $(BIN)/python benchmarks/gpu_check.py $(ARGS); \
	fi

$(GPU_VENV)/.installed: pyproject.toml constraints-gpu.txt
	$(PYTHON) -m venv $(GPU_VENV)
	$(GPU_VENV)/bin/pip install --quiet --disable-pip-version-check --constraint constraints-gpu.txt \
		--editable '.[train,server-gpu]'
	@touch $@

lint: install ## run every linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy benchmarks
	$(BIN)/lint-imports
	cd protos && ../$(BIN)/buf lint
	$(BIN)/hadolint Dockerfile

format: install ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

protos: install ## regenerate the Python code of the .proto files
	$(BIN)/python protos/generate.py

sync: install ## regenerate the synchronous client from the asynchronous one
	$(BIN)/python client/unasync.py

# About ten minutes on two cores. SEGUE_BENCH_TRITON=FOLDER adds a rival: see benchmarks/rival/triton_server.py.
bench: install ## measure this machine
	$(BIN)/python benchmarks/ceiling.py
	$(BIN)/python benchmarks/rivals.py
	$(BIN)/python benchmarks/load.py
	$(BIN)/python benchmarks/scoring.py
	$(BIN)/python benchmarks/many_texts.py
	$(BIN)/python benchmarks/scheduling.py
	$(BIN)/python benchmarks/training_speed.py

clean: ## remove everything that make created
	rm -rf $(VENV) $(GPU_VENV) gpu-check demo .pytest_cache .mypy_cache .ruff_cache .hypothesis

# torch is pinned to CI's version; the packages that only its CUDA build needs are left out.
constraints: install ## update the pinned versions
	echo 'torch==2.13.0' | $(BIN)/uv pip compile --quiet --no-header --no-annotate --extra dev \
		--python-version 3.11 --constraint - pyproject.toml \
		| grep -vE '^(nvidia|cuda|triton)' >constraints.new && mv constraints.new constraints.txt
	$(BIN)/uv pip compile --quiet --no-header --no-annotate --extra server-gpu \
		--python-version 3.11 --output-file constraints-gpu.txt pyproject.toml
