# `make run` on a machine with Python 3.11 to 3.14 and a package index: all lands in $(VENV), the model in a cache.
ENGINE ?= auto
MODEL ?=
PORT ?= $(or $(SAGEMAKER_BIND_TO_PORT),8080)
ARGS ?=
PYTHON ?= python3
VENV ?= .venv
CHROMIUM ?= chromium
# Not from the environment: some shells keep the machine's name in HOST.
HOST = 127.0.0.1

BIN := $(VENV)/bin
ifeq ($(ENGINE),auto)
  HAS_GPU := { nvidia-smi -L 2>/dev/null | grep -q '^GPU' || test -e /dev/nvidia0; }
  override ENGINE := $(shell $(HAS_GPU) && echo gpu || echo cpu)
endif
ifeq ($(filter cpu gpu,$(ENGINE)),)
  $(error ENGINE is auto, cpu or gpu, not "$(ENGINE)")
endif
OTHER := $(filter-out $(ENGINE),cpu gpu)

# uv does not read pip's settings, so pip's index and folders of wheels are handed to it.
PIP_INDEX = $${PIP_INDEX_URL:-$$($(BIN)/pip config get global.index-url 2>/dev/null)}
PIP_LINKS = $$(for f in $$PIP_FIND_LINKS; do test -d "$$f" && printf '%s,' "$$f"; done)
UV = UV_DEFAULT_INDEX="$${UV_DEFAULT_INDEX:-$(PIP_INDEX)}" UV_FIND_LINKS="$${UV_FIND_LINKS:-$(PIP_LINKS)}" $(BIN)/uv
# Without compiled bytecode an engine start takes two minutes instead of 45 s where the environment forbids writing it.
# uv checks the hashes that stand in a file of constraints, also where a package is only another's dependency.
PINS = --constraint requirements/constraints-$(ENGINE).txt
INSTALL = $(UV) pip install --python $(BIN)/python --compile-bytecode $(PINS) \
  --override requirements/overrides-$(ENGINE).txt

ENGINE_PACKAGES = --editable '.[$(ENGINE)]' --editable ./shim

# PyTorch's versions without hashes: its own index's builds are other files than the package index's. They are installed
# alone and first; the rest of the engine comes with its hashes and finds them there.
TORCH = sed -n 's/^\(torch[^ ]*\) .*/\1/p' requirements/constraints-cpu.txt
# Whether PyTorch's own index can be reached and has CPU builds, which need none of CUDA's libraries, of the versions
# pinned here. Many networks do not let it through: it gets a few seconds, and nothing is said of how it failed.
HAS_TORCH_CPU = found=$$($(TORCH) | UV_HTTP_TIMEOUT=5 UV_HTTP_CONNECT_TIMEOUT=3 \
  UV_HTTP_RETRIES=0 timeout 10 env $(UV) pip compile --quiet --no-deps --no-header --no-annotate --torch-backend cpu \
  --python $(BIN)/python - 2>/dev/null) && test -n "$$found" && ! echo "$$found" | grep -qv '+cpu'

# $(call system,COMMANDS): one sentence that names the packages of the system which COMMANDS print; none is installed.
system = missing=$$($(1)); test -z "$$missing" || \
  { echo "lmi-chat needs packages of the system; on Debian and Ubuntu: apt-get install$$missing" >&2; exit 1; }
NO_PIP = $(PYTHON) -c 'import ensurepip' 2>/dev/null || printf ' python3-venv'
ifeq ($(ENGINE) $(shell uname),cpu Linux)
  NO_NUMA = $(PYTHON) -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2>/dev/null || printf ' libnuma1'
endif

COMPILE = $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header
QUICK = --numprocesses auto --dist worksteal --ignore tests/real

.PHONY: help run install dev check test quick real cover slow bench djl-test container-test console-test wheel-test quick-other bench-real audit sbom hashes fuzz format clean
help: ## print these lines
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile
	@echo "Settings, as in make run PORT=9000: ENGINE=auto|cpu|gpu MODEL=<hub id or folder> PORT HOST ARGS PYTHON VENV"

run: install ## install what is missing, then serve on http://127.0.0.1:8080
	@echo "==> starting lmi-chat on http://$(HOST):$(PORT)"
	@exec $(BIN)/lmi-chat serve --host $(HOST) --port $(PORT) --console true $(if $(MODEL),--model-id "$(MODEL)") $(ARGS)

