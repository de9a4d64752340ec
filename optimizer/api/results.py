"""The results that functions of the API return: plans and figures, which print as tables in a terminal and in a
notebook."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from optimizer.domain.placement import Placement
from optimizer.experiments.compare_rivals import Comparison
from optimizer.planning.bound_traces import LayerBounds
from optimizer.planning.explain_plan import ExplainedLayer
from optimizer.planning.many_layers.robust import RobustPlan
from optimizer.planning.plan_expected_load import ExpectedSolution
from optimizer.planning.plan_fast import FastLayer
from optimizer.planning.plan_file import Plan
from optimizer.planning.plan_layer import LayerSolution
from optimizer.report import bounds as bounds_report
from optimizer.report import compare as compare_report
from optimizer.report import expected as expected_report
from optimizer.report import fast as fast_report
from optimizer.report import figures
from optimizer.report import robustness as robustness_report
from optimizer.report import simulation as simulation_report
from optimizer.report import solution as solution_report
from optimizer.report import whole as model_report
from optimizer.report.printable import Printable
from optimizer.report.tables import Part
from optimizer.simulation.report import SimulationReport

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


@dataclass(frozen=True, eq=False)
class PlannedLayer(Printable):
    """The plan of one layer, with the test figures of every method that was tried; it prints as tables.

    notes: sentences about the traces that a user should read.
    """

    layer: int
    plan: Plan
    solution: LayerSolution | ExpectedSolution
    notes: tuple[str, ...]

    @property
    def placement(self) -> Placement:
        """The placement of the layer, `slots [device, slot]` of expert ids, -1 for an empty slot."""
        return self.plan.layers[self.layer].placement

    def parts(self) -> list[Part]:
        """The table of methods, the table of gaps to the bounds, and sentences on how the search went."""
        if isinstance(self.solution, LayerSolution):
            return solution_report.parts(self.solution, self.layer)
        return expected_report.parts(self.solution, self.layer)

    def figures(self) -> "list[Figure]":
        """How latency is distributed over the test batches; nothing for a plan on counts."""
        return figures.of_solution(self.solution) if isinstance(self.solution, LayerSolution) else []

    def as_json(self) -> dict[str, Any]:
        """The figures of the tables as a dictionary in a stable JSON form."""
        if isinstance(self.solution, LayerSolution):
            return {"layer": self.layer, **solution_report.as_json(self.solution)}
        return {"layer": self.layer, **expected_report.as_json(self.solution)}


@dataclass(frozen=True, eq=False)
class Simulated(Printable):
    """What the simulator says of a plan; it prints as tables.

    reports: for each layer, a report under each of the conditions in their order. notes: sentences about the traces
    that a user should read.
    """

    reports: dict[int, list[SimulationReport]]
    notes: tuple[str, ...]

    @property
    def report(self) -> SimulationReport:
        """The first report of the first layer, which is the only report where one layer ran under one set of
        conditions."""
        return next(iter(self.reports.values()))[0]

    def parts(self) -> list[Part]:
        """For each layer a detailed table of its policy, or one table with several policies side by side."""
        return [part for layer, reports in self.reports.items() for part in simulation_report.parts(reports, layer)]

    def figures(self) -> "list[Figure]":
        """How latency is distributed over batches, or for several layers what each takes."""
        return figures.of_reports(self.reports)

    def as_json(self) -> dict[str, Any]:
        """The figures of all layers as a dictionary in a stable JSON form."""
        return {"layers": {str(layer): simulation_report.as_json(reports) for layer, reports in self.reports.items()}}


@dataclass(frozen=True, eq=False)
class Bounded(Printable):
    """What no placement of a layer can go below; it prints as a table."""

    bounds: LayerBounds

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about the traces that a user should read."""
        return self.bounds.notes

    def parts(self) -> list[Part]:
        """The table of bounds, and a sentence that says when they hold."""
        return bounds_report.parts(self.bounds)

    def as_json(self) -> dict[str, Any]:
        """All bounds as a dictionary in a stable JSON form."""
        return bounds_report.as_json(self.bounds)


@dataclass(frozen=True, eq=False)
class Explained(Printable):
    """What forces the peaks of a plan's layers; it prints as sentences.

    notes: sentences about the traces that a user should read.
    """

    layers: list[ExplainedLayer]
    notes: tuple[str, ...]

    def parts(self) -> list[Part]:
        """For each layer what its best routing cannot go below, and the experts and devices that force that."""
        return bounds_report.explained(self.layers)

    def as_json(self) -> dict[str, Any]:
        """The certificates of all layers as a dictionary in a stable JSON form."""
        return {"layers": bounds_report.explained_json(self.layers)}


@dataclass(frozen=True, eq=False)
class Compared(Printable):
    """The plans of published planners and our own, judged on the same test batches; it prints as a table.

    notes: sentences about the traces that a user should read.
    """

    comparison: Comparison
    notes: tuple[str, ...]

    def parts(self) -> list[Part]:
        """The table of planners and routing policies, and a sentence that says from which bounds its gaps are
        measured."""
        return compare_report.parts(self.comparison)

    def figures(self) -> "list[Figure]":
        """The latency of each planner, and how that of the best is distributed over the test batches."""
        return figures.of_comparison(self.comparison)

    def as_json(self) -> dict[str, Any]:
        """The figures of all planners and policies, and the bounds, as a dictionary in a stable JSON form."""
        return compare_report.as_json(self.comparison)


@dataclass(frozen=True, eq=False)
class PlannedModel(Printable):
    """One plan of several layers; it prints as tables.

    notes: sentences about the traces that a user should read. fast: the figures of each layer, where the plan was made
    on expected load alone (`ModelRun.fast`), otherwise empty. datasets: the plans and figures of several data sets,
    None where there is one.
    """

    plan: Plan
    notes: tuple[str, ...]
    fast: list[FastLayer] = field(default_factory=list)
    datasets: RobustPlan | None = None

    def parts(self) -> list[Part]:
        """The table of layers, and for several data sets the tables of every plan on every data set."""
        if self.fast:
            return fast_report.parts(self.fast)
        several = self.datasets
        more = [] if several is None else robustness_report.parts(several.robustness, several.drift)
        return [*model_report.parts(self.plan), *more]

    def figures(self) -> "list[Figure]":
        """The latency of each layer, or the imbalance of its expected load."""
        return figures.of_plan(self.plan)

    def as_json(self) -> dict[str, Any]:
        """The figures of the tables as a dictionary in a stable JSON form."""
        if self.fast:
            return fast_report.as_json(self.fast)
        several = self.datasets
        more = {} if several is None else robustness_report.as_json(several.robustness, several.drift)
        return model_report.as_json(self.plan) | more
