"""What each server runs and what its files can say: refusals and warnings in sentences that an operator can act on."""

from typing import get_args

import numpy as np
import pytest

from optimizer.commands.options import ServerName
from optimizer.domain.model import Model
from optimizer.domain.placement import Placement
from optimizer.errors import InputError
from optimizer.routing.policies import INFORMATION, POLICIES
from optimizer.routing.servers.abilities import ANY, SERVERS, Server

OWN = [server for server in SERVERS.values() if server.own_rule]
FULL, HOLED = Placement(np.array([[0, 1], [2, 0]])), Placement(np.array([[0, 1], [2, -1]]))


def named(server: Server) -> str:
    """The name by which pytest tells the test of one server from that of another."""
    return server.name


def test_the_servers_are_those_that_a_command_can_name() -> None:
    assert tuple(SERVERS) == get_args(ServerName)
    assert ANY.policies == tuple(POLICIES)


@pytest.mark.parametrize("server", OWN, ids=named)
def test_a_server_runs_known_policies_that_need_nothing_of_other_sources(server: Server) -> None:
    """As no server of today gathers counts before it chooses replicas."""
    assert server.policies
    assert {INFORMATION[policy] for policy in server.policies} <= {"none", "own"}
    server.check(server.policies)


@pytest.mark.parametrize("server", OWN, ids=named)
def test_a_refusal_says_what_the_server_runs_and_what_it_would_need(server: Server) -> None:
    with pytest.raises(InputError) as caught:
        server.check([server.policies[0], "optimal"])
    assert "'optimal'" in str(caught.value)
    assert str(caught.value).startswith(server.title)
    assert server.policies[-1] in str(caught.value)
    assert str(caught.value).endswith(server.needs)
    assert caught.value.field == "routing"


def test_warnings_name_what_a_servers_files_cannot_say() -> None:
    vllm, plain, shared = SERVERS["vllm"], Model("m", 3, 0, 1), Model("m", 2, 1, 1)
    assert vllm.warnings("vllm", plain, [FULL]) == []
    assert "shared experts" in vllm.warnings("vllm", shared, [FULL])[0]
    assert "every slot" in vllm.warnings("vllm", plain, [FULL, HOLED])[0]
    assert "even-source" in vllm.warnings("even-source", plain, [FULL])[0]
    assert ANY.warnings("optimal", shared, [HOLED]) == []
    assert SERVERS["tt-metal"].warnings("nearest", shared, [HOLED]) == []
