"""The engine around a backend, over eager torch: checks, prompts, streaming, limits, timing."""
# ruff: noqa: E402  (imports follow the checks for their extras)

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the reference engine needs the extra `train`")

from ureca.datatypes import RegionInput, RowDelta, RowDone
from ureca.errors import EngineError, RegionError
from ureca.models.config import make_tiny_config
from ureca.models.nano.generate import generate
from ureca.models.nano.network import Captioner
from ureca.models.runtime.eager import make_eager_engine
from ureca.models.tokenizer import EOS_ID, LONG_ID, SHORT_ID, train_tokenizer

TOKENIZER = train_tokenizer(["a red cup on the table", "the blue mug", "two dogs"] * 4, 512)
SIZE = (60, 90)


def build():
    torch.manual_seed(0)
    model = Captioner(make_tiny_config()).eval()
    with torch.no_grad():  # fresh layers whisper: louder ones make distinct captions
        for weight in model.language.blocks.parameters():
            weight.mul_(10 if weight.ndim > 1 else 1)
    return model


@pytest.fixture(scope="module")
def model():
    return build()


@pytest.fixture(scope="module")
def engine(model):
    return make_eager_engine(model, TOKENIZER, max_regions=4)


def picture(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8)


def region(x=5, y=5, side=30, **options):
    mask = np.zeros(SIZE, np.bool_)
    mask[y : y + side, x : x + side] = True
    return RegionInput(mask, **options)


def ends(stream):
    return {event.row: event for event in stream if isinstance(event, RowDone)}


def test_captions_are_those_of_the_reference_loop(engine, model):
    frame = engine.encode(picture())
    regions = [region(5), region(40), region(60, side=20)]
    done = ends(engine.caption(frame, regions))
    from ureca.models.runtime.region_inputs import make_region_arrays

    arrays = make_region_arrays(regions, grid=frame.grid, vision=model.config.vision)
    with torch.no_grad():
        tokens = model.regions(
            torch.from_numpy(arrays.masks), torch.from_numpy(arrays.boxes), frame.inner.maps
        )
    expected = generate(
        model,
        image_tokens=frame.inner.tokens,
        region_tokens=tokens,
        start_id=SHORT_ID,
        eos_id=EOS_ID,
        max_new_tokens=8,
    )
    assert [done[row].text for row in range(3)] == [TOKENIZER.decode(ids) for ids in expected]


def test_a_region_says_the_same_alone_and_in_a_batch(engine):
    frame = engine.encode(picture())
    regions = [region(5), region(40, style="long"), region(60, side=20)]
    together = ends(engine.caption(frame, regions))
    for row, one in enumerate(regions):
        alone = ends(engine.caption(frame, [one]))[0]
        assert alone.text == together[row].text
        assert alone.score == pytest.approx(together[row].score, rel=1e-4)


def test_regions_and_styles_matter(engine):
    frame = engine.encode(picture())
    texts = [
        done.text
        for done in ends(
            engine.caption(frame, [region(5), region(5, style="long"), region(50, side=10)])
        ).values()
    ]
    assert len(set(texts)) > 1


def test_stage_times_cover_encode_and_caption(engine):
    frame = engine.encode(picture())
    assert {"prep", "vit", "prefill"} <= set(engine.times.us)
    list(engine.caption(frame, [region()]))
    us = engine.times.us
    assert {"prep", "vit", "prefill", "region", "ttft", "gen"} == set(us)
    assert us["ttft"] >= us["region"] >= 0
    assert us["gen"] > 0


def test_too_many_regions_are_refused_at_the_call(engine):
    frame = engine.encode(picture())
    with pytest.raises(EngineError, match="at most 4 regions"):
        engine.caption(frame, [region()] * 5)


def test_a_mask_of_another_size_is_refused_at_the_call(engine):
    frame = engine.encode(picture())
    with pytest.raises(RegionError, match=r"row 1: .*\[60, 90\], got \[8, 8\]"):
        engine.caption(frame, [region(), RegionInput(np.ones((8, 8), np.bool_))])


def test_an_empty_mask_is_refused_at_the_call(engine):
    frame = engine.encode(picture())
    with pytest.raises(RegionError, match="row 0: the mask is empty"):
        engine.caption(frame, [RegionInput(np.zeros(SIZE, np.bool_))])


def test_a_length_below_one_is_refused_and_a_large_one_capped(engine):
    frame = engine.encode(picture())
    with pytest.raises(EngineError, match="max_new_tokens"):
        engine.caption(frame, [region(max_new_tokens=0)])
    (done,) = ends(engine.caption(frame, [region(max_new_tokens=10_000)])).values()
    assert done.n_tok <= engine.info.max_new_tokens


def test_no_regions_give_an_empty_stream(engine):
    assert list(engine.caption(engine.encode(picture()), [])) == []


def test_deltas_join_to_the_text(engine):
    frame = engine.encode(picture())
    events = list(engine.caption(frame, [region(5), region(40)]))
    for row, done in ends(events).items():
        deltas = [e for e in events if isinstance(e, RowDelta) and e.row == row]
        assert "".join(delta.text for delta in deltas) == done.text


def test_a_broken_embedding_ends_its_row_and_spares_the_others():
    model = build()
    with torch.no_grad():
        model.language.embedding.weight[LONG_ID] = math.nan
        model.run_lm = _without_broken_logit(model.run_lm)
    engine = make_eager_engine(model, TOKENIZER)
    frame = engine.encode(picture())
    done = ends(engine.caption(frame, [region(5), region(40, style="long"), region(60)]))
    assert done[1].stop == "non_finite"
    assert {done[0].stop, done[2].stop} <= {"eos", "length"}


def _without_broken_logit(lm):
    """The output is tied to the embedding, so the broken row would break every row's logits."""

    def fixed(x, prefix, own):
        logits, grown = lm(x, prefix, own)
        logits[:, LONG_ID] = logits[:, 0]
        return logits, grown

    return fixed


def test_a_picture_that_is_not_rgb_is_refused(engine):
    with pytest.raises(RegionError, match="RGB"):
        engine.encode(np.zeros((10, 10, 4), np.uint8))
