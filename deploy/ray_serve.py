"""The service on a Ray cluster: the application of `service.http` as a deployment of Ray Serve.

    python -m deploy.ray_serve --min-replicas 2          # this machine, a Ray of its own
    python -m deploy.ray_serve --address HOST:6379       # a cluster that runs
    serve run deploy.ray_serve:app max_replicas=8        # Ray's own commands, and KubeRay's `import_path`

Ray's proxies only pass requests on: admission, deadlines, the queue and the models are in every replica, as in the
processes of `fieldmark serve`. https://docs.ray.io/en/releases-2.60.0/serve/
"""

import asyncio
import gc
import hashlib
import logging
import math
import os
import sys
import time
from typing import Any

# Read when Ray is imported.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
if __name__ == "__main__":
    os.environ.setdefault("RAY_SERVE_LOG_TO_STDERR", "0")  # Ray's own lines are in its folder of logs
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # each line of ours counts

import ray
from prometheus_client import Metric
from prometheus_client.exposition import choose_encoder
from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from ray import serve
from ray.exceptions import RayError
from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy
from ray.serve.exceptions import RayServeException
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.app import create_app
from service.http.auth import ApiKeys, NoKey
from service.http.telemetry import route_path
from service.inference.files.versions import scan
from service.inference.models import check_there
from service.inference.runtime import Runtime
from service.inference.sessions import ModelRejected
from service.logs import configure_logs
from service.metrics import service_version
from service.settings import Settings

NAME = "fieldmark"
"""Of the application and of its one deployment."""
DEPLOYING_S = 600.0
"""How long after the deployment a replica that starts must find the models that were deployed, seconds."""
GATHER_S = 3.0
"""How long the other replicas have to report their metrics, seconds: below the usual timeout of a scrape."""

logger = logging.getLogger("fieldmark.ray")


class Refused(Exception):
    """Why there is nothing to serve, in one line."""


class RaySettings(BaseSettings):
    """What Ray does with the replicas; the service's own settings are `FIELDMARK_*` as ever, and go to every one."""

    model_config = SettingsConfigDict(env_prefix="FIELDMARK_RAY_", env_ignore_empty=True, frozen=True, extra="forbid")

    min_replicas: int = Field(1, ge=1, le=1000, description="Fewest replicas.")
    max_replicas: int = Field(4, ge=1, le=1000, description="Most replicas.")
    num_cpus: float = Field(1, gt=0, le=256, description="Cores of a replica; it runs so many threads.")
    num_gpus: float = Field(0, ge=0, le=8, description="GPUs of a replica: 0.25 puts four on one; 0: the CPU.")
    target_wait_s: float = Field(
        0.25, gt=0, le=60, description="Work in flight of a replica, seconds, above which another one is started."
    )
    upscale_delay_s: float = Field(10, ge=0, le=3600, description="How long it must be more before one is started.")
    downscale_delay_s: float = Field(300, ge=0, le=86400, description="How long it must be less before one is drained.")

    @model_validator(mode="after")
    def _is_a_range(self) -> "RaySettings":
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas={self.max_replicas} is below min_replicas={self.min_replicas}")
        return self


