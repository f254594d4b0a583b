"""`dcalqr check`: what the configuration file shows (offline), and what the world says to it (`--online`)."""

from __future__ import annotations

import asyncio
import errno
import grp
import http.client
import os
import socket
import ssl
import stat
import time
from dataclasses import dataclass, field

from dcalqr import errors
from dcalqr.config import Config
from dcalqr.config.values import Base
from dcalqr.dcache import tls
from dcalqr.dcache.door import Door
from dcalqr.delivery.places import Places
from dcalqr.kafka.groups import Group
from dcalqr.local.destination import Destination
from dcalqr.local.state import Remembered
from dcalqr.metrics import setup

# Renewal jobs run every few hours; less than this is one that did not run.
PROXY_WARNING_SECONDS = 3600.0
LISTEN_SECONDS = 3.0
# Ten times what a daemon shows; another's program may say any amount.
PAGE_BYTES = 1024 * 1024


@dataclass
class Findings:
    """What was looked at, what is wrong, and the worst exit code."""

    good: list[str] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    exit_code: int = 0

    def wrong(self, words: str, exit_code: int) -> None:
        self.bad.append(words)
        self.exit_code = self.exit_code or exit_code


async def look(config: Config) -> Findings:
    """Ask Kafka, the door, the download folder and the sinks whether they are as configured; changes nothing lasting.

    What a sink or the port of the pages is not up to is a warning: copies go on without.
    """
    findings = Findings()
    _look_at_folder(config, findings)
    trust = _look_at_credentials(config, findings)
    if trust is None:
        url = _folder_url(config)
        findings.warnings.append(f"{url}: the door was not asked, because the credential cannot be used")
    else:
        await _look_at_door(config, trust, findings)
    await _look_at_kafka(config, findings)
    await _look_at_search_servers(config, findings)
    await asyncio.to_thread(_look_at_port, config, findings)
    return findings


def _look_at_folder(config: Config, findings: Findings) -> None:
    local = config.local
    folder = str(local.downloadfolder)
    state = Remembered(str(local.statefolder))
    destination = Destination(folder, minfree_percent=local.minfree, requiremount=local.requiremount, state=state)
    try:
        destination.check()
        _try_directory(destination.root_fd, local.permissions, findings)
    except errors.DestinationHeld as error:
        refused = os.path.isdir(folder) and not os.access(folder, os.W_OK | os.X_OK, effective_ids=True)
        findings.wrong(str(error), errors.EXIT_NO_PERMISSION if refused else errors.EXIT_CANNOT_CREATE)
    except errors.TryError as error:
        findings.wrong(str(error), errors.EXIT_CANNOT_CREATE)
    except OSError as error:
        refused = isinstance(error, PermissionError)
        code = errors.EXIT_NO_PERMISSION if refused else errors.EXIT_CANNOT_CREATE
        findings.wrong(f"{folder}: {error.strerror}", code)
    else:
        findings.good.append(f"{folder}: writable, {destination.free_bytes / 1e9:.1f} GB free")
    finally:
        destination.close()


def _try_directory(root_fd: int, mode: int, findings: Findings) -> None:
    """Make a directory as a copy would, look whether its mode holds, remove it."""
    name = f".dcalqr-check-{os.getpid()}"
    os.mkdir(name, 0o700, dir_fd=root_fd)
    try:
        os.chmod(name, mode, dir_fd=root_fd)
        found = os.stat(name, dir_fd=root_fd)
        if mode & stat.S_ISGID and not found.st_mode & stat.S_ISGID:
            findings.warnings.append(
                f"local.permissions: the setgid bit is dropped, because this user is not in the folder's group "
                f"{_group(found.st_gid)}"
            )
    finally:
        os.rmdir(name, dir_fd=root_fd)


def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def _look_at_credentials(config: Config, findings: Findings) -> tls.Trust | None:
    local = config.local
    credentials = tls.Credentials(str(local.proxy), str(local.capath), crl_check=config.dcache.crlcheck)
    credentials.refresh()
    try:
        trust = credentials.current()
    except errors.CredentialRefused as error:
        findings.wrong(str(error), errors.EXIT_NO_PERMISSION)
        return None
    left = trust.expires_at - time.time()
    until = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(trust.expires_at))
    findings.good.append(f"{local.proxy}: valid until {until}")
    if left < PROXY_WARNING_SECONDS:
        findings.warnings.append(f"the proxy expires in {left / 60:.0f} minutes")
    if config.dcache.crlcheck:
        findings.warnings += [f"{local.capath}: {complaint}" for complaint in tls.crl_complaints(str(local.capath))]
    return trust


