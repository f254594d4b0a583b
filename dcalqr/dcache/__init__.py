"""All that speaks to or of dCache: its messages, its door, its pools. Nothing here knows Kafka."""
