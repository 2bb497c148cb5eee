"""The captioner `ureca-nano`, as `ureca run` opens it (`bundle`), and the demo clip (`demo`).

Data only: `ureca` finds the folder and reads it, nothing here is ever executed.
"""

__version__ = "0.6.0"
