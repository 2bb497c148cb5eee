"""One step of the node: a frame, requests and results in; events and work out."""
