"""Bytes of a log become folded groups of records, by one SQL query a batch, in DuckDB.

A batch goes the fast way: split, judged and folded in one query. What the splitter could misread (NUL, a lone CR,
broken UTF-8, a line that is too long) is taken out before, in `clean.py`; and the number of rows that came out of the
query must be the number of lines that went in, or the batch is not counted at all.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import duckdb
import numpy as np

from bandmeter.domain import errors
from bandmeter.domain.errors import BandmeterError
from bandmeter.formats import FORMATS, FUNCTIONS
from bandmeter.ingest.batch.attribute import Owner
from bandmeter.ingest.batch.hosts import hosts_of
from bandmeter.ingest.batch.query import (
    NAMED_SHIFT,
    NUMBERED_GROUPS,
    OWNERS,
    REJECTED,
    SUMS,
    Query,
    Reading,
    numbered_host_groups,
    numbered_hosts,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from bandmeter.domain.contracts import Format
    from bandmeter.ingest.batch.attribute import Attribution

MEMORY_LIMIT = "256MB"  # of DuckDB, beside the batch itself
SMALL_BYTES = 131_072  # up to here planning a query takes longer than running it


class Groups(NamedTuple):
    """Folded records, column by column, a group a place. Columns are arrays of 64-bit integers.

    `owners`: the distinct owners; `owner`: the place of each group's owner among them. `key`: as in `query.py`.
    `sums` has every counter of `query.SUMS`. `body`: which of several bodies that were read together each group is of.
    `rejected`: how many records have no key, and are in no group.
    `hosts`: the same records by owner, day and host, where a host is known, with the same `owners`; `host` has names.
    """

    owners: list[Owner]
    owner: Any
    key: Any
    records: Any
    requests: Any
    successes: Any
    sums: dict[str, Any]
    newest_ms: Any
    body: Any
    rejected: int
    hosts: Groups | None = None
    host: Any = None

    def only(self, mask: Any) -> Groups:
        """Those groups alone."""
        columns = {name: getattr(self, name)[mask] for name in _COLUMNS}
        columns["host"] = None if self.host is None else self.host[mask]
        return self._replace(sums={name: values[mask] for name, values in self.sums.items()}, **columns)

    def of_owners(self, is_wanted: Sequence[bool]) -> Groups:
        """Only the groups of these owners, also those by host."""
        wanted = np.array(is_wanted, dtype=bool)
        hosts = None if self.hosts is None else self.hosts.only(wanted[self.hosts.owner])
        return self.only(wanted[self.owner])._replace(hosts=hosts)

    def with_hosts(self, names: Sequence[str | None]) -> Groups:
        """Those for which there is a host's name."""
        host = np.array(names, dtype=object)
        return self._replace(host=host).only(host.astype(bool))

    @property
    def size(self) -> int:
        """How many groups there are, those by host too."""
        return len(self.key) + (0 if self.hosts is None else len(self.hosts.key))

    @property
    def received(self) -> int:
        """How many records were read, counted or not."""
        return int(self.records.sum()) + self.rejected


_COLUMNS = ("owner", "key", "records", "requests", "successes", "newest_ms", "body")


def joined(bodies: Mapping[int, Groups]) -> Groups:
    """The groups of several bodies, told apart by `body`."""
    owners: dict[Owner, int] = {}
    parts = []
    for body, groups in bodies.items():
        place = np.array([owners.setdefault(owner, len(owners)) for owner in groups.owners], dtype=np.int64)
        hosts = None if groups.hosts is None else groups.hosts._replace(owner=place[groups.hosts.owner])
        bodys = np.full(len(groups.key), body, dtype=np.int64)
        parts.append(groups._replace(owner=place[groups.owner], body=bodys, hosts=hosts))
    with_hosts = [part.hosts for part in parts if part.hosts is not None]
    joint = _concatenated(parts)._replace(owners=list(owners), rejected=sum(part.rejected for part in parts))
    return joint._replace(hosts=_concatenated(with_hosts) if with_hosts else None)


def _concatenated(parts: Sequence[Groups]) -> Groups:
    columns: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS}
    return parts[0]._replace(
        sums={name: np.concatenate([part.sums[name] for part in parts]) for name in SUMS},
        host=None if parts[0].host is None else np.concatenate([part.host for part in parts]),
        **columns,
    )


