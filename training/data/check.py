"""Every photo of a data set, looked at before the work begins: damaged ones, and the same bytes in two places.

Bytes are read each time, so that a photo that was replaced is seen whatever its name and date say; what decoding says
of them is kept beside the decoded photos.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from model.files import write_whole
from model.photo.decode import DECODER, decode_image
from model.photo.errors import PhotoError
from training.data.samples import Dataset, Sample
from training.data.store import LIMITS
from training.errors import DatasetError

SMALL = 64
"""Shorter side that photos are decoded to, pixels: enough to meet every damage, several times faster than in full."""
NAMED = 50
"""Damaged photos that one message lists."""


class Finding(NamedTuple):
    """What was found in a photo.

    Attributes:
        digest: of its bytes; empty where they cannot be read.
        fault: why it cannot be decoded; empty where it can.
    """

    digest: str
    fault: str


def examine(dataset: Dataset, cache: Path, *, skip_damaged: bool = False, progress: bool = True) -> Dataset:
    """Return the data set without test photos that are also trained on, every sample with the digest of its bytes.

    Args:
        dataset: as its lists say.
        cache: folder of the decoded photos.
        skip_damaged: leave damaged photos out, rather than refuse them.
        progress: show a bar.

    Raises:
        DatasetError: damaged photos, of any part, listed in one message.
    """
    everything = (*dataset.train, *dataset.test)
    found = _findings([sample.path for sample in everything], cache, progress)
    damaged = {path: finding for path, finding in found.items() if finding.fault}
    if damaged and not skip_damaged:
        raise DatasetError(_damage(damaged) + "\nRepair or remove them, or go on without them by --skip-damaged")
    train, test = (_sound(part, found) for part in (dataset.train, dataset.test))
    notices = [*dataset.notices, *_in_two_classes(dataset, (*train, *test))]
    if damaged:
        notices.append(f"left out: {_damage(damaged)}")
        if lost := {sample.label for sample in dataset.train} - {sample.label for sample in train}:
            names = ", ".join(dataset.labels[label] for label in sorted(lost)[:5])
            notices.append(f"{len(lost)} classes have no training image left: {names}")
    trained = {sample.digest: sample.path for sample in train}
    if copies := [sample for sample in test if sample.digest in trained]:
        pair = f"{copies[0].path} is {trained[copies[0].digest]}"
        notices.append(f"{len(copies)} test photos are trained on, too, and are kept out of the test: {pair}, …")
        test = [sample for sample in test if sample.digest not in trained]
    return replace(dataset, train=tuple(train), test=tuple(test), notices=tuple(notices), skipped=len(damaged))


def photo_digest(path: Path) -> str:
    """Return what names the bytes of a photo.

    Raises:
        DatasetError: they cannot be read.
    """
    try:
        return _digest(path.read_bytes())
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from error


def content_of(samples: Iterable[Sample]) -> list[str]:
    """Return bytes and class of every photo, as `DIGEST:LABEL`: what a run was trained on, whatever it is called.

    Raises:
        DatasetError: a photo cannot be read.
    """
    return [f"{sample.digest or photo_digest(sample.path)}:{sample.label}" for sample in samples]


def _findings(paths: Sequence[Path], cache: Path, progress: bool) -> dict[Path, Finding]:
    """Look at every photo; decode only what was not decoded before."""
    if not paths:
        return {}
    common = os.path.commonpath([path.absolute() for path in paths])
    kept = cache / f"checked-{_digest(os.fsencode(f'{DECODER}:{common}'))}.json"
    known = _read_known(kept)
    unique = list(dict.fromkeys(paths))
    bar = tqdm(total=len(unique), desc="checking", unit="img", disable=None if progress else True, leave=False)
    found: dict[Path, Finding] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool, bar:
        for path, finding in zip(unique, pool.map(partial(_look, known=known), unique), strict=True):
            found[path] = finding
            bar.update()
    faults = {finding.digest: finding.fault for finding in found.values() if finding.digest}
    if faults != known:
        try:
            cache.mkdir(parents=True, exist_ok=True)
            write_whole(kept, json.dumps(faults))
        except OSError:  # a read-only or full disk: slower the next time, not wrong
            pass
    return found


def _look(path: Path, known: Mapping[str, str]) -> Finding:
    try:
        data = path.read_bytes()
    except OSError as error:
        return Finding("", f"cannot be read: {error.strerror}")
    digest = _digest(data)
    if digest in known:
        return Finding(digest, known[digest])
    try:
        decode_image(data, LIMITS, min_side=SMALL)
    except PhotoError as error:
        return Finding(digest, error.detail)
    return Finding(digest, "")


def _read_known(path: Path) -> dict[str, str]:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _sound(samples: Iterable[Sample], found: Mapping[Path, Finding]) -> list[Sample]:
    return [replace(sample, digest=found[sample.path].digest) for sample in samples if not found[sample.path].fault]


def _in_two_classes(dataset: Dataset, samples: Iterable[Sample]) -> list[str]:
    """Name photos whose bytes lie in two classes: one of the labels is wrong."""
    first: dict[str, Sample] = {}
    pairs: list[tuple[Sample, Sample]] = []
    for sample in samples:
        other = first.setdefault(sample.digest, sample)
        if other.label != sample.label:
            pairs.append((other, sample))
    if not pairs:
        return []
    labels = dataset.labels
    shown = "; ".join(f"{a.path} ({labels[a.label]}) is {b.path} ({labels[b.label]})" for a, b in pairs[:3])
    return [f"{len(pairs)} photos lie in two classes: {shown}{'; …' if len(pairs) > 3 else ''}"]


def _damage(damaged: Mapping[Path, Finding]) -> str:
    lines = [f"{path}: {finding.fault}" for path, finding in damaged.items()]
    more = [f"… and {len(lines) - NAMED} more"] if len(lines) > NAMED else []
    return "\n  ".join([f"{len(lines)} damaged images:", *lines[:NAMED], *more])


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]
