"""Planning of layers with accidents, in a module of its own, so that worker processes can import it."""

import os
import signal
from pathlib import Path

from dying_workers import MARKS

from optimizer.planning.many_layers.layer import LayerTask, plan_layer
from optimizer.planning.plan_file import LayerPlan
from optimizer.search.stop import Deadline


def plan_layer_with_mark(task: LayerTask, deadline: Deadline) -> LayerPlan | None:
    """Leaves a file when it begins."""
    (Path(os.environ[MARKS]) / str(task.layer)).touch()
    return plan_layer(task, deadline)


def plan_layer_or_die(task: LayerTask, deadline: Deadline) -> LayerPlan | None:
    """Layer 1 takes its process with it."""
    if task.layer == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return plan_layer(task, deadline)


def plan_layer_or_die_once(task: LayerTask, deadline: Deadline) -> LayerPlan | None:
    """Layer 1 takes its process with it the first time."""
    mark = Path(os.environ[MARKS]) / "died"
    if task.layer == 1 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return plan_layer(task, deadline)
