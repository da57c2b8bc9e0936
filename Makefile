.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
STORE ?= outputs

.PHONY: help demo test lint graph audit bench mlflow clean

help:  ## This list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

# Ray starts about ten processes for a training. Where Python cannot store bytecode, each would compile its imports again;
# compiled here once, they start three times as fast.
.venv/installed: requirements.txt pyproject.toml setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet "uv==0.13.*"
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

demo: .venv/installed  ## Run the whole pipeline on drawn images (no data, network or GPU needed)
	$(BIN)/python jobs/pipeline.py "store='$(STORE)'"

test: .venv/installed  ## All tests
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: .venv/installed  ## Style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

graph: .venv/installed  ## Which unit of the package imports which
	@$(BIN)/python -m tests.test_layers

audit: .venv/installed  ## Known vulnerabilities of the pinned packages (asks the registry)
	$(BIN)/pip-audit --strict --disable-pip --no-deps --requirement requirements.txt

bench: .venv/installed  ## Measure the speed claims of the README (nothing else should run)
	$(BIN)/python -m benchmarks

mlflow: .venv/installed  ## Compare runs in the browser: http://127.0.0.1:5000
	mkdir -p "$(STORE)"
	MLFLOW_DISABLE_TELEMETRY=$${MLFLOW_DISABLE_TELEMETRY:-true} MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false \
	    $(BIN)/mlflow server --host 127.0.0.1 --port 5000 --workers 1 \
	    --backend-store-uri "sqlite:///$(STORE)/mlflow.db" --artifacts-destination "$(STORE)/mlartifacts"

clean:  ## Remove the environment (results in $(STORE) stay)
	rm -rf .venv
