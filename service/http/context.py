"""What the routes work with: made once by `service.http.app`, found on the application's state."""

from dataclasses import dataclass

from starlette.requests import Request

from service.http.telemetry import Exchange
from service.inference.models import Registry
from service.inference.predictor import Prediction, Predictor
from service.metrics import Metrics
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

    def note(self, exchange: Exchange, prediction: Prediction, label: str, probability: float) -> None:
        """Tell log and metrics of one image's result; the predictor has told its own times already.

        Args:
            exchange: the request's.
            prediction: of one image.
            label: its likeliest class.
            probability: of that class.
        """
        timings = prediction.timings
        exchange.stage("decode", timings.decode_s)
        exchange.stage("queue", timings.queue_s)
        exchange.stage("infer", timings.infer_s)
        self.metrics.confidence(probability)
        self.metrics.predicted(label)
        exchange.fields.setdefault("model", f"{prediction.served.name}/{prediction.served.version}")
        exchange.fields.setdefault("label", label)


def services_of(request: Request) -> Services:
    """Return the parts of the service that got this request."""
    services: Services = request.app.state.services
    return services
