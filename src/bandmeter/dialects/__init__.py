"""Dialects: vendors' wire formats. To add one: one file that makes a `contracts.Dialect`, and one line here."""

from __future__ import annotations

from bandmeter.dialects.brightdata import BRIGHTDATA

DIALECTS = (BRIGHTDATA,)
