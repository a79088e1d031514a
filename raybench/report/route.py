"""Addresses of the page's views, in the fragment of its URL.

Values are names, never positions, so that a link stays valid when the next run has other lines. `assets/route.js` reads
them. The same text is the `id` of the view's element, so that links work without scripts as well.
"""

from __future__ import annotations

from urllib.parse import urlencode


def fragment(view: str, **names: str) -> str:
    """Return the address of a view without `#`, e.g. `v=line&line=bottle`."""
    return urlencode({"v": view, **{name: value for name, value in names.items() if value}})
