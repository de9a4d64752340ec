"""The decisions of a watch: what they are made and judged by, what is written, and what a killed one leaves."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from random_problems import request_experts, write_request
from watched import LATER, MODEL, skewed, small_plan, watcher_of, write_requests

from optimizer.domain.mesh import Mesh
from optimizer.errors import InputError
from optimizer.interrupts import Cancel
from optimizer.planning.plan_file import read_plan
from optimizer.planning.watching import replanning, window
from optimizer.planning.watching import watcher as watching
from optimizer.planning.watching.reading import RecentRequest
from optimizer.planning.watching.replanning import WatchFiles, digest_of
from optimizer.planning.watching.watcher import watch
from optimizer.planning.watching.window import LEAST_OLDER, LEAST_TEST, Window
from optimizer.traces.composition import Composition

pytestmark = pytest.mark.usefixtures("few_batches")

ENOUGH = LEAST_OLDER + LEAST_TEST


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    return small_plan(tmp_path / "plan.json")


def filled(rng: np.random.Generator, count: int) -> Window:
    found = Window()
    for number in range(count):
        found.add(RecentRequest("file", number, number, skewed(rng), 2))
    return found


def test_moves_that_pay_are_written_with_the_plan(plan: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    write_requests(tmp_path / "traces", range(ENOUGH), rng)
    watcher, old = watcher_of(tmp_path / "traces", plan), read_plan(plan)
    look = watcher.look(LATER)
    assert (look.decision, look.tested, look.planned) == ("written", LEAST_TEST, LEAST_OLDER)
    assert look.drift is None  # the plan does not say for which loads it was made
    new, moves = read_plan(plan), json.loads(WatchFiles(plan).moves.read_text())
    assert (moves["from"], moves["to"]) == (digest_of(old), digest_of(new))
    slots = old.layers[1].placement.slots.copy()
    for each in (each for chunk in moves["chunks"] for part in chunk["rounds"] for each in part):
        slots[each["target"], each["slot"]] = each["expert"]
    assert slots.tolist() == new.layers[1].placement.slots.tolist()
    assert 0 < moves["moves"] == look.totals.moves <= 2
    after = watcher.look(LATER)
    assert (after.decision, after.unseen) == ("idle", 0)
    assert after.drift is not None
    assert after.drift.drift[0] < 0.2


def test_moves_go_to_the_layer_that_has_drifted(plan: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    """Layer 2 needs two experts most, which are on one device; layer 0 needs all of its experts alike."""
    small_plan(plan, (0, 2))
    for number in range(ENOUGH):
        experts = skewed(rng)
        experts[:, 0] = np.sort(request_experts(rng, len(experts), 1, 8, 2)[:, 0], axis=1)
        write_request(tmp_path / "traces" / f"r{number}.npz", experts)
    look = watcher_of(tmp_path / "traces", plan, layers=(0, 2)).look(LATER)
    assert look.decision == "written"
    moves = json.loads(WatchFiles(plan).moves.read_text())["asked"]["layers"]
    assert moves["2"] > moves["0"]


def test_two_watches_of_one_plan_do_not_run_at_once(plan: Path) -> None:
    files = WatchFiles(plan)
    with files.alone(), pytest.raises(InputError, match="watched already"), WatchFiles(plan).alone():
        pass
    with files.alone():
        pass


def test_temporary_files_of_a_killed_watch_are_removed(plan: Path, tmp_path: Path) -> None:
    (tmp_path / ".plan.watch.json.0a1b2c3d").write_text("{")
    watcher_of(tmp_path / "traces", plan)
    assert not (tmp_path / ".plan.watch.json.0a1b2c3d").exists()


def test_later_decisions_are_judged_by_later_requests(plan: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    folder = tmp_path / "traces"
    write_requests(folder, range(ENOUGH), rng)
    watcher = watcher_of(folder, plan)
    watcher.look(LATER)
    write_requests(folder, range(ENOUGH, ENOUGH + LEAST_TEST - 1), rng)
    assert watcher.look(LATER).decision == "waiting"
    write_requests(folder, range(ENOUGH + LEAST_TEST - 1, ENOUGH + LEAST_TEST), rng)
    look = watcher.look(LATER)
    assert look.decision in ("written", "left")
    assert (look.tested, look.planned) == (LEAST_TEST, ENOUGH)


def test_a_plan_that_is_good_enough_is_left(plan: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    write_requests(tmp_path / "traces", range(ENOUGH), rng)
    watcher, content = watcher_of(tmp_path / "traces", plan, min_gain=0.99), plan.read_text()
    look = watcher.look(LATER)
    assert (look.decision, look.unseen, look.totals.left) == ("left", ENOUGH, 1)
    assert plan.read_text() == content
    assert not WatchFiles(plan).moves.exists()
    assert watcher.look(LATER).decision == "idle"


def test_a_plan_of_a_watch_names_no_trace_whose_requests_others_would_split_otherwise(
    plan: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    write_requests(tmp_path / "traces", range(ENOUGH), rng)
    watcher_of(tmp_path / "traces", plan).look(LATER)
    made = read_plan(plan).layers[1].provenance
    assert made["traces"].startswith("watched ")
    assert made["origin"] == f"the last {ENOUGH} requests"


def test_a_decision_that_is_broken_off_is_made_anew_later(plan: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    write_requests(tmp_path / "traces", range(ENOUGH), rng)
    cancel = Cancel()

    def ask(stage: str, share: float) -> None:
        if stage.startswith("layer"):
            cancel.ask()

    broken = watcher_of(tmp_path / "traces", plan, cancel, min_gain=0.99).look(LATER, ask)
    assert (broken.decision, broken.requests) == ("stopped", ENOUGH)
    look = watcher_of(tmp_path / "traces", plan).look(LATER)
    assert (look.decision, look.requests, look.tested) == ("written", 0, LEAST_TEST)


def test_what_is_not_counted_when_the_end_is_asked_for_is_counted_later(
    plan: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    write_requests(tmp_path / "traces", range(ENOUGH), rng)
    cancel = Cancel()
    ask = lambda stage, share: cancel.ask() if share > 0.5 else None  # noqa: E731
    first = watcher_of(tmp_path / "traces", plan, cancel).look(LATER, ask)
    assert first.decision in ("waiting", "stopped")
    assert 0 < first.requests < ENOUGH
    assert watcher_of(tmp_path / "traces", plan).look(LATER).requests == ENOUGH - first.requests


def test_a_plan_that_cannot_be_written_is_said_and_tried_again(
    plan: Path, tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    write_requests(tmp_path / "traces", range(ENOUGH), rng)
    watcher = watcher_of(tmp_path / "traces", plan)
    with monkeypatch.context() as patch:
        patch.setattr(replanning, "write_plan", full)
        look = watcher.look(LATER)
    assert (look.decision, look.why) == ("failed", "[Errno 28] No space left on device")
    assert watcher.look(LATER).decision == "written"


def test_a_plan_that_somebody_else_replaced_meanwhile_is_kept(
    plan: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    write_requests(tmp_path / "traces", range(ENOUGH), rng)
    watcher, content = watcher_of(tmp_path / "traces", plan), plan.read_text()
    theirs = content.replace("[\n     0,\n     1,\n     2\n    ]", "[\n     0,\n     2,\n     1\n    ]")
    assert theirs != content

    def replaced(stage: str, share: float) -> None:
        if stage.startswith("layer"):
            plan.write_text(theirs)

    look = watcher.look(LATER, replaced)
    assert look.decision == "failed"
    assert "was replaced while it was rebalanced" in look.why
    assert plan.read_text() == theirs


class KilledError(BaseException):
    """What stands for a kill: nothing catches it."""


@pytest.mark.parametrize(("module", "write"), [(replanning, "write_plan"), (watching, "write_state")])
@pytest.mark.parametrize("turn", [0, 1])
def test_wherever_a_watch_is_killed_the_next_one_goes_on(
    module: object,
    write: str,
    turn: int,
    plan: Path,
    tmp_path: Path,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed before the plan or the state is written, at the first or the second time that it is."""
    left = [turn]

    def killed(*arguments: object) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KilledError
        original(*arguments)

    original = getattr(module, write)
    write_requests(tmp_path / "traces", range(ENOUGH), rng)
    watcher, old = watcher_of(tmp_path / "traces", plan), digest_of(read_plan(plan))
    with monkeypatch.context() as patch:
        patch.setattr(module, write, killed)
        try:
            watcher.look(LATER)
            assert (write, turn) == ("write_plan", 1)  # one decision writes one plan
        except KilledError:
            pass
    again = watcher_of(tmp_path / "traces", plan)
    moves = WatchFiles(plan).moves
    assert moves.exists() == (digest_of(read_plan(plan)) != old)
    again.look(LATER)
    assert again.state.loads.requests == again.state.totals.requests == ENOUGH
    assert json.loads(moves.read_text())["to"] == digest_of(read_plan(plan)) != old


