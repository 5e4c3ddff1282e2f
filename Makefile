# All the work is done by make.py, so that it is the same where there is no make: python make.py TARGET
# `make` alone lists the targets.
PYTHON ?= python3
PIP_ARGS ?=
ARGS ?=
export PIP_ARGS

TARGETS := help install run test lab serve evidence soak report export lint clean
.PHONY: $(TARGETS)

$(TARGETS):
	@$(PYTHON) make.py $@ $(ARGS)
