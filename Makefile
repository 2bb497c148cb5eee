# make demo    caption the demo clip live in this terminal (set-up included)
# make test    checks and tests, about ten minutes on two idle cores (set-up included, not counted)
# make test-all      the same, and what takes long: long faults, many processes, trainings
# make test-newest   the tests with the newest version of every package, not with the locked ones
# make test-lowest   the tests with the lowest versions that pyproject.toml allows
# make check   lint, format, types, import rules, sizes; in the environment of `make test`
# make test-engines    NVIDIA's parser and builder on every graph, without a GPU
# make test-torch-tensorrt    torch-tensorrt on every graph, without a GPU: 6 GB of packages
# make docs    the API reference, in build/api
# make dist    wheels of the package and of its weights, the same bytes every time
# make lock    packaging/lock anew for what pyproject.toml asks; UPGRADE=--upgrade: newest versions
# make sbom    a bill of materials of the node, in dist/
# make bench   captions per second and latency on this machine

# Tests start hundreds of processes: each would compile anew all that it imports.
unexport PYTHONDONTWRITEBYTECODE

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= python3
DEMO := .venv
DEV := .venv-dev
NEWEST := .venv-newest
LOWEST := .venv-lowest
RELEASE := .venv-release
TORCHTRT := .venv-torch-tensorrt
PYTEST_ARGS ?=
# Tests wait more than they compute, so more of them run at once than there are cores.
WORKERS ?= 4
UPGRADE ?=
# Everything, to test every package.
EXTRAS := node,server,record,view,render,ros,rerun,train,export,eval,curation,bench,mllm,gguf,dev
LOCK := packaging/lock
TORCH := torch==2.13.0

.PHONY: demo test test-all test-newest test-lowest test-engines test-torch-tensorrt check
.PHONY: docs bench dist lock sbom clean

demo: $(DEMO)/.ready
	$(DEMO)/bin/python run_node.py --source configs/demo/tabletop.mp4 --prompts configs/demo/prompts.json

# The types take one core for a minute and a half: the tests begin beside them.
test: $(DEV)/.ready
	@begin=$$SECONDS; $(MAKE) --no-print-directory --jobs 2 check tests; \
	echo "checks and tests: $$((SECONDS - begin)) s, set-up not counted"

test-all: test
	@begin=$$SECONDS; $(DEV)/bin/python -m pytest --durations 20 -m long; \
	echo "long tests: $$((SECONDS - begin)) s"

# Side by side; then, alone, those that compare durations. PYTEST_ARGS picks some instead.
.PHONY: tests
tests: $(DEV)/.ready
ifdef PYTEST_ARGS
	$(DEV)/bin/python -m pytest $(PYTEST_ARGS)
else
	$(DEV)/bin/python -m pytest --numprocesses $(WORKERS) --dist worksteal --durations 20 \
	    -m 'not long and not timing'
	$(DEV)/bin/python -m pytest -m 'timing and not long' $$(grep -rl 'mark\.timing' tests)
endif

# Side by side: the types take as long as all the others.
CHECKS := check-types check-imports check-style check-format check-sizes
check: $(DEV)/.ready
	@$(MAKE) --no-print-directory --jobs --keep-going --output-sync $(CHECKS)

.PHONY: $(CHECKS)
check-types: ; $(DEV)/bin/mypy -p ureca
check-imports: ; $(DEV)/bin/lint-imports
check-style: ; $(DEV)/bin/ruff check .
check-format: ; $(DEV)/bin/ruff format --check .
check-sizes: ; $(DEV)/bin/python tools/sizes.py

# What the world has become since the lock was made. No gate: it may fail on a day on which nothing
# here has changed, and then says what has.
test-newest:
	rm -rf $(NEWEST)
	$(PYTHON) -m venv $(NEWEST)
	$(NEWEST)/bin/python -m pip install --quiet --editable '.[$(EXTRAS)]'
	touch $(NEWEST)/.ready
	@$(MAKE) --no-print-directory --assume-old=$(NEWEST)/.ready DEV=$(NEWEST) check tests || \
	{ $(NEWEST)/bin/python tools/changed_packages.py $(LOCK)/dev.txt; exit 1; }

# What users may have: each direct need in its lowest version, what those need in the newest.
test-lowest: $(RELEASE)/.ready
	rm -rf $(LOWEST)
	$(PYTHON) -m venv $(LOWEST)
	$(COMPILE) --resolution lowest-direct $(WITHOUT_TORCH) $(EVERY_EXTRA) pyproject.toml \
	    -o $(LOWEST)/lowest.txt
	$(LOWEST)/bin/python -m pip install --quiet --no-deps --requirement $(LOWEST)/lowest.txt
	$(LOWEST)/bin/python -m pip install --quiet $(TORCH)
	$(LOWEST)/bin/python -m pip install --quiet --no-deps --editable .
	touch $(LOWEST)/.ready
	@$(MAKE) --no-print-directory --assume-old=$(LOWEST)/.ready DEV=$(LOWEST) tests || \
	{ $(LOWEST)/bin/python tools/changed_packages.py $(LOCK)/dev.txt; exit 1; }