def test_no_request_is_in_two_sets_and_none_changes_between_two_that_choose(rng: np.random.Generator) -> None:
    found = filled(rng, ENOUGH)
    selected: dict[int, bool] = {}
    for _ in range(4):
        source = found.source(0, 1, MODEL, Composition.of("decode", 24, None, Mesh(2, 2, 3)), 0)
        train, selection, test = ([found.requests[each].number for each in part] for part in source.split)
        assert sorted([*train, *selection, *test]) == [request.number for request in found.requests]
        assert min(test) > max([*train, *selection])
        assert min(test) >= found.seen
        for number in [*train, *selection]:
            assert selected.setdefault(number, number in selection) == (number in selection)
        found.decided()
        for number in range(LEAST_TEST):
            found.add(RecentRequest("file", 0, found.seen + number, skewed(rng), 2))


def test_batches_of_each_set_come_from_its_requests_alone(rng: np.random.Generator) -> None:
    """Each request chooses two experts of its own set."""
    found, chosen = Window(), {}
    for number in range(ENOUGH):
        newest = number >= LEAST_OLDER
        part = 2 if newest else int(number % window.SELECTION_EVERY == 0)
        chosen[part] = {2 * part, 2 * part + 1}
        experts = np.tile(np.array([2 * part, 2 * part + 1], dtype=np.uint8), (20, 3, 1))
        found.add(RecentRequest("file", number, number, experts, 2))
    source = found.source(1, 1, MODEL, Composition.of("decode", 24, None, Mesh(2, 2, 3)), 0)
    for part, batches in enumerate(source.sets(1)):
        assert {*batches.experts.ravel().tolist()} == chosen[part]


def test_the_window_is_limited_in_requests_and_bytes(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window, "MOST_REQUESTS", 10)
    assert [each.number for each in filled(rng, 30).requests] == list(range(20, 30))
    monkeypatch.setattr(window, "MOST_BYTES", 5 * 20 * 3 * 2)
    found = filled(rng, 30)
    assert [each.number for each in found.requests] == list(range(25, 30))
    assert found.bytes == sum(each.nbytes for each in found.requests)


def test_looks_begin_at_even_distances_and_end_when_asked(plan: Path, tmp_path: Path) -> None:
    """A clock that only the pauses and the looks, each of 7 seconds, move."""
    cancel, began, clock = Cancel(), [], [LATER]
    watcher = watcher_of(tmp_path / "traces", plan)

    def pause(seconds: float) -> None:
        clock[0] += seconds
        if clock[0] > LATER + 3000:
            cancel.ask()

    for look in watch(lambda: watcher.look(clock[0]), 600, cancel, lambda: clock[0], pause):
        began.append(look.now)
        assert look.decision == "idle"
        clock[0] += 7
    assert {later - earlier for earlier, later in pairwise(began)} == {600}
    assert len(began) == 6
