"""The documentation says what is so: its code runs, its output is what is printed, its names exist."""

import importlib
import os
import pkgutil
import re
import shutil
import sqlite3
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
import typer

import cerebro
from cerebro import messages
from cerebro.cli import app

ROOT = Path(__file__).resolve().parent.parent.parent
QUICKSTART = ROOT / "examples" / "quickstart.py"
PAGES = [
    "README.md",
    *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
    "examples/posture/README.md",
    "examples/transfer_image/README.md",
    "examples/transfer_text/README.md",
]
OTHER_PAGES = [
    "CONTRIBUTING.md",
    *sorted(f"docs/decisions/{path.name}" for path in (ROOT / "docs/decisions").glob("*.md")),
]
SIGNATURES = "# Signatures only."
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PACKAGES = {module.name for module in pkgutil.iter_modules(cerebro.__path__)}
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # a group of commands


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    text: str


def read(page: str) -> str:
    return (ROOT / page).read_text()


def blocks(page: str) -> list[Block]:
    return [Block(language, text) for language, text in FENCE.findall(read(page))]


def inline_code(page: str) -> list[str]:
    """What stands between single backticks, outside of fenced blocks."""
    return [" ".join(text.split()) for text in re.findall(r"`([^`]+)`", FENCE.sub("", read(page)))]


def runnable(page: str) -> list[tuple[str, str | None]]:
    """The Python blocks of a page that run, each with the output that the page shows right after it."""
    return [
        (block.text, follower.text if follower.language == "text" else None)
        for block, follower in pairwise([*blocks(page), Block("", "")])
        if block.language == "python" and not block.text.startswith(SIGNATURES)
    ]


