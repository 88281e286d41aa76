"""How Sphinx makes pages of this folder, by ``make docs``, and man pages, by ``make format``."""

from __future__ import annotations

import bus_cache

project = "bus-cache"
author = "the bus-cache authors"
copyright = "the bus-cache authors; Apache License 2.0"  # noqa: A001 - Sphinx' name
version = release = bus_cache.__version__

extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence", "deflist"]
smartquotes = False
myst_heading_anchors = 3
# Pages are read on GitHub, too, where a heading may begin with the second level.
suppress_warnings = ["myst.header"]


html_theme = "furo"
html_title = f"bus-cache {version}"
html_show_sphinx = False

man_pages = [
    ("man/bus-cache", "bus-cache", "shows what bus-cache knows", author, 1),
    ("man/bus-cache-consumer", "bus-cache-consumer", "from the message bus to Redis", author, 8),
    ("man/bus-cache-agent", "bus-cache-agent", "tells what a host's image cache holds", author, 8),
]
man_show_urls = True
today = " "  # man pages are kept in etc/man: no day of their making in them
