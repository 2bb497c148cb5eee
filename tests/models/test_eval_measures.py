"""The measures equal `pycocoevalcap`'s own on a fixed example; retrieval and faults by hand."""

import os
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from ureca.errors import MissingExtraError
from ureca.models.data.regions import RegionRecord
from ureca.models.evaluation.measures import failure_rates, scores
from ureca.models.evaluation.measures.meteor import Meteor, find_java
from ureca.models.evaluation.measures.retrieval import find_own, find_same_type
from ureca.models.evaluation.measures.similarity import MiniLM, find_model, find_vocabulary
from ureca.models.evaluation.test_set import EvaluationCase, Training
from ureca.models.evaluation.text import ngrams

CAPTIONS = {
    "a": "a man in a black shirt",
    "b": "a small brown dog",
    "c": "two people on a bench",
    "d": "a ball",
    "e": "a red bus",
}
REFERENCES = {
    "a": ["a man in a black t-shirt", "a guy wearing black", "man"],
    "b": ["a dog", "the little brown dog running"],
    "c": ["an old couple sitting on a wooden bench"],
    "d": ["a red ball", "the ball", "his toy"],
    "e": ["a double decker bus", "a red bus"],
}


@pytest.fixture(scope="module")
def coco():
    """The texts as the package wants them."""
    pytest.importorskip("pycocoevalcap", reason="the measures need the extra `eval`")
    return dict(REFERENCES), {key: [text] for key, text in CAPTIONS.items()}


def test_bleu_rouge_and_cider_are_the_packages_own(coco):
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    bleu, _ = Bleu(4).compute_score(*coco, verbose=0)
    rouge, each_rouge = Rouge().compute_score(*coco)
    cider, each_cider = Cider().compute_score(*coco)
    ours = ngrams.compute_bleu(list(CAPTIONS.values()), list(REFERENCES.values()))
    assert ours == pytest.approx(bleu)
    assert list(ngrams.compute_rouge_l(CAPTIONS, REFERENCES).values()) == pytest.approx(
        list(each_rouge)
    )
    assert scores.compute_mean(
        list(ngrams.compute_rouge_l(CAPTIONS, REFERENCES).values())
    ) == pytest.approx(rouge)
    assert list(ngrams.compute_cider(CAPTIONS, REFERENCES).values()) == pytest.approx(
        list(each_cider)
    )
    assert scores.compute_mean(
        list(ngrams.compute_cider(CAPTIONS, REFERENCES).values())
    ) == pytest.approx(cider)


def test_bleu_says_none_for_an_order_that_no_caption_reaches(coco):
    assert ngrams.compute_bleu(["a dog"], [["a dog"]])[2:] == [None, None]
    assert ngrams.compute_bleu(["a cat sat down"], [["the dog ran away"]])[3] == 0.0
    assert ngrams.compute_cider({}, {}) == {}


@pytest.fixture(scope="module")
def java():
    pytest.importorskip("pycocoevalcap", reason="METEOR needs the extra `eval`")
    try:
        return find_java()
    except MissingExtraError as error:
        pytest.skip(str(error))


@pytest.mark.long
@pytest.mark.timeout(300)  # two Java machines that read 100 MB each
def test_meteor_is_the_packages_own_and_of_any_group(coco, java, monkeypatch):
    from pycocoevalcap.meteor import meteor

    monkeypatch.setenv("PATH", f"{Path(java).parent}{os.pathsep}{os.environ['PATH']}")
    theirs = meteor.Meteor()
    try:
        corpus, each = theirs.compute_score(*coco)
    finally:
        for pipe in (theirs.meteor_p.stdout, theirs.meteor_p.stderr):
            pipe.close()
        del theirs
    with Meteor() as ours:
        counted = [ours.match(CAPTIONS[key], REFERENCES[key]) for key in CAPTIONS]
        assert ours.evaluate(counted)[0] == pytest.approx(each)
        assert ours.evaluate(counted)[1] == pytest.approx(corpus)
        alone, together = ours.evaluate(counted[:1])
        assert alone[0] == pytest.approx(together)
        assert ours.match("", ["a dog"])


