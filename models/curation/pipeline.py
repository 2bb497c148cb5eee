"""Processes many images: in threads of this process, or on Ray, with equal files in the end."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
from tqdm import tqdm

from ureca.config import to_plain
from ureca.datatypes import Image
from ureca.errors import ConfigError, RegionError, SourceError
from ureca.extras import require
from ureca.models.curation import output
from ureca.models.curation.answer_cache import AnswerCache, count_spent
from ureca.models.curation.errors import AnnotatorError, BudgetError
from ureca.models.curation.prompts import Annotator
from ureca.models.curation.records import CuratedPicture
from ureca.models.curation.sources import read_images
from ureca.models.curation.stages import CurationConfig, Features, run_stages
from ureca.models.data.regions import ImageStore
from ureca.models.runtime.server.client import ServerConfig

_SETTINGS, _ANSWERS = "settings.json", "answers"
_WHAT_ANSWERS = ("model", "temperature", "max_tokens")
_GIVE_UP = 10
"""Pictures in a row without an answer, after which a worker does not try the others."""

Failure = tuple[str, str]
"""Why a picture could not be done: a word to count by, and the error in full."""


@dataclass(frozen=True, kw_only=True)
class CurationSettings:
    """The settings of a run, as plain data. Workers in other processes build their parts from
    it.
    """

    roots: tuple[Path, ...]
    out: Path
    config: CurationConfig = field(default_factory=CurationConfig)
    bundle: str = ""
    """Folder of our own captioner."""
    server: ServerConfig | None = None
    local: str = ""
    """Folder of a transformers model."""
    budget: int | None = None

    def open_annotator(self) -> Annotator:
        """Open the configured annotator."""
        if self.server is not None:
            from ureca.models.curation.annotators.server import ServerAnnotator

            return ServerAnnotator(self.server)
        if self.local:
            from ureca.models.curation.annotators.local import LocalAnnotator

            return LocalAnnotator(self.local)
        from ureca.models.curation.annotators.own import OwnAnnotator
        from ureca.models.evaluation.captioners.engines import open_engine

        return OwnAnnotator(open_engine(Path(self.bundle), threads=1))

    def split_limits(self, workers: int) -> CurationSettings:
        """Return the settings of each of so many workers, so that together they keep to the
        limits.
        """
        budget = None if self.budget is None else self.budget // workers
        server = self.server
        if server is not None:
            server = replace(server, per_minute=server.per_minute / workers)
        return replace(self, budget=budget, server=server)


class PictureWorker(ABC):
    """Processes images, one after another or in several threads."""

    def __init__(
        self, settings: CurationSettings, store: ImageStore, annotator: Annotator | None = None
    ) -> None:
        self.settings, self.store = settings, store
        asked = annotator or settings.open_annotator()
        self.ledger = AnswerCache(settings.out / _ANSWERS, asked, budget=settings.budget)
        self._unanswered = 0

    @abstractmethod
    def describe(self, picture: CuratedPicture, image: Image) -> CuratedPicture:
        """Write the captions of one image, u8 [H, W, 3]."""

    def __call__(self, picture: CuratedPicture) -> None:
        """Describe one image; the result is on disk when it returns."""
        image = self.store.read(picture.image_key)
        if image.shape[:2] != (picture.height, picture.width):
            raise RegionError(
                f"{picture.image_key} is {image.shape[1]}x{image.shape[0]}, its masks are "
                f"{picture.width}x{picture.height}"
            )
        done = self.describe(picture, image)
        output.save_picture(
            self.settings.out, msgspec.structs.replace(done, annotator=self.ledger.model)
        )

    def try_picture(self, picture: CuratedPicture) -> Failure | None:
        """Process an image; return why it failed, or None."""
        if self._unanswered >= _GIVE_UP:
            return "not_tried", f"{_GIVE_UP} pictures in a row got no answer"
        try:
            self(picture)
        except AnnotatorError as error:
            self._unanswered += 1
            return "annotator", str(error)
        except RegionError as error:
            return "picture_size", str(error)
        except BudgetError as error:
            return "budget", str(error)
        except SourceError as error:
            return "picture", str(error)
        self._unanswered = 0
        return None


class CurationWorker(PictureWorker):
    """Runs the stages of `ureca curate`: masks as a tree, things and their parts."""

    def __init__(
        self,
        settings: CurationSettings,
        *,
        annotator: Annotator | None = None,
        features: Features | None = None,
    ) -> None:
        super().__init__(settings, read_images(settings.roots), annotator)
        self._features = features or make_imagenet_features()

    def describe(self, picture: CuratedPicture, image: Image) -> CuratedPicture:
        """See `run_stages`."""
        config = self.settings.config
        return run_stages(picture, image, self.ledger, features=self._features, config=config)


def make_imagenet_features() -> Features:
    """Return EfficientNet-Lite0's last features, pooled inside masks, from which our own trunk
    starts.

    (The paper names DINOv2, its code loads DINO; neither is available everywhere.)
    """
    from ureca.models.evaluation.captioners.trunk_features import ImageNetTrunk

    return ImageNetTrunk().pool


def curate(
    pictures: Sequence[CuratedPicture],
    settings: CurationSettings,
    *,
    threads: int = 1,
    worker: Callable[[CurationSettings], PictureWorker] = CurationWorker,
) -> dict[str, Any]:
    """Process the images that are not done yet, then publish; return the report.

    Failed images (the annotator gave up, the questions are used up) are counted in
    `pictures_failed`, with the first error of each kind in `failed_because`. The next run processes
    them. Raises `OutputError` on a full disk.
    """
    claim_folder(settings)
    todo = _list_unfinished(pictures, settings)
    made = worker(settings)
    try:
        failed = _run_in_threads(todo, made, threads)
    finally:
        made.ledger.close()
    return _publish(pictures, settings, failed, dict(made.ledger.counts))


def curate_on_ray(
    pictures: Sequence[CuratedPicture], settings: CurationSettings, *, workers: int = 2
) -> dict[str, Any]:
    """`curate` on Ray Data: a local cluster, or the one that `RAY_ADDRESS` names, with a shared
    file system. Ray's processes talk to each other in pickle: keep a cluster among friends.
    """
    claim_folder(settings)
    require("ray", extra="curation")
    data: Any = require("ray.data", extra="curation")
    rows = [
        {"picture": msgspec.json.encode(each).decode()}
        for each in _list_unfinished(pictures, settings)
    ]
    failed: list[Failure] = []
    used: Counter[str] = Counter()
    if rows:
        workers = min(workers, settings.budget or workers)
        part = settings.split_limits(workers)
        told = data.from_items(rows, override_num_blocks=min(len(rows), 4 * workers)).map_batches(
            _RayWorker, fn_constructor_args=(part,), concurrency=workers, batch_size=8
        )
        for row in told.take_all():
            failed += [(row["failure"], row["error"])] if row["failure"] else []
            used.update(json.loads(row["counts"]))
    return _publish(pictures, settings, failed, dict(used))


class _RayWorker:
    """One actor: a worker of its own, and a ledger file of its own."""

    def __init__(self, settings: CurationSettings) -> None:
        self._worker = CurationWorker(settings)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        before = Counter(self._worker.ledger.counts)
        failures = []
        for text in batch["picture"]:
            picture = msgspec.json.decode(str(text).encode(), type=CuratedPicture)
            failures.append(self._worker.try_picture(picture) or ("", ""))
        used = {k: n - before[k] for k, n in self._worker.ledger.counts.items()}
        counts = [json.dumps(used), *["{}"] * (len(failures) - 1)]
        words, errors = (list(column) for column in zip(*failures, strict=True))
        return {"failure": words, "error": errors, "counts": counts}


def claim_folder(settings: CurationSettings) -> None:
    """Assign the folder to this run. Raises `ConfigError` if it belongs to another one: images of
    two configurations must not be mixed. The server's address and rate limit may change, because
    answers belong to the model.
    """
    settings.out.mkdir(parents=True, exist_ok=True)
    path = settings.out / _SETTINGS
    mine = {**to_plain(settings), "out": "", "budget": None}
    if settings.server is not None:
        mine["server"] = {name: mine["server"][name] for name in _WHAT_ANSWERS}
    text = json.dumps(mine, indent=1) + "\n"
    if path.is_file() and path.read_text("utf8") != text:
        raise ConfigError(
            f"{settings.out} holds a run with other settings ({path}); give another folder with -o"
        )
    path.write_text(text, "utf8")


def _list_unfinished(
    pictures: Sequence[CuratedPicture], settings: CurationSettings
) -> list[CuratedPicture]:
    return [
        p for p in pictures if not output.make_picture_path(settings.out, p.image_key).is_file()
    ]


def _run_in_threads(
    todo: Sequence[CuratedPicture], worker: PictureWorker, threads: int
) -> list[Failure]:
    failed: list[Failure] = []
    with ThreadPoolExecutor(threads) as pool:
        running = {pool.submit(worker.try_picture, picture) for picture in todo}
        try:
            for end in tqdm(
                as_completed(running), total=len(todo), desc="curate", unit="picture", disable=None
            ):
                failed += filter(None, [end.result()])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return failed


def _publish(
    pictures: Sequence[CuratedPicture],
    settings: CurationSettings,
    failed: Sequence[Failure],
    used: dict[str, int],
) -> dict[str, Any]:
    done = list(output.read_finished(settings.out, (p.image_key for p in pictures)))
    output.write_rows(settings.out, done)
    report = {
        "annotator": sorted({picture.annotator for picture in done}),
        **output.count_regions(done),
        "pictures_failed": dict(Counter(word for word, _ in failed)),
        "failed_because": dict(reversed(failed)),
        "questions": used,
        "answers": count_spent(settings.out / _ANSWERS),
    }
    output.write_report(settings.out, report)
    return report
