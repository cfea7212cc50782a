"""HTTP: the dialects' endpoint tables as an ASGI application."""

from __future__ import annotations

from bandmeter.web.app import build

__all__ = ["build"]
