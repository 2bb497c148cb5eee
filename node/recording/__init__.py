"""Recording a node as MCAP, and replaying the recording through `Pipeline.step`.

A running node decides on frames and on what comes from other threads: finished captions, requests,
the time. All of that is noted call by call (`step_log`), together with every picture, so that a
replay takes the same decisions and writes the same words. Foxglove shows pictures and outlines as
they are.
"""