class Decoder:
    """Decodes batches of one format, read in one way, on one DuckDB connection.

    `is_small`: made for a few records at a time: the query is planned once, and not made better, which for them takes
    longer than running it.
    """

    def __init__(
        self, log_format: Format, reading: Reading, path: str, folder: Path, *, is_small: bool = False
    ) -> None:
        self.format = log_format
        self._reading = reading
        self._path = path
        self._is_small = is_small
        self._attribution: Attribution | None = None
        self._query = Query(log_format, reading, path)
        self._db = duckdb.connect()
        self._db.execute(f"SET memory_limit = '{MEMORY_LIMIT}'")
        # Where it keeps what is beyond that; else it would be the folder that we happen to run in.
        spill = str(folder / f".spill-{os.getpid()}-{id(self)}").replace("'", "''")
        self._db.execute(f"SET temp_directory = '{spill}'")
        self._db.execute("SET enable_external_file_cache = false")  # the scratch file changes under one name
        self._db.execute("SET autoinstall_known_extensions = false")
        self._db.execute("SET autoload_known_extensions = false")
        self._db.execute("SET TimeZone = 'UTC'")
        self._db.execute("SET preserve_insertion_order = false")  # sums have none
        self._db.execute("SET checkpoint_threshold = '1TB'")  # a checkpoint writes the temporary tables once more
        if is_small:
            self._db.execute("SET threads = 1")
            self._db.execute("PRAGMA disable_optimizer")
        for signature, body in FUNCTIONS.items():
            self._db.execute(f"CREATE MACRO {signature} AS ({body})")
        if log_format != FORMATS.get(log_format.name):
            self._check()

    def _check(self) -> None:
        """Raise `input_invalid` when the SQL of a format that is not ours cannot be run at all."""
        records = f"({self._query.records('0')})"
        try:
            self._db.execute(f"EXPLAIN {self._query.by_key(self._query.pieces(records))}")
        except duckdb.Error as error:
            columns = self.format.layouts[0].columns
            reason = str(error).partition("\n")[0]
            reason = re.sub(r"\bp(\d+)\b", lambda p: columns[int(p[1])] if int(p[1]) < len(columns) else p[0], reason)
            sentence = f"The format {self.format.name!r} cannot be used: {reason}: mend its fields."
            raise BandmeterError(errors.INPUT_INVALID, sentence) from error

    def attribute_with(self, attribution: Attribution) -> None:
        """Cut identities for this catalog from now on."""
        if attribution is self._attribution:
            return
        self._attribution = attribution
        self._fill("whole_identities", attribution.whole_identities)
        self._fill("dashed_names", attribution.dashed_names)
        self._query = Query(self.format, self._reading, self._path, attribution.cut_sql("identity"))
        if self._is_small:
            records = f"({self._query.records('$1::BIGINT')})"
            pieces = self._query.pieces(records)
            self._db.execute(f"PREPARE by_key AS {self._query.by_key(pieces)}")
            if self._query.reading.by_host:
                self._db.execute(f"PREPARE by_host AS {self._query.by_host(pieces)}")
            if self._query.reading.spread:
                self._db.execute(f"PREPARE most_groups AS {self._query.most_groups(records)}")

    def fold(self, now_ms: int, groups_max: int | None = None) -> Groups | None:
        """Decode and fold the file; None when more groups than that come out of records that are spread.

        Raises duckdb.Error when the splitter fails; `clean` then finds the lines that made it fail.
        """
        bound = groups_max if self._query.reading.spread else None
        if self._is_small:
            if bound is not None and self._number(f"EXECUTE most_groups({now_ms})") > bound:
                return None
            return self._fold_small(now_ms)
        query, reading = self._query, self._query.reading
        records = f"({query.records(str(now_ms))})"
        if reading.by_host or reading.spread:  # they are looked at more than once
            self._keep("record", records)
            records = "record"
        try:
            if bound is not None and self._number(query.most_groups(records)) > bound:
                return None
            self._keep("key_group", query.by_key(query.pieces(records)))
            groups = self._numbered_groups()
            return self._with_hosts(groups, records) if reading.by_host else groups
        finally:
            for table in ("record", "key_group"):
                self._db.execute(f"DROP TABLE IF EXISTS {table}")

    # A text costs more on its way from DuckDB into Python than all the rest does: there, they are numbered first.

    def _numbered_groups(self) -> Groups:
        self._keep("numbered_owner", OWNERS)
        found = self._run("SELECT owner, named FROM numbered_owner ORDER BY number")
        owners = list(map(Owner, _plain(found["owner"]), found["named"].astype(bool).tolist()))
        found = self._run(NUMBERED_GROUPS)
        return self._of_columns(owners, found.pop("owner"), found)._replace(rejected=self._number(REJECTED))

    def _with_hosts(self, groups: Groups, records: str) -> Groups:
        self._keep("numbered_host", numbered_hosts(records))
        texts = self._run("SELECT host FROM numbered_host ORDER BY number")["host"]
        names = np.array(hosts_of(_plain(texts)), dtype=object)
        found = self._run(numbered_host_groups(f"({self._query.by_host(self._query.pieces(records))})"))
        owner, host = found.pop("owner"), names[found.pop("host")]
        return groups._replace(hosts=self._hosts(groups.owners, owner, found, host))

    def _keep(self, table: str, sql: str) -> None:
        self._db.execute(f"CREATE OR REPLACE TEMP TABLE {table} AS {sql}")

    def _number(self, sql: str) -> int:
        (number,) = self._db.execute(sql).fetchone() or (0,)
        return int(number)

    def _fold_small(self, now_ms: int) -> Groups:
        groups = self._groups(self._run(f"EXECUTE by_key({now_ms})"))
        if not self._query.reading.by_host:
            return groups
        found = self._run(f"EXECUTE by_host({now_ms})")
        owners, owner = _numbered(found.pop("owner"), found["key"])
        place = np.array([groups.owners.index(one) for one in owners], dtype=np.int64)[owner]
        names = hosts_of(_plain(found.pop("host")))
        return groups._replace(hosts=self._hosts(groups.owners, place, found, names))

    def newest_ms(self, now_ms: int) -> int | None:
        """The newest time of the file's records; None when none can be read."""
        try:
            row = self._db.execute(self._query.newest(str(now_ms))).fetchone()
        except duckdb.Error:
            return None
        return row[0] if row else None

    def rejected(self, now_ms: int, unknown: Sequence[Owner]) -> list[dict[str, Any]]:
        """The records that have no key, or one of the unknown owners: every field and column.

        `row` counts from 0 in the order of the lines.
        """
        self._fill_owners("unknown", unknown)
        self._db.execute("SET preserve_insertion_order = true")
        try:
            cursor = self._db.execute(self._query.rejected(str(now_ms)))
            names = [column[0] for column in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
        finally:
            self._db.execute("SET preserve_insertion_order = false")

    def close(self) -> None:
        """Give the memory back."""
        self._db.close()

    def _fill(self, table: str, names: Iterable[str]) -> None:
        self._db.execute(f"CREATE OR REPLACE TEMP TABLE {table} AS SELECT unnest(?::VARCHAR[]) AS name", [list(names)])

    def _fill_owners(self, table: str, owners: Sequence[Owner]) -> None:
        self._db.execute(
            f"CREATE OR REPLACE TEMP TABLE {table} AS SELECT unnest(?::VARCHAR[]) AS owner, "
            "unnest(?::BIGINT[]) AS named, unnest(?::BIGINT[]) AS number",
            [[owner.text for owner in owners], [int(owner.is_named) for owner in owners], list(range(len(owners)))],
        )

    def _run(self, sql: str) -> dict[str, Any]:
        return self._db.execute(sql).fetchnumpy()

    def _groups(self, found: dict[str, Any]) -> Groups:
        is_good = ~np.ma.getmaskarray(found["key"])
        rejected = int(found["records"][~is_good].sum())
        if rejected:
            found = {name: values[is_good] for name, values in found.items()}
        owners, owner = _numbered(found.pop("owner"), np.ma.getdata(found["key"]))
        return self._of_columns(owners, owner, found)._replace(rejected=rejected)

    def _hosts(self, owners: list[Owner], owner: Any, found: dict[str, Any], names: Any) -> Groups:
        """Groups by day and host; those that have no host of the names are left out."""
        groups = self._of_columns(owners, np.asarray(owner), found | {"newest_ms": np.zeros_like(owner)})
        return groups.with_hosts(names)

    def _of_columns(self, owners: list[Owner], owner: Any, found: dict[str, Any]) -> Groups:
        if any(np.ma.is_masked(found[name]) for name in found.keys() & {"requests", "successes", *self._query.sums}):
            raise BandmeterError(errors.SUM_TOO_LARGE, "A sum of the batch is beyond 64 bits: it was not counted.")
        columns = {name: np.asarray(values) for name, values in found.items()}
        zeros = np.zeros(len(columns["key"]), dtype=np.int64)
        return Groups(
            owners,
            owner,
            columns["key"],
            columns["records"],
            columns.get("requests", columns["records"]),
            columns["successes"],
            {name: columns.get(name, zeros) for name in SUMS},
            columns["newest_ms"],
            zeros,
            0,
        )


def _numbered(texts: Any, keys: Any) -> tuple[list[Owner], Any]:
    """The distinct owners, and the place of each group's among them."""
    names = _plain(texts)
    # First the texts alone, which are quick to look up; a text may stand for an identity, and for an account and zone.
    places = {text: 2 * place for place, text in enumerate(dict.fromkeys(names))}
    numbers = np.fromiter(map(places.__getitem__, names), dtype=np.int64, count=len(names))
    found, place = np.unique(numbers + ((keys >> NAMED_SHIFT) & 1), return_inverse=True)
    texts_of = list(places)
    return [Owner(texts_of[number // 2], bool(number % 2)) for number in found.tolist()], place


def _plain(texts: Any) -> list[str | None]:
    plain = np.ma.getdata(texts)
    plain[np.ma.getmaskarray(texts)] = None
    texts_or_none: list[str | None] = plain.tolist()
    return texts_or_none
