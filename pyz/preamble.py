"""Runs before dcalqr.pyz starts: in words, what would else be a traceback out of some compiled module."""

import sys

with open(site_packages / "made-for.txt", encoding="utf-8") as file:  # type: ignore[name-defined]  # noqa: F821 - shiv's
    _made_for = file.read().strip()
_here = f"Python {sys.version_info[0]}.{sys.version_info[1]} on {sys.platform}"
if _here != _made_for:
    sys.exit(f"dcalqr: this file was made for {_made_for}, and this is {_here}: make it there, or use another Python")
