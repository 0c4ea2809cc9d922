# Two commands do all the set-up on a fresh Debian 12: `make demo` and `make test`. `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := dicom_node analysis reports config models
INPUT ?=
TORCH_INDEX ?=
BACKGROUND ?=
EVERY ?= 1
FUZZ ?=
FUZZ_INPUTS ?=
LOAD ?=
IMAGE_BASE ?=

.DEFAULT_GOAL := help
.PHONY: feature-peers help install deps demo test lint unit exhaustive lock catalogues schema docs documents bundle encoder validate benchmark science benchmark-science faults faults-peers fuzz load image image-node image-test quadlet-test nspawn-test fresh-test scale-test wheelhouse deb clean sbom audit-deps

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/.installed $(VENV)/.train ## .venv with everything that running, training and testing need

$(VENV)/.installed: requirements/locked.txt requirements/pyradiomics.txt pyproject.toml $(wildcard analysis/*.c dicom_node/*.c) scripts/deps
	@scripts/deps build
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "Prognode needs Python 3.11 (pyradiomics does not build on newer ones); give it with: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	@echo "installing Python packages into $(VENV), one to two minutes ..."
	$(BIN)/python -m pip install --quiet --use-pep517 --require-hashes -r requirements/locked.txt
	$(BIN)/python -m pip install --quiet --require-hashes --no-build-isolation --no-deps -r requirements/pyradiomics.txt
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --no-build-isolation --no-deps -e .
	@touch $@

# torch apart: the demo and the node do without it.
$(VENV)/.train: $(VENV)/.installed requirements/torch.txt
	$(BIN)/python -m pip install --quiet $(if $(TORCH_INDEX),--index-url "$(TORCH_INDEX)") -r requirements/torch.txt
	@touch $@

deps: ## Debian packages for the tests (Orthanc, DCMTK, validators) and for building
	@scripts/deps build test

demo: $(VENV)/.installed ## the whole road once; make demo INPUT=DIR takes a folder of real DICOM
	@$(BIN)/prognode demo $(if $(INPUT),--input "$(INPUT)")

test: install deps lint unit ## lint, types, import contracts, and every test
	@$(BIN)/python -m scripts.image --why

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: install
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile; \
	ended=$$?; mkdir -p .pytest_cache; echo $$ended > .pytest_cache/status; exit $$ended  # for scripts/again.py

exhaustive: install ## the long forms that make test leaves out
	$(BIN)/python -m pytest -n 2 --dist loadfile -m exhaustive

catalogues: install ## bring the message catalogues of the reports up to the code
	$(BIN)/python -m scripts.catalogues

schema: install ## regenerate the JSON Schemas in config/schema
	$(BIN)/python scripts/schema.py

docs: install ## the documentation as HTML in build/docs; a warning is an error
	$(BIN)/sphinx-build -q -n -W --keep-going -b html -d build/docs/.doctrees docs build/docs/html
	@echo build/docs/html/index.html

documents: install ## write the parts of docs/ again that are made from the code
	$(BIN)/python -m scripts.documents

bundle: install ## train the synthetic demo bundle again; the same digest comes out
	scripts/demo-bundle $(BIN)/prognode

encoder: install ## pretrain the demo's encoder again (BACKGROUND=DIR of public chest CTs), then the bundle
	scripts/demo-encoder $(BIN)/prognode build/encoder.onnx $(BACKGROUND)
	scripts/demo-bundle $(BIN)/prognode build/encoder.onnx

validate: install deps ## DICOM validators over what the demo has sent (a minute)
	@$(BIN)/python -m tests.validators build/demo/objects

# pictologics and Z-Rad want Python 3.12; pictologics compiles at its first import, for five minutes.
PEER_PYTHON ?= python3.12
build/feature-peers/.installed: requirements/feature-peers.txt
	$(PEER_PYTHON) -m venv build/feature-peers
	build/feature-peers/bin/python -m pip install --quiet -r requirements/feature-peers.txt
	cd build/feature-peers && bin/python -P -c "import pictologics"
	@touch $@

feature-peers: build/feature-peers/.installed ## pictologics, MIRP and Z-Rad for benchmarks.features (PEER_PYTHON=python3.12)

benchmark: install ## the short form of every benchmark and one table (ten quiet minutes; docs/performance.md)
	$(BIN)/python -m benchmarks.all

# Tools of their own environment: what they need is none of ours.
TOOLS := build/tools
SBOM_OF ?= $(VENV)

$(TOOLS)/.installed: requirements/tools.txt
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet --require-hashes -r requirements/tools.txt
	@touch $@

sbom: install $(TOOLS)/.installed ## CycloneDX SBOM in build/sbom.json (SBOM_OF=DIR: of another environment)
	scripts/sbom $(TOOLS) $(SBOM_OF) build/sbom.json

audit-deps: $(TOOLS)/.installed ## known vulnerabilities of what the lock pins (needs the network, and says so)
	scripts/audit-deps $(TOOLS) requirements/locked.txt requirements/pyradiomics.txt

wheelhouse: ## dist/: our wheel and all that it needs, with hashes, to install without network
	$(PYTHON) scripts/wheelhouse.py dist

lock: ## renew the lock (needs uv)
	scripts/lock

science: install ## the long form of the science tests, on synthetic patients
	$(BIN)/python -m benchmarks.synthetic

benchmark-science: install ## nested cross-validation on real cohorts without images
	$(BIN)/python -m benchmarks.science

faults: install ## the fault matrix: 700 cells, about an hour on two cores (EVERY=4: a quarter of them)
	@$(BIN)/python -m tests.faults --part 1/2 --every $(EVERY) & other=$$!; \
	$(BIN)/python -m tests.faults --part 2/2 --every $(EVERY); mine=$$?; wait $$other && exit $$mine

faults-peers: install ## the same faults against Orthanc and storescp (root; five minutes)
	$(BIN)/python -m benchmarks.peers_faults

fuzz: install ## changed inputs to everything that listens or reads, until Ctrl-C (FUZZ_INPUTS=100000; FUZZ="--seconds 600")
	$(BIN)/python -m tests.fuzz $(if $(FUZZ_INPUTS),--inputs $(FUZZ_INPUTS)) $(FUZZ)

load: install ## eight modalities at once for half an hour, and a store of a million studies (LOAD="--minutes 1": only the first, short)
	$(BIN)/python -m benchmarks.load $(LOAD)
	$(if $(LOAD),,$(BIN)/python -m benchmarks.million)

image: install wheelhouse $(TOOLS)/.installed ## the image for executor "container" (podman or docker; IMAGE_BASE=IMAGE, else debootstrap)
	@scripts/deps image || [ "$$IMAGE_OPTIONAL" = 1 ]
	$(BIN)/python -m scripts.image dist build/image $(IMAGE_BASE)

image-node: install wheelhouse ## the image of the services, for deploy/quadlet and deploy/compose.yaml
	@scripts/deps image
	$(BIN)/python -m scripts.image --node dist build/image-node $(IMAGE_BASE)

image-test: image ## what the image and its limits keep, and the phantom in it (root; three minutes; IMAGE_OPTIONAL=1: may be impossible)
	$(BIN)/python -m tests.image build/image

quadlet-test: install ## the Quadlet files through the generator of Debian 13's podman
	scripts/quadlet build/quadlet
	$(BIN)/python -m pytest -q tests/deploy/test_containers.py

deb: wheelhouse ## dist/: the Debian package (on Debian 12)
	scripts/deb dist

nspawn-test: install deb ## boot a fresh Debian 12 with the package (root; four minutes): a study under blows, upgrade, downgrade
	@scripts/deps boot
	scripts/nspawn-test build/debian dist/prognode_*.deb

fresh-test: wheelhouse ## a fresh Debian 12: README's commands from a clone, and the wheelhouse without network (root)
	@scripts/deps boot
	scripts/fresh-test build/debian dist

scale-test: install ## a node on a real Dask cluster: workers, scheduler and network are killed (root; five minutes)
	$(BIN)/python -m pytest -m exhaustive tests/scale

clean: ## remove .venv and build
	rm -rf $(VENV) build dist
