# `make help` lists every target. All of them make the virtual environment and the build they need, once.
PYTHON ?= python3
VENV ?= .venv
# Exact versions of everything; `make lock` makes them anew.
LOCKED := -c constraints.txt
# What the lock holds torch to: its CUDA is that of the toolkits people have, 13.0.
LOCK_TORCH ?= torch==2.14.1 torchvision==0.29.1
ABI_TORCH ?= torch==2.13.0
# Without an NVIDIA driver the CUDA kernels could not run: do not spend minutes on compiling them. `make cuda` does.
FORCE_CUDA ?= $(if $(shell command -v nvidia-smi),,0)
export FORCE_CUDA
BIN := $(VENV)/bin

BUILD_TOOLS := setuptools wheel ninja numpy pybind11 cmake
SITE := mkdocs mkdocs-material nbclient ipykernel
RIVALS := faiss-cpu pykeops torch_geometric
EXTRAS := embedded open-clip generative assembled data serve export test
# What reaches into other libraries: see docs/compatibility.md.
VERSION_TESTS := tests/backbones tests/adapters/test_lora.py tests/generative tests/ops tests/test_doors.py
# A process a core; more than eight would spend their time on importing torch.
PYTEST := -m pytest --numprocesses auto --maxprocesses 8
# Of the raw kernels; the large ones address more memory than a sanitizer has shadows for.
SANITIZED := $(addprefix tests/kernels/test_,cache_retrieval.py hetero_aggregate.py p_laplacian.py)
EMPTY :=
SPACE := $(EMPTY) $(EMPTY)
COMMA := ,
NATIVE := setup.py build_support.py pyproject.toml $(shell find csrc -type f)
# Only `make gpu` asks: a borrowed machine has torch and nvcc, or the libraries carried there, and nothing to install from.
HAS_TORCH = $(shell $(PYTHON) -c 'import importlib.util as u, glob, shutil; \
    print("yes" * bool(u.find_spec("torch") and (shutil.which("nvcc") or glob.glob("vlmadapt/_cuda*.so"))))' 2>/dev/null)

# The shortest of the runs in docs/tuning.md.
TUNE_METHODS := frozen,full,bitfit,bottleneck,lora,p-adapter,p-adapter-p2,p-adapter-released,p-adapter-paper
TUNE_SIZES := --epochs 4 --batch-size 32 --train-limit 512 --val-limit 200 --test-limit 600

.DEFAULT_GOAL := help

help: ## list the targets
	@grep -hE '^[a-z][a-z-]*:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1|/' | column -t -s '|'

setup: $(VENV)/.built ## virtual environment, dependencies and compiled operators

$(VENV)/.packages: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(LOCKED) torch torchvision
	$(BIN)/python -m pip install --quiet $(LOCKED) $(BUILD_TOOLS)
	touch $@

$(VENV)/.built: $(VENV)/.packages $(NATIVE)
	$(BIN)/python -m pip install --quiet $(LOCKED) --no-build-isolation --editable '.[$(subst $(SPACE),$(COMMA),$(EXTRAS))]'
	touch $@

cuda: $(VENV)/.packages ## compile the CUDA library too (needs nvcc, no GPU)
	FORCE_CUDA=1 $(BIN)/python -m pip install --quiet --no-build-isolation --no-deps --editable .
	$(BIN)/python -m vlmadapt doctor

demo: setup ## few-shot adapters on real pictures: table, curve, saved classifier
	$(BIN)/python -m vlmadapt demo

tune-demo: setup ## generative tasks: a small model from scratch, adapted by every method: table, picture
	$(BIN)/python -m vlmadapt tune --task vqa --method $(TUNE_METHODS) $(TUNE_SIZES) --out runs/tune-demo

results: setup ## docs/results.md: all adapters on four data sets, and ablations; REAL=FOLDER: real CLIP features too; ESTIMATE=1: hours only
	$(BIN)/python scripts/make_results.py $(if $(REAL),--real "$(REAL)") $(if $(SEEDS),--seeds $(SEEDS)) $(if $(ESTIMATE),--estimate)

real-size: setup ## the p-adapter on BLIP base, random weights: a step and a beam search within 6 GB
	$(BIN)/python scripts/real_size_blip.py

test: setup kernels-module ## every test that needs no second torch
	OMP_NUM_THREADS=1 $(BIN)/python $(PYTEST)
	@if [ -x build/cmake/unit_tests ]; then build/cmake/unit_tests --gtest_brief=1; fi

