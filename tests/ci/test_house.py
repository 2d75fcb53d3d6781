"""The house itself: pins, commands, workflows."""

import re
import subprocess
import tomllib

import pytest
import yaml

from ci import book, lock, measure, syllabus, verify


@pytest.fixture
def makefile(root):
    return (root / "Makefile").read_text()


@pytest.mark.parametrize("name", lock.DIRECT)
def test_every_direct_need_is_pinned_exactly(root, name):
    for line in (root / name).read_text().splitlines():
        if line and not line.startswith(("#", "-c")):
            assert re.fullmatch(r"[\w.-]+==[\w.]+", line), line


def test_constraints_hold_the_rest_and_leave_torch_alone(root):
    lines = (root / "constraints.txt").read_text().splitlines()[1:]
    direct = lock.direct_names()
    assert len(lines) > 100
    for line in lines:
        assert "==" in line, line
        assert lock._name(line) not in direct, line
        assert not lock.LEFT_OUT.match(line), line


def test_the_lock_is_what_is_installed(root):
    assert lock.frozen() == (root / "constraints.txt").read_text()


def test_the_library_leaves_torch_to_the_machine(root):
    text = (root / "pyproject.toml").read_text()
    assert '"torch",' in text
    assert "==" not in text.split("[tool.", 1)[0]


def test_the_wheel_holds_every_package(root):
    """A package that is not listed is there in a clone, and missing on Colab."""
    listed = tomllib.loads((root / "pyproject.toml").read_text())
    files = [
        *root.glob("posttrain/**/__init__.py"),
        *root.glob("grading/**/__init__.py"),
    ]
    here = {".".join(path.parent.relative_to(root).parts) for path in files}
    files = [*root.glob("kernels/**/__init__.py")]
    here |= {".".join(path.parent.relative_to(root).parts[1:]) for path in files}
    assert here | {"posttrain_results"} == set(listed["tool"]["setuptools"]["packages"])


def test_help_names_every_target(makefile):
    phony = re.search(r"\.PHONY: (.*?)\n\n", makefile, re.DOTALL).group(1)
    named = set(re.findall(r"@echo 'make (\w+)", makefile))
    assert named | {"help", "install"} == set(phony.replace("\\", " ").split())


def test_the_readme_names_only_commands_that_exist(root, makefile):
    used = set(re.findall(r"\bmake (\w+)", (root / "README.md").read_text()))
    known = set(re.findall(r"(?m)^(\w+):", makefile))
    assert {"book", "test", "serve", "grade"} <= used <= known


def test_ci_runs_both_commands(root):
    script = (root / ".ci/run").read_text()
    assert "\nmake book\n" in script
    assert "\nmake test\n" in script
    subprocess.run(["bash", "-n", root / ".ci/run"], check=True)


@pytest.mark.parametrize("name", ["test", "publish"])
def test_workflows_are_valid_and_call_the_same_commands(root, name):
    flow = yaml.safe_load((root / f".github/workflows/{name}.yml").read_text())
    steps = [step for job in flow["jobs"].values() for step in job["steps"]]
    runs = [step["run"] for step in steps if "run" in step]
    assert runs == {"test": ["bash .ci/run"], "publish": ["make book"]}[name]


def test_hooks_call_what_is_there(root):
    config = yaml.safe_load((root / ".pre-commit-config.yaml").read_text())
    for hook in config["repos"][0]["hooks"]:
        module = hook["entry"].split(" -m ")[1].split()[0]
        assert module == "ruff" or (root / f"{module.replace('.', '/')}.py").exists()


def test_the_book_runs_chapters_guides_and_solutions():
    jobs = book.jobs(syllabus.load())
    paths = {job.path.as_posix(): job.stage for job in jobs}
    assert paths["book/foundations/attention.ipynb"] == "chapter"
    assert paths["solutions/attention/attention.ipynb"] == "solution"
    assert paths["book/guides/grading.ipynb"] == "chapter"


def test_every_ready_experiment_was_measured_as_it_stands():
    for topic in syllabus.load().topics.values():
        if topic.ready:
            assert measure.check(topic.slug) == []


def test_every_step_of_make_test_goes_on_after_a_failure(monkeypatch, capsys):
    steps = (
        verify.Step("breaks", ("this_module_is_not_there",)),
        verify.Step("works", ("this",)),
    )
    monkeypatch.setattr(verify, "STEPS", steps)
    assert verify.main() == 1
    said = capsys.readouterr().out
    assert "[2/2] works" in said
    assert "FAILED: breaks (python -m this_module_is_not_there)" in said
