# Python 3.11 or 3.12 and make are all that a machine must have; everything else goes into .venv.
.DEFAULT_GOAL := help
.PHONY: help install demo check test faults-long bench bench-quick format proto lock clean

# Every one on the PATH is run to see: a pyenv shim may stand for nothing, and Debian's may come without venv.
PYTHON ?= $(shell IFS=:; for name in python3.12 python3.11 python3 python; do for dir in $$PATH; do \
	"$$dir/$$name" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' \
	>/dev/null 2>&1 && echo "$$dir/$$name" && exit; done; done)
FOUND = $(shell python3 --version 2>/dev/null || { command -v python >/dev/null && python --version 2>&1; } || echo none)
BIN := .venv/bin

help:  ## what can be done
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: .venv/installed  ## make .venv with everything in it

.venv/installed: requirements.lock pyproject.toml
	@test -x $(BIN)/python || { python="$(PYTHON)"; test -n "$$python" && "$$python" -m venv .venv; } || \
		{ echo "pipeline-guard needs Python 3.11 or 3.12, with its venv module, on the PATH; found: $(FOUND)" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: install  ## run the whole way on embedded servers for a minute
	$(BIN)/guard demo $(ARGS)

check: install  ## lint, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .
	$(BIN)/lint-imports

test: install  ## every test, on real embedded servers
	$(BIN)/pytest -n 2 --dist worksteal $(ARGS)

faults-long: install  ## the healer through 200 random kills under every fault of the platforms; some ten minutes
	GUARD_TEST_HEALER_KILLS=200 $(BIN)/pytest -n 0 -s tests/faults/test_healer.py $(ARGS)

bench: install  ## every benchmark in full, and docs/benchmarks.md of it (leave the machine alone meanwhile)
	$(BIN)/python -m benchmarks.run $(ARGS)
	$(BIN)/python -m benchmarks.report

bench-quick: install  ## every benchmark with small numbers: shows that they work
	$(BIN)/python -m benchmarks.run --quick $(ARGS)

format: install  ## format and fix what can be fixed
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

proto: install  ## write event_pb2.py and the JSON Schema after a change of the event
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. models/records/event.proto
	$(BIN)/python -m models.records.schema > models/records/event.v1.schema.json

lock:  ## resolve requirements.lock anew (needs uv)
	uv pip compile --universal --generate-hashes --no-header --no-annotate --python-version 3.11 \
		--extra embedded --extra dev pyproject.toml -o requirements.lock

clean:  ## remove what was made here
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
