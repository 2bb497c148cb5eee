"""Many pictures: in threads of this process, or on Ray, with the same files in the end."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
from tqdm import tqdm

from ureca.config import to_plain
from ureca.errors import ConfigError, RegionError, SourceError
from ureca.extras import require
from ureca.models.curation import output
from ureca.models.curation.annotators.server import ServerConfig
from ureca.models.curation.answer_cache import Ledger, spent
from ureca.models.curation.errors import AnnotatorError, BudgetError
from ureca.models.curation.prompts import Annotator
from ureca.models.curation.records import CuratedPicture
from ureca.models.curation.sources import read_images
from ureca.models.curation.stages import CurationConfig, Features, curated

_SETTINGS, _ANSWERS = "settings.json", "answers"
_WHAT_ANSWERS = ("model", "temperature", "max_tokens")
_GIVE_UP = 10
"""Pictures in a row without an answer, after which a worker does not try the others."""

Failure = tuple[str, str]
"""Why a picture could not be done: a word to count by, and the error in full."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A run, as plain data: workers in other processes build what they need from it."""

    roots: tuple[Path, ...]
    out: Path
    config: CurationConfig = field(default_factory=CurationConfig)
    bundle: str = ""
    """Folder of our own captioner."""
    server: ServerConfig | None = None
    local: str = ""
    """Folder of a transformers model."""
    budget: int | None = None

    def annotator(self) -> Annotator:
        """The one that is named."""
        if self.server is not None:
            from ureca.models.curation.annotators.server import ServerAnnotator

            return ServerAnnotator(self.server)
        if self.local:
            from ureca.models.curation.annotators.local import LocalAnnotator

            return LocalAnnotator(self.local)
        from ureca.models.curation.annotators.own import OwnAnnotator
        from ureca.models.evaluation.captioners.engines import open_engine

        return OwnAnnotator(open_engine(Path(self.bundle), threads=1))

    def shared_by(self, workers: int) -> Settings:
        """What each of so many workers may do, so that together they keep to the limits."""
        budget = None if self.budget is None else self.budget // workers
        server = self.server
        if server is not None:
            server = replace(server, per_minute=server.per_minute / workers)
        return replace(self, budget=budget, server=server)


class CurationWorker:
    """Does pictures, one after another or in several threads."""

    def __init__(
        self,
        settings: Settings,
        *,
        annotator: Annotator | None = None,
        features: Features | None = None,
    ) -> None:
        self._settings = settings
        self._store = read_images(settings.roots)
        asked = annotator or settings.annotator()
        self.ledger = Ledger(settings.out / _ANSWERS, asked, budget=settings.budget)
        self._features = features or imagenet_features()
        self._unanswered = 0

    def __call__(self, picture: CuratedPicture) -> None:
        """All stages of one picture; the result is on the disk when it returns."""
        image = self._store.read(picture.image_key)
        if image.shape[:2] != (picture.height, picture.width):
            raise RegionError(
                f"{picture.image_key} is {image.shape[1]}x{image.shape[0]}, its masks are "
                f"{picture.width}x{picture.height}"
            )
        config = self._settings.config
        done = curated(picture, image, self.ledger, features=self._features, config=config)
        output.save(self._settings.out, msgspec.structs.replace(done, annotator=self.ledger.model))

    def attempt(self, picture: CuratedPicture) -> Failure | None:
        """Do a picture; why it could not be done, or None when it is."""
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


def imagenet_features() -> Features:
    """EfficientNet-Lite0's last features, pooled inside masks: what our own trunk starts from.

    (The paper names DINOv2, its code loads DINO; neither can be had everywhere.)
    """
    from ureca.models.evaluation.captioners.trunk_features import ImageNetTrunk

    return ImageNetTrunk().pooled


