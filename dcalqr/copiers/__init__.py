"""How orders are carried out: in threads of the daemon, or in worker processes. Both keep one contract."""
