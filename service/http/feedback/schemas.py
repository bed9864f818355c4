"""What clients of `/feedback` send and get, as pydantic models, and its entry in the document."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from service.http.api import openapi
from service.http.api.schemas import EXAMPLE_ID
from service.http.context import REQUEST_ID
from service.http.negotiation import JSON

_LABEL = "Laysan Albatross"


class FeedbackRequest(BaseModel):
    """What a user says of an answer."""

    model_config = ConfigDict(extra="forbid")

    request_id: str = Field(pattern=f"^{REQUEST_ID}$", description="Of the answer.", examples=[EXAMPLE_ID])
    label: str | None = Field(
        max_length=200, description="The class it is: the label answered where that is right, another label or "
        "`class:INDEX`, or null for none of the classes.", examples=[_LABEL],
    )  # fmt: skip
    image: int = Field(0, ge=0, le=1023, strict=True, description="Which of `results` it is about, from 0.")


class FeedbackTaken(BaseModel):
    """What was noted."""

    model_config = ConfigDict(extra="forbid")

    request_id: str = Field(examples=[EXAMPLE_ID])
    image: int = Field(ge=0, examples=[0])
    label: str | None = Field(description="As the user names it.", examples=[_LABEL])
    predicted: str = Field(description="As the service had named it.", examples=["Black footed Albatross"])
    right: bool = Field(description="Whether they are the same.", examples=[False])


_REQUEST: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {JSON: {"schema": {"$ref": "#/components/schemas/FeedbackRequest"}}},
    }
}
FEEDBACK = openapi.operation(
    "feedback",
    {"description": "It is noted.", "model": FeedbackTaken},
    400, 401, 403, 404, 406, 408, 413, 422, 503,
    **_REQUEST,
)  # fmt: skip