install: $(VENV)/.$(ENGINE) ## install what serving needs
dev: $(VENV)/.$(ENGINE)-dev ## install what serving, checking and testing need

check: dev ## formatting, lint, types, spelling, directions of import
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/codespell
	@$(if $(wildcard tests/test_arrows.py),$(BIN)/pytest --quiet tests/test_arrows.py)

test: cover real ## the tests that a change must pass, the real engine's too

slow: dev ## the tests that take long: the same answers as vLLM alone, guides that never end, made-up requests
	@echo "==> slow tests"
	@$(BIN)/pytest -m slow

fuzz: dev ## mutated bytes and bodies for two minutes (FUZZ_SECONDS, FUZZ_SEED)
	@echo "==> mutated bytes and bodies"
	@$(BIN)/pytest --capture no tests/fuzz

bench: dev ## what a token costs the API process, ours and vLLM's two, on an engine without a model (ten minutes)
	@$(BIN)/python bench/run.py $(ARGS)

djl-test: dev ## this folder inside DJL's own Java engine (needs Java 17 and Maven)
	@command -v java mvn >/dev/null || \
	  { echo "make djl-test needs Java 17 and Maven; on Debian and Ubuntu: apt-get install openjdk-17-jdk-headless maven" >&2; exit 1; }
	@echo "==> tests with DJL's Python engine"
	@$(BIN)/pytest tests/java

container-test: dev ## the container image, built and run with docker or podman
	@echo "==> the container image"
	@$(BIN)/pytest --capture no tests/container/check_image.py

console-test: dev ## the console in a real browser (needs Chromium: CHROMIUM=path names another)
	@$(CHROMIUM) --version >/dev/null 2>&1 || \
	  { echo "make console-test needs Chromium; on Debian and Ubuntu: apt-get install chromium" >&2; exit 1; }
	@echo "==> the console in $$($(CHROMIUM) --version)"
	@CHROMIUM="$(CHROMIUM)" $(BIN)/pytest tests/browser/check_*.py

wheel-test: dev ## the wheels, ours and djl-serving's, each built and installed in a fresh environment, then started
	@echo "==> the wheels"
	@rm -rf build/wheel
	@$(UV) build --quiet --wheel --out-dir build/wheel
	@$(UV) build --quiet --wheel --out-dir build/wheel/shim shim
	@for one in venv shim-venv; do $(UV) venv --quiet --python $(BIN)/python build/wheel/$$one || exit; done
	@$(UV) pip install --quiet --python build/wheel/venv/bin/python $(PINS) build/wheel/*.whl
	@$(UV) pip install --quiet --python build/wheel/shim-venv/bin/python $(PINS) build/wheel/shim/*.whl build/wheel/*.whl
	@$(BIN)/pytest tests/wheel/check_wheel.py tests/wheel/check_shim.py

bench-real: dev ## the real engine behind our server and alone: tokens a second, first token (docs/performance.md)
	@$(BIN)/python bench/real.py $(if $(MODEL),--model-id "$(MODEL)") $(ARGS)
	@$(if $(MODEL),,$(BIN)/python bench/real.py --one-layer --seconds 4 $(ARGS))

quick: dev ## the tests that need neither an engine nor a process of their own
	@echo "==> quick tests"
	@PYTHONDONTWRITEBYTECODE= PYTHONPYCACHEPREFIX="$(CURDIR)/build/bytecode" $(BIN)/pytest $(QUICK) --numprocesses 3 -m "not slow and not processes"

cover: dev ## all tests that need no engine, with a count of the lines and branches they reach: 95 % outside lmi_chat/engine/vllm
	@echo "==> tests without an engine, counted"
	@$(BIN)/pytest $(QUICK) -m "not slow" --timeout 300 --cov --cov-report term

real: dev ## the tests with the real engine that a change must pass
	@echo "==> tests with the engine"
	@$(BIN)/pytest -m "not slow" tests/real

quick-other: dev ## those tests, without an engine, on the newest other Python that is here (OTHER_PYTHON=path)
	@own=$$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); other="$(OTHER_PYTHON)"; \
	for version in 3.14 3.13 3.12 3.11; do for python in python$$version "$$HOME/.pyenv/versions/$$version".*/bin/python; do \
	  test -n "$$other" -o $$version = $$own || ! "$$python" -c 'import ensurepip' 2>/dev/null || other=$$python; done; done; \
	test -n "$$other" || other=$$($(BIN)/uv python find --managed-python "!=$$own.*,>=3.11,<3.15" 2>/dev/null) || \
	  { echo "==> no quick tests on another Python: only $$own is here (OTHER_PYTHON=path names one)"; exit 0; }; \
	echo "==> quick tests on $$("$$other" --version)" && \
	$(UV) venv --quiet --clear --python "$$other" build/other && \
	$(UV) pip install --quiet --python build/other/bin/python $(PINS) --group quick --editable . --editable ./shim && \
	build/other/bin/python -m pytest $(QUICK) -m "not slow"

