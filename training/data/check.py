"""Check every photo of a data set before the work begins: damaged ones, and the same bytes in two places.

All bytes are read each time, so that a replaced photo is noticed even if its name and date are the same. The result of
decoding is kept beside the decoded photos, by the hash of the bytes.
"""

import contextlib
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
"""Shorter side of the decoded photos, pixels: finds every damage, and is several times faster than in full."""
NAMED = 50
"""Limit of damaged photos listed in one message."""


class Finding(NamedTuple):
    """The result of checking a photo.

    Attributes:
        digest: of its bytes; empty if they cannot be read.
        fault: why it cannot be decoded; empty if it can.
    """

    digest: str
    fault: str


def examine(dataset: Dataset, cache: Path, *, skip_damaged: bool = False, progress: bool = True) -> Dataset:
    """Return the data set without test photos that are also trained on, every sample with the digest of its bytes.

    Args:
        dataset: as listed.
        cache: folder of the decoded photos.
        skip_damaged: leave damaged photos out instead of refusing them.
        progress: show a bar.

    Raises:
        DatasetError: damaged photos, of any part, listed in one message.
    """
    everything = (*dataset.train, *dataset.test)
    found = _findings([sample.path for sample in everything], cache, progress)
    damaged = {path: finding for path, finding in found.items() if finding.fault}
    if damaged and not skip_damaged:
        raise DatasetError(_damage(damaged) + "\nRepair or remove them, or leave them out by --skip-damaged")
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
        notices.append(
            f"{len(copies)} test photos are also training photos and are removed from the test part: {pair}, …"
        )
        test = [sample for sample in test if sample.digest not in trained]
    return replace(dataset, train=tuple(train), test=tuple(test), notices=tuple(notices), skipped=len(damaged))


def content_of(samples: Iterable[Sample]) -> list[str]:
    """Return bytes and class of every photo, as `DIGEST:LABEL`: the same if only names change.

    Raises:
        DatasetError: a photo cannot be read.
    """
    try:
        return [f"{sample.digest or _digest(sample.path.read_bytes())}:{sample.label}" for sample in samples]
    except OSError as error:
        raise DatasetError(f"{error.filename} cannot be read: {error.strerror}") from error


def _findings(paths: Sequence[Path], cache: Path, progress: bool) -> dict[Path, Finding]:
    """Check every photo; decode only bytes that were not checked before."""
    if not paths:
        return {}
    common = os.path.commonpath([path.absolute() for path in paths])
    kept = cache / f"checked-{_digest(os.fsencode(f'{DECODER}:{common}'))}.json"
    known = _read_known(kept)
    unique = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        checked = pool.map(partial(_check, known=known), unique)
        hidden = None if progress else True
        bar = tqdm(checked, desc="checking", total=len(unique), unit="img", disable=hidden, leave=False)
        found = dict(zip(unique, bar, strict=True))
    faults = {finding.digest: finding.fault for finding in found.values() if finding.digest}
    if faults != known:
        with contextlib.suppress(OSError):  # a read-only or full disk: slower the next time, not wrong
            cache.mkdir(parents=True, exist_ok=True)
            write_whole(kept, json.dumps(faults))
    return found


def _check(path: Path, known: Mapping[str, str]) -> Finding:
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
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(known, dict):
            return known
    return {}


def _sound(samples: Iterable[Sample], found: Mapping[Path, Finding]) -> list[Sample]:
    return [replace(sample, digest=found[sample.path].digest) for sample in samples if not found[sample.path].fault]


def _in_two_classes(dataset: Dataset, samples: Iterable[Sample]) -> list[str]:
    """Return a notice of photos that are in two classes: one of the labels is wrong."""
    first: dict[str, Sample] = {}
    firsts = [(first.setdefault(sample.digest, sample), sample) for sample in samples]
    pairs = [(one, other) for one, other in firsts if one.label != other.label]
    if not pairs:
        return []
    labels = dataset.labels
    shown = "; ".join(f"{a.path} ({labels[a.label]}) is {b.path} ({labels[b.label]})" for a, b in pairs[:3])
    return [f"{len(pairs)} photos are in two classes: {shown}{'; …' if len(pairs) > 3 else ''}"]


def _damage(damaged: Mapping[Path, Finding]) -> str:
    lines = [f"{path}: {finding.fault}" for path, finding in damaged.items()]
    more = [f"… and {len(lines) - NAMED} more"] if len(lines) > NAMED else []
    return "\n  ".join([f"{len(lines)} damaged images:", *lines[:NAMED], *more])


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]
