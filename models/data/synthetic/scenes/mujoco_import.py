"""Imports MuJoCo with a renderer that needs no screen.

MuJoCo selects its OpenGL backend at its first import, so every module of this package imports it
from here. A `MUJOCO_GL` that is already set (for example to `osmesa`) takes precedence.
"""

from __future__ import annotations

import os

os.environ.setdefault("MUJOCO_GL", "egl")

import mujoco

__all__ = ["mujoco"]