kernels-module: setup ## C++ unit tests and the NumPy module of the raw kernels (CMake)
	PATH="$(abspath $(BIN)):$$PATH" cmake -S . -B build/cmake -G Ninja -DPython_EXECUTABLE=$(abspath $(BIN))/python >build-cmake.log 2>&1 || { cat build-cmake.log; exit 1; }
	@grep -E 'not found:' build-cmake.log || true
	@rm -f build-cmake.log
	PATH="$(abspath $(BIN)):$$PATH" cmake --build build/cmake

# Fewer of all floats than `make test` takes, for instrumented code is slow; leaks are Python's own, which keeps what
# it has allocated until it exits. What a sanitizer says before it ends the process is not to be captured.
sanitize: setup ## CPU kernels under the sanitizers of addresses, undefined behaviour and threads (docs/fuzzing.md)
	$(call sanitized,address,address$(COMMA)undefined,$(BIN)/python)
	$(call sanitized,thread,thread,setarch -R $(BIN)/python)

define sanitized
	PATH="$(abspath $(BIN)):$$PATH" cmake -S . -B build/$(1) -G Ninja -DCMAKE_BUILD_TYPE=None -DVLMADAPT_SANITIZE=$(2) \
	    -DPython_EXECUTABLE=$(abspath $(BIN))/python >/dev/null
	PATH="$(abspath $(BIN)):$$PATH" cmake --build build/$(1)
	if [ -x build/$(1)/unit_tests ]; then VLMADAPT_SIMD_STRIDE=100003 build/$(1)/unit_tests --gtest_brief=1; fi
	VLMADAPT_KERNELS=build/$(1) ASAN_OPTIONS=detect_leaks=0 OPENBLAS_NUM_THREADS=1 PYTHONMALLOC=malloc \
	    LD_PRELOAD="$$($(CXX) -print-file-name=lib$(subst address,a,$(subst thread,t,$(1)))san.so)" \
	    $(3) -m pytest --noconftest -p no:cacheprovider --capture=sys $(SANITIZED)
endef

torture: setup ## kill every command at random and fail its disk, a hundred times and more each (docs/torture.md); half an hour
	OMP_NUM_THREADS=1 $(BIN)/python -m scripts.torture

robustness: setup ## docs/robustness.md: hard cases through vlmadapt and its peers (PEERS="--peer NAME=FOLDER ...")
	$(BIN)/python -m scripts.robustness $(PEERS)

MINUTES ?= 10
fuzz: setup ## random calls of operators and damaged files for MINUTES, 10 by default (docs/fuzzing.md)
	$(BIN)/python -m scripts.fuzz --minutes $(MINUTES)

$(VENV)-abi/.packages: pyproject.toml constraints.txt
	test -x $(VENV)-abi/bin/python || $(PYTHON) -m venv $(VENV)-abi
	grep -vE '^(torch|triton|nvidia-|cuda-)' constraints.txt > $(VENV)-abi/constraints.txt
	$(VENV)-abi/bin/python -m pip install --quiet -c $(VENV)-abi/constraints.txt $(ABI_TORCH)
	$(VENV)-abi/bin/python -m pip install --quiet -c $(VENV)-abi/constraints.txt numpy safetensors tqdm pytest pytest-benchmark pytest-timeout pytest-xdist hypothesis
	touch $@

test-abi: setup $(VENV)-abi/.packages ## the same built library under another torch: operator tests
	$(VENV)-abi/bin/python -c "import torch, vlmadapt.ops as ops; print('torch', torch.__version__, ops.build_info())"
	OMP_NUM_THREADS=2 $(VENV)-abi/bin/python $(PYTEST) tests/ops

test-latest: ## newest version of everything: tests of backbones, generative models and operators
	$(call test-versions,latest,highest)

test-oldest: ## oldest version of every direct dependency: the same tests
	$(call test-versions,oldest,lowest-direct)

# Without upper bounds, to see what is beyond them, and without the data extra, whose packages ask for newer ones than we
# do. A tree and an environment of their own, so that what setup built stays as it is.
define test-versions
	test -x $(VENV)-$(1)/bin/uv || { $(PYTHON) -m venv $(VENV)-$(1) && $(VENV)-$(1)/bin/python -m pip install --quiet uv; }
	rm -rf build/$(1) && mkdir -p build/$(1)/ranges
	sed -E 's/,<[0-9.]+//g' pyproject.toml > build/$(1)/ranges/pyproject.toml
	$(VENV)-$(1)/bin/uv pip install --quiet --python $(VENV)-$(1)/bin/python --upgrade --resolution $(2) \
	    -r build/$(1)/ranges/pyproject.toml $(addprefix --extra ,$(filter-out data,$(EXTRAS)) build)
	git ls-files -z | tar --create --null --files-from=- | tar --extract --directory=build/$(1)
	cd build/$(1) && $(abspath $(VENV))-$(1)/bin/python setup.py -q build_ext --inplace
	cd build/$(1) && $(abspath $(VENV))-$(1)/bin/python -m scripts.versions
	cd build/$(1) && $(abspath $(VENV))-$(1)/bin/python $(PYTEST) $(VERSION_TESTS)
