"""`ureca bench node`: a node as a real process under open-loop load, measured from outside.

    sender process ─ZeroMQ─► node process ─ZeroMQ─► subscriber processes
    stamps at the due time                          the clock stops here

Frames are sent when they are due, whatever the node does: a slow node cannot slow its own load down
and hide its delays. Everything that is reported is computed from what was sent and received.
"""
