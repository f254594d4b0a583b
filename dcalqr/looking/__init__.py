"""How an instance and its files are, for the person who asks: status, top, where."""
