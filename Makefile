# hotloop's commands. PY= picks the interpreter (each gets a virtual environment of its own).
#
#   make demo         the asyncio guide's programs, on hotloop
#   make test         the suite, on every backend; the C core by C programs under the sanitizers
#   make conformance  CPython's own test_asyncio on hotloop, compared with stock asyncio
#   make integration  real programs on hotloop: aiohttp, uvicorn, asyncpg, Redis and more
#   make doors        the tools through which programs get a loop: servers, test runners, Jupyter
#   make suites       whole suites of other projects, beside stock asyncio; SUITE="anyio tornado":
#                     those only, DOCS=1: their table into docs/compatibility.md
#   make dask         a Dask cluster on hotloop; make dask-bench: beside asyncio and uvloop
#   make conformance-full   the same on both backends, with our Task and Future and with asyncio's
#   make differential  generated programs against asyncio, EXAMPLES=10000 of each
#   make fuzz         the fuzz targets, SECONDS=60 of each; TARGET="fdtab tls": those only
#   make soak         all kinds of load at once, MINUTES=1 with CONNECTIONS=1000 held meanwhile
#   make asan         the suite under AddressSanitizer and UBSan
#   make faults       fails each system call and allocation in turn; FAULTS=short: a part, in a minute
#   make debug        the suite with C assertions on
#   make portable     the suite on a build without what only Linux has, as on macOS
#   make ft           the suite on a free-threaded Python, which it builds first; make ft-bench: two
#                     threads against one; make tsan: what concerns threads, under ThreadSanitizer
#   make refleak      the scheduler's tests over and over, on a Python that counts references
#   make docs         the documentation as a site, into build/site; a warning is an error
#   make lint         ruff, mypy, clang-format, layering, function sizes, warnings as errors
#   make format       puts C and Python into the project's format
#   make regressions  bugs that other loops shipped; LOOP=uvloop: on that loop, which does it fail?
#   make bench        benchmarks beside asyncio, uvloop, zuvloop, rloop and rsloop
#   make wheel        a wheel built by profile (PGO, LTO) into dist/, at work where no compiler is
#   make package      an sdist, a wheel built from it, and that wheel at work
#   make full         all of these but bench
#   make build        builds and installs into the virtual environment
#   make tools        what lint and integration need beside that
#   make clean        removes all that make made
#
# PYTEST= adds arguments to pytest: make test PYTEST="-k timers --backend select"

MAKEFLAGS += --no-builtin-rules --no-print-directory
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# ---- interpreter, compiler ---------------------------------------------------------------

# HOTLOOP_PLACE (tools/next.sh sets it) keeps apart what is made in a chroot and outside of it:
# their interpreters may go by the same names.
PLACE := $(addprefix -,$(HOTLOOP_PLACE))
ifdef PY
VENV := .venv-$(shell $(PY) -c 'import sys; print("%d.%d" % sys.version_info[:2] + sys.abiflags)' 2>/dev/null)$(PLACE)
else
VENV := .venv$(PLACE)
endif
BIN := $(VENV)/bin
TAG := $(patsubst .venv%,py%,$(VENV))
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check

# Used for the sanitizers; the extension itself is built with CC if that is set,
# else with the compiler that Python was built with.
ifeq ($(origin CC),default)
CC := gcc
endif

need_compiler = command -v $(CC) >/dev/null || \
    { echo "hotloop: no C compiler: '$(CC)' is not on PATH (install gcc or clang, or set CC)" >&2; exit 1; }

# ---- set-up, each step once --------------------------------------------------------------

READY := $(VENV)/.ready
BUILD := build/install-$(TAG)
INSTALLED := $(VENV)/.installed
LINTERS := $(VENV)/.linters
PROGRAMS := $(VENV)/.programs
SITE := $(VENV)/.site

# Not all that the tests use has a build for free-threaded Pythons; they skip what is missing.
WITH_TESTS := '.[test]'
ifneq ($(filter %t,$(lastword $(subst -, ,$(patsubst %$(PLACE),%,$(VENV))))),)
WITH_TESTS := . pytest 'hypothesis>=6.100,<6.120' 'aiohttp>=3.10'
endif

SOURCES := setup.py pyproject.toml $(shell find csrc python -name '*.[ch]' -o -name '*.py' -o -name '*.pyi')

.PHONY: help
help:
	@sed -n '/^# *make /s/^# */  /p' Makefile

$(READY): pyproject.toml
	@$(need_compiler)
	@python=$$(tools/find-python $(PY)) && \
	    echo "hotloop: making $(VENV) with $$("$$python" --version)" && \
	    "$$python" -m venv $(VENV)
	@$(PIP) install --upgrade "setuptools>=77"
	@touch $@