def curate(
    pictures: Sequence[CuratedPicture],
    settings: Settings,
    *,
    threads: int = 1,
    worker: Callable[[Settings], CurationWorker] = CurationWorker,
) -> dict[str, Any]:
    """Do what is not done yet, then publish; returns the report.

    Pictures that could not be done (the annotator gave up, the questions are used up) are counted
    in `pictures_failed`, with the first error of each kind in `failed_because`, and done by the
    next run. Raises `OutputError` on a full disk.
    """
    claim(settings)
    todo = _todo(pictures, settings)
    made = worker(settings)
    try:
        failed = _in_threads(todo, made, threads)
    finally:
        made.ledger.close()
    return _published(pictures, settings, failed, dict(made.ledger.counts))


def curate_on_ray(
    pictures: Sequence[CuratedPicture], settings: Settings, *, workers: int = 2
) -> dict[str, Any]:
    """`curate` on Ray Data: a local cluster, or the one that `RAY_ADDRESS` names, with a shared
    file system. Ray's processes talk to each other in pickle: keep a cluster among friends.
    """
    claim(settings)
    require("ray", extra="curation")
    data: Any = require("ray.data", extra="curation")
    rows = [{"picture": msgspec.json.encode(each).decode()} for each in _todo(pictures, settings)]
    failed: list[Failure] = []
    used: Counter[str] = Counter()
    if rows:
        workers = min(workers, settings.budget or workers)
        part = settings.shared_by(workers)
        told = data.from_items(rows, override_num_blocks=min(len(rows), 4 * workers)).map_batches(
            _RayWorker, fn_constructor_args=(part,), concurrency=workers, batch_size=8
        )
        for row in told.take_all():
            failed += [(row["failure"], row["error"])] if row["failure"] else []
            used.update(json.loads(row["counts"]))
    return _published(pictures, settings, failed, dict(used))


class _RayWorker:
    """One actor: a worker of its own, and a ledger file of its own."""

    def __init__(self, settings: Settings) -> None:
        self._worker = CurationWorker(settings)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        before = Counter(self._worker.ledger.counts)
        failures = []
        for text in batch["picture"]:
            picture = msgspec.json.decode(str(text).encode(), type=CuratedPicture)
            failures.append(self._worker.attempt(picture) or ("", ""))
        used = {k: n - before[k] for k, n in self._worker.ledger.counts.items()}
        counts = [json.dumps(used), *["{}"] * (len(failures) - 1)]
        words, errors = (list(column) for column in zip(*failures, strict=True))
        return {"failure": words, "error": errors, "counts": counts}


def claim(settings: Settings) -> None:
    """Make the folder this run's. Raises `ConfigError` when it belongs to another one: pictures of
    two configurations must not be mixed. Where a server is, and how often it may be asked, may
    change: answers belong to the model.
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


def _todo(pictures: Sequence[CuratedPicture], settings: Settings) -> list[CuratedPicture]:
    return [p for p in pictures if not output.picture_path(settings.out, p.image_key).is_file()]


def _in_threads(
    todo: Sequence[CuratedPicture], worker: CurationWorker, threads: int
) -> list[Failure]:
    failed: list[Failure] = []
    with ThreadPoolExecutor(threads) as pool:
        running = {pool.submit(worker.attempt, picture) for picture in todo}
        try:
            for end in tqdm(
                as_completed(running), total=len(todo), desc="curate", unit="picture", disable=None
            ):
                failed += filter(None, [end.result()])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return failed


def _published(
    pictures: Sequence[CuratedPicture],
    settings: Settings,
    failed: Sequence[Failure],
    used: dict[str, int],
) -> dict[str, Any]:
    done = list(output.finished(settings.out, (p.image_key for p in pictures)))
    output.publish(settings.out, done)
    report = {
        "annotator": sorted({picture.annotator for picture in done}),
        **output.counts(done),
        "pictures_failed": dict(Counter(word for word, _ in failed)),
        "failed_because": dict(reversed(failed)),
        "questions": used,
        "answers": spent(settings.out / _ANSWERS),
    }
    output.write_report(settings.out, report)
    return report
