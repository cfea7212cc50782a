"""The Bright Data dialect's own rules: dates, windows, metrics. What goes over the wire is in the vectors."""

from __future__ import annotations

import datetime as dt
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandmeter.dialects.brightdata import BRIGHTDATA, wire, zones
from bandmeter.dialects.brightdata.bandwidth import METRICS, series
from bandmeter.domain import errors, usage
from bandmeter.domain.contracts import Call
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.grid import Span
from bandmeter.domain.tenancy import Account, ZoneStatus
from bandmeter.domain.usage import Columns, Row

DAY = 86_400


def call(now="2026-01-15T12:00:00Z", **parameters) -> Call:
    now_ms = round(dt.datetime.fromisoformat(now).timestamp() * 1000)
    return Call(Account("acme"), {name.rstrip("_"): value for name, value in parameters.items()}, now_ms)


def question(path: str, **parameters):
    (endpoint,) = (e for e in BRIGHTDATA.endpoints if path in e.paths)
    return endpoint.parse(call(**parameters))


def day(text: str) -> int:
    return int(dt.datetime.fromisoformat(f"{text}T00:00Z").timestamp())


def test_costs_reach_as_far_as_the_bandwidth():
    """A record may be stamped some minutes ahead, in tomorrow and in the month that begins with it: in both, or none."""
    for now in ("2026-01-15T12:00:00Z", "2026-01-31T23:59:00Z"):
        bandwidth, cost = (question(path, now=now, zone="z") for path in ("/zone/bw", "/zone/cost"))
        assert max(span.end for span in cost.spans) == bandwidth.span.end
        assert {
            span.end for span in question("/zone/cost", now=now, zone="z", from_="2026-01-01", to="2027-01-01").spans
        } == {day("2027-01-01")}


# ---------------------------------------------------------------- dates


