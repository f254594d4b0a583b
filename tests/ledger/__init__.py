"""The ledger: a long run under faults that balances what was sent against what landed.

Several instances share one destination and are killed, told to end, and started again, while uploads, noise and
duplicates come in and some paths are overwritten. `python -m tests.ledger --seconds 180`, or `make ledger SECONDS=180`.
"""
