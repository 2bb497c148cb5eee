"""Recording a node as MCAP, and replaying the recording through `Pipeline.step`.

A running node decides on frames and on what comes from other threads: finished captions, requests,
the time. All of that is recorded step by step (`step_log`), together with every image, so that a
replay makes the same decisions and generates the same captions. Foxglove shows images and outlines
directly.
"""
