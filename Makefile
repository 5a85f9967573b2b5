# Two commands on a fresh machine: `make quickstart` and `make test`. Everything lands in .venv and runs/.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN := runs/quickstart
# So small a model is slower on two threads than on one where anything else runs.
ONE_THREAD := OMP_NUM_THREADS=1
# CPU=1 takes the CPU build of torch and torchvision, which is smaller, from this index; where it cannot be reached, make stops.
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu
# As measured by experiments/measure_quickstart.py.
MEASURED = import json; found = json.load(open("docs/quickstart.json"))["targets"]; \
	found = found.get("quickstart") or found["install"]; \
	print("about {minutes} minutes and {gigabytes} GB with the default build of torch, most of it its download".format(**found))

SHELL := /bin/bash

.PHONY: help install quickstart test test-all test-extras transformers-js test-older check format benchmark checkpoints clean
help:
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /: /'

$(VENV)/installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "OmniVision needs Python 3.11 or newer, this is " + sys.version'
	$(PYTHON) -m venv $(VENV)
	$(if $(CPU),$(torch_cpu))
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable .
	@touch $@

# Before everything else, from that index alone: there versions end in +cpu, which constraints without it allow.
define torch_cpu
@echo "torch and torchvision: the CPU build from $(TORCH_CPU_INDEX)"
@grep -E '^(torch|torchvision)==' constraints.txt | xargs $(BIN)/python -m pip install --disable-pip-version-check \
	--no-deps --index-url $(TORCH_CPU_INDEX) || { \
	echo "No CPU build at $(TORCH_CPU_INDEX): name another index by TORCH_CPU_INDEX=URL, or leave out CPU=1." >&2; exit 1; }
endef

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test,lint,benchmark]'
	@touch $@

install: $(VENV)/installed ## virtual environment with the package in it

quickstart: ## train on real scanned digits, evaluate, open the result again in a new process, predict
	@test -f $(RUN)/result.txt || { echo "Installs into $(VENV), trains a classifier on 1,437 scanned digits, evaluates it on 360"; \
		echo "others, classifies 20 image files in a new process and draws them: $(RUN)."; \
		test ! -f docs/quickstart.json || $(PYTHON) -c '$(MEASURED)'; }
	@$(MAKE) --no-print-directory $(RUN)/result.txt
	@cat $(RUN)/result.txt

$(RUN)/result.txt: $(VENV)/installed
	@rm -rf $(RUN)
	$(ONE_THREAD) $(BIN)/omni-vision train --dataset digits --output_dir $(RUN) --max_translate 1 \
		--config '{"image_size": 16, "patch_size": 4, "num_channels": 1, "attn_implementation": "eager", "hidden_dropout_prob": 0, "attention_probs_dropout_prob": 0}' \
		--learning_rate 5e-4 --per_device_train_batch_size 32 --num_train_epochs 30
	@echo "Evaluation, then predictions in a new process: half a minute"
	@set -e -o pipefail; { \
		$(BIN)/omni-vision evaluate --model $(RUN) --dataset digits --split test; \
		$(BIN)/omni-vision inspect --dataset digits --export $(RUN)/images | tail -n 1; \
		$(BIN)/omni-vision predict --model $(RUN) --images $(RUN)/images --sheet $(RUN)/predictions.png; \
		echo "Model: $(RUN). Plots of the evaluation: $(RUN)/plots. Images with their predictions: $(RUN)/predictions.png"; \
		} > $(RUN)/result.part
	@mv $(RUN)/result.part $@

# Everything in the checkout that git does not ignore: the tests need not run again until one of these changes.
SOURCES := $(shell git ls-files --cached --others --exclude-standard 2>/dev/null)

test: .cache/tested ## the test suite; `rm .cache/tested` first to run it though nothing changed

.cache/tested: $(VENV)/installed-dev $(SOURCES)
	$(BIN)/python tests/fetch_transformers_suite.py
	$(BIN)/python -m pytest -n 2 -q
	@touch $@

test-all: $(VENV)/installed-dev ## the test suite with the slow tests
	$(BIN)/python tests/fetch_transformers_suite.py
	$(BIN)/python -m pytest -n 2 -q -m "slow or not slow"

