"""What load hints know of the loads of experts before each batch."""

import numpy as np

from formulations.kit.arrays import Floats, Ints
from optimizer.routing.forecast import Forecast, recall
from optimizer.routing.hints import HintSettings


def hint_knowledge(load: Ints, first: Floats, settings: HintSettings) -> Floats:
    """The loads that a load hint expects before each batch, `[batch, expert]`.

    load `[batch, expert]` of consecutive batches; first `[expert]` is what it expects before it has seen any. It is an
    average that forgets, which learns of a batch `lag` batches later, and is looked at every `refresh` batches.
    """
    forecast = Forecast.of(first.astype(np.float64), settings.lag)
    known = np.empty(load.shape)
    shown = forecast.average.copy()
    for batch, seen in enumerate(np.ascontiguousarray(load, dtype=np.int32)):
        if batch % settings.refresh == 0:
            shown = forecast.average.copy()
        known[batch] = shown
        recall(*forecast, settings.kept, seen)
    return known
