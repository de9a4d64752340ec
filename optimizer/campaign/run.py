"""What all steps of planning many layers share."""

from dataclasses import dataclass, field

from optimizer.campaign.layer import LayerTask, Settings
from optimizer.campaign.reading import LayerReader
from optimizer.campaign.work import WorkFolder
from optimizer.campaign.workers import Crew, Stop
from optimizer.candidates import Notify
from optimizer.plan import LayerPlan, Plan
from optimizer.search.stop import Deadline
from optimizer.solve import provenance_of

WRITING_SECONDS = 0.5


@dataclass
class Run:
    """What all steps share; deadline: of the whole command; work: where finished layers are kept; start: a plan to
    start from; extra_replicas: by layer, where these differ."""

    settings: Settings
    reader: LayerReader
    crew: Crew
    deadline: Deadline
    notify: Notify
    work: WorkFolder | None = None
    start: Plan | None = None
    extra_replicas: dict[int, int] = field(default_factory=dict)
    stop: Stop = field(default_factory=Stop)
    before: float = 0.0

    def __post_init__(self) -> None:
        self.before = 0.0 if self.work is None else self.work.seconds

    @property
    def end(self) -> float:
        """By when all layers are to be planned, on the clock of `spent`."""
        return self.deadline.seconds - WRITING_SECONDS

    def spent(self) -> float:
        """Seconds since the command began, and what was spent before on layers that are kept."""
        return self.deadline.elapsed() + self.before

    def task(self, layer: int) -> LayerTask:
        """A layer with its batches, read now."""
        source = self.reader.source_of(layer)
        sets = source.sets(layer)
        provenance = provenance_of(source, layer, sets, self.settings.seed)
        return LayerTask(self.settings, layer, sets, provenance, self.start, self.extra_replicas.get(layer))

    def plan(self, policy: str, parts: dict[int, LayerPlan]) -> Plan:
        """The plan with these layers."""
        given = self.settings
        return Plan(given.model, given.mesh, given.cost.name, policy, parts, given.conditions.unit)
