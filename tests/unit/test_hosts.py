"""What a breakdown by target names: a host in one spelling, and nothing that is none."""

from __future__ import annotations

import pytest

from bandmeter.ingest.batch.hosts import host_of, hosts_of


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("shop.test", "shop.test"),
        ("Shop.TEST.:8080", "shop.test"),
        ("shop.test.", "shop.test"),
        ("2001:DB8::1", "[2001:db8::1]"),
        ("[2001:db8::1]:443", "[2001:db8::1]"),
        ("fe80::1%eth0", "[fe80::1%eth0]"),
        ("[2001:db8:0:0:0:0:0:1]", "[2001:db8::1]"),
        ("2001:0db8::0001", "[2001:db8::1]"),
        ("::FFFF:192.0.2.1", "[::ffff:192.0.2.1]"),
        ("::ffff:c000:201", "[::ffff:192.0.2.1]"),
        ("192.0.2.1:80", "192.0.2.1"),
        ("xn--bcher-kva.test", "xn--bcher-kva.test"),
        ("_dmarc.a-b.test", "_dmarc.a-b.test"),
        ("a:1:2", None),
        ("[:::]", None),
        ("[2001:db8::1", "[2001:db8::1]"),
        ("[shop.test]", None),
        ("a..b", None),
        ("ü..b", None),
        (".a", None),
        ("a.test..", None),
        ("--", None),
        ("_", None),
        ("shop:1:2", None),
        ("ÜBER.test", "über.test"),
        ("e\u0301.test", "e\u0301.test"),  # a letter, and the mark above it
        ("x" * 253, "x" * 253),
        ("x" * 253 + ":443", "x" * 253),
        ("x" * 254, None),
        ("X" * 254, None),
        ("ü" * 127, None),  # 254 bytes
        ("a b", None),
        ("a/b", None),
        ("a\n", None),
        ("-", None),
        ("-:443", None),
        ("[]", None),
        (":443", None),
        ("...", None),
        ("", None),
    ],
)
def test_the_host_of_what_a_log_says(text, host):
    assert host_of(text) == host


def test_of_many_each_is_told_in_its_place():
    assert hosts_of(["A.test", None, "a b", "A.test"]) == ["a.test", None, None, "a.test"]
