"""The documents name nothing that is not there: no link, file, command, option, preset or import."""

import ast
import contextlib
import importlib
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from document_text import (
    PAGES,
    READ_BY_USERS,
    ROOT,
    broken_links,
    fences,
    inline_commands,
    is_there,
    named_files,
    shell_lines,
)

from cli import main
from optimizer.commands.arguments import layer_ids, policy_names
from optimizer.domain.hardware import Hardware
from optimizer.domain.presets import load_deployment, load_model
from optimizer.errors import InputError

ELSEWHERE = {"docs/legacy.md"}
"""Files of other projects, which the documents name as sources."""

KNOWN_PROGRAMS = ("curl", "ruff", "mypy", "git")
"""Programs of others that the documents may call; their options are not checked here."""

COMPUTED = [page for page in READ_BY_USERS if page.name.endswith("-op.md") or page.name == "concepts.md"]
"""Pages whose Python is run, and whose figures are what it prints. Other tests run `runtime.md` and `example.py`."""


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture(scope="module")
def files() -> set[str]:
    """All files of the project, by their paths from its folder."""
    tops = ("docs", "benchmarks", "tests", "optimizer", "formulations")
    return {str(path.relative_to(ROOT)) for top in tops for path in (ROOT / top).rglob("*") if path.is_file()}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_and_every_file_that_is_named_is_there(page: Path, files: set[str]) -> None:
    text = page.read_text()
    assert broken_links(page, text) == []
    assert [name for name in sorted(named_files(text) - ELSEWHERE) if not is_there(name, files)] == []


def parsed(words: list[str], all_needed: bool = True) -> dict[str, object]:
    """The values that the real command line reads from a command, which is not run.

    Raises click.UsageError for a command or option that there is not, and where a value is of the wrong kind or, with
    all_needed, one is missing.
    """
    program, name, *arguments = words
    assert program.endswith("moeplan"), words
    command = main.commands.get(name)
    if command is None:
        raise click.UsageError(f"no command {name}")
    context = click.Context(main, info_name="moeplan")
    try:
        return command.make_context(name, arguments, parent=context).params
    except click.MissingParameter:
        if all_needed:
            raise
        return {}


def check_names(values: dict[str, object]) -> None:
    """Let the functions that read options look at layers, policies and presets: they raise for unknown ones."""
    checks: dict[str, Callable[[str], object]] = {
        "hardware": Hardware.of,
        "deployment": load_deployment,
        "layer": layer_ids,
        "routing": policy_names,
        "model": load_model,
    }
    for name, check in checks.items():
        given = values.get(name)
        if isinstance(given, str) and given != "auto" and not re.search(r"/|\.toml$", given):  # the reader's own files
            check(given)


@pytest.mark.parametrize("page", READ_BY_USERS, ids=name_of)
def test_every_command_in_a_block_is_one_of_the_command_line(page: Path) -> None:
    for words in shell_lines(page.read_text()):
        program = words[0].removeprefix(".venv/bin/")
        if program == "moeplan":
            check_names(parsed(words))
        elif program.startswith("python"):
            assert words[1] == "-m" or (ROOT / words[1]).is_file(), words
        else:
            assert program in (*KNOWN_PROGRAMS, "pip", "pytest"), words


@pytest.mark.parametrize("page", [*READ_BY_USERS, ROOT / "benchmarks" / "README.md"], ids=name_of)
def test_every_command_in_a_sentence_is_one_of_the_command_line(page: Path) -> None:
    """Such ones may leave out what is needed, as the sentence is about an option."""
    for words in inline_commands(page.read_text()):
        check_names(parsed(words, all_needed=False))


@pytest.mark.parametrize("wrong", ["plam T", "solve T --slotz 3", "solve T --slots three", "export p.json"])
def test_a_command_that_there_is_not_would_be_seen(wrong: str) -> None:
    """A wrong command, a wrong option, a value of the wrong kind, and an option that is needed and not there."""
    with pytest.raises(click.UsageError):
        parsed(["moeplan", *wrong.split()])


@pytest.mark.parametrize("wrong", ["--layer twelve", "--routing evn", "--hardware h8000", "--model deepseek-v33"])
def test_a_name_that_there_is_not_would_be_seen(wrong: str) -> None:
    values = parsed(["moeplan", "solve", "T", "--layer", "3", *wrong.split()])
    with pytest.raises(InputError, match=r"twelve|evn|h8000|deepseek-v33"):
        check_names(values)


def test_the_readme_names_all_commands() -> None:
    text = (ROOT / "README.md").read_text()
    assert [name for name in main.commands if name not in text] == []


def test_a_broken_link_and_a_file_that_is_not_there_would_be_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A title, here\n[a](page.md#a-title-here) [b](page.md#no) [c](no.md) [d](https://x.y) `no/such.py`"
    )
    assert broken_links(page, page.read_text()) == ["page.md#no", "no.md"]
    assert not is_there("no/such.py", {"optimizer/such.py"})
    assert is_there("planning/options.py", {"optimizer/planning/options.py"})


def imports(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """What a block of Python takes from the project: a module and a name in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("optimizer", "formulations"):
            yield from ((node.module or "", alias.name) for alias in node.names)


@pytest.mark.parametrize("page", READ_BY_USERS, ids=name_of)
def test_python_in_the_documents_imports_what_there_is(page: Path) -> None:
    for block in fences(page.read_text()):
        if block.language.startswith("python"):
            for module, name in imports(ast.parse(block.text)):
                assert hasattr(importlib.import_module(module), name), (module, name)


@pytest.mark.parametrize("page", COMPUTED, ids=name_of)
def test_figures_of_worked_examples_are_what_their_code_prints(page: Path) -> None:
    """A page's Python runs as one program; a block without a language shows what the one before it prints."""
    names: dict[str, object] = {}
    blocks = fences(page.read_text())
    printing = [place for place, block in enumerate(blocks) if block.language == "python"]
    assert printing
    for place in printing:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(blocks[place].text, str(page), "exec"), names)
        assert blocks[place + 1] == ("", printed.getvalue())


def test_the_list_of_documents_has_them_all() -> None:
    folder = ROOT / "docs"
    text = (folder / "README.md").read_text()
    pages = {page.name for page in folder.iterdir() if page.is_file()} - {"README.md"}
    assert [page for page in sorted(pages) if f"({page})" not in text] == []
