"""What makes a daemon of the parts: assembly, systemd, reload, what it shows and what it watches."""
