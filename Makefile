# make demo   everything, offline, in a few minutes        make test   all tests
# make docs   the documentation as a site that needs no network, in build/site
# Each makes the environment .venv first, from nothing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test docs bench clean

demo: $(VENV)/.installed
	$(BIN)/whycam demo -o demo --overwrite

test: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

docs: $(VENV)/.installed-docs
	$(BIN)/python website/gallery.py
	$(BIN)/mkdocs build --strict --config-file website/mkdocs.yml

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable ".[docs,captum]"
	touch $@

# Speed, side by side with the peers and beside the machine's own limits; half an hour. WHYCAM_DATA names the photos.
bench: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/limits.py
	$(BIN)/python benchmarks/start.py
	$(BIN)/python benchmarks/engine.py --pairs 5
	$(BIN)/python benchmarks/recipe.py --pairs 3
	$(BIN)/python benchmarks/files.py --pairs 3 --growth 100,1000
	$(BIN)/python benchmarks/metrics.py --rounds 3 --road-rounds 2
	$(BIN)/python benchmarks/evaluation.py
	$(BIN)/python benchmarks/localization.py --part time
	$(BIN)/python benchmarks/gpu.py || true

clean:
	rm -rf $(VENV) demo build
