"""The house: rooms in their order, imports that go one way only, nobody who imports in a circle."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOPS = ("formulations", "optimizer", "cli")
"""From what knows nothing to what knows all: a file may import what stands before its own place in an order."""

FORMULATION_ROOMS = ("kit", "bounds", "expected_load", "rows", "batches", "choice")
ROOMS = (
    "domain",
    "exchange",
    "traces",
    "statistics",
    "routing",
    "runtime",
    "simulation",
    "search",
    "planning",
    "experiments",
    "report",
    "api",
    "commands",
)
LOOSE = {"errors", "files", "interrupts", "streams"}
"""Modules that stand under `optimizer/` itself: every room may import them, and they import no room."""

DOORS = {"eplb": "api"}
"""Modules under `optimizer/` itself that give a room's names to programs, under a name that these programs look for."""

FACE = ROOT / "optimizer" / "__init__.py"
FILES = sorted([*ROOT.glob("formulations/**/*.py"), *ROOT.glob("optimizer/**/*.py"), ROOT / "cli.py"])


def module_name(path: Path) -> str:
    """The dotted name under which a file is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree_of(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text())


def imported(path: Path) -> Iterator[tuple[str, bool]]:
    """Every project module that a file imports, and whether it does so inside a function.

    The package itself imports nothing when it is imported: it names the face's modules for type checkers alone.
    """
    if path == FACE:
        return
    tree = tree_of(path)
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
            if name.split(".")[0] in TOPS:
                yield name, node in inside


def floor(name: str) -> tuple[int, int]:
    """Where a module stands in the order: its top, then its room; loose modules stand before all rooms."""
    top, *rest = name.split(".")
    rooms = {"formulations": FORMULATION_ROOMS, "optimizer": ROOMS}.get(top, ())
    if not rest:  # the package itself, from which rooms take the version; `cli` stands above all
        return TOPS.index(top), -1
    room = DOORS.get(rest[0], rest[0])
    if room in rooms:
        return TOPS.index(top), rooms.index(room)
    return TOPS.index(top), -1


def test_imports_follow_the_order_of_the_rooms() -> None:
    names = {path: module_name(path) for path in FILES}
    up = [(names[path], name) for path in FILES for name, _ in imported(path) if floor(name) > floor(names[path])]
    assert up == []


def test_what_runs_beside_a_server_imports_little() -> None:
    """A server must not wait for what only planning needs, nor have to install it."""
    heavy = "{'pydantic', 'ortools', 'networkx', 'joblib', 'plotly', 'click', 'rich', 'filelock', 'safetensors'}"
    code = f"import sys, optimizer.runtime.router; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_what_a_server_imports_for_its_balancer_is_little() -> None:
    """It is imported into the server's own process, where a model is waiting to be loaded."""
    heavy = "{'pydantic', 'ortools', 'networkx', 'joblib', 'plotly', 'click', 'rich', 'filelock', 'torch'}"
    code = f"import sys, optimizer.eplb; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def packages(path: Path) -> set[str]:
    """The top of every name that a file imports: those of the project, and of others those without `from`."""
    nodes = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Import)]
    names = [name for name, _ in imported(path)] + [alias.name for node in nodes for alias in node.names]
    return {name.split(".")[0] for name in names}


def test_formulations_know_no_trace_no_search_and_no_file() -> None:
    unknown = {"optimizer", "cli", "click", "pydantic", "pathlib", "json", "rich"}
    found = [(path.name, packages(path) & unknown) for path in ROOT.glob("formulations/**/*.py")]
    assert [each for each in found if each[1]] == []


def test_rooms_take_nothing_but_the_version_from_the_face() -> None:
    taken = {
        (path.name, alias.name)
        for path in FILES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ImportFrom) and node.module == "optimizer"
        for alias in node.names
    }
    assert {name for name in taken if name[1] != "__version__"} == set()


def test_the_loose_modules_are_those_that_are_meant_to_be() -> None:
    found = {path.stem for path in ROOT.glob("optimizer/*.py")} - {"__init__"}
    assert found == LOOSE | DOORS.keys()


def test_no_import_hides_in_a_function_but_in_that_of_a_command() -> None:
    others = [path for path in FILES if "commands" not in path.parts]
    assert [(path.name, name) for path in others for name, hidden in imported(path) if hidden] == []


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
    source.write_text("import optimizer.errors\ndef f():\n    from formulations import bounds\n")
    assert list(imported(source)) == [("optimizer.errors", False), ("formulations", True)]


def test_an_arrow_that_runs_back_up_would_be_seen() -> None:
    order = [floor(name) for name in ("formulations.kit.arrays", "formulations.bounds.load", "optimizer.errors",
                                      "optimizer.search.tabu", "optimizer.commands.solve", "cli")]  # fmt: skip
    assert order == sorted(set(order))
