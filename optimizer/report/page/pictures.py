"""Pictures alone, as PNG and SVG files for papers and slides, drawn by the Chromium that is installed.

Plotly draws in a browser. A library that drives one for it (kaleido) needs a Chrome as well, and a dozen packages.
"""

import json
import os
import re
import shutil
import subprocess
import tempfile
from base64 import b64decode
from collections.abc import Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import unquote_to_bytes

from plotly.offline import get_plotlyjs

from optimizer.errors import InputError
from optimizer.report.page.parts import Section
from optimizer.report.page.skeleton import as_script, asset, data_of

Format = Literal["png", "svg"]

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
"""Names of browsers that understand the flags below, in the order in which they are looked for."""

FLAGS = ("--headless", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync",
         "--disable-component-update", "--disable-quic", "--dump-dom")  # fmt: skip

PATIENCE_MS = 120_000
"""Milliseconds of the page's own clock that it may take; that clock stands while scripts work. Far more than needed."""

LONGEST = 300
"""Seconds after which a browser that does not end is taken to hang. Fifteen pictures take about five."""

FOUND = re.compile(r'<script type="application/json" id="pictures">(.*?)</script>', re.DOTALL)


def find_browser(field: str) -> str:
    """The path of the browser that draws. Raises InputError with this field where none is installed."""
    for name in BROWSERS:
        if path := shutil.which(name):
            return path
    said = "pictures are drawn by Chromium or Chrome, and none is installed; install one, or take the page alone"
    raise InputError(said, field)


def draw_pictures(browser: str, sections: Sequence[Section], layer: int | None, wanted: Format) -> dict[str, bytes]:
    """The content of a file for each picture, by name; of pictures that show several metrics, one for each.

    browser: its path; layer: which layer the pictures are of, None where they are of no single one. Raises OSError
    where the browser fails.
    """
    data = as_script(data_of(sections, [] if layer is None else [layer]))
    text = _page(data, wanted)
    with tempfile.TemporaryDirectory(prefix="moeplan-", ignore_cleanup_errors=True) as folder:
        page = Path(folder) / "pictures.html"
        page.write_text(text, encoding="utf-8")
        dump = _dumped(browser, page, Path(folder) / "home")
    found = FOUND.search(dump)
    if found is None:
        raise OSError(f"{browser} did not draw the pictures")
    return {name: _content(url) for name, url in json.loads(found[1]).items()}


def _page(data: str, wanted: Format) -> str:
    """A page that draws all pictures by itself and keeps them in an element."""
    return (
        f'<!DOCTYPE html><meta charset="utf-8"><body data-format="{wanted}">'
        f'<script type="application/json" id="data">{data}</script><script>{get_plotlyjs()}</script>'
        f"<script>{asset('page.js')}</script><script>{asset('pictures.js')}</script></body>"
    )


def _dumped(browser: str, page: Path, home: Path) -> str:
    """The page as it is after its scripts have run. Root may not use the browser's sandbox, which keeps foreign pages
    from harm; this page is our own."""
    root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    command = [browser, *FLAGS, *root, f"--user-data-dir={home}", f"--virtual-time-budget={PATIENCE_MS}", page.as_uri()]
    try:
        ended = subprocess.run(command, capture_output=True, timeout=LONGEST, check=True)
    except subprocess.SubprocessError as error:
        raise OSError(f"{browser} failed to draw the pictures ({type(error).__name__})") from None
    return ended.stdout.decode("utf-8", errors="replace")


def _content(url: str) -> bytes:
    """The bytes that a data URL holds."""
    kind, _, content = url.partition(",")
    return b64decode(content) if kind.endswith(";base64") else unquote_to_bytes(content)
