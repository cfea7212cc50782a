"""Sends every connection to the port in TLS_FRONT_PORT on this machine, so that a snippet can keep its vendor's host."""

import os
import socket

_resolve = socket.getaddrinfo


def _front(_host: object, _port: object, *others: object, **named: object) -> list[tuple[object, ...]]:
    return _resolve("127.0.0.1", int(os.environ["TLS_FRONT_PORT"]), *others, **named)


socket.getaddrinfo = _front
