"""All that speaks Kafka. Nothing here knows HTTP."""
