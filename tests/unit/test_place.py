"""Which side counts, and what became of each record; secrets are taken out of what is kept."""

from __future__ import annotations

import base64
import json

import pytest

from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.usage import Outcomes, Side
from bandmeter.formats import FORMATS
from bandmeter.ingest.batch.place import without_secrets
from bandmeter.ingest.files.source import without_secrets as blanked

PLAIN = {"bytes_up": 1, "bytes_down": 2}
TARGET = {"target_bytes_up": 10, "target_bytes_down": 20}
CLIENT = {"client_bytes_up": 100, "client_bytes_down": 200}


def line(identity, *pairs):
    record = {"time": 1_795_132_800, "identity": identity}
    for pair in pairs:
        record |= pair
    return json.dumps(record).encode() + b"\n"


# pairs of bytes → what a zone that bills its target has at the target and the client; the same of one that bills the
# client; and what waits of a nobody. () stands for nothing at all, no_target.
N = (0, 0)
SIDES = [
    ([PLAIN], ((1, 2), N), (N, (1, 2)), ((1, 2), N)),
    ([TARGET], ((10, 20), N), ((10, 20), N), ((10, 20), N)),
    ([CLIENT], (N, (100, 200)), (N, (100, 200)), ()),
    ([TARGET, CLIENT], ((10, 20), (100, 200)), ((10, 20), (100, 200)), ((10, 20), (100, 200))),
    ([PLAIN, CLIENT], ((1, 2), (100, 200)), (N, (100, 200)), ((1, 2), (100, 200))),
    ([PLAIN, TARGET], ((10, 20), N), ((10, 20), (1, 2)), ((10, 20), N)),
    ([PLAIN, TARGET, CLIENT], ((10, 20), (100, 200)), ((10, 20), (100, 200)), ((10, 20), (100, 200))),
]


@pytest.mark.parametrize(("pairs", "billing_target", "billing_client", "waiting"), SIDES)
def test_sides_by_name_win_over_the_plain_pair(meter, pairs, billing_target, billing_client, waiting):
    target_zone, client_zone = meter.zones
    report = meter.feed(b"".join(line(i, *pairs) for i in ("cust-acme-zone-res", "shop.test", "nobody")))
    for zone, expected in ((target_zone, billing_target), (client_zone, billing_client)):
        assert tuple(meter.total(zone, side)[2:] for side in (Side.TARGET, Side.CLIENT)) == expected
    assert [(u.target[2:], u.client[2:]) for u in meter.store.unattributed()] == ([waiting] if waiting else [])
    no_target = (CLIENT in pairs and len(pairs) == 1) * 2
    assert report.outcomes == Outcomes(
        3, counted=2 - no_target // 2, no_target=no_target, unattributed=int(bool(waiting))
    )


def test_a_refused_request_of_a_nobody_leaves_no_name(meter):
    """Requests that a proxy refused do not fill the store with the names that an attacker thought of."""
    header = b"time\tidentity\tbytes_up\tbytes_down\ttarget_ip\n"
    rows = b"".join(b"1795132800\tguess%d\t1\t2\t-\n" % i for i in range(5))
    outcomes = meter.feed(header + rows + b"1795132800\tcust-acme-zone-res\t1\t2\t-\n", "tsv").outcomes
    assert outcomes == Outcomes(6, no_target=6)
    assert meter.store.unattributed() == []
    assert meter.rows() == {}


def test_requests_and_successes(meter):
    """Pre-summed records carry many requests; 2xx and 404 are the successful ones."""
    statuses = [None, 100, 199, 200, 299, 300, 403, 404, 405, 500, 599]
    meter.feed(
        b"".join(line("cust-acme-zone-res", PLAIN, {"status": s, "requests": 10 + i}) for i, s in enumerate(statuses))
    )
    total = meter.total(meter.zones[0])
    assert total.requests == sum(10 + i for i in range(len(statuses)))
    assert total.successes == sum(10 + i for i, s in enumerate(statuses) if s in (200, 299, 404))


def test_no_requests_and_no_bytes_are_counted_and_leave_no_row(meter):
    zero = {"bytes_up": 0, "bytes_down": 0, "requests": 0}
    assert meter.feed(line("cust-acme-zone-res", zero)).outcomes == Outcomes(1, counted=1)
    assert meter.rows() == {}


def test_sums_of_a_batch_beyond_64_bits_are_refused(meter):
    """8,192 times 2^50: nothing of the batch is counted, and it is said."""
    big = line("cust-acme-zone-res", {"bytes_up": 2**50, "bytes_down": 1})
    meter.feed(big * 8191)
    assert meter.total(meter.zones[0]).bytes_up == 8191 * 2**50
    with pytest.raises(BandmeterError, match="64 bits"):
        meter.feed(big * 8192, source_name="other")
    assert meter.total(meter.zones[0]).bytes_up == 8191 * 2**50
    assert len(meter.store.sources()) == 1


def test_the_newest_time_is_of_what_counted(meter):
    records = [("cust-acme-zone-res", 5), ("cust-acme-zone-res", 3), ("shop.test", 4), ("nobody", 9)]
    meter.feed(b"".join(line(i, PLAIN, {"time": 1_795_132_800 + s}) for i, s in records))
    assert [meter.store.freshness([n]).newest_ms for n in (1, 2)] == [1_795_132_805_000, 1_795_132_804_000]
    assert [u.newest_ms for u in meter.store.unattributed()] == [1_795_132_809_000]
    assert meter.store.sources()[0].newest_ms == 1_795_132_809_000


# ---------------------------------------------------------------- secrets


def basic(text):
    return base64.b64encode(text)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (b"a\tBasic %s\tb" % basic(b"user:secret"), b"a\tBasic %s\tb" % basic(b"user:")),
        (b"BASIC   %s" % basic(b"user:secret"), b"BASIC   %s" % basic(b"user:")),
        (b"basic\t%s" % basic(b"user:secret"), b"basic\t%s" % basic(b"user:")),
        (b"Basic %s Basic %s" % (basic(b"a:b"), basic(b"c:d")), b"Basic %s Basic %s" % (basic(b"a:"), basic(b"c:"))),
        (b"Basic no-base64!", b"Basic -"),
        (b"Basic %s" % basic(b"user:secret")[:-3], b"Basic -"),
        (b"Basic", b"Basic"),
        (b"Basically fine", b"Basically fine"),
    ],
)
def test_of_a_credential_only_the_user_is_kept(text, kept):
    assert without_secrets(FORMATS["trafficserver"], text) == kept


def test_other_formats_are_kept_as_they_are():
    assert without_secrets(FORMATS["jsonl"], b"Basic abcd") == b"Basic abcd"


def test_a_beginning_without_its_secrets_stays_a_beginning():
    """Whatever part of it was there before: else a file would not be known again when it grew."""
    text = b"x\tBasic %s\tGET\nbasic\tabc\nBasic \n\nnext Basic  %s\n" % (basic(b"user:secret"), basic(b"b:c"))
    whole = blanked(text)
    assert len(whole) == len(text)
    assert basic(b"user:secret") not in whole
    for length in range(len(text)):
        assert whole.startswith(blanked(text[:length]))
        assert blanked(blanked(text[:length]) + text[length:]) == whole
