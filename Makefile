# Everything runs in .venv, which is made on first use and again when its inputs change.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
DEMO ?= out/demo

.PHONY: demo test lint

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

test: $(INSTALLED)
	$(BIN)/pytest

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

demo: $(INSTALLED)
	$(BIN)/python tests/recipe.py resnet50_mixvpr_512 $(DEMO)/official.ckpt
	$(BIN)/python -m convert.torch_to_flax $(DEMO)/official.ckpt $(DEMO)/model
	$(BIN)/python -m mixvpr_jax.data.draw $(DEMO)/city --difficulty 0.1 --overwrite
	$(BIN)/python eval.py --weights $(DEMO)/model --database $(DEMO)/city/database \
		--queries $(DEMO)/city/queries --output $(DEMO)/evaluation --overwrite
	@echo "The town is easy and the weights were never trained; look at $(DEMO)/evaluation/report.html"