@given(
    st.datetimes(dt.datetime(1970, 1, 2), dt.datetime(2999, 12, 30)),  # noqa: DTZ001 - the offset is drawn apart
    st.integers(-(23 * 60 + 59), 23 * 60 + 59),
    st.sampled_from(["+", " "]),
    st.booleans(),
)
def test_a_date_means_what_iso_8601_says(naive, minutes, plus, colon):
    """To the microsecond, whatever the offset, and with a space where a plus was decoded."""
    sign, size = ("-" if minutes < 0 else plus), abs(minutes)
    offset = f"{sign}{size // 60:02}{':' if colon else ''}{size % 60:02}"
    moment = wire.read_date(call(from_=f"{naive:%Y-%m-%dT%H:%M:%S.%f}{offset}"), "from")
    aware = naive.replace(tzinfo=dt.timezone(dt.timedelta(minutes=minutes)))
    assert moment.second == (aware - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(seconds=1)
    assert moment.fraction * 10**6 == naive.microsecond
    assert moment.floor % DAY == moment.ceil % DAY == 0
    assert moment.floor <= moment.second <= moment.ceil <= moment.floor + DAY


def test_the_documents_pattern_knows_every_day_of_the_calendar():
    """The pattern that is both shown and parsed takes each real day of 1970 to 2999, and no other."""
    first, last = dt.date(1970, 1, 1), dt.date(2999, 12, 31)
    real = {str(first + dt.timedelta(days=n)) for n in range((last - first).days + 1)}
    written = [f"{y}-{m:02}-{d:02}" for y in range(1969, 3001) for m in range(14) for d in range(33)]
    assert {text for text in written if re.search(wire.DATE_PATTERN, text)} == real
    assert {text for text in written if re.search(wire.DATE_PATTERN, text.replace("-", ""))} == real


NOON = "2022-11-20T12:00:00+00:00"
FORMS = {
    "2022-11-20T10": "2022-11-20T10:00:00+00:00",
    "2022-11-20T10Z": "2022-11-20T10:00:00+00:00",
    "2022-11-20T10-05": "2022-11-20T15:00:00+00:00",
    "2022-11-20 10 05": "2022-11-20T05:00:00+00:00",  # a space for the T, and one for a plus
    "2022-11-20T12z": NOON,
    "2022-11-20t12:00Z": NOON,
    "2022-11-20 12:00": NOON,
    "2022-11-20 12:00:00.000Z": NOON,
    "2022-11-20T14:00 02:00": NOON,
    "20221120T1200": NOON,
    "20221120T120000Z": NOON,
    "20221120T140000+0200": NOON,
    "20221120T14 0200": NOON,
    "20221120": "2022-11-20T00:00:00+00:00",
    "20221120Z": "2022-11-20T00:00:00+00:00",
    "2022-11-20Z": "2022-11-20T00:00:00+00:00",
    "2022-11-20T24": "2022-11-21T00:00:00+00:00",
    "2022-11-20T24:00:00Z": "2022-11-21T00:00:00+00:00",
    "20221231T240000,000": "2023-01-01T00:00:00+00:00",
    "2022-11-20T24:00+02:00": "2022-11-20T22:00:00+00:00",
}


@pytest.mark.parametrize("text", FORMS)
def test_a_form_of_iso_8601_is_the_moment_that_it_writes(text):
    moment = wire.read_date(call(from_=text), "from")
    assert dt.datetime.fromtimestamp(moment.second, dt.UTC).isoformat() == FORMS[text]
    assert moment.fraction == 0


@pytest.mark.parametrize(
    "text",
    [
        *("2022-11-20T", "2022-11-20TZ", "2022-11-20+02:00", "2022-11-20T10:00ZZ", "2022-11-20  10"),
        *("2022-1120", "2022-11-20T1000", "20221120T10:00", "202211", "2022-W47-7", "2022-324", "20221131"),
        *("2022-11-20T24:01", "2022-11-20T24:00:00.1", "2022-11-20T25", "2022-11-20T10.5"),
        "2022-11-20T10:00:00." + "1" * 39,
    ],
)
def test_a_form_that_iso_8601_has_not_or_that_is_not_taken_is_refused(text):
    with pytest.raises(BandmeterError, match=r"^from takes a date"):
        wire.read_date(call(from_=text), "from")


def test_a_fraction_is_exact_however_long():
    """Compared with a shorter one too, and never rounded away; the longest form is as long as the parameter."""
    text = f"2022-11-20T23:59:59.{'0' * 37}1+00:00"
    assert len(text) == wire.FROM.schema["maxLength"]
    tiny, half, less = (
        wire.read_date(call(from_=one), "from")
        for one in (text, "2022-11-20T23:59:59.5Z", "2022-11-20T23:59:59.1234567890123456789Z")
    )
    assert tiny < less < half
    assert tiny.ceil == half.ceil == day("2022-11-21")


@given(st.text(max_size=40))
def test_what_is_no_date_is_refused_by_name(text):
    """Any text is either a date or an error that names the parameter: never another exception."""
    refused = None
    try:
        moment = wire.read_date(call(to=text), "to")
    except BandmeterError as error:
        refused = (error.code, error.sentence[:15])
    assert refused == (errors.PARAMETER_INVALID, "to takes a date") or moment.ceil % DAY == 0


@pytest.mark.parametrize(
    ("now", "window"),
    [
        ("2022-11-22T11:35:32Z", ("2022-10-01", "2022-11-23")),
        ("2026-01-01T00:00:00Z", ("2025-12-01", "2026-01-02")),
        ("2025-12-31T23:59:59Z", ("2025-11-01", "2026-01-01")),
        ("2024-02-29T12:00:00Z", ("2024-01-01", "2024-03-01")),
        ("2024-03-31T12:00:00Z", ("2024-02-01", "2024-04-01")),
    ],
)
def test_the_default_window_is_the_previous_month_to_tomorrow(now, window):
    assert question("/zone/bw", zone="z", now=now).span == Span(*map(day, window))


def test_the_relative_buckets_follow_the_calendar():
    """On the first of March the days before lie in the month before, and the months have their own lengths."""
    assert wire.back_buckets(day("2024-03-01")) == {
        "back_m2": Span(day("2024-01-01"), day("2024-02-01")),
        "back_m1": Span(day("2024-02-01"), day("2024-03-01")),
        "back_m0": Span(day("2024-03-01"), day("2024-04-01")),
        "back_d2": Span(day("2024-02-28"), day("2024-02-29")),
        "back_d1": Span(day("2024-02-29"), day("2024-03-01")),
        "back_d0": Span(day("2024-03-01"), day("2024-03-02")),
    }


# ---------------------------------------------------------------- metrics


def columns(rows: list[Row]) -> Columns:
    return Columns._make(zip(*rows, strict=True)) if rows else Columns()


def naive_series(rows: list[Row], span: Span) -> dict[str, list[int]]:
    """The table of metrics read row by row, in the plainest way there is."""
    found = {}
    for metric in METRICS:
        numbers = [0] * ((span.end - span.start) // DAY)
        for row in rows:
            values = usage.unpack(row.dimensions)
            if all(values[name] in allowed for name, allowed in metric.where.items()):
                counters = {**row._asdict(), "bytes": row.bytes_up + row.bytes_down}
                numbers[(row.bucket - span.start) // DAY] += counters[metric.counts]
        if metric.always or any(numbers):
            found[metric.name] = numbers
    return found


packed = st.builds(
    lambda values: usage.pack(**dict(zip(usage.DIMENSIONS, values, strict=True))),
    st.tuples(*(st.sampled_from(d.values) for d in usage.DIMENSIONS.values())),
)
counters = st.tuples(*[st.integers(0, 2**50)] * 4)


@given(st.integers(1, 9), st.dictionaries(st.tuples(st.integers(0, 8), packed), counters, max_size=30))
def test_series_are_what_the_table_of_metrics_says(days, drawn):
    """Working by columns gives what reading the table row by row gives, in the same order."""
    span = Span(day("2026-01-01"), day("2026-01-01") + days * DAY)
    rows = [Row(span.start + n * DAY, p, *c) for (n, p), c in sorted(drawn.items()) if n < days]
    assert list(series(columns(rows), span).items()) == list(naive_series(rows, span).items())


@pytest.mark.parametrize("missing", [None, 0, 3, 9])
def test_series_of_every_day_are_what_the_table_says(missing):
    """The short way for traffic of every kind on every day, and one row beside it."""
    span, kinds = Span(0, 5 * DAY), (usage.pack(scheme="http", network="dc"), usage.pack(scheme="https", network="res"))
    rows = [Row(n * DAY, kind, n, n, 10 * n + kind, 7 * n) for n in range(5) for kind in kinds]
    if missing is not None:
        del rows[missing]
    assert list(series(columns(rows), span).items()) == list(naive_series(rows, span).items())


def test_bw_sum_is_down_plus_up():
    rows = [Row(0, p, 1, 1, 3, 4) for p in range(3)]
    numbers = series(columns(rows), Span(0, DAY))
    assert numbers["bw_sum"] == [numbers["bw_dn"][0] + numbers["bw_up"][0]] == [21]


def test_each_metrics_table_row_names_real_dimensions():
    for metric in METRICS:
        for name, values in metric.where.items():
            assert set(values) <= set(usage.DIMENSIONS[name].values)
    assert len({metric.name for metric in METRICS}) == len(METRICS)


# ---------------------------------------------------------------- tables


def test_each_network_and_status_has_the_vendors_word():
    assert set(zones.TYPES) == set(usage.NETWORKS)
    assert set(zones.STATUSES) == set(ZoneStatus)


def test_each_error_of_http_has_a_reply_without_our_detail():
    """Only sentences about the caller's own parameters go out as they are."""
    for code in errors.HTTP_CODES:
        reply = BRIGHTDATA.render_error(BandmeterError(code, "detail"))
        assert reply.content_type == "text/html; charset=utf-8"
        assert (reply.body == b"detail") == (code in {errors.PARAMETER_INVALID, errors.PARAMETER_MISSING})


def test_each_endpoint_is_served_in_both_forms_under_the_dialects_prefixes():
    for endpoint in BRIGHTDATA.endpoints:
        first, second = endpoint.paths
        assert second == f"/api{first}"
        assert all(
            any(p == prefix or p.startswith(f"{prefix}/") for prefix in BRIGHTDATA.prefixes) for p in endpoint.paths
        )


def test_a_code_that_http_never_meets_is_our_failure():
    assert BRIGHTDATA.render_error(BandmeterError(errors.CONFLICT, "detail")).status == 500


@pytest.mark.parametrize(
    "text",
    [
        "2022-11-20T10",
        "2022-11-20T10Z",
        "2022-11-20 10:00:00",
        "2022-11-20t10:00:00z",
        f"2022-11-20T10:00:00.{'0' * 18}Z",
    ],
)
def test_the_less_usual_forms_of_iso_8601_are_the_same_moment(text):
    """Python's str(datetime) has a space, others write small letters, hours alone, or more digits than there are."""
    assert wire.read_date(call(from_=text), "from") == wire.Moment(day("2022-11-20") + 36_000, 0)
