"""What dispatch and combine cost on links, as `formulations.bounds.crossings` takes them: the price of each hop in time
of the busiest link, who can share it, and what a stage takes without any traffic."""

from dataclasses import dataclass, replace

import numpy as np

from formulations.bounds.sharing import Sharing
from formulations.kit.arrays import Floats, Ints
from optimizer.domain.cost import Cost
from optimizer.domain.network import Network


@dataclass(frozen=True)
class Stages:
    """Dispatch and combine as `crossings` takes them, in microseconds of the busiest link; None for a stage that the
    links do not bound. dispatch_fixed_us, combine_fixed_us: what each takes without any traffic."""

    dispatch: Sharing | None
    combine: Sharing
    dispatch_fixed_us: float
    combine_fixed_us: float

    @property
    def of_tables(self) -> "Stages":
        """The same where each source uses one replica of each expert."""
        dispatch = None if self.dispatch is None else replace(self.dispatch, fixed=True)
        return replace(self, dispatch=dispatch, combine=replace(self.combine, fixed=True))

    @property
    def out(self) -> tuple[Sharing, ...]:
        """Dispatch, if links bound it."""
        return () if self.dispatch is None else (self.dispatch,)

    @property
    def both(self) -> tuple[Sharing, ...]:
        """The stages that links bound."""
        return (*self.out, self.combine)


def stages_of(cost: Cost, network: Network, top_k: int) -> list[Stages]:
    """How dispatch and combine load the links of this network: alternatives, all of which are valid.

    top_k: experts of a token, the shared ones that take slots included.
    """
    fixed = _fixed_us(cost, network, top_k)
    back_company = 0 if cost.combine_per_expert else network.mesh.slots_per_device - 1
    out_company = 0 if cost.dispatch_per_expert else network.mesh.slots_per_device - 1
    combine_us, dispatch_us = cost.combine_message_us(network.remote), cost.dispatch_message_us(network.remote)
    found = []
    for back, out in zip(_prices(network, combine_us), _prices(network, dispatch_us), strict=True):
        combine = _sharing(back, np.full(len(back), back_company), top_k, on_device=True)
        multicast = network.links == "rings"
        company = _multicast_company(network, top_k) if multicast else np.full(len(out), out_company)
        dispatch = None if cost.uses_table else _sharing(out, company, top_k, on_device=not multicast)
        found.append(Stages(dispatch, combine, *fixed))
    return found


def _fixed_us(cost: Cost, network: Network, top_k: int) -> tuple[float, float]:
    """What dispatch and combine take without any traffic. By the table model some column has its part of a token's
    experts, all of which may be in the token's own row."""
    idle: Ints = np.zeros((1, len(network.remote)), dtype=np.int64)
    combine = float(cost.combine_us(idle, network.remote)[0])
    if cost.uses_table:
        return float(cost.table_us(np.array(-(-top_k // network.mesh.cols)), np.array(0))), combine
    return float(cost.dispatch_us(idle, network.remote)[0]), combine


def _sharing(cost: Floats, company: Ints, top_k: int, on_device: bool) -> Sharing:
    return Sharing(cost, company, min(top_k, int(company.max(initial=0)) + 1), on_device=on_device)


def _multicast_company(network: Network, top_k: int) -> Ints:
    """How many other experts can share hop level + 1 of a multicast with a replica, `[level]`: those in the slots of
    its side of its ring that are as far away or farther. Where messages travel along rows too, all of a token's experts
    may share its way along the column."""
    levels, depth = int(network.distance.max()), network.mesh.slots_per_device
    if network.across:
        return np.full(levels, network.mesh.slots)
    company: Ints = (network.mesh.rows // 2 - np.arange(levels)) * depth - 1
    return company


def _prices(network: Network, message_us: Floats) -> list[Floats]:
    """What a message's hops add to the busiest link at least, `[level]` microseconds, in one or two alternatives.

    message_us `[link]`. On rings, hops are spread over all links at best. A port out of every sender is passed by every
    message, in the fast network or in the slow one. Of M messages, R of them slow, some port is busy for at least the
    mean over senders: R slow, and (M - R) fast. So it is for their weighted mean, in which R cancels out, and for R
    alone.
    """
    levels = int(network.distance.max())
    if network.links == "rings":
        return [np.full(levels, float(message_us[0]) / len(message_us))]
    fast, slow = float(message_us[0]), float(message_us[-1])
    senders = len(np.unique(network.sender))
    if levels < 2:
        return [np.full(levels, fast / senders)]
    any_port = fast * slow / (fast + slow) if fast + slow > 0 else 0.0
    return [np.array([any_port, 0.0]) / senders, np.array([0.0, slow]) / senders]
