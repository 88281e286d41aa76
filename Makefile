# Two commands for a newcomer: `make demo` and `make test`. `make help` lists the rest.
# Each sets up what it needs: a virtual environment in .venv, and Debian's packages for servers.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

# The versions that CI ran with; some of them need Python 3.11. On 3.10 pip chooses.
PINNED = $(shell $(BIN)/python -c 'import sys; print("--constraint constraints.txt" * (sys.version_info >= (3, 11)))')
PIP    = $(BIN)/pip install --quiet --disable-pip-version-check $(PINNED)

# pytest's number of processes: one per core
JOBS   ?= auto
# how long lab-churn and fuzz go on
MINUTES ?= 15
# how often chaos does each fault
REPEAT ?= 2
# how many histories model makes
EXAMPLES ?= 5000

.DEFAULT_GOAL := help
.PHONY: help demo test fuzz coverage test-nova-releases test-upgrade check docs format lab-test lab-bytes lab-churn chaos bench load latency agent-bench model simulate simulate-small sensitivity clean

help:  ## list what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 20

demo: $(VENV)/.demo  ## the main job on embedded parts: recorded notifications in, ranked hosts out
	@$(BIN)/python -m tools.demo

test: $(VENV)/.test servers servers-vcenter servers-browser  ## all tests but the lab's: unit, and functional on real servers
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile $(ARGS)

test-nova-releases: $(VENV)/.releases servers  ## weigher and evidence on Nova 27 to 34, each in an environment of its own; RELEASES="27 34"
	$(BIN)/python -m tests.releases $(RELEASES)

test-upgrade: $(VENV)/.test servers  ## older versions' real programs beside this one's: upgrade, side by side, downgrade; REVISIONS= of some
	$(BIN)/python -W ignore -m tests.upgrade $(REVISIONS) $(ARGS)

fuzz: $(VENV)/.fuzz  ## what parses what others wrote, led by coverage, for MINUTES=15; crashes are kept in build/fuzz
	$(BIN)/python -W ignore -m tests.fuzz --minutes $(MINUTES) $(ARGS)

coverage: $(VENV)/.coverage servers servers-vcenter servers-browser  ## which lines and branches the tests of `make test` reach, in all processes
	@rm -rf build/coverage && mkdir -p build/coverage
	-$(BIN)/coverage run -m pytest --numprocesses $(JOBS) --dist loadfile $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

check: $(VENV)/.check  ## style, types, import rules, generated files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tools.generate --check
	$(BIN)/reno -q lint
	$(BIN)/hadolint etc/container/Containerfile
	@$(MAKE) --no-print-directory docs

format: $(VENV)/.check  ## format the code, write generated files anew
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python -m tools.generate

docs: $(VENV)/.check  ## the documentation as pages, in build/docs/html; `make format` writes the man pages, etc/man
	$(BIN)/python -m sphinx -q -W --keep-going -E -b html -d build/docs/trees docs build/docs/html
	@echo "build/docs/html/index.html"

lab-test: $(VENV)/.lab servers-lab  ## a real Nova control plane on this machine, driven through its operations
	$(BIN)/python -m pytest tests/lab $(ARGS)

lab-bytes: REPEAT := 1
lab-bytes: $(VENV)/.lab servers-lab  ## what the weigher saves: real downloads from a slow Glance, weigher off and on; REPEAT=1
	$(BIN)/python -m tests.lab.bytes --repeat $(REPEAT) $(ARGS)

lab-churn: $(VENV)/.lab-churn servers-lab servers-libvirt  ## a real libvirt host's image cache against the index, for MINUTES=15 (root only)
	$(BIN)/python -m tests.lab.churn --minutes $(MINUTES) $(ARGS)

chaos: $(VENV)/.test servers  ## faults of every kind against real processes, REPEAT=2 times each, and a table of what was lost
	$(BIN)/python -W ignore -m tests.chaos --repeat $(REPEAT) $(ARGS)