# Each extra alone, so that an extra that lacks a package is noticed. EXTRAS="onnx" runs one of them.
EXTRAS ?= onnx openvino demo

test-extras: $(EXTRAS:%=$(VENV)-%/installed) ## the tests of the optional runtimes and of the demo, each with its extra alone
	for extra in $(EXTRAS); do test $$extra = demo && tests=tests/demo || tests="tests/interop tests/embedding tests/evaluation"; \
		test $$extra = demo && which=demo || which="export or engine"; \
		$(VENV)-$$extra/bin/python -m pytest -q -rs -m "slow or not slow" $$tests -k "$$which" || exit 1; done

# Gradio wants a Pillow below 13; its slow tests need a Chromium, as of Debian, and npm.
$(VENV)-%/installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)-$*
	$(if $(filter demo,$*),grep -v '^pillow==',cat) constraints.txt > $(VENV)-$*/constraints.txt
	$(VENV)-$*/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(VENV)-$*/constraints.txt \
		--editable '.[test,$*]' $(if $(filter demo,$*),playwright)
	@touch $@

# The release that docs/runtimes.md describes, for the tests of the browser's graphs; 475 MB.
transformers-js: ## transformers.js in .cache, by npm: `make test-all` then runs native twins in it
	npm install --prefix .cache/transformers-js --no-audit --no-fund --ignore-scripts @huggingface/transformers@4.3.2

# The oldest for the encoder, and the oldest for models of several parts, which calls the KV cache `past_key_values`.
OLDER ?= 5.5.0 5.23.0

$(VENV)-transformers-%/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)-transformers-$*
	$(VENV)-transformers-$*/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[test]' transformers==$* \
		$(if $(filter 5.5.0,$*),'huggingface-hub<2')
	@touch $@

test-older: $(OLDER:%=$(VENV)-transformers-%/installed) ## the test suite against the oldest supported versions of transformers
	for version in $(OLDER); do $(VENV)-transformers-$$version/bin/python tests/fetch_transformers_suite.py && \
		$(VENV)-transformers-$$version/bin/python -m pytest -n 2 -q || exit 1; done

# mlinter holds the rules of transformers' own model files. TRF057 is off: @auto_docstring leaves holes outside their tree.
# TRF058 too: its nn.Buffer cannot be empty. TRF041 too: it asks each branch on the configuration to name checkpoints,
# here branches are options of training.
.cache/mlinter.toml: $(VENV)/installed-dev Makefile
	@mkdir -p .cache
	@sed '/^\[rules.TRF0\(41\|57\|58\)\]/,/^default_enabled/ s/= true/= false/' "$$($(BIN)/python -c 'import mlinter; print(mlinter.__path__[0])')/rules.toml" > $@

# deptry cannot read setup.cfg; the installed metadata says the same.
.cache/requirements.txt: $(VENV)/installed-dev
	@mkdir -p .cache
	@$(BIN)/python -c 'from importlib.metadata import requires; print(*(r.split(";")[0] for r in requires("omni-vision") if not r.rstrip("\"" + chr(39)).endswith(("test", "lint"))), sep="\n")' > $@

check: $(VENV)/installed-dev .cache/mlinter.toml .cache/requirements.txt ## linters, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/mlinter --no-progress --rules-toml .cache/mlinter.toml modeling_omni_vision
	$(BIN)/interrogate --quiet modeling_omni_vision scripts
	$(BIN)/deptry . --requirements-files .cache/requirements.txt
	$(BIN)/typos

format: $(VENV)/installed-dev ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmark: $(VENV)/installed ## speed of the bundled classifier on this machine
	$(BIN)/omni-vision benchmark --model checkpoints/omni-vision-fashion-mnist

checkpoints: $(VENV)/installed ## publish the bundled checkpoints again, with the code and the card templates as they are now
	for folder in checkpoints/*/; do $(BIN)/omni-vision publish --model $$folder --output $$folder || exit 1; done
	cp checkpoints/omni-vision-fashion-mnist/README.md model_card.md

clean: ## remove everything that is not in git, virtual environments included
	git clean -dfX
