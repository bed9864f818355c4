"""An address, declared once: its template, the key it needs, whether admission bounds it, and its endpoint.

Routing, the label in metrics and log, API keys and admission all read this declaration.
"""

import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, request_response
from starlette.types import Message, Receive, Scope, Send

Endpoint = TypeVar("Endpoint", bound=Callable[[Request], Awaitable[Response]])
Key = Literal["client", "admin"]
_NEEDS_KEY: list[dict[str, list[str]]] = [{"bearer": []}, {"key": []}]
# Clients need a key only where the operator has set some, which the document cannot know.
_SECURITY = {"client": [{}, *_NEEDS_KEY], "admin": _NEEDS_KEY}


@dataclass(frozen=True, slots=True)
class Address:
    """What applies to every request to an address, before routing.

    Attributes:
        template: its path below the root path, parameters in braces; the label in metrics and log.
        key: whose key it needs; None for an open address.
        admitted: whether its POST requests work on images, so that admission counts and bounds them.
    """

    template: str
    key: Key | None = None
    admitted: bool = False


UNMATCHED = "unmatched"
"""Label of requests to unknown addresses."""


class AddressRoute(APIRoute):
    """A route with its address; its endpoint takes the request alone and returns the response.

    FastAPI documents it from the endpoint's signature. FastAPI's handler is left out: with a query model it takes
    60 µs a request longer than `with_options` (median of 15 paired rounds of 2,000).
    """

    def __init__(
        self, path: str, endpoint: Endpoint, *, key: Key | None = None, admitted: bool = False, **options: Any
    ) -> None:
        if key is not None:
            options["openapi_extra"] = {"security": _SECURITY[key], **options.get("openapi_extra", {})}
        super().__init__(path, endpoint, response_class=Response, **options)
        self.address = Address(path, key, admitted)
        self.app = request_response(endpoint)
        # Starlette's `$` also matches before a final line feed: such a path has no address, so no key and no admission.
        self.path_regex = re.compile(self.path_regex.pattern.removesuffix("$") + r"\Z")


class _ReadRoute(AddressRoute):
    """A route of GET that also answers HEAD (RFC 9110, section 9.3.2); the document lists GET only."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Return whether this route answers."""
        match, found = super().matches(scope)
        return (Match.FULL if match is Match.PARTIAL and scope["method"] == "HEAD" else match), found

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request to this address.

        Raises:
            HTTPException: 405, with the methods that are answered.
        """
        if scope["method"] not in ("GET", "HEAD"):
            raise HTTPException(405, headers={"Allow": "GET, HEAD"})
        await self.app(scope, receive, _without_body(send) if scope["method"] == "HEAD" else send)


def _without_body(send: Send) -> Send:
    async def send_head(message: Message) -> None:
        await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

    return send_head


class Routes(list[AddressRoute]):
    """Routes of one module, declared by decorators.

    Args:
        prefix: of all paths.
        options: of FastAPI, for all routes.
    """

    def __init__(self, prefix: str = "", **options: Any) -> None:
        super().__init__()
        self._prefix = prefix
        self._options = options

    def get(self, path: str, **options: Any) -> Callable[[Endpoint], Endpoint]:
        """Declare the endpoint for GET at a path; options as of `AddressRoute`."""
        return self._declare("GET", path, options)

    def post(self, path: str, **options: Any) -> Callable[[Endpoint], Endpoint]:
        """Declare the endpoint for POST at a path; options as of `AddressRoute`."""
        return self._declare("POST", path, options)

    def _declare(self, method: str, path: str, options: dict[str, Any]) -> Callable[[Endpoint], Endpoint]:
        def declare(endpoint: Endpoint) -> Endpoint:
            kind = _ReadRoute if method == "GET" else AddressRoute
            self.append(kind(self._prefix + path, endpoint, methods=[method], **self._options, **options))
            return endpoint

        return declare


class Addresses(dict[str, Address]):
    """The addresses of a service by path; a path that matches no template needs the key of the nearest address above.

    Args:
        routes: of the service.
        areas: paths without a route of their own; all paths below need their key.
    """

    def __init__(self, routes: Iterable[AddressRoute], areas: Iterable[Address] = ()) -> None:
        self._patterns: list[tuple[re.Pattern[str], Address]] = []
        super().__init__({area.template: Address(UNMATCHED, area.key) for area in areas})
        for route in routes:
            if "{" in route.path:
                self._patterns.append((route.path_regex, route.address))
            else:
                self[route.path] = route.address

    def __missing__(self, path: str) -> Address:
        """Return the address whose template matches, else an unmatched one with the key of the nearest above."""
        for pattern, address in self._patterns:
            if pattern.match(path):
                return address
        while path and path not in self:
            path = path.rpartition("/")[0]
        return Address(UNMATCHED, self[path].key) if path else Address(UNMATCHED)
