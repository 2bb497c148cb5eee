"""UniRES++ over tiny random models: the captioner unchanged, trained in stages, answers of parts,
things, several and none, and the commands over it.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from processes import two_processes
from safetensors.torch import load_file
from tiny_sams import make_sam, make_sam2
from worlds import picture

from ureca import cli
from ureca.models.mllm.checkpoints.checkpoint import load_checkpoint
from ureca.models.mllm.training.config import MllmDataConfig
from ureca.models.mllm.unires.checkpoint import load_unires, make_reader, wrap_captioner
from ureca.models.mllm.unires.config import (
    FlowConfig,
    ProposalConfig,
    UniresConfig,
    UniresTrainConfig,
)
from ureca.models.mllm.unires.engine import open_unires
from ureca.models.mllm.unires.flow import sample_boxes
from ureca.models.mllm.unires.proposals import find_parts, open_proposer
from ureca.models.mllm.unires.train import train

TEXTS = {"the red cup": "a", "a dog": "b", "two cups": "ab", "a white table": ""}


@pytest.fixture(scope="session")
def towers(tmp_path_factory):
    """A ConvNeXt, a SAM and a SAM 2."""
    import transformers

    root = tmp_path_factory.mktemp("towers")
    config = transformers.ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1])
    torch.manual_seed(0)
    transformers.ConvNextModel(config).save_pretrained(root / "detail")
    make_sam(root / "sam")
    make_sam2(root / "sam2")
    return root


def tiny_config(**more):
    return UniresConfig(
        name="unires-tiny",
        flow=FlowConfig(detail_px=64, cells=2, inner=16, heads=2),
        proposals=ProposalConfig(max_objects=5, max_parts=4),
        max_masks=3,
        **more,
    )


@pytest.fixture(scope="session")
def wrapped(tiny_checkpoint, towers, tmp_path_factory):
    return wrap_captioner(
        tiny_checkpoint,
        tmp_path_factory.mktemp("unires") / "checkpoint",
        tiny_config(),
        detail=towers / "detail",
        decoder=towers / "sam2",
    )


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Two boxes a picture and four texts: of one, of the other, of both, of none."""
    import cv2

    from ureca.models.data.queries import QueryRecord
    from ureca.models.data.regions import RegionRecord
    from ureca.protocol import rle

    root = tmp_path_factory.mktemp("queries") / "set"
    (root / "images").mkdir(parents=True)
    regions, queries = [], []
    for n in range(4):
        image = picture(64, 64, seed=n)
        for k, name in enumerate("ab"):
            mask = np.zeros((64, 64), np.bool_)
            mask[8 + 4 * n : 40 + 4 * n, 4 + 32 * k : 28 + 32 * k] = True
            image[mask] = (220, 30, 30) if k else (30, 30, 220)
            regions.append(
                RegionRecord(
                    region_id=f"q{n}{name}",
                    image_key=f"q{n}",
                    shard="",
                    source="tiny",
                    height=64,
                    width=64,
                    counts=rle.encode(mask).counts,
                    box_xywh_px=(0.0, 0.0, 1.0, 1.0),
                    part=k == 1,
                    short=("a cup",),
                ).to_json()
            )
        cv2.imwrite(str(root / "images" / f"q{n}.png"), image[:, :, ::-1])
        for text, meant in TEXTS.items():
            targets = tuple(f"q{n}{name}" for name in meant)
            queries.append(QueryRecord(f"q{n}{text}", f"q{n}", text, targets).to_json())
    for name, rows in (("regions", regions), ("queries", queries)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (root / f"{name}-tiny.jsonl").write_text(lines, encoding="utf8")
    return root


def recipe(data, start, stage, **more):
    given = {
        "start_from": str(start),
        "stage": stage,
        "steps": 5,
        "pictures_per_step": 2,
        "learning_rate": 3e-3,
        "device": "cpu",
        "threads": 1,
        "held_out_every": 0,
        "log_every": 1,
        **more,
    }
    return UniresTrainConfig(data=(MllmDataConfig(root=str(data)),), **given)


def read_log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_the_captioner_is_unchanged_to_the_bit_and_the_flow_begins_without_a_look(
    wrapped, tiny_checkpoint
):
    model, alone = load_unires(wrapped), load_checkpoint(tiny_checkpoint)
    own = dict(model.mllm.named_parameters())
    assert all(torch.equal(own[name], p) for name, p in alone.named_parameters())
    reader = make_reader(model, wrapped)
    ready = reader.read_picture(picture(80, 120))
    with torch.no_grad():
        opening = model.open_prompt(reader.prompt, ready)
        image = alone.vision(ready.tiles)
        detail = model.detail(ready.detail).last_hidden_state
        boxes = torch.cat([ready.objects, ready.parts])
        seen = sample_boxes(detail, boxes, 2).flatten(1)
        plain = model.flow.outer(torch.nn.functional.gelu(model.flow.inner(seen)))
        plain = plain + model.flow.place(boxes)
    from ureca.models.mllm.backend import embed_prefix

    before = embed_prefix(alone, reader.prompt, ready.prefix_ids, image)
    length = before.x.shape[1]
    assert torch.equal(opening.x[:, :length], before.x), "the image prefix is the captioner's"
    assert torch.equal(opening.x[0, length:], plain), "the gate of the look is closed"
    assert opening.x.shape[1] == length + 5 + 4
    spread = model.mllm.base.get_input_embeddings().weight.std()
    assert 0.2 < float(plain.std() / spread.detach()) < 5


@pytest.mark.parametrize("kind", ["sam", "sam2"])
def test_a_point_as_a_vector_gives_the_mask_of_the_point(kind, towers, tiny_checkpoint, tmp_path):
    """The decoder is the class's own: its own prompt embedding in, its own mask out."""
    out = wrap_captioner(
        tiny_checkpoint,
        tmp_path / "made",
        tiny_config(),
        detail=towers / "detail",
        decoder=towers / kind,
    )
    decoder = load_unires(out).decoder
    pixels = torch.randn(1, 3, decoder.side_px, decoder.side_px)
    points, labels = torch.tensor([[[[20.0, 30.0]]]]), torch.tensor([[[1]]])
    with torch.no_grad():
        theirs = decoder.sam(
            pixels, input_points=points, input_labels=labels, multimask_output=False
        )
        sparse, _ = decoder.sam.prompt_encoder(points, labels, None, None)
        maps = decoder.encode(pixels)
        given = {"image_embeddings": maps[-1], "multimask_output": False}
        given["image_positional_embeddings"] = decoder.sam.get_image_wide_positional_embeddings()
        given["dense_prompt_embeddings"] = decoder.sam.prompt_encoder.no_mask_embed.weight.reshape(
            1, -1, 1, 1
        ).expand(1, -1, *maps[-1].shape[-2:])
        if kind == "sam2":
            given["high_resolution_features"] = maps[:-1]
        again = decoder.sam.mask_decoder(sparse_prompt_embeddings=sparse, **given)[0]
        own, _ = decoder(maps, sparse[0, :, 0])
        one = decoder.sam.mask_decoder(sparse_prompt_embeddings=sparse[:, :, :1], **given)[0]
    assert torch.allclose(theirs.pred_masks, again, atol=1e-5)
    assert torch.equal(own, one[0, :, 0])
    assert own.std() > 0


def test_stages_learn_their_parts_and_lower_the_loss(wrapped, data, tmp_path):
    one = train(recipe(data, wrapped, 1), tmp_path / "one")
    names = (tmp_path / "one" / "trainable.txt").read_text().split()
    assert names
    assert all(n.startswith(("flow.", "answers.", "mask_prompt.")) for n in names)
    rows = read_log(tmp_path / "one")
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[-1]["words"] < rows[0]["words"]

    config = recipe(data, one, 2)
    two = train(config, tmp_path / "two")
    names = (tmp_path / "two" / "trainable.txt").read_text().split()
    kinds = {"flow.", "answers.", "mask_prompt.", "mllm.base.", "decoder.sam.mask_decoder."}
    assert all(any(n.startswith(kind) for n in names) for kind in kinds)
    assert all(".lora_" in n for n in names if n.startswith("mllm."))
    assert not any("vision" in n or "prompt_encoder" in n or "conv_s0" in n for n in names)
    rows = read_log(tmp_path / "two")
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[-1]["bce"] < rows[0]["bce"]

    train(config, tmp_path / "cut", stop_after=3)
    cut = train(config, tmp_path / "cut")
    ours, again = (load_file(folder / "learned.safetensors") for folder in (two, cut))
    assert all(torch.equal(ours[name], again[name]) for name in ours), "resumed bit for bit"


def test_none_is_an_empty_answer_and_segs_are_masks(wrapped):
    engine = open_unires(wrapped, device="cpu")
    frame = engine.encode(picture(64, 64, seed=1))
    texts = ["the red cup", "a dog of the man", "two cups"]
    free = engine.find_masks(frame, texts, min_present=0.0)
    assert all(1 <= len(one.masks) <= 3 for one in free), "forced: always an answer"
    assert all(mask.mask.shape == (64, 64) for one in free for mask in one.masks)
    chances = [one.none_probability for one in free]
    assert len(set(chances)) == 3, "texts that are all alike prove nothing"
    assert all(0 < chance < 1 for chance in chances)
    least = 1 - sorted(chances)[1]
    decided = engine.find_masks(frame, texts, min_present=least + 1e-6)
    for one, chance in zip(decided, chances, strict=True):
        assert one.none_probability == pytest.approx(chance, abs=1e-5)
        assert bool(one.masks) == (1 - chance >= least + 1e-6), "none is an empty answer"
    alone = engine.find_masks(frame, texts[:1], min_present=0.0)[0]
    assert alone.none_probability == pytest.approx(chances[0], abs=1e-5)
    for mine, theirs in zip(alone.masks, free[0].masks, strict=True):
        assert np.mean(mine.mask == theirs.mask) > 0.999, "texts do not see each other"


def test_the_engine_says_what_training_computes(wrapped):
    """P(none) behind the shared prefix is that of the packed row that training runs."""
    from ureca.models.mllm.training.packing import pack_row, pad_rows

    engine = open_unires(wrapped, device="cpu")
    model, reader = engine.model, make_reader(engine.model, wrapped)
    image = picture(64, 64, seed=1)
    texts = ["the red cup", "a dog of the man"]
    said = engine.find_masks(engine.encode(image), texts, min_present=0.0)
    with torch.no_grad():
        before = model.open_prompt(reader.prompt, reader.read_picture(image))
        asked = [
            (model.mllm.embed(reader.encode_question(text)), [torch.zeros(0, 32)]) for text in texts
        ]
        row = pack_row(before, asked)
        x, positions, mask = pad_rows([row])
        logits = model.logits(model.mllm(x, mask, positions)[0][row.at])[:, -2:]
    chances = torch.sigmoid(logits[:, 1] - logits[:, 0]).tolist()
    assert [one.none_probability for one in said] == pytest.approx(chances, abs=1e-4)


def test_boxes_of_the_grid_and_of_nested_masks():
    grid = open_proposer(ProposalConfig())
    found = grid.propose(picture())
    assert found.objects.shape == (14, 4)
    assert found.parts.shape == (16, 4)
    assert found.objects[0].tolist() == [0, 0, 1, 1]
    assert found.objects.min() >= 0
    assert found.objects.max() <= 1 + 1e-6
    whole, part = np.zeros((8, 8), np.bool_), np.zeros((8, 8), np.bool_)
    whole[:6, :6] = True
    part[1:3, 1:3] = True
    assert find_parts([whole, part]).tolist() == [False, True]
    maps = torch.arange(16.0).reshape(1, 1, 4, 4)
    cells = sample_boxes(maps, torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.5, 0.5]]), 2)
    assert cells[0, 0].tolist() == [[2.5, 4.5], [10.5, 12.5]]
    assert cells[1, 0].tolist() == [[0.0, 1.0], [4.0, 5.0]]


