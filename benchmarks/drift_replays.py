"""Replays of real photos whose kind changes, recorded as Prometheus sees them: the tests of the drift alert.

Run: python benchmarks/drift_replays.py --model FILE --clean FOLDER|LIST --other FOLDER [FOLDER …] --out FILE.yml

Every photo is sent once to a running `fieldmark serve`, whose answer says how novel it is. A replay is photos in a
random order at an even rate: 1,500 of the clean ones, or 1,000 of them and then 500 of which 30% are of another kind.
It passes through the service's own metrics and their text, read once a scrape; the first one passes through the
running server. What was read becomes a case for `promtool test rules`: time is counted in requests, so a replay takes
no longer than its work.
"""

import argparse
import json
import random
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from service.metrics import Metrics

RULES = Path(__file__).parents[1] / "deploy" / "alerts.yml"
ALERT = "FieldmarkDrift"
BEFORE, AFTER = 1000, 500
"""Photos before the change, and those after it within which the alert must fire."""
SHARE = 0.3
"""Of photos of another kind after the change."""
CLEAN_REPLAYS = 20
PACES = ((2.0, 5), (10.0, 5))
SLOW = (0.1, 60)
"""Requests a second, and seconds between two scrapes; at the slow pace one replay of each sort, as they take hours."""
MODEL = "cub50"
Seen = tuple[bool, float]


def main() -> None:
    """Record, write and test."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="an .onnx file with novelty")
    parser.add_argument("--clean", type=Path, required=True, help="folder of photos, or file with a path a line")
    parser.add_argument("--other", type=Path, nargs="+", required=True, help="folders of photos of other kinds")
    parser.add_argument("--most", type=int, default=300, help="photos of each other kind")
    parser.add_argument("--out", type=Path, required=True, help="the .yml file, two folders beside deploy")
    options = parser.parse_args()
    clean, *others = (_photos(folder, options.most) for folder in (options.clean, *options.other))
    kinds = [folder.parent.name if folder.name == "images" else folder.name for folder in options.other]
    cases = []
    with served(options.model) as client:
        seen = {path: classify(client, path) for path in [*clean, *(path for other in others for path in other)]}
        for kind, paths in (("clean", clean), *zip(kinds, others, strict=True)):
            beyond = sum(seen[path][1] > 0.95 for path in paths) / len(paths)
            print(f"{kind}: {len(paths)} photos, {beyond:.1%} above the quantile 0.95")
        order = drifting(_rng(0), clean, others[0])
        recorded = record(
            order,
            PACES[0],
            lambda path: classify(client, path),
            lambda: client.get("/metrics").raise_for_status().text,
        )
        cases.append(case(f"{kinds[0]} through a running server", recorded, PACES[0], drifts=True))
    for index in range(CLEAN_REPLAYS):
        rng, pace = _rng(index), PACES[index % len(PACES)] if index else SLOW
        recorded = record(shuffled(rng, clean, BEFORE + AFTER), pace, *through_metrics(seen))
        cases.append(case(f"clean, order {index}", recorded, pace, drifts=False))
    for kind, other in zip(kinds, others, strict=True):
        for pace in (*PACES, SLOW) if kind == kinds[-1] else PACES:
            recorded = record(drifting(_rng(kind), clean, other), pace, *through_metrics(seen))
            cases.append(case(kind, recorded, pace, drifts=True))
    options.out.write_text(as_yaml(cases))
    sys.exit(subprocess.run(["promtool", "test", "rules", options.out]).returncode)


def _rng(seed: int | str) -> random.Random:
    return random.Random(seed)  # noqa: S311 - an order, not a secret


def _photos(folder: Path, most: int) -> list[Path]:
    if folder.is_file():
        return [folder.parent / line for line in folder.read_text().splitlines()]
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    return _rng(0).sample(found, min(most, len(found)))


@contextmanager
def served(model: Path) -> Iterator[httpx.Client]:
    """Run the service on a free port; yield a client of it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "service.cli", "serve", "--port", str(port), "--model", str(model)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            while not _is_ready(client):
                time.sleep(0.1)
            yield client
    finally:
        process.terminate()
        process.wait(30)


def _is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def classify(client: httpx.Client, path: Path) -> Seen:
    """Return what the service says of a photo: known or not, and its novelty."""
    headers = {"Content-Type": "application/octet-stream"}
    answer = client.post("/classify", content=path.read_bytes(), headers=headers).raise_for_status().json()
    return answer["known"], answer["novelty"]


