"""The local side: paths, landing files, the destination's state, the failed-tasks file."""
