"""MuJoCo, imported with a renderer that needs no screen.

MuJoCo picks its OpenGL backend when it is first imported, so every module of this package takes
it from here. A `MUJOCO_GL` that is already set (for example to `osmesa`) wins.
"""

from __future__ import annotations

import os

os.environ.setdefault("MUJOCO_GL", "egl")

import mujoco

__all__ = ["mujoco"]