def python(folder: Path, *arguments: str) -> str:
    """What a Python program prints that is run in `folder`."""
    environment = {name: value for name, value in os.environ.items() if name != "CEREBRO_STORE"}
    environment |= {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder in which the quickstart was run, and what it printed."""
    folder = tmp_path_factory.mktemp("quickstart")
    return folder, python(folder, str(QUICKSTART))


@pytest.fixture
def catalog(quickstart: tuple[Path, str]) -> Iterator[sqlite3.Connection]:
    file = quickstart[0] / "cerebro.d" / "spirals" / "catalog.sqlite"
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
        yield connection


def shape(output: str) -> list[str]:
    """The lines of an output without what depends on the machine: measured numbers and what follows from them, workers,
    and the order of models.

    Bits depend on the CPU's features, so that even metrics and the winner may differ from those on a page.
    """
    output = re.sub(r"\bm\d{3}\b", "MODEL", output)
    output = re.sub(r"Fuse ( +\d+ × )", r"Train\1", output)  # whether it pays is for the pilot to find
    output = re.sub(r"one pass for \d+, [\d.]+ × as fast +", "", output)
    output = re.sub(r"\d[\d,.]* (?:h \d+ min|min \d+ s|ms|s|B|KiB|MiB|GiB)\b", "#", output)
    output = re.sub(r"\d[\d,]*\.\d+(?:e-?\d+)?|\d+e-?\d+", "#", output)
    output = re.sub(r"^ *\d+ +MODEL", "MODEL", output, flags=re.MULTILINE)
    output = re.sub(r"\d+ local workers?", "# local workers", output)
    return sorted(filter(None, (re.sub(r"[ ─]+", " ", line).strip() for line in output.splitlines())))


def test_the_quickstart_is_short():
    assert len(QUICKSTART.read_text().splitlines()) <= 40


def test_the_readme_shows_the_quickstart():
    assert [block.text for block in blocks("README.md") if block.language == "python"] == [QUICKSTART.read_text()]


def test_the_readme_shows_what_the_quickstart_prints(quickstart):
    ((_, shown),) = runnable("README.md")
    assert shown is not None
    assert shape(shown) == shape(quickstart[1])


def test_two_outputs_that_differ_in_more_than_numbers_have_different_shapes():
    assert shape("1 × MLP   4.1 ms\n 2   m001  0.5") == shape("1   m002  0.7\n1 × MLP   1 min 02 s")
    assert shape("1 × MLP") != shape("2 × MLP")


@pytest.mark.parametrize("page", [page for page in PAGES if page != "README.md" and runnable(page)])
def test_the_code_of_a_page_runs_and_prints_what_the_page_says(page, quickstart, tmp_path):
    folder = Path(shutil.copytree(quickstart[0], tmp_path / "quickstart"))
    separator, parts = "=" * 20, runnable(page)
    program = folder / "page.py"
    program.write_text(f"\nprint({separator!r})\n".join(code for code, _ in parts))
    printed = python(folder, str(program)).split(f"{separator}\n")
    assert [(text or "").strip() for text in printed] == [(shown or "").strip() for _, shown in parts]


def test_code_that_only_shows_signatures_has_the_names_of_the_engine():
    from cerebro.execution.engine import Engine

    (text,) = [b.text for b in blocks("docs/extending.md") if b.text.startswith(SIGNATURES)]
    assert set(re.findall(r"def (\w+)", text)) == Engine.__abstractmethods__


def statements(text: str) -> list[str]:
    return [part for part in re.sub(r"--.*", "", text).split(";") if part.strip()]


SQL = [sql for block in blocks("docs/catalog.md") if block.language == "sql" for sql in statements(block.text)]


@pytest.mark.parametrize("sql", SQL, ids=range(len(SQL)))
def test_a_query_of_the_catalog_page_gives_rows(sql, catalog):
    assert catalog.execute(sql).fetchall()


def test_the_catalog_page_lists_every_table_and_column(catalog):
    tables = [row[0] for row in catalog.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    expected = {table: {row[1] for row in catalog.execute(f"PRAGMA table_info({table})")} for table in tables}
    sections = re.split(r"^## ", read("docs/catalog.md"), flags=re.MULTILINE)[1:]
    found = {section.split("\n")[0]: columns_of(section) for section in sections}
    assert found == expected


def columns_of(section: str) -> set[str]:
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}


def shown_commands(page: str) -> list[str]:
    """The `cerebro ...` commands of a page: in backticks, or lines of blocks."""
    lines = [line for block in blocks(page) if block.language in ("", "sh") for line in block.text.splitlines()]
    return [text.strip() for text in [*inline_code(page), *lines] if re.match(r"\s*cerebro [a-z]", text)]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_exists(page):
    unknown = [command for command in shown_commands(page) if not is_accepted(command)]
    assert unknown == []


def is_accepted(text: str) -> bool:
    """Whether the command line has this command with these options; a command may be shown by its name alone."""
    name, *words = text.partition("#")[0].replace("[", "").replace("]", "").split()[1:]
    if name not in COMMANDS:
        return False
    options = {option: each for each in COMMANDS[name].params for option in each.opts if option.startswith("--")}
    arguments = [each for each in COMMANDS[name].params if each.param_type_name == "argument"]
    values = [word for word in words if word != "..."]
    positional = 0
    while values:
        word = values.pop(0)
        if not word.startswith("--"):
            positional += 1
        elif word not in options:
            return False
        elif not options[word].is_flag:
            values = values[1:]
    required = sum(each.required for each in arguments)
    return required <= positional <= len(arguments) or not words or "..." in words


def test_an_option_that_is_not_there_is_noticed():
    assert is_accepted("cerebro run FILE --workers 2")
    assert not is_accepted("cerebro run FILE --worker 2")
    assert not is_accepted("cerebro run --workers 2")
    assert not is_accepted("cerebro start NAME")


@pytest.mark.parametrize("page", [*PAGES, *OTHER_PAGES])
def test_every_path_of_a_page_exists(page):
    folders = "cerebro|docs|examples|tests|benches"
    paths = [text for text in inline_code(page) if re.fullmatch(rf"({folders})/[\w./-]*", text)]
    links = re.findall(r"\]\(([^)#:]+)\)", FENCE.sub("", read(page)))
    missing = [path for path in paths if not (ROOT / path).exists()]
    missing += [link for link in links if not ((ROOT / page).parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES)
def test_every_name_in_the_code_of_a_page_is_found(page):
    dotted = [text.removesuffix("()").removeprefix("cerebro.") for text in inline_code(page)]
    names = [text for text in dotted if re.fullmatch(r"\w+(\.\w+)+", text) and text.split(".")[0] in PACKAGES]
    assert [name for name in names if not resolves(name)] == []


def resolves(name: str) -> bool:
    parts = ["cerebro", *name.split(".")]
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            found = getattr(found, part, None)
        return found is not None
    return False


@pytest.mark.parametrize("page", PAGES)
def test_a_page_uses_one_word_for_one_idea(page):
    assert re.findall(r"\b(?:trial|job|manager|helper|util)s?\b", read(page), re.IGNORECASE) == []


def test_the_life_of_an_experiment_names_its_functions():
    names = [text for text in inline_code("docs/life-of-an-experiment.md") if resolves(text)]
    assert len(names) > 50
    assert not resolves("session.run.Run.begin")


def test_the_architecture_page_has_the_layers_of_the_import_check():
    contracts = tomllib.loads(read("pyproject.toml"))["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["id"] == "layers"]
    rows = [sorted(re.findall(r"\w+", layer)) for layer in layers]
    shown = blocks("docs/architecture.md")[0].text.splitlines()
    assert [sorted(re.findall(r"\w+", row)) for row in shown] == rows


def test_the_architecture_page_names_every_message():
    assert {kind.__name__ for kind in messages._KINDS.values()} - set(inline_code("docs/architecture.md")) == set()


def test_the_map_of_the_readme_is_the_package_as_it_is():
    (tree,) = [block.text for block in blocks("README.md") if block.text.startswith("cerebro/")]
    shown = {line.split()[0].rstrip("/") for line in tree.splitlines() if line.startswith("  ")}
    package = {path.name for path in (ROOT / "cerebro").iterdir()} - {"__pycache__", "py.typed"}
    assert shown == package
    assert [line for line in tree.splitlines() if not (ROOT / line.split()[0]).is_dir() and line[0] != " "] == []
