"""Says what the other files of this folder could not prove."""

from __future__ import annotations

import importlib.util

import pytest


@pytest.mark.parametrize("name", ["torch", "transformers", "safetensors", "tokenizers", "cv2"])
def test_what_the_others_need_is_there(name):
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed (extra `mllm`): nothing of ureca-mllm is proven")