def shuffled(rng: random.Random, paths: list[Path], count: int) -> list[Path]:
    """Return photos in a random order, again from the start where there are too few."""
    order: list[Path] = []
    while len(order) < count:
        order += rng.sample(paths, len(paths))
    return order[:count]


def drifting(rng: random.Random, clean: list[Path], other: list[Path]) -> list[Path]:
    """Return clean photos, of which a share is replaced by others from the change on."""
    order, odd = shuffled(rng, clean, BEFORE + AFTER), iter(shuffled(rng, other, AFTER))
    return [next(odd) if index >= BEFORE and rng.random() < SHARE else path for index, path in enumerate(order)]


def through_metrics(seen: dict[Path, Seen]) -> tuple[Callable[[Path], Any], Callable[[], str]]:
    """Return how a photo is observed by fresh metrics of the service, and their text."""
    metrics = Metrics()
    metrics.serves_novelty(MODEL)
    return lambda path: metrics.novelty(MODEL, *seen[path]), lambda: metrics.exposition(None)[0].decode()


def record(
    order: list[Path], pace: tuple[float, int], observe: Callable[[Path], Any], text: Callable[[], str]
) -> list[tuple[int, int]]:
    """Return (images, of them up to the quantile 0.95) at each scrape, from the first one on at 0."""
    a_scrape = round(pace[0] * pace[1])
    read = [_read(text())]
    for start in range(0, len(order), a_scrape):
        for path in order[start : start + a_scrape]:
            observe(path)
        read.append(_read(text()))
    first = read[0]
    return [(images - first[0], below - first[1]) for images, below in read]


def _read(text: str) -> tuple[int, int]:
    values = []
    for series in (r"_count\{", r'_bucket\{le="0.95",'):
        found = re.search(rf"^fieldmark_novelty_ratio{series}.*\}} (\S+)$", text, re.MULTILINE)
        assert found is not None, text
        values.append(int(float(found[1])))
    return values[0], values[1]


def case(name: str, recorded: list[tuple[int, int]], pace: tuple[float, int], *, drifts: bool) -> dict[str, Any]:
    """Return a case of `promtool test rules`: silent before the change, and firing by the end where there was one."""
    rate, scrape_s = pace
    end_s = round((BEFORE + AFTER) / rate)
    quiet_s = round(BEFORE / rate) if drifts else end_s
    rule: dict[str, Any] = {"alertname": ALERT, "eval_time": f"{end_s}s"}
    if drifts:
        rule["exp_alerts"] = [_fired()]
    labels = f'{{job="fieldmark", instance="a", model="{MODEL}"'
    return {
        "name": f"{name}, {rate:g} a second",
        "interval": f"{scrape_s}s",
        "input_series": [
            {"series": f"fieldmark_novelty_ratio_count{labels}}}", "values": compressed([one for one, _ in recorded])},
            {
                "series": f'fieldmark_novelty_ratio_bucket{labels}, le="0.95"}}',
                "values": compressed([one for _, one in recorded]),
            },
        ],
        "alert_rule_test": [rule],
        "promql_expr_test": [
            {
                "expr": f'count_over_time(ALERTS{{alertname="{ALERT}"}}[1d])',
                "eval_time": f"{quiet_s}s",
                "exp_samples": [],
            }
        ],
    }


def _fired() -> dict[str, Any]:
    """Return the alert as the rule words it."""
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    (rule,) = (rule for rule in group["rules"] if rule.get("alert") == ALERT)
    labels = {"instance": "a", "model": MODEL}
    words = {
        name: re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda found: labels[found[1]], text)
        for name, text in rule["annotations"].items()
    }
    return {"exp_labels": rule["labels"] | labels, "exp_annotations": words}


def compressed(values: list[int]) -> str:
    """Return values in promtool's notation, runs of one step as `FIRST+STEPxTIMES`."""
    parts, index = [], 0
    while index < len(values):
        last = index + 1
        step = values[last] - values[index] if last < len(values) else 0
        while last + 1 < len(values) and values[last + 1] - values[last] == step:
            last += 1
        times = min(last, len(values) - 1) - index
        parts.append(f"{values[index]}+{step}x{times}" if times > 1 else str(values[index]))
        index += times + 1 if times > 1 else 1
    return " ".join(parts)


def as_yaml(cases: list[dict[str, Any]]) -> str:
    """Return the file for promtool; JSON is YAML."""
    head = "# Made by benchmarks/drift_replays.py of recorded replays of real photos; not edited by hand.\n"
    head += "rule_files: [../../deploy/alerts.yml]\nevaluation_interval: 15s\ntests:\n"
    return head + "".join(f"  - {json.dumps(one)}\n" for one in cases)


if __name__ == "__main__":
    main()
