"""The request of `solve`: its options are checked here, and handed to the function of the API that plans."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimizer.commands.failures import BadInput
from optimizer.commands.layer_input import LayerInput
from optimizer.commands.session import session
from optimizer.commands.solve_options import DatasetOptions, ManyLayerOptions, TargetOptions
from optimizer.commands.trace_options import trace_input

if TYPE_CHECKING:
    from optimizer.api.models import ModelRun
    from optimizer.api.results import PlannedLayer, PlannedModel
    from optimizer.planning.many_layers.robust import RobustPlan
    from optimizer.planning.options import Progress, SolveOptions
    from optimizer.planning.plan_file import Plan
    from optimizer.traces.source import TraceInput

    Planned = PlannedLayer | PlannedModel

FOR_ONE_LAYER = ("max_rerouted", "synthesise")
FOR_ONE_DATASET = ("max_rerouted", "synthesise", "fast", "batches")
FOR_DATASETS = ("separate", "matrix", "weights")
"""The options that only a run of one layer takes, those that only a run on one data set takes, and those that only a
run on several data sets takes."""


@dataclass(frozen=True)
class SolveRequest:
    """The options of `solve`, those of the search as the program's own type."""

    target: TargetOptions
    given: LayerInput
    options: "SolveOptions"
    many: ManyLayerOptions
    datasets: DatasetOptions

    @property
    def layers(self) -> list[int] | None:
        """The layer ids that are to be planned, or None for all layers of the traces."""
        from optimizer.commands.arguments import layer_ids

        return layer_ids(self.target.layer)

    @property
    def paths(self) -> dict[str, tuple[str, ...]] | None:
        """The paths of each data set by its name, or None where TRACES are plain paths without names."""
        from optimizer.traces.datasets import datasets_of

        return datasets_of(self.given.traces.traces)

    @property
    def phases(self) -> tuple[str, ...]:
        """The phases that batches are made of; where there are several, each is a data set of its own."""
        from optimizer.traces.datasets import phases_of

        return phases_of(self.given.batches.phase)

    @property
    def several(self) -> bool:
        """Whether the plan is for more than one data set, or for data sets that have names."""
        return self.paths is not None or len(self.phases) > 1

    @property
    def one_layer(self) -> bool:
        """Whether a single layer of one data set is planned in full, in this process, without a work folder or a
        cluster."""
        spread = self.many.work, self.many.cluster, self.target.fast
        return not self.several and self.layers is not None and len(self.layers) == 1 and not any(spread)

    def check(self) -> None:
        """Check that the options go together. Raises BadInput, which names the option and what to do, where they do
        not."""
        given = vars(self.target) | vars(self.given.traces) | vars(self.datasets)
        given["max_rerouted"] = self.options.max_rerouted
        if self.many.resume and self.many.work is None:
            raise BadInput("--resume goes on with a run that kept its layers; name their folder with --work")
        if self.several:
            _refuse(given, FOR_ONE_DATASET, "is for one data set; name no other")
            return
        said = "is for several data sets; name them as NAME=PATH, or by --phase decode,prefill"
        _refuse(given, FOR_DATASETS, said)
        if not self.one_layer:
            _refuse(given, FOR_ONE_LAYER, "is for one layer; name it with --layer")
        elif self.many.slot_budget is not None:
            raise BadInput("--slot-budget is shared out over layers; of one layer limit them with --replicas")

    def planned(self, tell: "Progress") -> "Planned":
        """Check the options and plan, within what is left of the time limit, which counts from the start of the
        command. Raises BadInput and InputError for options and traces that cannot be used."""
        from optimizer.api.models import plan_model
        from optimizer.api.planning import plan_layer

        self.check()
        cancel, layers = session().cancel, self.layers
        traces_by_name: Any = self._input() if self.paths is None else self._inputs()
        first = traces_by_name if self.paths is None else next(iter(traces_by_name.values()))
        choice, machine = self.given.on_devices(first)
        options = replace(self.options, time_limit=session().left(self.options.time_limit))
        if self.one_layer and layers is not None:
            traces = replace(first, synthesise=self.target.synthesise)
            return plan_layer(traces, layers[0], choice, machine, options, self._start(), tell, cancel)
        return plan_model(traces_by_name, layers, choice, machine, options, self._run(), tell, cancel)

    def own_files(self, output: Path) -> dict[str, Path]:
        """The file that each data set's own plan is written to, by the name of the data set: for an output plan.json it
        is plan.NAME.json. Empty unless separate plans were asked for."""
        from optimizer.files import file_names
        from optimizer.traces.datasets import ALL, dataset_names

        if not self.datasets.separate:
            return {}
        paths = self.paths
        names = file_names(dataset_names([ALL] if paths is None else list(paths), self.phases, paths is not None))
        return {name: output.with_name(f"{output.stem}.{part}{output.suffix}") for name, part in names.items()}

    def own_plans(self, found: "Planned", files: dict[str, Path]) -> "list[tuple[Path, Plan]]":
        """Each data set's own plan with the file that it is written to; files: what `own_files` gives."""
        return [(path, _for_datasets(found).own[name]) for name, path in files.items()]

    def page(self, found: "Planned") -> str:
        """The page for a browser that shows every plan on every data set."""
        from optimizer.report.page.robustness_page import robustness_page

        return robustness_page(_for_datasets(found).robustness)

    def _input(self) -> "TraceInput":
        """The traces as one data set with the first of the phases, if phases were named."""
        phase = self.phases[0] if self.given.batches.phase is not None else None
        return trace_input(self.given.traces, replace(self.given.batches, phase=phase), self.options.seed)

    def _inputs(self) -> "dict[str, TraceInput]":
        """The traces of each data set by its name."""
        whole = self._input()
        return {name: replace(whole, traces=paths) for name, paths in (self.paths or {}).items()}

    def _run(self) -> "ModelRun":
        """How the run of many layers is made, as the API takes it."""
        from formulations.choice.robust_choice import Criterion
        from optimizer.api.models import ModelRun
        from optimizer.traces.datasets import weights_of

        return ModelRun(
            start=self._start(),
            fast=self.target.fast,
            slot_budget=self.many.slot_budget,
            work=self.many.work,
            resume=self.many.resume,
            cluster=self.many.cluster,
            criterion=Criterion(self.datasets.robust),
            weights=weights_of(self.datasets.weights),
            phases=None if self.given.batches.phase is None else self.phases,
        )

    def _start(self) -> "Plan | None":
        """The plan to start from, read from its file; None where none was named."""
        from optimizer.planning.plan_file import read_plan

        return None if self.target.start is None else read_plan(self.target.start)


def _for_datasets(found: "Planned") -> "RobustPlan":
    """The plans of several data sets. There always are some here, as `SolveRequest.check` refuses the options that need
    them where there is one data set."""
    datasets = getattr(found, "datasets", None)
    assert datasets is not None
    return datasets  # type: ignore[no-any-return]


def _refuse(given: dict[str, Any], names: tuple[str, ...], why: str) -> None:
    """Raise BadInput for the first of the named options that was given a value; why: the rest of its sentence."""
    for name in names:
        if given.get(name):
            raise BadInput(f"--{name.replace('_', '-')} {why}")