def test_a_java_that_dies_is_named(coco, tmp_path, monkeypatch):
    broken = tmp_path / "java"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr("ureca.models.evaluation.measures.meteor.find_java", lambda: str(broken))
    with pytest.raises(MissingExtraError, match="METEOR"):
        Meteor()
    broken.unlink()
    with pytest.raises(MissingExtraError, match="cannot start Java"):
        Meteor()


@pytest.mark.timeout(300)  # loads 23 MB and ONNX Runtime; machines may be busy
def test_minilm_knows_near_from_far():
    try:
        find_model(), find_vocabulary()
    except MissingExtraError as error:
        pytest.skip(str(error))
    pytest.importorskip("onnxruntime", reason="MiniLM needs the extra `eval`")
    texts = ["a small dog", "a little puppy", "the city hall"]
    vectors = MiniLM(threads=1).embed([*texts, texts[0]])
    assert set(vectors) == set(texts)
    assert np.linalg.norm(vectors["a small dog"]) == pytest.approx(1, abs=1e-5)
    dog, puppy, hall = (vectors[text] for text in texts)
    assert dog @ puppy > 0.5 > dog @ hall


def test_a_missing_vocabulary_is_named_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setenv("MINILM_VOCAB", str(tmp_path / "vocab.txt"))
    assert find_vocabulary() == tmp_path / "vocab.txt"
    pytest.importorskip("tokenizers", reason="MiniLM needs the extra `eval`")
    with pytest.raises(MissingExtraError, match="--vocab"):
        MiniLM()


def test_what_is_missing_turns_to_none_and_is_named():
    def absent():
        raise MissingExtraError("pip install it")

    with ExitStack() as stack:
        tools = scores.open_tools(stack, embedder=absent, meteor=False)
    assert tools.missing["similarity"] == "pip install it"
    scored = scores.score_cases([DOG], {"dog": "a dog"}, tools, pool=[DOG, TREE], references="both")
    figures = scores.aggregate_scores(scored, tools)
    assert figures["meteor"] is figures["unique"] is figures["sim_max"] is None
    assert (figures["head"], figures["n"]) == (1.0, 1)


def case(key, category, *short, image="one", **fields):
    record = RegionRecord(
        region_id=key,
        image_key=image,
        shard="",
        source="test/x",
        height=4,
        width=4,
        counts="",
        box_xywh_px=(0, 0, 4, 4),
        category=category,
        short=short,
        **fields,
    )
    return EvaluationCase(record)


DOG = case("dog", "dog", "a brown dog", "a puppy", types=("animals",))
TREE = case("tree", "tree", "a tall tree", types=("scene",))
OTHER_DOG = case("other", "dog", "a white dog", types=("animals",))
MAN = case("man", "man", "a man", "a young man", types=("people",), image="two")
SHIRT = case("shirt", "shirt", "a red shirt", types=("clothing",), image="two")


class FakeEmbedder:
    """One axis per word."""

    def embed(self, texts):
        axes = {word: i for i, word in enumerate(sorted({w for t in texts for w in t.split()}))}
        vectors = {}
        for text in texts:
            vector = np.zeros(len(axes), np.float32)
            vector[[axes[word] for word in text.split()]] = 1
            vectors[text] = vector / np.linalg.norm(vector)
        return vectors


def scored_of(captions, cases):
    tools = scores.Tools(None, FakeEmbedder(), {"bleu, rouge_l, cider": "left out"})
    return scores.score_cases(cases, captions, tools, pool=cases, references="both"), tools


def test_retrieval_shares_ties_and_needs_neighbours():
    towards = np.array([1, 0], np.float32)
    references = {"a": np.array([[1, 0]], np.float32), "b": np.array([[0, 1], [1, 0]], np.float32)}
    tied = find_own(towards, "a", ["a", "b"], references)
    assert (tied.hit, tied.chance) == (0.5, 0.5)
    assert find_own(np.array([0, 1], np.float32), "a", ["a", "b"], references).hit == 0
    assert find_own(towards, "a", ["a"], references) is None
    assert find_same_type(DOG, [DOG, TREE, OTHER_DOG]) == ["dog", "other"]


