"""What is asked of the proxies, by curl: kinds of requests, each with a zone of its own.

The name of a scenario is its zone, the first part of the host that is asked, and the first part of each path. So the
origin, the relay in front of the proxy, the log and Bandmeter all tell the same bytes apart.
"""

from __future__ import annotations

import dataclasses

BROKEN_OFF_BYTES = 300_000  # of a download or an upload that then ends
FAST_BYTES = 8_000_000  # more than the buffers between origin and client hold
UPLOAD_BYTES = 200_000


@dataclasses.dataclass(frozen=True, slots=True)
class Scenario:
    """A kind of request.

    `title`: for the table in docs/accuracy.md. `paths`: one curl each, or, with `is_kept`, all in one that keeps its
    connection. `status`: the pattern of what curl must see. `reaches`: whether a target hears of it. `has_user`: whether it has credentials. `ends`: how a
    transfer is broken off, a key of `clients.ENDS`.
    """

    name: str
    title: str
    paths: tuple[str, ...]
    options: tuple[str, ...] = ()
    status: str = "200"
    upload_bytes: int = 0
    is_kept: bool = False
    is_tls: bool = False
    has_user: bool = True
    reaches: bool = True
    ends: str = ""

    @property
    def scheme(self) -> str:
        return "https" if self.is_tls else "http"

    @property
    def is_full(self) -> bool:
        """Whether it ends while all buffers are full."""
        return self.ends == "hangup, fast"


def _plain(name: str, title: str, *paths: str, times: int = 2, **more) -> Scenario:
    return Scenario(name, title, paths * times, **more)


def _tls(name: str, title: str, *paths: str, times: int = 2, **more) -> Scenario:
    return Scenario(name, f"TLS: {title}", paths * times, is_tls=True, **more)


DOWNLOADS = ("bytes/1000", "bytes/60000", "bytes/1000000")
AT_ONCE = ("-H", "Expect:")  # curl's own header would ask before an upload
IN_CHUNKS = (*AT_ONCE, "-H", "Transfer-Encoding: chunked")
STALLED = f"stall/{BROKEN_OFF_BYTES}"
FAST = f"bytes/{FAST_BYTES}"

PLAIN = (
    _plain("get", "GET", *DOWNLOADS),
    _plain("chunked", "GET, answered in chunks", "chunked/100", "chunked/200000"),
    _plain("ipv6", "GET over IPv6", "bytes/1000", "bytes/60000"),
    _plain("kept", "GET, a connection for many", "bytes/500", "status/404", times=5, status="200|404", is_kept=True),
    _plain("head", "HEAD", "bytes/5000", options=("--head",)),
    _plain("empty", "204", "status/204", status="204"),
    _plain("missing", "404", "status/404", status="404"),
    _plain("post", "POST", "bytes/20", options=AT_ONCE, upload_bytes=UPLOAD_BYTES),
    _plain("postchunked", "POST, in chunks", "bytes/20", options=IN_CHUNKS, upload_bytes=UPLOAD_BYTES),
    _plain("expect", "POST, `Expect`", "bytes/20", options=("-H", "Expect: 100-continue"), upload_bytes=UPLOAD_BYTES),
    _plain("cached", "GET, cached after the first", "cached/50000", times=5),
    _plain("hangup", "client hangs up, nothing under way", STALLED, times=1, ends="hangup"),
    _plain("hangupfast", "client hangs up, all buffers full", FAST, times=1, ends="hangup, fast"),
    _plain("uphangup", "client hangs up in its upload", "bytes/20", times=1, options=IN_CHUNKS, ends="hangup, upload"),
    _plain("reset", "origin resets in its answer", STALLED, times=1, ends="reset"),
    _plain("silent", "origin gives no answer", "silence/", status="50."),
    _plain(
        "silentpost",
        "origin gives no answer to a POST",
        "silence/",
        status="50.",
        options=AT_ONCE,
        upload_bytes=UPLOAD_BYTES,
    ),
    _plain("refused", "connection refused", "bytes/1000", status="50.", reaches=False),
    _plain("denied", "403 by the proxy", "bytes/1000", status="403", reaches=False),
)
TLS = (
    _tls("tlsget", "GET", *DOWNLOADS),
    _tls("tlskept", "GET, a connection for many", "bytes/500", times=9, is_kept=True),
    _tls("tlspost", "POST", "bytes/20", options=AT_ONCE, upload_bytes=UPLOAD_BYTES),
    _tls("tlshangup", "client hangs up, nothing under way", STALLED, times=1, ends="hangup"),
    _tls("tlshangupfast", "client hangs up, all buffers full", FAST, times=1, ends="hangup, fast"),
    _tls("tlsreset", "origin resets in its answer", STALLED, times=1, ends="reset"),
)
TUNNEL = (
    *TLS,
    _tls("tlsipv6", "GET over IPv6", "bytes/1000"),
    _tls("tlsrefused", "connection refused", "bytes/1000", status="200|50.", reaches=False),
    _tls("tlsnowhere", "name not found", "bytes/1000", status="50.", reaches=False),
    _tls("tlsdenied", "403 by the proxy", "bytes/1000", status="403", reaches=False),
    _tls("tlsnobody", "407", "bytes/1000", status="407", has_user=False, reaches=False),
)
FORWARD = (
    *PLAIN,
    _plain("nowhere", "name not found", "bytes/1000", status="50.", reaches=False),
    _plain("nobody", "407", "bytes/1000", status="407", has_user=False, reaches=False),
    *TUNNEL,
)
EDGE = (*PLAIN, *TLS)
