"""COCO compressed run lengths, the masks of messages and of data files, in plain numpy.

The code is column-major run lengths, starting with zeros; from the fourth run on each is stored as
the difference to the run two before it; numbers are groups of five bits, low first, sixth bit =
"more follows", plus 48 to make ASCII (pycocotools `rleToString`). Decoding checks everything before
it allocates the mask, because unchecked decoders are a memory-safety bug in several forks of
pycocotools.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ureca.datatypes import Mask, Rle
from ureca.errors import RegionError

MAX_PIXELS = 1 << 25
"""Largest mask that is decoded by default: 33.5 million pixels, twice a 5K picture."""
MAX_RUNS = 1 << 18
"""Most runs that are decoded by default; a ragged 1080p mask has a few thousand."""

_MAX_GROUPS = 7  # 35 bits hold any run of a mask of MAX_PIXELS
_I64 = npt.NDArray[np.int64]
_SEND = "send COCO compressed RLE as pycocotools or ureca.protocol.rle.encode write it"


def encode(mask: Mask) -> Rle:
    """The compressed run lengths of a mask bool [H, W]; the same code as pycocotools writes."""
    if mask.ndim != 2 or not mask.size or mask.dtype != np.bool_:
        raise RegionError(
            f"expected a mask bool [H, W] with pixels, got {mask.dtype} {list(mask.shape)}"
        )
    height, width = mask.shape
    return Rle(size=(height, width), counts=_to_text(_differences(_runs(mask))))


def encode_runs(size: tuple[int, int], runs: npt.NDArray[np.generic]) -> Rle:
    """The code of uncompressed run lengths of a mask (height, width), as COCO has them: column by
    column, zeros first. Raises `RegionError` when they are no whole numbers that add up.
    """
    if runs.ndim != 1 or runs.dtype.kind not in "iu" or not 0 < len(runs) <= MAX_RUNS:
        raise RegionError(f"run lengths are a list of at most {MAX_RUNS} whole numbers")
    plain = runs.astype(np.int64)
    if int(plain.min()) < 0 or int(plain.max()) > MAX_PIXELS:
        raise RegionError(f"a run of a mask has 0 to {MAX_PIXELS} pixels")
    code = Rle(size, _to_text(_differences(plain)))
    check(code)
    return code


def decode(rle: Rle, *, max_pixels: int = MAX_PIXELS, max_runs: int = MAX_RUNS) -> Mask:
    """The mask bool [H, W] of a checked code.

    Raises `RegionError` for everything that `check` refuses.
    """
    runs = check(rle, max_pixels=max_pixels, max_runs=max_runs)
    height, width = rle.size
    mask = np.zeros((height, width), np.bool_)
    runs = runs[: len(runs) // 2 * 2]  # up to the last run of ones
    start, end = int(runs[:1].sum()), int(runs.sum())
    first, last = start // height, -(-end // height)
    if first < last:  # turning all of a large mask is what costs
        inner = np.append(runs, last * height - end)
        inner[0] -= first * height
        values = np.zeros(len(inner), np.bool_)
        values[1::2] = True
        mask[:, first:last] = np.repeat(values, inner).reshape(last - first, height).T
    return mask


def check(rle: Rle, *, max_pixels: int = MAX_PIXELS, max_runs: int = MAX_RUNS) -> _I64:
    """The run lengths of a code, i64 [R], without decoding the mask.

    Raises `RegionError` when the size is not positive or too large, a character is not of the code,
    a number is cut off or too long, a run is negative, or the runs do not add up to H * W.
    """
    height, width = rle.size
    if height < 1 or width < 1:
        raise RegionError(
            f"expected a mask of at least 1x1 pixel, got size {list(rle.size)}; {_SEND}"
        )
    if height * width > max_pixels:
        raise RegionError(
            f"a mask of {height}x{width} exceeds {max_pixels} pixels; send a smaller one"
        )
    if len(rle.counts) > max_runs * _MAX_GROUPS:
        raise RegionError(
            f"a mask code of {len(rle.counts)} characters is too long; smooth the mask"
        )
    runs = _restore(_from_text(rle.counts, max_runs))
    if len(runs) and int(runs.min()) < 0:
        raise RegionError(f"the mask code has a negative run; {_SEND}")
    total = int(runs.sum())
    if total != height * width:
        raise RegionError(
            f"the runs of the mask code add up to {total}, expected {height}*{width} = "
            f"{height * width}; {_SEND}"
        )
    return runs


def _runs(mask: Mask) -> _I64:
    """Column-major run lengths, starting with the (maybe zero) run of zeros."""
    columns = np.flatnonzero(mask.any(axis=0))
    if not columns.size:
        return np.array([mask.size], np.int64)
    first, end = int(columns[0]), int(columns[-1]) + 1  # turning all of a large mask is what costs
    flat = np.zeros((end - first) * mask.shape[0] + 2, np.bool_)
    flat[1:-1] = mask[:, first:end].T.reshape(-1)
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + first * mask.shape[0]
    edges = np.concatenate(([0], changes, [mask.size])).astype(np.int64)
    runs = np.diff(edges)
    return runs if runs[-1] else runs[:-1]


def _differences(runs: _I64) -> _I64:
    stored = runs.copy()
    stored[3:] -= runs[1:-2]
    return stored


def _restore(stored: _I64) -> _I64:
    """Undo `_differences`: two chains of sums, one from run 1 and one from run 2."""
    runs = stored.copy()
    runs[1::2] = np.cumsum(stored[1::2])
    runs[2::2] = np.cumsum(stored[2::2])
    return runs


def _to_text(numbers: _I64) -> str:
    groups = np.empty((len(numbers), _MAX_GROUPS), np.uint8)
    needed = np.zeros((len(numbers), _MAX_GROUPS), np.bool_)
    rest, open_rows = numbers.copy(), np.ones(len(numbers), np.bool_)
    for place in range(_MAX_GROUPS):
        low = rest & 0x1F
        rest >>= 5
        needed[:, place] = open_rows
        open_rows = open_rows & np.where(low & 0x10, rest != -1, rest != 0)
        groups[:, place] = low | (open_rows << 5)
    return (groups[needed] + np.uint8(48)).tobytes().decode("ascii")


def _from_text(counts: str, max_runs: int) -> _I64:
    try:
        codes = np.frombuffer(counts.encode("ascii"), np.uint8).astype(np.int64) - 48
    except UnicodeEncodeError as error:
        raise RegionError(f"the mask code is not ASCII: {error}; {_SEND}") from error
    if not codes.size:
        raise RegionError(f"the mask code is empty; {_SEND}")
    if int(codes.min()) < 0 or int(codes.max()) > 0x3F:
        raise RegionError(f"the mask code has a character outside '0'..'o'; {_SEND}")
    last = np.flatnonzero(codes < 0x20)
    if not last.size or last[-1] != codes.size - 1:
        raise RegionError(f"the mask code is cut off in the middle of a number; {_SEND}")
    if last.size > max_runs:
        raise RegionError(f"the mask has {last.size} runs, at most {max_runs} are taken; smooth it")
    first = np.concatenate(([0], last[:-1] + 1))
    length = last - first + 1
    if int(length.max()) > _MAX_GROUPS:
        raise RegionError(f"the mask code has a number of {int(length.max())} groups; {_SEND}")
    place = np.arange(codes.size) - np.repeat(first, length)
    numbers = np.add.reduceat((codes & 0x1F) << (5 * place), first)
    negative = (codes[last] & 0x10) != 0
    return np.where(negative, numbers - (np.int64(1) << (5 * length)), numbers)