def test_describe_and_eval_take_its_answers(wrapped, data, tmp_path, capsys):
    photo = data / "images" / "q0.png"
    engine = open_unires(wrapped, device="cpu")
    frame = engine.encode(read(photo))
    chances = {one.text: one.none_probability for one in engine.find_masks(frame, list(TEXTS))}
    command = ["describe", str(photo), "--bundle", str(wrapped), "--json"]
    for text in TEXTS:
        command += ["--text", text]
    status = cli.main(command)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["text"] for row in rows] == list(TEXTS)
    for row in rows:
        assert row["none"] == pytest.approx(chances[row["text"]], abs=1e-3)
        assert bool(row["regions"]) == (1 - row["none"] >= 0.5)
    assert status == int(not all(row["regions"] for row in rows))
    assert cli.main([*command, "--box", "1,1,9,9"]) == 2
    assert "cuts its own masks" in capsys.readouterr().err

    out = tmp_path / "figures"
    command = ["eval", "res", "--data", str(data), "--bundle", str(wrapped), "-o", str(out)]
    assert cli.main([*command, "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["candidates"] == "own"
    assert (report["n_masks"], report["n_empty"]) == (12, 4)
    assert report["setting"]["model"] == "unires-tiny"
    answers = [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]
    assert report["n_acc"] == pytest.approx(
        np.mean([row["empty"] for row in answers if not row["targets"]])
    )
    ious = [0.0 if row["empty"] else row["iou"] for row in answers if row["targets"]]
    assert report["miou"] == pytest.approx(np.mean(ious), abs=1e-3)


def read(path):
    import cv2

    return np.ascontiguousarray(cv2.imread(str(path))[:, :, ::-1])


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_the_whole_path_on_two_processes(repository, tiny_checkpoint, towers, data, tmp_path):
    """Wrapped by the command, both stages on two processes, which learn what one does."""
    from ureca.config import to_plain

    config = tmp_path / "model.yaml"
    config.write_text("flow: {detail_px: 64, cells: 2, inner: 16, heads: 2}\nmax_masks: 3\n")
    start = tmp_path / "start"
    command = ["mllm", "unires", "wrap", str(tiny_checkpoint), "-o", str(start)]
    command += ["--detail", str(towers / "detail"), "--decoder", str(towers / "sam")]
    assert cli.main([*command, "--config", str(config)]) == 0
    module = "ureca.models.mllm.unires.train"
    given = to_plain(recipe(data, start, 1, steps=2))
    one = two_processes(repository, tmp_path / "one", given, module=module)
    second = recipe(data, one / "checkpoint", 2, steps=2, gradient_clip=1e6)
    two = two_processes(repository, tmp_path / "two", to_plain(second), module=module)
    train(second, tmp_path / "alone")
    ours, alone = (
        load_file(folder / "checkpoint" / "learned.safetensors")
        for folder in (two, tmp_path / "alone")
    )
    assert ours.keys() == alone.keys()
    assert any(".lora_B" in name and tensor.abs().max() > 0 for name, tensor in ours.items())
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, alone[name], rtol=1e-2, atol=1e-3)
    command = ["describe", str(data / "images" / "q0.png"), "--text", "the red cup", "--json"]
    assert cli.main([*command, "--bundle", str(two / "checkpoint")]) in {0, 1}


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_towers_and_mask_decoder_are_exported_with_parity(wrapped, tmp_path, capsys):
    assert cli.main(["export", str(wrapped), "-o", str(tmp_path / "graphs"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(report["graphs"]) == {"image", "boxes", "maps", "masks"}
    assert all(one["difference"] < 1e-3 for one in report["graphs"].values())
    assert report["missing"] == ["lm: the language model behind the prefix; torch runs it"]