build/audit/.done: requirements/audit.txt | $(BIN)/uv
	@$(UV) venv --quiet --clear --python $(BIN)/python build/audit
	@$(UV) pip install --quiet --python build/audit/bin/python --require-hashes --requirements requirements/audit.txt
	@touch $@

audit: build/audit/.done ## known vulnerabilities of what is installed, where their list can be reached
	@echo "==> known vulnerabilities"
	@$(BIN)/python .ci/audit.py build/audit/bin/pip-audit requirements/constraints-$(ENGINE).txt

sbom: build/audit/.done ## build/sbom.json: what is installed, or what is in IMAGE=name, as CycloneDX
	@$(if $(IMAGE),docker run --rm --entrypoint pip "$(IMAGE)" freeze --all | build/audit/bin/cyclonedx-py requirements -, \
	  build/audit/bin/cyclonedx-py environment $(BIN)/python) --output-reproducible --output-file build/sbom.json
	@echo "==> build/sbom.json"

hashes: $(BIN)/uv ## the hashes of requirements/, anew for the versions that stand there
	@for engine in cpu gpu; do file=requirements/constraints-$$engine.txt; \
	  { grep '^#' $$file; sed -n 's/ *\\$$//; /^[^# ]/p' $$file | $(COMPILE) --no-deps -; } >$$file.new && mv $$file.new $$file || exit; done
	@$(COMPILE) requirements/audit.in --output-file requirements/audit.txt

format: dev ## format, and mend what lint can mend
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

clean: ## remove the environment and every cache in this folder
	@test ! -e $(VENV)/pyvenv.cfg || rm -rf $(VENV)
	@rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/uv:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))' 2>/dev/null || { \
	  echo "lmi-chat needs Python 3.11 to 3.14; $(PYTHON) is another version or missing (PYTHON=python3.12)" >&2; \
	  exit 1; }
	@$(call system,$(NO_PIP); $(NO_NUMA))
	@echo "==> making the environment $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@sed -n '/^uv==/,/[^\\]$$/p' requirements/constraints-$(ENGINE).txt >$(VENV)/uv.txt
	@$(BIN)/python -m pip --disable-pip-version-check --quiet install --require-hashes --requirement $(VENV)/uv.txt

$(VENV)/.$(ENGINE): pyproject.toml shim/pyproject.toml $(wildcard requirements/*-$(ENGINE).txt) | $(BIN)/uv
	@test ! -e $(VENV)/.$(OTHER) || \
	  { echo "$(VENV) holds the $(OTHER) engine: make clean, or another folder (VENV=.venv-$(ENGINE))" >&2; exit 1; }
	@$(call system,$(NO_NUMA))
ifeq ($(ENGINE),cpu)
	@if $(HAS_TORCH_CPU); then \
	  echo "==> installing the cpu engine with PyTorch's CPU build (about 3 GB, once)"; \
	  $(TORCH) | $(UV) pip install --python $(BIN)/python --compile-bytecode --no-deps --torch-backend cpu \
	    --requirements - && $(INSTALL) $(ENGINE_PACKAGES) && exit; \
	fi; \
	echo "==> installing the cpu engine with the package index's PyTorch: no CPU build was to be had (about 6 GB, once)"; \
	$(INSTALL) $(ENGINE_PACKAGES)
else
	@echo "==> installing the gpu engine (several GB, once)"
	@$(INSTALL) $(ENGINE_PACKAGES)
endif
	@touch $@

$(VENV)/.$(ENGINE)-dev: $(VENV)/.$(ENGINE)
	@echo "==> installing the tools for checks and tests"
	@$(INSTALL) --group dev
	@touch $@