$(INSTALLED): $(READY) $(SOURCES)
	@$(need_compiler)
	@echo "hotloop: building and installing into $(VENV)"
	@rm -rf $(BUILD)/lib*
	@printf '[build]\nbuild_base = %s\n' $(BUILD) >$(VENV)/build.cfg
	@DIST_EXTRA_CONFIG=$(CURDIR)/$(VENV)/build.cfg \
	    $(PIP) install --no-build-isolation -C--global-option=-q $(WITH_TESTS)
	@touch $@

$(LINTERS): $(READY) tools/requirements-lint.txt
	@$(PIP) install -r tools/requirements-lint.txt
	@touch $@

$(PROGRAMS): $(INSTALLED) tools/requirements-integration.txt
	@$(PIP) install -r tools/requirements-integration.txt
	@touch $@

$(SITE): $(READY) tools/requirements-docs.txt
	@$(PIP) install -r tools/requirements-docs.txt
	@touch $@

.PHONY: build tools
build: $(INSTALLED)

tools: $(LINTERS) $(PROGRAMS) $(SITE)

# ---- what one runs -----------------------------------------------------------------------

PYTHON_TREES := $(wildcard python tests tools examples benchmarks setup.py)

.PHONY: demo test integration suites doors dask dask-bench docs lint format
demo: $(INSTALLED)
	@$(BIN)/python examples/guide/demo.py

test: $(INSTALLED)
	$(BIN)/python -m pytest -q $(PYTEST)

integration: $(PROGRAMS)
	$(BIN)/python -m pytest -q tests/integration $(PYTEST)

# Each suite in an environment of its own, kept in $(VENV)-suites; see tests/suites/table.py.
suites: $(INSTALLED)
	@$(BIN)/python tests/suites/run.py --environments $(VENV)-suites $(if $(DOCS),--docs) $(SUITE)

# The doors in an environment of their own: a plugin of pytest's in it would take part in all tests.
doors: $(READY)
	@$(MAKE) VENV=$(VENV)-doors doors-inside

dask dask-bench: $(READY)
	@$(MAKE) VENV=$(VENV)-dask $@-inside

.PHONY: dask-inside dask-bench-inside
dask-inside: $(INSTALLED)
	@$(PIP) install -r tools/requirements-dask.txt
	PYTHONPATH=tests $(BIN)/python -m pytest -q -c /dev/null --rootdir . --confcutdir tests/dask tests/dask $(PYTEST)

dask-bench-inside: $(INSTALLED)
	@$(PIP) install -r tools/requirements-dask.txt
	PYTHONPATH=tests $(BIN)/python tests/dask/cluster.py

.PHONY: doors-inside
doors-inside: $(INSTALLED)
	@$(PIP) install -r tools/requirements-doors.txt
	$(BIN)/python -m pytest -q -p no:asyncio -p no:anyio tests/doors $(PYTEST)

lint: $(INSTALLED) $(LINTERS)
	@$(BIN)/python tools/lint

docs: $(SITE)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs -q build --strict
	@echo "hotloop: the documentation is build/site/index.html"

format: $(LINTERS)
	$(BIN)/clang-format -i $$(find csrc tests/c tests/fuzz benchmarks -name '*.[ch]')
	$(BIN)/ruff check -q --fix $(PYTHON_TREES)
	$(BIN)/ruff format -q $(PYTHON_TREES)

# ---- the same suite on other builds --------------------------------------------------------

# $(call suite,NAME,CFLAGS,ENVIRONMENT): builds with CFLAGS into build/NAME-TAG, runs the suite on it
define suite
	@echo "hotloop: building for $(1)"
	@rm -rf build/$(1)-$(TAG)/lib
	@CFLAGS="$(2)" $(BIN)/python setup.py -q build --build-base build/$(1)-$(TAG) --build-lib build/$(1)-$(TAG)/lib
	@rm -f build/$(1)-$(TAG)/report*
	$(3) PYTHONPATH=$(CURDIR)/build/$(1)-$(TAG)/lib $(BIN)/python -m pytest -q -p no:cacheprovider $(PYTEST) || \
	    { cat build/$(1)-$(TAG)/report* 2>/dev/null; exit 1; }
endef

SANITIZE := -fsanitize=address,undefined -fno-sanitize-recover=undefined

.PHONY: asan debug portable
# Reports go to a file: what pytest captures is lost when a sanitizer ends the process.
# Leaks are looked for in the C tests only: the interpreter itself does not free all at exit.
asan: $(INSTALLED)
	$(call suite,asan,-O1 -g -UNDEBUG $(SANITIZE),LD_PRELOAD=$$($(CC) -print-file-name=libasan.so) \
	    ASAN_OPTIONS=detect_leaks=0:log_path=$(CURDIR)/build/asan-$(TAG)/report \
	    UBSAN_OPTIONS=print_stacktrace=1:log_path=$(CURDIR)/build/asan-$(TAG)/report PYTHONMALLOC=malloc)

