"""The house: imports go one way only, and nobody imports in a circle."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("formulations", "optimizer", "cli")
FILES = sorted([*ROOT.glob("formulations/**/*.py"), *ROOT.glob("optimizer/**/*.py"), ROOT / "cli.py"])


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> Iterator[tuple[str, bool]]:
    """Every project module that a file imports, and whether it does so inside a function."""
    tree = ast.parse(path.read_text())
    inside = {
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            if name.split(".")[0] in ROOMS:
                yield name, node in inside


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_point_down(path: Path) -> None:
    room = ROOMS.index(module_name(path).split(".")[0])
    assert [name for name, _ in imported(path) if ROOMS.index(name.split(".")[0]) > room] == []
    if path.name != "cli.py" and path.parent.name != "commands":
        assert [name for name, _ in imported(path) if name.startswith("optimizer.commands")] == []


@pytest.mark.parametrize("path", [path for path in FILES if path.parent.name != "commands"], ids=module_name)
def test_no_import_hides_in_a_function_but_in_that_of_a_command(path: Path) -> None:
    assert [name for name, hidden in imported(path) if hidden] == []


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = {module_name(path): {name for name, _ in imported(path)} for path in FILES}

    def reach(start: str) -> set[str]:
        found: set[str] = set()
        queue = [start]
        while queue:
            for name in graph.get(queue.pop(), set()) - found:
                found.add(name)
                queue.append(name)
        return found

    assert [name for name in graph if name in reach(name)] == []


def test_a_circle_and_a_hidden_import_would_be_seen(tmp_path: Path) -> None:
    source = tmp_path / "sample.py"
    source.write_text("import optimizer.cost\ndef f():\n    from formulations import bounds\n")
    assert list(imported(source)) == [("optimizer.cost", False), ("formulations", True)]