# NVIDIA's parser and builder on every graph; needs no GPU. Where its wheels (238 MB) cannot be
# had, nothing is proven, and that is said: it is not this project's failure.
test-engines: $(DEV)/.ready
	@if timeout 900 $(DEV)/bin/python -m pip install --quiet 'tensorrt-rtx>=1.0'; \
	then $(DEV)/bin/python -m pytest tests/engines $(PYTEST_ARGS); \
	else echo "NOT PROVEN: tensorrt-rtx could not be installed: NVIDIA's parser and builder were not tried"; fi

# The one place where a CUDA build of torch is wanted; what only a device knows is a stand-in of the
# tests. Not in `make test`: 6 GB in an environment of its own, and a quarter of an hour.
test-torch-tensorrt: $(TORCHTRT)/.ready
	$(TORCHTRT)/bin/python -m pytest -s tests/engines/test_torch_tensorrt.py $(PYTEST_ARGS)

$(TORCHTRT)/.ready: pyproject.toml
	$(PYTHON) -m venv $(TORCHTRT)
	$(TORCHTRT)/bin/python -m pip install --quiet --no-cache-dir --editable '.[torch-tensorrt-rtx]' \
	    'pytest>=9.0' 'pytest-timeout>=2.4'
	touch $@

docs: $(DEV)/.ready
	$(DEV)/bin/python tools/config_reference.py
	$(DEV)/bin/python -m pdoc ureca $(addprefix ureca.,client protocol security $(basename $(notdir $(wildcard ureca/[a-z]*.py)))) \
		--output-directory build/api --docformat google

bench: $(DEMO)/.ready
	$(DEMO)/bin/ureca bench engine --bundle models/pretrained/ureca-nano

# Environments come from the lock files, so that a clone is as green next year as it is today.
# The lock is whole, so pip need not resolve (--no-deps), and `pip check` sees that it was.

# The node's environment: no torch.
$(DEMO)/.ready: pyproject.toml $(LOCK)/build.txt $(LOCK)/node.txt
	$(PYTHON) -m venv $(DEMO)
	$(DEMO)/bin/python -m pip install --quiet --no-deps --require-hashes \
	    --requirement $(LOCK)/build.txt --requirement $(LOCK)/node.txt
	$(DEMO)/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	$(DEMO)/bin/python -m pip check
	touch $@

# torch is pinned but not hashed: a CPU wheel (README says where from) has another hash than the
# CUDA wheel of the index. Bytecode is compiled on all cores; a few files are for other Pythons.
$(DEV)/.ready: pyproject.toml $(LOCK)/dev.txt
	$(PYTHON) -m venv $(DEV)
	$(DEV)/bin/python -m pip install --quiet --no-deps --no-compile --require-hashes \
	    --requirement $(LOCK)/dev.txt
	$(DEV)/bin/python -m pip install --quiet $(TORCH)
	$(DEV)/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	$(DEV)/bin/python -m pip check
	$(DEV)/bin/python -m compileall -qq -j 0 $(DEV)/lib || true
	touch $@

# Archives carry the time of the last commit, so that whoever builds this commit gets these bytes.
dist: $(RELEASE)/.ready
	export SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct); umask 022; \
	for project in . packaging/ureca-nano; \
	do $(RELEASE)/bin/python -m build --outdir dist $$project; done
	cd dist && sha256sum *.whl

# uv asks its own index (UV_DEFAULT_INDEX), not pip's; neither is written down.
COMPILE = $(RELEASE)/bin/uv pip compile --quiet --universal --python-version 3.10 --no-header \
    --no-annotate
LOCKED = $(COMPILE) --generate-hashes $(UPGRADE)
EVERY_EXTRA = $(patsubst %,--extra %,$(subst $(comma), ,$(EXTRAS)))
WITHOUT_TORCH = --no-emit-package torch --excludes $(LOCK)/torch-cuda.txt
comma := ,
lock: $(RELEASE)/.ready
	$(LOCKED) pyproject.toml -o $(LOCK)/client.txt
	$(LOCKED) --extra node pyproject.toml -o $(LOCK)/node.txt
	$(LOCKED) $(WITHOUT_TORCH) $(EVERY_EXTRA) pyproject.toml -o $(LOCK)/dev.txt
	printf '%s\n' 'build>=1.2' 'setuptools>=77' | $(LOCKED) - -o $(LOCK)/build.txt

# Of what is really installed from the lock, with licences and who needs whom.
sbom: dist
	rm -rf build/sbom
	$(PYTHON) -m venv build/sbom
	build/sbom/bin/python -m pip install --quiet --require-hashes --requirement packaging/lock/node.txt
	build/sbom/bin/python -m pip install --quiet --no-deps dist/*.whl
	$(RELEASE)/bin/cyclonedx-py environment --output-reproducible --output-format JSON \
	    --output-file dist/ureca-node.cdx.json build/sbom

$(RELEASE)/.ready: pyproject.toml
	$(PYTHON) -m venv $(RELEASE)
	$(RELEASE)/bin/python -m pip install --quiet --editable '.[release]'
	touch $@

clean:
	rm -rf $(DEMO) $(DEV) $(NEWEST) $(LOWEST) $(RELEASE) $(TORCHTRT) build dist *.egg-info