debug: $(INSTALLED)
	$(call suite,debug,-O0 -g -UNDEBUG,PYTHONMALLOC=debug)

# What other systems get: select, a pipe in place of an eventfd, no accept4() (core/portable.h).
portable: $(INSTALLED)
	$(call suite,portable,-O1 -g -UNDEBUG -DHL_PORTABLE,)

# A build of its own, in which any call can be told to fail: see tests/faults/sweep.py.
FAULTS ?= each
.PHONY: faults
faults: $(INSTALLED)
	@echo "hotloop: building for faults"
	@rm -rf build/faults-$(TAG)/lib
	@CFLAGS="-O1 -g -UNDEBUG -DHL_FAULTS" $(BIN)/python setup.py -q build --build-base build/faults-$(TAG) \
	    --build-lib build/faults-$(TAG)/lib
	PYTHONPATH=$(CURDIR)/build/faults-$(TAG)/lib $(BIN)/python tests/faults/sweep.py --$(FAULTS) $(SWEEP)

# tools/free-threaded.sh builds a Python without a GIL once (ten minutes), and one with
# ThreadSanitizer, under which a test takes its time and every race is a line of the report.
# Without the runs on stock asyncio, whose own futures race there.
FT_SUPPRESS := $(CURDIR)/tests/threads/tsan.supp
TSAN_TESTS ?= tests/threads/test_many_threads.py tests/unit/test_threads.py \
    tests/unit/test_current_record.py
.PHONY: ft ft-bench tsan
ft:
	@$(MAKE) test PY=$$(tools/free-threaded.sh)

ft-bench:
	@python=$$(tools/free-threaded.sh) && $(MAKE) build PY=$$python && \
	    .venv-3.13t$(PLACE)/bin/python benchmarks/threads.py

# The plain free-threaded Python builds and installs: pip takes many minutes under
# ThreadSanitizer.  The other one has the same ABI, and runs the tests with what is installed there.
tsan:
	@plain=$$(tools/free-threaded.sh) && \
	    python=$$(HOTLOOP_FT=$${XDG_CACHE_HOME:-$$HOME/.cache}/hotloop-ft-tsan \
	    FT_CONFIGURE=--with-thread-sanitizer tools/free-threaded.sh) && \
	    $(MAKE) tsan-suite PY=$$plain TSAN_PYTHON=$$python

.PHONY: tsan-suite
tsan-suite: $(INSTALLED)
	@echo "hotloop: building for ThreadSanitizer"
	@rm -rf build/tsan-$(TAG)/lib build/tsan-$(TAG)/report*
	@CFLAGS="-O1 -g -fsanitize=thread" $(BIN)/python setup.py -q build --build-base build/tsan-$(TAG) \
	    --build-lib build/tsan-$(TAG)/lib
	TSAN_OPTIONS=history_size=7:suppressions=$(FT_SUPPRESS):exitcode=66:log_path=$(CURDIR)/build/tsan-$(TAG)/report \
	    PYTHONPATH=$(CURDIR)/build/tsan-$(TAG)/lib:$(CURDIR)/$(VENV)/lib/python3.13t/site-packages \
	    $(TSAN_PYTHON) -m pytest -q -p no:cacheprovider --backend epoll -k 'not asyncio' $(TSAN_TESTS) $(PYTEST) || \
	    { cat build/tsan-$(TAG)/report* 2>/dev/null; exit 1; }

# For a debug build of Python: PY=python3.14-dbg. Each test several times, so not all of them:
# make refleak REFLEAK="tests/unit tests/net tests/proc tests/tls" takes an hour.
REFLEAK ?= $(addprefix tests/unit/test_,future.py task.py handle.py timers.py eager.py contexts.py)
.PHONY: refleak
refleak: $(INSTALLED)
	PYTHONPATH=$(CURDIR)/tests/leaks $(BIN)/python -m pytest -q -p refleak -p no:cacheprovider \
	    --backend epoll $(REFLEAK) $(PYTEST)

.PHONY: conformance conformance-full regressions bench package wheel full clean
conformance conformance-full: $(INSTALLED)
	@$(BIN)/python tests/conformance/run.py --out build/conformance-$(TAG) \
	    $(patsubst conformance-%,--%,$(filter-out conformance,$@))

# What other loops got wrong: on asyncio and hotloop, or on the loop that LOOP= names (a package).
regressions: $(INSTALLED)
ifdef LOOP
	@$(PIP) install $(LOOP)
	@$(BIN)/python tests/regressions/run.py $(LOOP)
else
	$(BIN)/python -m pytest -q tests/regressions $(PYTEST)
endif

EXAMPLES ?= 10000
.PHONY: differential
differential: $(INSTALLED)
	HOTLOOP_EXAMPLES=$(EXAMPLES) $(BIN)/python -m pytest -q tests/differential -k generated $(PYTEST)

