"""The command `compare`, which judges our plan beside the plans of published planners."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import click

from optimizer.commands.declare import Option, command
from optimizer.commands.layer_input import LayerInput
from optimizer.commands.options import NOT_NEGATIVE, JsonOptions, PageOptions, ReplicaOptions
from optimizer.commands.output import say, show, show_json
from optimizer.commands.pictures import PictureOptions, write_pictures
from optimizer.commands.progress import progress
from optimizer.commands.search_options import SearchOptions, solve_options
from optimizer.commands.session import session

if TYPE_CHECKING:
    from optimizer.api.results import Compared
    from optimizer.report.page.pictures import Format


@dataclass(frozen=True)
class CompareTarget:
    """The option that says which layer every planner plans."""

    SECTION: ClassVar[str] = "What to plan"
    layer: Annotated[int, Option(("--layer",), "Model layer to plan.", NOT_NEGATIVE, "N", essential=True)]


@command(example="moeplan compare traces/ --layer 12 --time-limit 60")
def compare(
    target: CompareTarget,
    given: LayerInput,
    replicas: ReplicaOptions,
    search: SearchOptions,
    page: PageOptions,
    pictures: PictureOptions,
    figures: JsonOptions,
) -> None:
    """Plan one layer with every published planner and with our own, and judge all on the same test batches.

    EPLB (also by groups, with METRO's routing and with optimal routing), SGLang's maximum per step (also packed as EPLB
    does), FlashLB, SwiftBalancer, LPLB on a cube and a torus, GRACE+, MoETuner and Director (neither makes copies), one
    more copy of the hottest with balanced rows, and plain orders. Each placement is judged under the routing that it
    was published with, and under optimal routing in tokens and tiles, or in --unit. With --server all are judged under
    what that server does, whoever planned. Planning times are without compilation. The time limit is that of our plan;
    the others take what they take.
    """
    from optimizer.api.judging import compare as compare_planners
    from optimizer.files import check_writable, write_whole

    if page.html is not None:
        check_writable(page.html, "html")
    browsers = pictures.browsers()
    given = given.filled()
    traces = given.trace_input()
    choice, machine = given.on_devices(traces)
    options = solve_options(search, given.seed, given.cost, replicas.constraints(), given.server)
    with progress() as tell:
        asked = choice, machine, options, tell, session().cancel, given.server.to_server()
        found = compare_planners(traces, target.layer, *asked)
    say(found.notes)
    if page.html is not None:
        from optimizer.report.page.compare_page import compare_page

        write_whole(page.html, compare_page(found.comparison, found.notes))
    drawn = _pictures(found, browsers) if browsers else []
    if figures.as_json:
        show_json(found.as_json())
        return
    show(found.parts())
    if page.html is not None:
        click.echo(f"The page is written to {page.html}.")
    for said in drawn:
        click.echo(said)


def _pictures(found: "Compared", browsers: "dict[Format, tuple[str, Path]]") -> list[str]:
    """Write the pictures of the page; gives a sentence on each folder."""
    from optimizer.report.page.compare_page import compare_sections

    return write_pictures(compare_sections(found.comparison, found.notes), browsers)
