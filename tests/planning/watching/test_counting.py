"""What a watch counts and remembers, without any decision: restarts, bad files, growing logs, memory."""

import gc
import json
import shutil
import tracemalloc
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from random_problems import request_experts, write_request
from watched import LATER, skewed, small_plan, watcher_of, write_requests

from optimizer.errors import InputError
from optimizer.planning.watching import folder as folder_module
from optimizer.planning.watching import loads as loads_module
from optimizer.planning.watching import window as window_module
from optimizer.planning.watching.loads import ForgettingLoads
from optimizer.planning.watching.reading import RecentRequest
from optimizer.planning.watching.watcher import Watcher
from optimizer.statistics.drift import total_variation


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    return small_plan(tmp_path / "plan.json")


def pairs(watcher: Watcher) -> float:
    return float(watcher.state.loads.total.sum())


def test_a_watch_that_was_killed_goes_on_and_counts_no_file_twice(
    plan: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    """A killed process leaves the state file of its last look; nothing else of it is used."""
    folder = tmp_path / "traces"
    write_requests(folder, range(5), rng)
    first = watcher_of(folder, plan)
    assert first.look(LATER).requests == 5
    write_requests(folder, range(5, 8), rng)
    again = watcher_of(folder, plan)
    assert again.look(LATER).requests == 3
    assert [each.number for each in again.state.window.requests] == list(range(8))
    whole = watcher_of(folder, small_plan(tmp_path / "other.json"))
    whole.look(LATER)
    assert again.state.loads.total == pytest.approx(whole.state.loads.total, abs=0.01)
    for one, other in zip(again.state.window.requests, whole.state.window.requests, strict=True):
        assert isinstance(one, RecentRequest)
        assert isinstance(other, RecentRequest)
        assert (one.name, one.experts.tolist()) == (other.name, other.experts.tolist())


def test_a_bad_file_is_named_once_and_read_again_when_it_changes(
    plan: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    folder = tmp_path / "traces"
    write_requests(folder, range(3), rng)
    content = (folder / "r0001.npz").read_bytes()
    (folder / "r0001.npz").write_bytes(content[: len(content) // 2])
    (folder / "counts.json").write_text(json.dumps({"logical_count": [[9, 1, 1, 1, 5, 1, 1, 1]] * 3}))
    watcher = watcher_of(folder, plan)
    look = watcher.look(LATER)
    assert (look.decision, look.requests, sorted(look.bad)) == ("waiting", 2, ["counts.json", "r0001.npz"])
    assert "holds counts, but this watch takes requests" in look.bad["counts.json"]
    assert str(tmp_path) not in look.bad["r0001.npz"]
    assert watcher.look(LATER).bad == {}
    assert watcher_of(folder, plan).look(LATER).bad == {}
    (folder / "r0001.npz").write_bytes(content)
    look = watcher.look(LATER)
    assert (look.requests, look.bad) == (1, {})


def test_a_file_that_vanishes_while_it_is_read_is_no_failure(
    plan: Path, tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "traces"
    write_requests(folder, range(3), rng)
    watcher = watcher_of(folder, plan)
    listed = watcher.folder.look(watcher.state.files, LATER)
    monkeypatch.setattr(watcher.folder, "look", lambda files, now: listed)
    (folder / "r0001.npz").unlink()
    look = watcher.look(LATER)
    assert (look.decision, look.requests, look.vanished, look.bad) == ("waiting", 2, 1, {})
    assert "r0001.npz" not in watcher.state.files.present


def test_of_a_log_that_grows_only_what_was_added_counts(plan: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    def line() -> str:
        return json.dumps({"choices": [{"routed_experts": skewed(rng, 6).tolist()}]}) + "\n"

    folder = tmp_path / "traces"
    folder.mkdir()
    log = folder / "log.jsonl"
    log.write_text(line() + line())
    watcher = watcher_of(folder, plan)
    before = watcher.look(LATER)
    log.write_text(log.read_text() + line() + line()[:20])
    torn = watcher.look(LATER)
    log.write_text("".join(log.read_text().splitlines(True)[:-1]) + line() + line())
    after = watcher.look(LATER)
    assert (before.requests, torn.requests, after.requests) == (2, 1, 2)
    assert list(torn.bad) == ["log.jsonl"]
    assert [each.index for each in watcher.state.window.requests] == [0, 1, 2, 3, 4]


def test_requests_of_files_that_have_vanished_are_left_out_after_a_restart(
    plan: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    folder = tmp_path / "traces"
    write_requests(folder, range(4), rng)
    before = watcher_of(folder, plan)
    before.look(LATER)
    (folder / "r0002.npz").unlink()
    after = watcher_of(folder, plan)
    assert [each.number for each in after.state.window.requests] == [0, 1, 3]
    assert pairs(after) == pytest.approx(pairs(before), abs=0.01)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not the state of a watch"),
        ('{"format": "moeplan/plan"}', "not the state of a watch"),
        (None, "the state of a watch of layer\\(s\\) 2 with 8 experts"),
    ],
)
def test_a_state_that_cannot_be_used_is_refused(plan: Path, tmp_path: Path, content: str | None, said: str) -> None:
    state = tmp_path / "plan.watch.json"
    watcher = watcher_of(tmp_path / "traces", plan)
    if content is None:
        watcher._remember()
        content = json.dumps(json.loads(state.read_text()) | {"layers": [2]})
    state.write_text(content)
    with pytest.raises(InputError, match=said):
        watcher_of(tmp_path / "traces", plan)


def test_a_plan_that_cannot_be_read_is_said_and_the_watch_goes_on(
    plan: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    folder, content = tmp_path / "traces", plan.read_text()
    write_requests(folder, range(2), rng)
    watcher = watcher_of(folder, plan)
    plan.write_text(content[:50])
    look = watcher.look(LATER)
    assert (look.decision, look.requests) == ("failed", 2)
    assert "plan.json: not JSON" in look.why
    plan.write_text(content)
    look = watcher.look(LATER)
    assert (look.decision, look.unseen, look.totals.failed) == ("idle", 2, 1)


def test_loads_forget_by_their_half_life(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside a sum over all requests, each with its own weight."""
    monkeypatch.setattr(loads_module, "HALF_LIFE", 3.0)
    loads, requests = ForgettingLoads.none(3, 8), [request_experts(rng, 20, 3, 8, 2) for _ in range(12)]
    for request in requests:
        loads.add(RecentRequest("file", 0, 0, request, 0).load("decode", 8))
    expected = np.zeros((3, 8))
    for age, request in enumerate(reversed(requests)):
        for token in request:
            for layer, chosen in enumerate(token):
                expected[layer, chosen] += 0.5 ** (age / 3)
    assert loads.total == pytest.approx(expected)
    drift = loads.drift(np.ones((3, 8)))
    assert drift.drift == pytest.approx([total_variation(row, np.ones(8)) for row in expected])
    assert (drift.by_chance > 0).all()


def look_at(watcher: Watcher, template: Path, numbers: range, rotate: bool) -> None:
    """Let so many files appear and be counted, 50 at a time; rotate: they are removed once counted."""
    for first in numbers[::50]:
        names = [watcher.folder.path / f"r{number:05}.npz" for number in range(first, first + 50)]
        for name in names:
            shutil.copyfile(template, name)
        look = watcher.look(LATER)
        assert (look.requests, look.bad) == (50, {})
        for name in names if rotate else ():
            name.unlink()


def held() -> int:
    """Bytes that are held, without garbage that would be collected later."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


@pytest.mark.parametrize(("rotate", "files", "most"), [(True, 800, 50), (False, 800, 600)])
def test_memory_does_not_grow_with_the_requests(
    rotate: bool,
    files: int,
    most: int,
    plan: Path,
    tmp_path: Path,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The slope over the third and the last quarter of the files, in bytes a file. Where files are removed there is
    none: a request that was kept would be 300 bytes and more. A file that stays is remembered by its name and stamp.
    The lesser of both slopes counts, as Python's own table of strings may grow in one of them, but a leak is in both.
    """
    monkeypatch.setattr(window_module, "MOST_REQUESTS", 40)
    monkeypatch.setattr(folder_module, "MOST_VANISHED", 100)
    template = write_request(tmp_path / "one.npz", request_experts(rng, 20, 3, 8, 2))
    watcher = watcher_of(tmp_path / "traces", plan)
    monkeypatch.setattr(watcher, "_decide", lambda look, progress: None)
    half, quarter = files // 2, files // 4
    first = half - 200  # by the middle all that is limited was filled while it was traced
    look_at(watcher, template, range(first), rotate)
    tracemalloc.start()
    look_at(watcher, template, range(first, half), rotate)
    marks = [held()]
    for begin in (half, half + quarter):
        look_at(watcher, template, range(begin, begin + quarter), rotate)
        marks.append(held())
    tracemalloc.stop()
    assert min(later - earlier for earlier, later in pairwise(marks)) / quarter < most
