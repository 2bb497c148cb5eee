# make demo    caption the demo clip live in this terminal (set-up included)
# make test    everything that CI runs: checks and tests (set-up included)
# make check   lint, format, types, import laws, sizes; in the environment of `make test`
# make test-engines    NVIDIA's parser and builder on every graph, without a GPU
# make docs    the API reference, in build/api
# make dist    wheels of the package and of its weights, the same bytes every time
# make lock    packaging/lock anew; make sbom    a bill of materials of the node, in dist/
# make bench   captions per second and latency on this machine

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= python3
DEMO := .venv
DEV := .venv-dev
RELEASE := .venv-release
PYTEST_ARGS ?=

.PHONY: demo test test-engines check docs bench dist lock sbom clean

demo: $(DEMO)/.ready
	$(DEMO)/bin/python run_node.py --source configs/demo/tabletop.mp4 --prompts configs/demo/prompts.json

test: check
	$(DEV)/bin/python -m pytest $(PYTEST_ARGS)

check: $(DEV)/.ready
	$(DEV)/bin/ruff check .
	$(DEV)/bin/ruff format --check .
	$(DEV)/bin/mypy -p ureca
	$(DEV)/bin/lint-imports
	$(DEV)/bin/python tools/sizes.py

# NVIDIA's parser and builder on every graph; needs no GPU. Where its wheels (238 MB) cannot be
# had, nothing is proven, and that is said: it is not this project's failure.
test-engines: $(DEV)/.ready
	@if timeout 900 $(DEV)/bin/python -m pip install --quiet 'tensorrt-rtx>=1.0'; \
	then $(DEV)/bin/python -m pytest tests/engines $(PYTEST_ARGS); \
	else echo "NOT PROVEN: tensorrt-rtx could not be installed: NVIDIA's parser and builder were not tried"; fi

docs: $(DEV)/.ready
	$(DEV)/bin/python tools/config_reference.py
	$(DEV)/bin/python -m pdoc ureca $(addprefix ureca.,$(basename $(notdir $(wildcard ureca/[a-z]*.py)))) \
		--output-directory build/api --docformat google

bench: $(DEMO)/.ready
	$(DEMO)/bin/ureca bench engine --bundle models/pretrained/ureca-nano

# The node's environment: no torch.
$(DEMO)/.ready: pyproject.toml
	$(PYTHON) -m venv $(DEMO)
	$(DEMO)/bin/python -m pip install --quiet --editable '.[node]'
	touch $@

# Everything, to test every room. torch: a CPU wheel is enough; see README for where to get one.
$(DEV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(DEV)
	$(DEV)/bin/python -m pip install --quiet --editable '.[node,record,view,render,ros,rerun,train,export,eval,curation,bench,mllm,gguf,dev]'
	touch $@

# Archives carry the time of the last commit, so that whoever builds this commit gets these bytes.
dist: $(RELEASE)/.ready
	export SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct); umask 022; \
	for project in . packaging/ureca-nano; \
	do $(RELEASE)/bin/python -m build --outdir dist $$project; done
	cd dist && sha256sum *.whl

# uv asks its own index (UV_DEFAULT_INDEX), not pip's; neither is written down.
LOCK = $(RELEASE)/bin/uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-header --no-annotate
lock: $(RELEASE)/.ready
	$(LOCK) pyproject.toml -o packaging/lock/client.txt
	$(LOCK) --extra node pyproject.toml -o packaging/lock/node.txt
	printf '%s\n' 'build>=1.2' 'setuptools>=77' | $(LOCK) - -o packaging/lock/build.txt

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
	rm -rf $(DEMO) $(DEV) $(RELEASE) build dist *.egg-info
