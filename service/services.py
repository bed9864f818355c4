"""What the routes work with: made once by `service.app`, found on the application's state."""

from dataclasses import dataclass

from starlette.requests import Request

from service.metrics import Metrics
from service.predictor import Predictor
from service.registry import Registry
from service.settings import Settings


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of one running service.

    Attributes:
        settings: its options.
        registry: its models.
        predictor: the one way from bytes to a result.
        metrics: what it tells Prometheus.
    """

    settings: Settings
    registry: Registry
    predictor: Predictor
    metrics: Metrics


def services_of(request: Request) -> Services:
    """Return the parts of the service that got this request."""
    services: Services = request.app.state.services
    return services
