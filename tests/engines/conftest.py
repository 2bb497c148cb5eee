"""The tiny checkpoint of the parity tests."""

from tests.parity.conftest import _one_thread, _own_cache, tiny_checkpoint

__all__ = ["_one_thread", "_own_cache", "tiny_checkpoint"]
