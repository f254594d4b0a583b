"""The whole daemon against a real XRootD: no fake of ours between it and a foreign server's HTTPS."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from dcalqr.testing import samples
from dcalqr.testing.pki import Pki
from tests.support.process import wait_until
from tests.support.site import FOLDER, ROOT, SETTLE_SECONDS, Site
from tests.support.xrootd import XrootdServer

FILES = 60


def announce(site: Site, name: str, content: bytes) -> None:
    """Tell of an upload; XRootD has no pnfsids, so any will do."""
    path = f"{ROOT}{FOLDER}/{name}"
    date = samples.java_date(time.time())
    site.publish(samples.upload(path, len(content), samples.new_pnfsid(site.random), date=date))


def test_files_land_from_xrootd_while_the_proxy_is_replaced_and_an_expired_one_only_holds(
    site: Site, xrootd: XrootdServer, pki: Pki, tmp_path: Path
) -> None:
    proxy = tmp_path / "proxy.pem"
    pki.new_proxy(proxy)
    contents = {f"{number % 5}/file {number}.fits": bytes(samples.content(200_000, number)) for number in range(FILES)}
    for name, content in contents.items():
        xrootd.put(f"{FOLDER[1:]}/{name}", content)
    config = site.write_config(dcache={"url": xrootd.url, "crlcheck": True}, local={"proxy": str(proxy)})
    with site.daemon(config) as daemon:
        daemon.wait_for("REBALANCE")
        names = list(contents)
        for number, name in enumerate(names[: FILES // 2]):
            announce(site, name, contents[name])
            if number % 10 == 0:
                pki.new_proxy(proxy)
                daemon.reload()
        wait_until(lambda: site.landed(names[FILES // 2 - 1]) is not None, SETTLE_SECONDS, "the first half to land")
        shutil.copyfile(pki.proxy_expired, proxy)
        daemon.reload()
        for name in names[FILES // 2 :]:
            announce(site, name, contents[name])
        daemon.wait_for("HOLD", reason="credential")
        pki.new_proxy(proxy)
        daemon.reload()
        daemon.wait_for("RELEASE", reason="credential")
        site.wait_settled()
    assert {name: site.landed(name) for name in contents} == contents
    assert not site.rows()
    assert not site.parts()
