"""The node's commands: `ureca run`, `ureca describe` and `ureca camera`."""
