"""`python -m dcalqr` is the command `dcalqr`."""

from dcalqr.cli import main

main()
