"""The state of the node: heartbeat, health, metrics and the run's summary."""
