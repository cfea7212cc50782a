"""Dialects: vendors' wire formats. To add one: one file that makes a `contracts.Dialect`, and one line here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bandmeter.dialects.baishan import build as build_baishan
from bandmeter.dialects.brightdata import BRIGHTDATA
from bandmeter.dialects.evomi import EVOMI

if TYPE_CHECKING:
    from bandmeter.domain.contracts import Dialect


def configure(*, baishan_timezone: str = "Asia/Shanghai") -> tuple[Dialect, ...]:
    """The dialects as an operator's settings want them."""
    return (build_baishan(baishan_timezone), BRIGHTDATA, EVOMI)


DIALECTS = configure()
