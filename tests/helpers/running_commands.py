"""Running the commands in the tests."""

import os
from pathlib import Path

from click.testing import CliRunner, Result

from cli import main

# 64 replicas are more than all slots hold, which says that none stays empty: few tokens would otherwise leave most so
SHORT = ("--mesh", "2x2", "--replicas", "64", "--time-limit", "20", "--iterations", "2000", "--batch-tokens", "24")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def solve(traces: Path, *more: object) -> tuple[Path, Result]:
    plan = traces.parent / "plan.json"
    return plan, run("solve", traces, "--layer", 1, *SHORT, "-o", plan, *more)


def fault(result: Result, code: int = 2) -> str:
    """The one line of a failure."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in lines[0]
    return lines[0]


def other_notes(stderr: str) -> str:
    """What stands on standard error besides the note of whose experts the times are, which every model that the
    hardware's times were not measured for brings."""
    return "".join(line for line in stderr.splitlines(keepends=True) if not line.startswith("Note: times of "))


def run_on_terminal(terminal: str, arguments: list[str]) -> None:
    """Run a command as a process that writes its progress to this terminal, and ends with the command's exit code."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(terminal, os.O_WRONLY), 2)
    os.environ.update(TERM="xterm", COLUMNS="100")
    main(arguments)