# libFuzzer comes with clang; atheris has wheels for some Pythons only, and fuzz_tls.py does without.
SECONDS ?= 60
.PHONY: fuzz soak
fuzz: $(INSTALLED)
	@$(PIP) install atheris || echo "hotloop: no atheris here: our own mutations for TLS"
	@$(BIN)/python tests/fuzz/run.py --seconds $(SECONDS) --build build/fuzz-$(TAG) $(TARGET)

MINUTES ?= 1
CONNECTIONS ?= 1000
soak: $(INSTALLED)
	@$(BIN)/python tests/soak/run.py --minutes $(MINUTES) --connections $(CONNECTIONS) \
	    --report build/soak-$(TAG).json

# ---- benchmarks ----------------------------------------------------------------------------

# In an environment of its own: an optimised build (by profile: HOTLOOP_PGO=1) and its peers.
#   make bench WORKLOADS="call_soon,tcp*" ROUNDS=9 ARMS=uvloop,hotloop    a part
#   make bench QUICK=1            scheduling, tasks and transports in about ten minutes
#   make bench-readme             all, into README.md and docs/benchmarks/
#   make bench-published          that on PY and on Python 3.14 (tools/next.sh)
#   make bench-check              the tests of the benchmarks
BENCH := $(VENV)-bench
BENCH_OUT := build/bench-$(TAG)
ifdef QUICK
WORKLOADS ?= scheduling,tasks,transports
ROUNDS ?= 3
REPEATS ?= 2
endif
BENCH_OPTIONS := $(if $(WORKLOADS),--rows "$(WORKLOADS)") $(if $(ROUNDS),--rounds $(ROUNDS)) \
    $(if $(REPEATS),--repeats $(REPEATS)) $(if $(ARMS),--arms "$(ARMS)") --json $(BENCH_OUT)/results.json

$(BENCH)/.ready: pyproject.toml benchmarks/install.py
	@$(need_compiler)
	@python=$$(tools/find-python $(PY)) && \
	    echo "hotloop: making $(BENCH) with $$("$$python" --version), loops and servers to compare with" && \
	    "$$python" -m venv $(BENCH)
	@$(BENCH)/bin/python -m pip -qq --disable-pip-version-check install --upgrade "setuptools>=77"
	@$(BENCH)/bin/python benchmarks/install.py
	@touch $@

$(BENCH)/.installed: $(BENCH)/.ready $(SOURCES)
	@echo "hotloop: building and installing into $(BENCH)"
	@rm -rf build/install-bench-$(TAG)/lib*
	@printf '[build]\nbuild_base = %s\n' build/install-bench-$(TAG) >$(BENCH)/build.cfg
	@DIST_EXTRA_CONFIG=$(CURDIR)/$(BENCH)/build.cfg $(BENCH)/bin/python -m pip -qq \
	    --disable-pip-version-check install --no-build-isolation -C--global-option=-q .
	@touch $@

.PHONY: bench-check bench-readme bench-published
# The tests of the benchmarks, here without one that is skipped.
bench-check: $(BENCH)/.installed
	@$(BENCH)/bin/python -m pip -qq --disable-pip-version-check install pytest hypothesis trustme
	$(BENCH)/bin/python -m pytest -q tests/tools/test_benchmarks.py $(PYTEST)

bench: $(BENCH)/.installed
	@$(BENCH)/bin/python benchmarks/compare.py $(BENCH_OPTIONS)
	@$(BENCH)/bin/python benchmarks/publish.py $(BENCH_OUT)/results.json --charts $(BENCH_OUT)

bench-readme: $(BENCH)/.installed
	@$(BENCH)/bin/python benchmarks/compare.py $(BENCH_OPTIONS)
	@$(BENCH)/bin/python benchmarks/publish.py $(BENCH_OUT)/results.json

bench-published: bench-readme
	@tools/next.sh run make bench-readme PY=python3.14 $(foreach name,WORKLOADS ROUNDS REPEATS ARMS,$(if $($(name)),$(name)="$($(name))"))

# Installed into a bare environment, without compiler or headers in reach, then the guide.
wheel: $(READY)
	@rm -rf build/wheel-$(TAG) && mkdir -p dist build/wheel-$(TAG)
	@HOTLOOP_PGO=1 $(PIP) wheel --no-build-isolation --no-deps -w build/wheel-$(TAG) .
	@$(BIN)/python tools/check-wheel.py build/wheel-$(TAG)/*.whl
	@cp build/wheel-$(TAG)/*.whl dist/

package: $(READY)
	@$(BIN)/python tools/check-package.py build/package-$(TAG)

full: test conformance-full integration doors dask debug asan lint docs package demo

clean:
	rm -rf build dist .venv .venv-* python/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
