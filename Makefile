# make book    install, execute every chapter, render the site
# make test    install, run every check
# make help    all the rest

PYTHON ?= python3
VENV ?= .venv
PORT ?= 8000
PRESET ?= ci
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed

export OMP_NUM_THREADS := 1
export POSTTRAIN_OFFLINE := 1
# Notebooks run in other folders, so a relative path would lead nowhere.
ifdef POSTTRAIN_DATA
export POSTTRAIN_DATA := $(abspath $(POSTTRAIN_DATA))
endif

.PHONY: help install book test serve grade measure artifacts format graders \
	colab lock repository clean

help:
	@echo 'make book       install, execute every ready notebook, render the site'
	@echo 'make test       install, run every check'
	@echo 'make serve      the rendered site on http://127.0.0.1:$(PORT)  [PORT=8000]'
	@echo 'make grade      mark submitted/STUDENT/EXERCISE/EXERCISE.ipynb; goes on'
	@echo '                where it was cut off  [OPTIONS="--workers 8"]'
	@echo 'make format     write notebooks, exercises and code as Git wants them'
	@echo 'make graders    test the graders and keep their scores  [SLUG=attention]'
	@echo 'make measure    measure experiments over 3 seeds  [SLUG=attention PRESET=cpu],'
	@echo '                or the grader itself  [SLUG=grading]'
	@echo 'make artifacts  build what several chapters start from  [PRESET=ci]'
	@echo 'make colab      run every notebook beside the versions that Colab has'
	@echo '                [PYTHON=python3.12, as there]'
	@echo 'make repository URL=https://github.com/OWNER/NAME   move to another address'
	@echo 'make lock       freeze the versions of this environment into constraints.txt'
	@echo 'make clean      remove build/ (not the environment)'
	@echo 'Data: POSTTRAIN_DATA=FOLDER uses the corpora in that folder.'

install: $(INSTALLED)

$(INSTALLED): requirements.txt requirements-nodeps.txt constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo '$(PYTHON) is older than Python 3.11. Use: make PYTHON=python3.12 ...'; \
	  exit 1; }
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	@echo 'Installing requirements.txt (some minutes the first time) ...'
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-nodeps.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

book: install
	$(RUN) -m ci.book

test: install
	$(RUN) -m ci.verify

serve: install
	$(RUN) -m ci.serve --port $(PORT)

grade: install
	$(RUN) -m grading $(OPTIONS)

format: install
	$(RUN) -m ruff check --quiet --fix .
	$(RUN) -m ruff format --quiet .
	$(RUN) -m ci.format
	$(RUN) -m ci.exercises

graders: install
	$(RUN) -m ci.graders $(SLUG) --write
	$(RUN) -m ci.format

measure: export POSTTRAIN_OFFLINE := 0
measure: install
	$(if $(filter grading,$(SLUG)),$(RUN) -m ci.grading_throughput,$(RUN) -m ci.measure $(SLUG) $(if $(SLUG),$(if $(filter command line,$(origin PRESET)),$(PRESET))))

artifacts: install
	$(RUN) -m ci.artifacts --preset $(PRESET)

# Its own environment, and the library as the set-up cell installs it: not editable.
COLAB := build/colab
NOTEBOOKS = $(wildcard book/*/*.ipynb solutions/*/*.ipynb)

colab:
	@test -x $(COLAB)/venv/bin/python || $(PYTHON) -m venv $(COLAB)/venv
	$(COLAB)/venv/bin/python -m pip install --quiet -r ci/colab.txt
	$(COLAB)/venv/bin/python -m pip install --quiet --no-deps --force-reinstall .
	@failed=; for file in $(NOTEBOOKS); do \
	  echo $$file; \
	  PYDEVD_DISABLE_FILE_VALIDATION=1 $(COLAB)/venv/bin/python -m ci.run_notebook $$file $(COLAB)/$$file \
	    --preset $(PRESET) || failed="$$failed $$file"; \
	done; test -z "$$failed" || { echo "failed:$$failed"; exit 1; }

lock: install
	$(RUN) -m ci.lock

repository: install
	$(RUN) -m ci.repository $(URL)

clean:
	rm -rf build
