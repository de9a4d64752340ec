"""The router: load hints of all layers of a plan, fed and read by layer while a server decodes."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from formulations.kit.arrays import Floats, Ints
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.network import Network
from optimizer.domain.placement import Placement
from optimizer.errors import InputError
from optimizer.routing.context import LearnedShares, RoutingContext
from optimizer.routing.hints import USUAL_HINTS, HintSettings
from optimizer.routing.memory import own_weights
from optimizer.runtime.layer import LayerHints

MOST_SLOTS = 2**16
"""Tables name slots in 16 bits, which are half of what a server would have to copy to its devices otherwise."""


class PlannedLayer(Protocol):
    """What a router needs to know of a layer: where its experts are, and the loads that were learned, if any."""

    @property
    def placement(self) -> Placement: ...
    @property
    def learned(self) -> LearnedShares | None: ...


class Planned(Protocol):
    """What a router needs to know of a plan, which `optimizer.Plan` has."""

    @property
    def model(self) -> Model: ...
    @property
    def network(self) -> Network: ...
    @property
    def layers(self) -> Mapping[int, PlannedLayer]: ...
    @property
    def hints(self) -> HintSettings | None: ...


class Router:
    """Which replica serves an expert's pairs in the next batch, by what recent batches have loaded.

    A source is what sends tokens: a mesh row, or a rank where each device holds tokens of its own. Feed what a batch
    has counted with `observe`, by layer, and read what the next batch shall use: `table`, `shares` or `log2phy`; or, of
    the loads of devices alone, `observe_devices` and `weights`. What nobody reads is not made. The first read of a form
    makes it from all that is known by then, and later batches change it gradually; so read each form that you use once
    before the first batch, and you get what the simulator predicts for the policies `hint-table`, `hint`,
    `hint-random` and `hint-device`.

    Any threads may call any method: each layer has a lock, and an answer belongs to one batch as a whole. Give the
    array for the answer as `out`, C-contiguous and of the type and shape of the answer, and nothing is allocated.
    Memory does not grow. A layer takes 16 + 4 * lag bytes for each source and expert, and about 170 for each expert and
    30 for each slot; all layers together share 8 for each source and device. For 16 sources, 257 experts and 384 slots
    that is 140 kB a layer, and for 128 sources 720 kB.

    Parameters
    ----------
    layers
        What a routing policy sees of each layer, by layer id. All must be of one mesh and model.

    Raises
    ------
    InputError
        For no layer at all, and for a mesh with more than 65,536 slots.

    Examples
    --------
    >>> import numpy as np
    >>> from optimizer import Hardware, Mesh, Model, Placement, Plan
    >>> machine = Hardware.of(mesh=Mesh(2, 1, 2))
    >>> own = Plan.of(Placement(np.array([[0, 1], [0, 2]])), 3, Model("tiny", 3, 0, 1), machine)
    >>> router = Router.from_plan(own)
    >>> router.observe(3, [[0, 9, 0], [0, 9, 0]])  # two sources, three experts: the second one is hot
    >>> router.shares(3)  # so the first one leaves the device that it shares with it
    array([[0., 1.],
           [1., 1.]])
    """

    def __init__(self, layers: Mapping[int, RoutingContext]) -> None:
        if not layers:
            raise InputError("there is no layer to route", "layers")
        first = next(iter(layers.values()))
        if len(first.device_of) > MOST_SLOTS:
            raise InputError(f"{len(first.device_of)} slots are more than the {MOST_SLOTS} that a table names", "mesh")
        weight = own_weights(first.distance)
        self._layers = {
            layer: LayerHints(context.memory, context.slots_per_device, weight) for layer, context in layers.items()
        }
        _compile()

    @classmethod
    def from_plan(cls, plan: Planned, hints: HintSettings | None = None) -> "Router":
        """The router of all layers of a plan.

        Hints begin from the loads that the plan says its layers have, and from equal loads where it does not say.
        hints: how they are made; None for what the plan says, or else the usual way. Raises InputError for hardware
        that is unknown, and as `Router` does.
        """
        model, network, how = plan.model, plan.network, hints or plan.hints or USUAL_HINTS
        return cls(
            {
                layer: replace(RoutingContext.of(part.placement, model, network, 1, 0, part.learned), hints=how)
                for layer, part in sorted(plan.layers.items())
            }
        )

    @property
    def layers(self) -> tuple[int, ...]:
        """The ids of the model's layers that are routed."""
        return tuple(self._layers)

    def observe(self, layer: int, counts: npt.ArrayLike) -> None:
        """Take note of a batch that has run: counts `[source, expert]`, token-expert pairs, any integers.

        Call it once for each batch, in the order of time. Raises InputError for an unknown layer, another shape, and
        numbers that cannot be counts.
        """
        self._of(layer).observe(counts)

    def table(self, layer: int, out: Ints | None = None) -> Ints:
        """The flat slot that serves an expert's pairs of a source, `[source, expert]` uint16, as `hint-table` uses it.

        Slot s of device d has the number d * slots_per_device + s. Raises InputError for an unknown layer, and for an
        `out` of another type or shape.
        """
        return self._of(layer).table(out)

    def shares(self, layer: int, out: Floats | None = None) -> Floats:
        """The part of its expert's pairs that each slot shall serve, `[device, slot]` float64, as `hint` deals them
        out; 0 for empty slots.

        By slot, as a plan has its shares, and not by replica, since servers number slots and only policies number
        replicas. The parts of an expert's slots sum to 1. Raises InputError as `table` does.
        """
        return self._of(layer).shares(out)

    def log2phy(self, layer: int, out: Ints | None = None) -> Ints:
        """Flat slots of each expert, each as often as its share asks, `[expert, 32]` int32, as `hint-random` uses them.

        For servers that take entry `hash % copies` of a map from logical to physical experts, with 32 as the number of
        copies. Raises InputError as `table` does.
        """
        return self._of(layer).log2phy(out)

    def observe_devices(self, layer: int, loads: npt.ArrayLike) -> None:
        """Take note of what devices have served in a batch: loads `[device]`, token-expert pairs, any integers.

        For `held` and `weights`, which need no counts of experts. Raises InputError as `observe` does.
        """
        self._of(layer).observe_devices(loads)

    def held(self, layer: int, out: Floats | None = None) -> Floats:
        """How many pairs every source counts against a device for what it has served too much of, `[device]` float64.

        Raises InputError as `table` does.
        """
        return self._of(layer).held(out)

    def weights(self, layer: int, out: Floats | None = None) -> Floats:
        """How many pairs each source counts against a device when a batch begins, `[source, device]` float64.

        `held`, and what devices cost a source for being far. Under `hint-device` a source sends each pair to the
        replica whose device weighs least, the first of equal ones, and adds 1 to the weight. Raises InputError as
        `table` does.
        """
        return self._of(layer).weights(out)

    def _of(self, layer: int) -> LayerHints:
        if layer not in self._layers:
            known = ", ".join(map(str, self._layers))
            raise InputError(f"layer {layer} has no placement; there are layers {known}", "layer")
        return self._layers[layer]


def _compile() -> None:
    """Use each method once on a layer of two devices, so that no batch has to wait until its kernels are compiled."""
    network, model = Network(Mesh(2, 1, 1)), Model("two experts", 2, 0, 1)
    context = RoutingContext.of(Placement(np.array([[0], [1]])), model, network, 1, 0, None)
    layer = LayerHints(context.memory, 1, own_weights(context.distance))
    for _ in range(2):  # the forms that are read in the first round are made anew in the second
        layer.observe(np.zeros((2, 2), dtype=np.int32))
        layer.observe_devices(np.zeros(2, dtype=np.int32))
        for read in (layer.table, layer.shares, layer.log2phy, layer.weights):
            read(None)