async def _look_at_door(config: Config, trust: tls.Trust, findings: Findings) -> None:
    dcache = config.dcache
    door = Door(dcache.url, lambda: trust)
    url = _folder_url(config)
    try:
        await _ask(door, url, dcache.base, trust)
    except errors.NotFound:
        findings.wrong(
            f"{url}: HTTP 404; are dcache.url, dcache.pool and dcache.folder right?", errors.EXIT_UNAVAILABLE
        )
    except (errors.Forbidden, errors.CredentialRefused) as error:
        findings.wrong(str(error), errors.EXIT_NO_PERMISSION)
    except errors.TryError as error:
        findings.wrong(str(error), errors.EXIT_UNAVAILABLE)
    else:
        findings.good.append(f"{url}: the door serves the folder")
    finally:
        await door.aclose()


def _folder_url(config: Config) -> str:
    return Places(config.dcache.url, config.dcache.root, config.dcache.folder).folder_url


async def _ask(door: Door, url: str, base: Base, trust: tls.Trust) -> None:
    try:
        await door.head(url, wants_sum=False)
    except errors.ConnectionLost:
        alert = await asyncio.to_thread(_listen, base, trust)
        if alert is None:
            raise
        raise errors.CredentialRefused(why=f"TLS alert {alert.reason} from {base.host}:{base.port}") from alert


def _listen(base: Base, trust: tls.Trust) -> ssl.SSLError | None:
    """Shake hands and say nothing: return the alert by which the door refuses our certificate.

    With TLS 1.3 it comes after the handshake, and the reset by which a server answers a request that it does not want
    any more may overtake it. Without a request there is none.
    """
    context = tls.door_context(trust)
    try:
        plain = socket.create_connection((base.host, base.port), timeout=LISTEN_SECONDS)
        with plain, context.wrap_socket(plain, server_hostname=base.host) as secure:
            secure.recv(1)
    except ssl.SSLError as error:
        return error if tls.blames_us(error) else None
    except OSError:
        return None  # it is content with our certificate, and waits for a request; or it is gone
    return None


async def _look_at_kafka(config: Config, findings: Findings) -> None:
    try:
        async with Group(config.kafka) as group:
            offsets = await group.offsets()
    except errors.StartError as error:
        findings.wrong(str(error), error.exit_code)
        return
    committed = sum(each.committed is not None for each in offsets)
    findings.good.append(
        f"{config.kafka.topic}: {len(offsets)} partitions, {sum(each.end - each.begin for each in offsets)} records, "
        f"offsets committed for {committed}"
    )
    lost = [each for each in offsets if each.gap]
    findings.warnings += [f"partition {each.partition}: {each.gap} records were deleted unread" for each in lost]


async def _look_at_search_servers(config: Config, findings: Findings) -> None:
    try:
        looked = await setup.look(config)
    except errors.ConfigError as error:  # the daemon would not start
        findings.wrong(str(error), error.exit_code)
        return
    for each in looked:
        (findings.good if each.is_well else findings.warnings).append(f"{each.name}: {each.words}")


def _look_at_port(config: Config, findings: Findings) -> None:
    """See whether the pages could be served: by listening there for a moment, unless this instance's daemon does."""
    address, port = config.prometheus.address, config.prometheus.port
    if port is None:
        return
    where = f"prometheus.port: {port} at {address}"
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        socket.create_server((address, port), family=family).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE and _is_ours(address, port, config.daemon.instance):
            findings.good.append(f"{where}: this instance's daemon answers")
            return
        why = os.strerror(error.errno or 0)
        findings.warnings.append(f"{where}: {why}; no metrics and no status page would be served, copies go on")
    else:
        findings.good.append(f"{where}: free")


def _is_ours(address: str, port: int, instance: str) -> bool:
    """Whether who listens there is the daemon of this instance."""
    asking = http.client.HTTPConnection(address, port, timeout=LISTEN_SECONDS)
    try:
        asking.request("GET", "/metrics")
        metrics = asking.getresponse().read(PAGE_BYTES)
    except (OSError, http.client.HTTPException):
        return False
    finally:
        asking.close()
    return any(
        line.startswith(b"dcalqr_build_info{") and f'name="{instance}"'.encode() in line
        for line in metrics.splitlines()
    )
