"""The clients of a node: subscribe, send requests, publish frames."""
