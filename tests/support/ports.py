"""Ports for servers that must come back on the same one after a restart."""

from __future__ import annotations

import random
import socket

# Below the range from which the kernel serves clients (32768 and up): a client that keeps trying the port of a server
# that is down could be given that very port as its own end, connect to itself, and keep the server from binding it.
FIRST, LAST = 20000, 31999


def free_ports(count: int) -> list[int]:
    """So many different ports of the loopback interface that nobody listens on now."""
    held: list[socket.socket] = []
    try:
        while len(held) < count:
            try:
                held.append(socket.create_server(("127.0.0.1", random.randint(FIRST, LAST))))
            except OSError:
                continue
        return [each.getsockname()[1] for each in held]
    finally:
        for each in held:
            each.close()
