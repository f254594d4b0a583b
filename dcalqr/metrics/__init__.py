"""What is told to others about the work. Metrics may fail, the work may not."""
