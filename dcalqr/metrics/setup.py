"""The search servers of a configuration: told how reports are to be stored, or asked whether they would store them.

`dcalqr elastic setup` does the one, and may be repeated; `dcalqr check --online` the other, and changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

from dcalqr import errors
from dcalqr.config import Config
from dcalqr.config.sinks import Elasticsearch, SearchServer
from dcalqr.metrics import elastic, opensearch
from dcalqr.metrics.access import Access
from dcalqr.metrics.answers import RequestFailed
from dcalqr.metrics.bulk import Client, connected
from dcalqr.metrics.template import MADE_BY, flat_object, flattened, keep_policy, template

_NOTHING_STORED = "until that is mended no report is stored there; copies go on"

_Answer = TypeVar("_Answer")


class _Hidden:
    """Stands for what a server does not show to this login."""


class _Server(NamedTuple):
    name: str
    section: SearchServer
    connect: Callable[[Access, float], Client]
    prepare: Callable[[], object]
    extra: dict[str, Any]


async def set_up(config: Config, say: Callable[[str], None]) -> None:
    """Make or replace index template and lifecycle policy on each server that is configured.

    Parameters
    ----------
    config
        Its sections elasticsearch and opensearch are looked at.
    say
        Called with a line about each thing that was done or left.

    Raises
    ------
    ConfigError
        Neither section names a server, or a library is not installed.
    ServiceUnavailable, NoPermission
        A server does not do it.
    """
    servers = [server for server in _servers(config) if server.section.urls]
    if not servers:
        raise errors.ConfigError(complaints="no server is named: expected [elasticsearch] urls or [opensearch] urls")
    for server in servers:
        try:
            async with _client(server) as client:
                await _set_up(server, client, lambda words, name=server.name: say(f"{name}: {words}"))  # type: ignore[misc]
        except ImportError:
            raise _library_missing(server) from None
        except RequestFailed as error:
            raise _refusal(server, error) from error


class Looked(NamedTuple):
    """What one server answered, `name` being its section: in words, and whether it is as it should be."""

    name: str
    words: str
    is_well: bool = False


async def look(config: Config) -> list[Looked]:
    """Ask each server that is configured, with the daemon's login, whether it would store reports.

    Raises
    ------
    ConfigError
        A library is not installed: the daemon would not start.
    """
    return [await _look(server) for server in _servers(config) if server.section.urls]


async def _look(server: _Server) -> Looked:
    where, limit = ", ".join(server.section.urls), server.section.timeout
    try:
        async with _client(server) as client, asyncio.timeout(limit):
            version = await _seen(client.version())
            found = await _seen(client.template(server.section.prefix))
    except ImportError:
        raise _library_missing(server) from None
    except RequestFailed as error:
        return Looked(server.name, f"{where}: {error.reason}: {error}; {_NOTHING_STORED}")
    except TimeoutError:
        return Looked(server.name, f"{where}: timeout: no answer within {limit:g} s; {_NOTHING_STORED}")
    return _judged(server, where, version, found)


async def _seen(question: Awaitable[_Answer]) -> _Answer | _Hidden:
    """Take an answer; a login that may only write, as the daemon's should, is not shown what else there is."""
    try:
        return await question
    except RequestFailed as error:
        if error.reason != "forbidden":
            raise
        return _Hidden()


def _judged(server: _Server, where: str, version: str | _Hidden, found: Mapping[str, Any] | _Hidden | None) -> Looked:
    name = f"index template {server.section.prefix}"
    good = f"{'the login is accepted' if isinstance(version, _Hidden) else version} at {where}"
    if isinstance(found, _Hidden):
        return Looked(server.name, f"{good}; {name}: not for this login to see", is_well=True)
    if found is None:
        return Looked(server.name, f"{where}: there is no {name}: run dcalqr elastic setup; {_NOTHING_STORED}")
    mark = _mark(found)
    if mark.get("made_by") == MADE_BY and mark.get("digest") not in _digests(server):
        return Looked(server.name, f"{where}: {name} is of another version: run dcalqr elastic setup")
    return Looked(server.name, f"{good}; {name} is there", is_well=True)


def _digests(server: _Server) -> set[str]:
    """Of the templates that a setup may have made: whether there is a lifecycle policy, only the server knows."""
    prefix = server.section.prefix
    return {template(prefix, server.extra, policy)["_meta"]["digest"] for policy in (None, prefix)}


def _library_missing(server: _Server) -> errors.ConfigError:
    how = f"[{server.name}]: its library is not installed here: pip install 'dcalqr[{server.name}]'"
    return errors.ConfigError(complaints=how)


def _servers(config: Config) -> list[_Server]:
    return [
        _Server(elastic.NAME, config.elasticsearch, elastic.connect, elastic.prepare, flattened()),
        _Server(opensearch.NAME, config.opensearch, opensearch.connect, opensearch.prepare, flat_object()),
    ]


@contextlib.asynccontextmanager
async def _client(server: _Server) -> AsyncIterator[Client]:
    section = server.section
    with ThreadPoolExecutor(1) as thread:
        client = await connected(
            section, lambda access: server.connect(access, section.timeout), server.prepare, thread
        )
    try:
        yield client
    finally:
        await client.aclose()


async def _set_up(server: _Server, client: Client, say: Callable[[str], None]) -> None:
    say(f"{await client.version()} at {', '.join(server.section.urls)}")
    prefix = server.section.prefix
    policy = await _keep(server, client, say)
    wanted = template(prefix, server.extra, policy)
    found = await client.template(prefix)
    mark = _mark(found)
    if found is not None and mark.get("made_by") != MADE_BY:
        raise RequestFailed("template", f"there is an index template {prefix} that dcalqr did not make; change prefix")
    if mark == wanted["_meta"]:
        say(f"index template {prefix} is there already, for indices {prefix}-*")
        return
    await client.put_template(prefix, wanted)
    say(f"index template {prefix} {'made' if found is None else 'replaced'}, for indices {prefix}-*")


async def _keep(server: _Server, client: Client, say: Callable[[str], None]) -> str | None:
    """See to the lifecycle policy; returns the name of the one that indices are to obey."""
    name, section = server.section.prefix, server.section
    days = section.keepdays if isinstance(section, Elasticsearch) else 0
    if not days:
        say("no lifecycle policy: indices stay until somebody deletes them")
        return None
    wanted = keep_policy(days)
    try:
        found = await client.policy(name)
        if found is not None and _mark(found).get("made_by") != MADE_BY:
            say(f"lifecycle policy {name} is not of dcalqr's making: left as it is, and obeyed")
            return name
        is_there = _mark(found) == wanted["_meta"]
        if not is_there:
            await client.put_policy(name, wanted)
    except RequestFailed as error:
        if error.reason != "unsupported":
            raise
        say("this server has no lifecycle policies: indices stay until somebody deletes them")
        return None
    done = "is there already" if is_there else "made" if found is None else "replaced"
    say(f"lifecycle policy {name} {done}: an index is deleted {days} days after it was made")
    return name


def _mark(found: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """What stands under `_meta`: the rest comes back from a server in another form than it got it."""
    return (found or {}).get("_meta") or {}


def _refusal(server: _Server, error: RequestFailed) -> errors.StartError:
    if error.reason in ("login", "forbidden", "credential"):
        return errors.NoPermission(path=f"[{server.name}]", why=str(error))
    return errors.ServiceUnavailable(service=server.name, why=str(error))


def run(config: Config, say: Callable[[str], None]) -> None:
    """Do it in an event loop of its own."""
    asyncio.run(set_up(config, say))
