"""Captions from an OpenAI-compatible server: client, pictures, prompts, answers, engine."""

from __future__ import annotations

from pathlib import Path


def is_server_file(path: Path) -> bool:
    """Whether `path` describes a server (`docs/server.md`) and is no bundle."""
    return path.suffix in {".yaml", ".yml"} and not path.is_dir()