bench: $(VENV)/.test servers  ## what the parts cost, each beside its peer, in one table and build/bench.json; ARGS="--quick", "--only weigher"
	@$(BIN)/python -W ignore -m tests.bench $(ARGS)

load: $(VENV)/.test $(VENV)/.simulate servers  ## a cloud of 100 to 50,000 hosts on a real bus and Redis: what each message costs, and how much memory
	$(BIN)/python -W ignore -m tests.bench.load --plot docs/scaling $(ARGS)

latency: $(VENV)/.test servers  ## how long from a notification's publication to the changed set
	$(BIN)/python -m tools.latency $(ARGS)

agent-bench: $(VENV)/.test servers  ## the agent's memory, processor time, and time from an event on disk to its message
	$(BIN)/python -m tools.agent_bench $(ARGS)

model: $(VENV)/.test servers  ## many histories of a cloud against the index's model, by chance; EXAMPLES=5000, SEED= of one that failed
	EXAMPLES=$(EXAMPLES) SEED=$(SEED) $(BIN)/python -m pytest tests/functional/test_model.py -rP --numprocesses $(JOBS) --dist loadgroup $(ARGS)

simulate-small: $(VENV)/.simulate  ## boots of a small trace under all policies, by Nova's real weighers; half a minute
	$(BIN)/python -W ignore -m simulator.campaign --small $(ARGS)

sensitivity: $(VENV)/.simulate  ## what the outcome of placement depends on: the weigher's options, and the cloud; ten minutes
	$(BIN)/python -W ignore -m simulator.sensitivity $(ARGS)

simulate: $(VENV)/.simulate  ## the report of docs/placement.md; some hours, goes on where it was stopped; ARGS= for a part
	$(BIN)/python -W ignore -m simulator.campaign $(if $(ARGS),,--pictures docs/placement) $(ARGS)

clean:  ## remove what was made here, the virtual environment too
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# -- set-up --------------------------------------------------------------------------------

.PHONY: servers servers-vcenter servers-browser servers-lab servers-libvirt
servers:
	@tools/servers.sh rabbitmq-server redis-server openssl systemd prometheus

servers-vcenter:
	@tools/servers.sh golang-go golang-github-vmware-govmomi-dev

servers-browser:  # and what reads the weigher's metrics
	@tools/servers.sh chromium prometheus-node-exporter

servers-lab:
	@tools/servers.sh rabbitmq-server redis-server mariadb-server qemu-utils

# without libvirt-daemon-system: the lab needs neither its services nor its configuration
servers-libvirt:
	@tools/servers.sh libvirt-daemon qemu-system-x86 qemu-utils libvirt-dev pkg-config gcc python3-dev

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "bus-cache needs Python 3.10 or later")'
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "On Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@touch $@

# $(call install,EXTRA): this project, editable, with what the extra brings
install = $(PIP) --editable '.[$(1)]' && touch $@

$(VENV)/.demo: $(VENV)/.created pyproject.toml constraints.txt
	@echo "Installing into $(VENV); once, about a minute ..."
	@$(call install,demo)
$(VENV)/.test: $(VENV)/.created pyproject.toml constraints.txt
	@$(call install,test)
$(VENV)/.check: $(VENV)/.created pyproject.toml constraints.txt
	@$(call install,check)
$(VENV)/.fuzz: $(VENV)/.created pyproject.toml constraints.txt
	@$(call install,fuzz)
$(VENV)/.coverage: $(VENV)/.created pyproject.toml constraints.txt
	@$(call install,coverage)
$(VENV)/.releases: $(VENV)/.created pyproject.toml constraints.txt
	@$(call install,releases)
$(VENV)/.simulate: $(VENV)/.created pyproject.toml constraints.txt
	@$(call install,simulate)
$(VENV)/.lab: $(VENV)/.created pyproject.toml constraints.txt
	@$(call install,lab)
# libvirt-python is compiled, against libvirt's headers
$(VENV)/.lab-churn: $(VENV)/.created pyproject.toml constraints.txt | servers-libvirt
	@$(call install,lab-churn)
