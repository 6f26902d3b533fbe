# make demo · make test · make soak · make env · make lint · make readme · make verify RUN=demo
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORES ?= 2
RUN ?= demo
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# make soak-env builds what the oracles and benchmarks against other packages need.
.PHONY: demo test soak soak-env comparators-env env lint readme verify reproduce clean
.DEFAULT_GOAL := demo

env: $(VENV)/.installed

$(VENV)/.installed: envs/requirements.txt envs/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "interpTFM needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --progress-bar off -r envs/requirements.txt
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed envs/requirements-test.txt envs/requirements-oracle.txt
	$(BIN)/pip install --quiet --progress-bar off -r envs/requirements-test.txt
	$(BIN)/pip install --quiet --progress-bar off --no-deps -r envs/requirements-oracle.txt
	@touch $@

demo: env
	$(BIN)/snakemake --cores $(CORES)
	@echo "The report: $(CURDIR)/results/demo/report.html"

test: lint
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -m "not soak" -n 2 --dist loadfile

# sae-lens, dictionary-learning and sparsify; torchvision comes along unused and may not fit the torch at hand.
$(VENV)-soak/.installed: envs/requirements-soak.txt envs/constraints-soak.txt
	$(PYTHON) -m venv $(VENV)-soak
	$(VENV)-soak/bin/pip install --quiet --progress-bar off -r envs/requirements-soak.txt
	$(VENV)-soak/bin/pip uninstall --quiet --yes torchvision
	@touch $@

soak-env: $(VENV)-soak/.installed

# One environment a family of other systems; their Pythons go into environments.<family> of the configuration. What the
# main environment has is read from there and not installed again.
COMPARATORS := communication mofa scvi tangram
PACKAGES := python -c "import sysconfig; print(sysconfig.get_path('purelib'))"
comparators-env: $(COMPARATORS:%=$(VENV)-%/.installed)

$(COMPARATORS:%=$(VENV)-%/.installed): $(VENV)-%/.installed: $(VENV)/.installed envs/requirements-%.txt
	$(PYTHON) -m venv $(VENV)-$*
	$(BIN)/$(PACKAGES) > $$($(VENV)-$*/bin/$(PACKAGES))/main.pth
	$(VENV)-$*/bin/pip install --quiet --progress-bar off -r envs/requirements-$*.txt
	@touch $@

soak: $(VENV)/.installed-test $(VENV)-soak/.installed comparators-env
	$(BIN)/python -m pytest -m soak

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check workflow
	$(BIN)/snakemake --lint

readme: env
	$(BIN)/python scripts/config_table.py README.md

# ARGS goes to Snakemake; the names of the tables: scripts/interptfm/reproduce.py, docs/reproducibility.md.
reproduce: env
	CORES=$(CORES) $(BIN)/python scripts/reproduce.py $(or $(TABLE),planted) $(ARGS)

verify: env
	$(BIN)/python scripts/verify.py results/$(RUN)

clean:
	rm -rf results/$(RUN)
