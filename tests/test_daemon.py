"""The daemon as a process, on a real broker, with a door that redirects to pools."""

from __future__ import annotations

import signal

from tests.support.site import Site


def test_an_upload_lands_complete_and_its_offset_is_committed(site: Site) -> None:
    with site.daemon() as daemon:
        file = site.upload("23003/fits_1.tar", b"x" * 100_000)
        site.wait_settled()
        assert site.landed("23003/fits_1.tar") == b"x" * 100_000
        assert not site.parts()
        report = daemon.wait_for("COPY_REPORT", outcome="landed")
        assert report["size"] == file.size_bytes
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