class LoadPolicy:
    """As many replicas as the work in flight needs, by the replicas' own estimate: requests times their pace.

    A number of requests would say nothing: how long one takes depends on the model and on the device.

    Args:
        target_wait_s: work of one replica, seconds.
    """

    def __init__(self, target_wait_s: float) -> None:
        self._target_wait_s = target_wait_s

    def __call__(self, context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
        """Return the number of replicas; Ray applies bounds and delays."""
        works = (context.aggregated_metrics or {}).get("work_s", {})
        return sum(works.values()) / self._target_wait_s, {}


class Replica:
    """One process of the service: settings, models, queue and application, as `fieldmark serve` has them.

    Args:
        settings: of the service.
        num_cpus: cores of this replica.
        deployed: what was deployed, by `installed`; this node must have the same.
        checked_until: on `time.time()`'s clock; from then on its models may be others.

    Raises:
        Refused: it has not.
    """

    async def __init__(
        self, settings: Settings, num_cpus: float, deployed: dict[str, str], checked_until: float
    ) -> None:
        gc.set_threshold(10_000)  # as `fieldmark serve`; Ray freezes what is there
        configure_logs(settings)
        self._name = serve.get_replica_context().replica_tag
        check_same(deployed, installed(settings), ray.util.get_node_ip_address(), late=time.time() > checked_until)
        if not settings.cpu_runs:  # a replica is not alone on its node
            settings = settings.model_copy(update={"cpu_runs": math.ceil(num_cpus)})
        try:
            self._runtime = Runtime(settings)
        except ModelRejected as error:
            raise Refused(str(error)) from None
        self._others = serve.get_deployment_handle(NAME, serve.get_replica_context().app_name)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Return the application; Ray runs its lifespan."""
        return _OfAllReplicas(create_app(self._runtime), self._runtime.settings, self)

    async def check_health(self) -> None:
        """Return once the models are loaded, and as long as the workers are alive; Ray replaces the replica otherwise.

        Raises:
            Refused: no model could be loaded.
        """
        try:
            await self._runtime.models.wait_ready()
        except ModelRejected as error:
            raise Refused(str(error)) from None
        if not self._runtime.workers.alive:
            raise Refused("a worker is down")

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Return the time that the requests in flight need, seconds, for `LoadPolicy`."""
        load = self._runtime.load
        return {"work_s": load.requests * load.request_s}

    async def collect(self) -> tuple[str, list[Metric]]:
        """Return the name and the metrics of this replica."""
        return self._name, await asyncio.to_thread(lambda: list(self._runtime.metrics.registry.collect()))

    async def reload(self) -> dict[str, Any]:
        """Look at the models folder now."""
        return await self._runtime.models.reload()

    async def named(self) -> tuple[str, str]:
        """Return the name of this replica and that of its actor."""
        return self._name, ray.get_runtime_context().get_actor_name() or ""

    async def drain(self) -> int:
        """Refuse new work from now on; return how many requests are in flight."""
        self._runtime.draining = True
        return self._runtime.load.requests

    async def end(self) -> None:
        """Run the end of the application's lifespan: models are released, traces exported."""
        await self.__del__()  # type: ignore[attr-defined]  # of `serve.ingress`

    async def from_all(self, method: str) -> list[Any]:
        """Return the results of a method of every replica; none where one of them takes too long."""
        try:
            results = await self._others.broadcast(method).results_async(timeout_s=GATHER_S, return_exceptions=True)
        except (TimeoutError, RayError, RayServeException) as error:
            logger.warning("not all replicas answer: %s", type(error).__name__)
            return []
        return [result for result in results if not isinstance(result, BaseException)]


class _OfAllReplicas:
    """Pure ASGI: `/metrics` and `/admin/reload` concern every replica, whichever the proxy has chosen."""

    def __init__(self, app: ASGIApp, settings: Settings, replica: Replica) -> None:
        self._app = app
        self._replica = replica
        self._root_path = settings.root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        address = scope["method"], route_path({**scope, "root_path": self._root_path})
        is_scrape, is_reload = address == ("GET", "/metrics"), address == ("POST", "/admin/reload")

        async def send_for_all(message: Message) -> None:
            if message["type"] == "http.response.start":
                # The proxy sets this header, too: the client's value, or the one that it gave the request.
                message["headers"] = [one for one in message["headers"] if one[0] != b"x-request-id"]
                if is_reload and message["status"] == 200:  # the key was right
                    await self._replica.from_all("reload")
            await send(message)

        if is_scrape:
            accept = Headers(scope=scope).get("accept", "")
            collected = [*await self._replica.from_all("collect"), await self._replica.collect()]
            body, media_type = exposition(accept, dict(collected))
            headers = [(b"content-type", media_type.encode()), (b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body})
            return
        await self._app(scope, receive, send_for_all)


def exposition(accept: str, replicas: dict[str, list[Metric]]) -> tuple[bytes, str]:
    """Return one page of the metrics of all replicas, each sample with the label `replica`, and its media type.

    Args:
        accept: header of the scrape.
        replicas: families by name of the replica.
    """
    families: dict[str, Metric] = {}
    for replica, metrics in sorted(replicas.items()):
        for metric in metrics:
            family = families.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
            labelled = (one._replace(labels={**one.labels, "replica": replica}) for one in metric.samples)
            family.samples.extend(labelled)
    encode, media_type = choose_encoder(accept)
    return encode(_Collected(list(families.values()))), media_type  # type: ignore[arg-type]


class _Collected:
    """What an encoder of Prometheus' client takes for a registry."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


def installed(settings: Settings) -> dict[str, str]:
    """Return what must be the same on every node, by name: versions, and the digest of each model's file.

    Raises:
        Refused: there is nothing to serve, or a file cannot be read.
    """
    try:
        check_there(settings)
        models = {}
        for key, (path, _) in scan(settings.model).items():
            with path.open("rb") as file:
                models[f"model {key.lstrip('/')}"] = f"sha256 {hashlib.file_digest(file, 'sha256').hexdigest()[:12]}"
    except (ModelRejected, OSError) as error:
        raise Refused(str(error)) from None
    return {"fieldmark": service_version(), "Ray": ray.__version__, **models}


def check_same(deployed: dict[str, str], found: dict[str, str], node: str, *, late: bool = False) -> None:
    """Compare what was deployed with what a node has; what the node has besides does not matter.

    Raises:
        Refused: something differs; the message names all of it. Where it is late, models that differ are only logged:
            since the deployment they may have been swapped everywhere, and a replica that ended must be replaced.
    """
    differ = {name: value for name, value in deployed.items() if found.get(name) != value}
    if not differ:
        return
    all_of_it = "; ".join(f"{name} is {found.get(name, 'missing')} and not {value}" for name, value in differ.items())
    message = f"node {node} differs from where it was deployed: {all_of_it}"
    if late and all(name.startswith("model ") for name in differ):
        logger.warning("%s", message)
        return
    raise Refused(message)


def app(options: RaySettings) -> serve.Application:
    """Return the application with the service's settings from `FIELDMARK_*`, for Ray's own commands."""
    return build(options, Settings())


def build(options: RaySettings, settings: Settings) -> serve.Application:
    """Return the application.

    Args:
        options: of the replicas.
        settings: of the service.

    Raises:
        Refused: the settings cannot be kept by several processes, or there is no model.
    """
    if settings.admin_port:
        raise Refused("admin_port: Ray's proxies listen on one port; shield /metrics and /admin in front")
    if settings.feedback_file is not None:
        raise Refused("feedback_file: answers are remembered by one process, and feedback would reach another")
    try:
        ApiKeys(settings)
    except NoKey as error:
        raise Refused(str(error)) from None
    absolute = {"model": settings.model.absolute()}
    if options.num_gpus and settings.device == "auto":
        absolute["device"] = "cuda"  # type: ignore[assignment]  # a GPU that is paid for is used, or refused
    settings = settings.model_copy(update=absolute)
    deployment = serve.deployment(
        serve.ingress()(Replica),
        name=NAME,
        ray_actor_options={"num_cpus": options.num_cpus, "num_gpus": options.num_gpus},
        # Admission is the replica's own: every request must reach it, those to be refused, too.
        max_ongoing_requests=100 * settings.max_requests,
        max_constructor_retry_count=1,
        graceful_shutdown_timeout_s=settings.shutdown_grace_s,
        graceful_shutdown_wait_loop_s=0.5,
        health_check_period_s=5,
        logging_config={"enable_access_log": False},  # ours has more to say
        autoscaling_config=AutoscalingConfig(
            min_replicas=options.min_replicas,
            max_replicas=options.max_replicas,
            upscale_delay_s=options.upscale_delay_s,
            downscale_delay_s=options.downscale_delay_s,
            policy=AutoscalingPolicy(
                policy_function="deploy.ray_serve:LoadPolicy", policy_kwargs={"target_wait_s": options.target_wait_s}
            ),
        ),
    )
    return deployment.bind(settings, options.num_cpus, installed(settings), time.time() + DEPLOYING_S)


if __name__ == "__main__":
    from deploy.ray_command import main

    sys.exit(main())
