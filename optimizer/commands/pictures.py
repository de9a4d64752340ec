"""Pictures of a page as files of their own: the options that name folders, and the writing."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, ClassVar

from optimizer.commands.declare import Option

if TYPE_CHECKING:
    from optimizer.report.page.parts import Section
    from optimizer.report.page.pictures import Format


@dataclass(frozen=True)
class PictureOptions:
    """The options that say where pictures alone are written."""

    SECTION: ClassVar[str] = "Output"
    png: Annotated[
        Path | None,
        Option(
            ("--png",),
            "Write each picture of the page into this folder, for slides. Needs Chromium or Chrome.",
            metavar="DIR",
        ),
    ] = None
    svg: Annotated[Path | None, Option(("--svg",), "The same as vector graphics, for papers.", metavar="DIR")] = None

    def browsers(self) -> "dict[Format, tuple[str, Path]]":
        """The browser that draws, and the folder, for each format that is asked for. Raises InputError where no browser
        is installed, before any work is done."""
        from optimizer.report.page.pictures import find_browser

        named: dict[Format, Path | None] = {"png": self.png, "svg": self.svg}
        return {form: (find_browser(form), folder) for form, folder in named.items() if folder is not None}


def write_pictures(
    sections: "Sequence[Section]", browsers: "dict[Format, tuple[str, Path]]", layer: int | None = None
) -> list[str]:
    """Write the pictures of the sections, into folders that are made where they do not exist; layer: which layer they
    are of, None where pages have no choice of layers. Gives a sentence on each folder."""
    from optimizer.files import write_whole_binary
    from optimizer.report.page.pictures import draw_pictures

    said = []
    for form, (browser, folder) in browsers.items():
        drawn = draw_pictures(browser, sections, layer, form)
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in drawn.items():
            write_whole_binary(folder / f"{name}.{form}", partial(_write, content))
        many = "picture is" if len(drawn) == 1 else "pictures are"
        said.append(f"{len(drawn)} {many} written into {folder}.")
    return said


def _write(content: bytes, file: IO[bytes]) -> None:
    file.write(content)
