"""What must hold for the project as a whole: cheap imports, clean files, an install without surprises."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

import cerebro

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MODULES = sorted((ROOT / "cerebro").rglob("*.py"))
FOLDERS = ("cerebro", "tests", "benches", "examples", "docs", ".ci")
SUFFIXES = {"", ".cff", ".css", ".html", ".js", ".json", ".md", ".py", ".toml", ".txt"}
HEAVY = {"duckdb", "numpy", "pandas", "pyarrow", "pydantic", "ray", "rich", "safetensors", "torch", "typer"}


def texts() -> list[Path]:
    """Every file that people wrote: those at the root and those in the folders of the project."""
    found = [path for path in ROOT.iterdir() if path.is_file() and path.name != ".git"]
    for folder in FOLDERS:
        found += (path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return sorted(path for path in found if path.suffix in SUFFIXES)


def modules_after(statement: str) -> set[str]:
    """The top-level modules in a fresh interpreter after `statement`."""
    code = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_cerebro_loads_nothing_heavy():
    assert modules_after("import cerebro") & HEAVY == set()


@pytest.mark.parametrize("name", ["Grid", "Learner", "choice", "uniform", "loguniform", "randint", "SpecError"])
def test_declaring_an_experiment_loads_nothing_heavy(name: str):
    assert modules_after(f"import cerebro; cerebro.{name}") & HEAVY == set()


def test_every_public_name_is_there():
    assert [name for name in cerebro.__all__ if getattr(cerebro, name, None) is None] == []


def test_a_public_name_is_found_before_it_is_loaded():
    assert set(cerebro.__all__) <= set(dir(cerebro))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Experimant'"):
        _ = cerebro.Experimant


def test_the_version_is_the_one_in_pyproject():
    try:
        installed = version("cerebro-select")
    except PackageNotFoundError:
        pytest.skip("cerebro-select is not installed here")
    assert cerebro.__version__ == installed == PYPROJECT["project"]["version"]


def test_every_folder_of_modules_is_a_package():
    """Without an `__init__.py` a folder is left out by the check of the layers."""
    assert [str(path.parent) for path in MODULES if not (path.parent / "__init__.py").exists()] == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_can_be_read_in_one_sitting(path: Path):
    assert len(path.read_text().splitlines()) < 500


def test_no_file_mentions_a_path_of_one_machine():
    machine_path = re.compile(r"(?<![\w.~])/(root|home|work|opt|mnt|Users)/")
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in texts()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if machine_path.search(line)
    ]
    assert found == []


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt", "Makefile"])
def test_packages_come_from_wherever_pip_is_told_to_look(name: str):
    """An index, a link or a local version here would force one build of torch on everybody."""
    text = (ROOT / name).read_text()
    assert re.findall(r"index-url|find-links|pytorch\.org|file:|://| @ |\+(?:cpu|cu\d)", text) == []


def test_every_direct_dependency_has_a_tested_version():
    def canonical(requirement: str) -> str:
        name = re.match(r"[\w.-]+", requirement)
        assert name is not None
        return re.sub(r"[-_.]+", "-", name[0]).lower()

    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {canonical(line) for line in lines if re.fullmatch(r"[\w.-]+==[\w.]+", line)}
    asked = [*PYPROJECT["project"]["dependencies"], *PYPROJECT["dependency-groups"]["dev"]]
    assert {canonical(requirement) for requirement in asked} - pinned == set()