def test_uniqueness_rises_with_the_detail_that_tells_regions_apart():
    cases = [DOG, TREE, OTHER_DOG]
    plain, _ = scored_of({"dog": "a dog", "tree": "a tree"}, cases)
    exact, tools = scored_of({"dog": "a brown dog", "tree": "a tree"}, cases)
    assert plain[0].figures["unique"] == 0.5
    assert exact[0].figures["unique"] == exact[1].figures["unique"] == 1.0
    assert exact[0].figures["unique_chance"] == pytest.approx(1 / 3)
    figures = scores.aggregate_scores(exact, tools)
    assert (figures["unique"], figures["n_unique_type"], figures["cider"]) == (1.0, 1, None)


def test_a_neighbours_name_is_told_from_any_wrong_name():
    cases = [DOG, TREE, MAN, SHIRT]
    captions = {"dog": "a tree", "tree": "a house", "man": "a red shirt", "shirt": "a shirt"}
    scored, _ = scored_of(captions, cases)
    found = failure_rates.measure_short_faults(
        scored, cases, Training(Counter()), references="both"
    )
    assert (found["neighbour_named"], found["n_neighbour_named"]) == (0.5, 4)
    assert (found["garment_named"], found["n_garment_named"]) == (pytest.approx(1 / 3), 3)
    assert found["rare_head"] is None


def test_gender_and_age_count_only_where_both_commit():
    woman = case("woman", "woman", "a woman", types=("people",))
    unclear = case("unclear", "person", "a man", "a woman", types=("people",))
    cases = [MAN, woman, unclear]
    scored, _ = scored_of({"man": "a boy", "woman": "a man", "unclear": "a man"}, cases)
    found = failure_rates.measure_short_faults(
        scored, cases, Training(Counter()), references="both"
    )
    assert (found["gender_wrong"], found["n_gender_wrong"]) == (0.5, 2)
    assert (found["age_wrong"], found["n_age_wrong"]) == (pytest.approx(1 / 3), 3)
    assert (found["gender_or_age_wrong"], found["n_gender_or_age_wrong"]) == (2 / 3, 3)


def test_rare_names_are_those_outside_the_commonest_of_training(monkeypatch):
    monkeypatch.setattr(failure_rates, "COMMON_CATEGORIES", 1)
    cases = [DOG, TREE]
    scored, _ = scored_of({"dog": "a dog", "tree": "a dog"}, cases)
    training = Training(Counter({"dog": 9, "tree": 1}))
    found = failure_rates.measure_short_faults(scored, cases, training, references="both")
    assert (found["rare_head"], found["n_rare_head"]) == (0.0, 1)
    assert found["ten_commonest_captions"] == 1.0


def test_colour_and_number():
    cases = [DOG, OTHER_DOG, case("dogs", "dog", "two dogs", "some dogs")]
    said = {"dog": "a brown dog", "other": "a black dog", "dogs": "a dog"}
    scored, _ = scored_of(said, cases)
    found = failure_rates.measure_short_faults(
        scored, cases, Training(Counter()), references="both"
    )
    assert (found["colour_right"], found["n_colour_right"]) == (0.5, 2)
    assert (found["number_right"], found["n_number_right"]) == (pytest.approx(2 / 3), 3)
    assert (found["number_plural_right"], found["n_number_plural_right"]) == (0.0, 1)


def test_long_captions_that_collapse():
    cases = [case(str(i), "man", long=("a man who runs",)) for i in range(3)]
    texts = ["a man in a red shirt", "a woman in a blue shirt", "a man beside a car"]
    tools = scores.Tools(None, None, {"bleu, rouge_l, cider": "left out"})
    said = dict(zip("012", texts, strict=True))
    scored = scores.score_cases(cases, said, tools, pool=cases, references="long")
    found = failure_rates.measure_long_faults(scored)
    assert (found["long_distinct"], found["long_template"]) == (1.0, pytest.approx(2 / 3))
    assert found["long_template_people"] == 1.0
