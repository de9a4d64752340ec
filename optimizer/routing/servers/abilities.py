"""Which routing policies each server runs as released, and what its placement files can say."""

from collections.abc import Iterable
from dataclasses import dataclass

from optimizer.domain.model import Model
from optimizer.domain.placement import EMPTY, Placement
from optimizer.errors import InputError
from optimizer.routing.policies import POLICIES

TABLE_POLICIES = ("nearest", "table")
"""The policies that are a dispatch table `[source, expert]`."""


@dataclass(frozen=True)
class Server:
    """A server, by the name that a user gives.

    title: as its makers write it. policies: those of `policies.POLICIES` that it runs as released, its default first.
    otherwise: those that it runs in another set-up than it has for `policies`, so that they must be
    named. needs: what it would need to run others, as a clause that follows "for more,". names_all: whether its files
    can name shared experts and leave slots empty. (That all devices have equally many slots, as most files ask, holds
    for every placement here.)
    """

    name: str
    title: str
    policies: tuple[str, ...]
    otherwise: tuple[str, ...] = ()
    needs: str = ""
    names_all: bool = False

    @property
    def own_rule(self) -> bool:
        """Whether the server decides on the policy, and not the plan."""
        return self.name != "any"

    @property
    def shared_beside(self) -> bool:
        """Whether the server keeps shared experts outside the slots, on every device, as its files name none."""
        return not self.names_all

    def runs(self, policy: str) -> bool:
        """Whether the server runs this policy, as it is or in another set-up."""
        return policy in self.policies or policy in self.otherwise

    def check(self, policies: Iterable[str], field: str = "routing") -> None:
        """Raise InputError, of this field, for the first policy that the server does not run."""
        for policy in policies:
            if not self.runs(policy):
                runs = " and ".join((*self.policies, *self.otherwise))
                raise InputError(f"{self.title} does not run '{policy}', but {runs}; for more, {self.needs}", field)

    def warnings(self, policy: str, model: Model, placements: Iterable[Placement]) -> list[str]:
        """What keeps the server from running placements of this model under this policy, in a sentence each."""
        found = []
        if not self.runs(policy):
            found.append(f"the plan is for the policy {policy}, which {self.title} does not run")
        if self.names_all:
            return found
        if model.shared_experts:
            found.append(
                f"{self.title}'s files do not name shared experts, which it keeps beside the slots, but here they take "
                "slots; plan without them (--shared-experts 0)"
            )
        if any((placement.slots == EMPTY).any() for placement in placements):
            found.append(
                f"{self.title} wants an expert in every slot, but some are empty here; plan without --replicas"
            )
        return found


SERVERS = {
    server.name: server
    for server in (
        Server(
            "sglang",
            "SGLang",
            ("sglang-static", "sglang-dynamic"),
            otherwise=("sglang-rows",),
            needs="its static table, which it draws by itself, would have to be read from a file, and loads of the "
            "batch need its lp dispatch, which is not replayed here",
        ),
        Server(
            "vllm",
            "vLLM",
            ("vllm",),
            needs="weighted shares need its log2phy map with repeated entries, and load hints need that map refreshed "
            "each step",
        ),
        Server(
            "tensorrt-llm",
            "TensorRT-LLM",
            ("tensorrt-llm",),
            needs="weighted shares need its lists of copies with repeated entries, and load hints need these lists "
            "refreshed each step",
        ),
        Server(
            "vllm-ascend",
            "vllm-ascend",
            ("vllm-ascend",),
            needs="a dispatch table needs the log2phy map of each rank replaced, which its static expert map does not "
            "carry",
        ),
        Server(
            "tt-metal",
            "tt-metal",
            TABLE_POLICIES,
            needs="its dispatch kernel, which looks up a table by source and expert, would have to count pairs or to "
            "choose by chance",
            names_all=True,
        ),
        Server("any", "any server", tuple(POLICIES), names_all=True),
    )
}
"""All servers by name; "any" stands for one that runs every policy."""

ANY = SERVERS["any"]

RULES_OF_SERVERS = frozenset(
    policy for server in SERVERS.values() if server.shared_beside for policy in (*server.policies, *server.otherwise)
)
"""The policies that are a GPU server's own rule, which any placement has there, EPLB's too. tt-metal's tables, which a
plan brings along, are none."""