endef

test-headers: ## the bindings against the headers and symbols of torch 2.11 and 2.12 (fetches their wheels, 1 GB)
	$(PYTHON) scripts/old_torch.py 2.11.0
	$(PYTHON) scripts/old_torch.py 2.12.1

lock: ## constraints.txt: the newest versions of everything, exact, for Python 3.11 to 3.13
	$(PYTHON) -m venv build/lock && build/lock/bin/python -m pip install --quiet uv
	printf '%s\n' $(LOCK_TORCH) | build/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --all-extras \
	    --upgrade --no-annotate --custom-compile-command 'make lock' --output-file constraints.txt - pyproject.toml

test-cuda-quick: setup ## CUDA kernels on the CPU: beyond `make test`, planted bugs, sanitizers, some PTX
	OMP_NUM_THREADS=1 $(BIN)/python $(PYTEST) tests/cuda_on_cpu --cuda-quick

test-cuda: setup ## CUDA kernels on the CPU: every route, build and schedule
	OMP_NUM_THREADS=1 $(BIN)/python $(PYTEST) tests/cuda_on_cpu --cuda-full

$(VENV)/.rivals: $(VENV)/.packages
	$(BIN)/python -m pip install --quiet $(LOCKED) $(RIVALS)
	touch $@

bench: setup $(VENV)/.rivals build/benchmarks.json ## race the operators against their rivals: docs/benchmarks.md, this processor's file
	$(BIN)/python -m benchmarks.machines build/benchmarks.json
	$(BIN)/python -m benchmarks.page build/benchmarks.json docs/benchmarks.md
	$(BIN)/python -m benchmarks.claims README.md

bench-check: setup build/benchmarks.json ## have the kernels lost speed against their rivals?
	$(BIN)/python -m benchmarks.check build/benchmarks.json

build/benchmarks.json: FORCE
	mkdir -p build
	$(BIN)/python -m pytest benchmarks --benchmark-enable --benchmark-only --benchmark-json=$@ --benchmark-columns=min,median,iqr,rounds

BUDGET ?= 540
gpu: ## all that needs a GPU, within BUDGET seconds (540): tests, sanitizer, races (says so where there is none)
	$(if $(HAS_TORCH),,$(MAKE) setup)
	$(if $(HAS_TORCH),$(PYTHON),$(BIN)/python) -m benchmarks.borrowed --out build/gpu --budget $(BUDGET)

gpu-dry: setup ## the same without a GPU: small shapes on the CPU, CUDA kernels on their emulation
	$(BIN)/python -m benchmarks.borrowed --out build/gpu-dry --budget 1800 --dry-run

# The source, and the wheel from the source.
wheel: setup ## dist/: source and wheel, tried in an environment of their own, where the demo runs
	$(BIN)/python -m scripts.release check $(if $(TAG),--tag $(TAG))
	$(BIN)/python -m pip install --quiet build
	rm -rf dist
	$(BIN)/python -m build --no-isolation --skip-dependency-check >build/wheel.log 2>&1 || { tail -30 build/wheel.log; exit 1; }
	$(BIN)/python -m scripts.release try dist

$(VENV)/.site: $(VENV)/.packages
	$(BIN)/python -m pip install --quiet $(LOCKED) $(SITE)
	touch $@

site: setup $(VENV)/.site ## build/site: the documentation as pages that need no network; REPORT=report.html of a run: that too
	NO_MKDOCS_2_WARNING=1 REPORT="$(REPORT)" $(BIN)/python -m mkdocs build --strict

ARCH ?= sm_90
gpu-route: $(VENV)/.packages ## build/gpu_route.so: the kernels' cases for a GPU of architecture ARCH (sm_90), without torch
	$(BIN)/python -m tests.cuda_on_cpu.gpu_route --arch $(ARCH)

$(VENV)/.dev: $(VENV)/.packages
	$(BIN)/python -m pip install --quiet $(LOCKED) ruff mypy clang-format resvg-py
	touch $@

lint: setup $(VENV)/.dev ## ruff, mypy, clang-format
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $$(find csrc tests -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

clean: ## remove builds, keep the virtual environments
	rm -rf build dist *.egg-info vlmadapt/*.so $(VENV)/.built

FORCE:

.PHONY: FORCE help setup cuda demo results tune-demo real-size test kernels-module sanitize robustness torture fuzz test-abi test-latest test-oldest test-headers lock test-cuda-quick test-cuda bench bench-check gpu gpu-dry gpu-route wheel site lint clean
