"""Addresses: found by path before routing, with the key of the nearest address above."""

import pytest

from service.http.addresses import UNMATCHED, Address, Addresses, AddressRoute
from service.http.app import create_app
from service.inference.runtime import Runtime
from service.settings import Settings


@pytest.fixture(scope="module")
def app_routes() -> list[AddressRoute]:
    """Return the routes of the application, administration on the main port."""
    return list(create_app(Runtime(Settings(device="cpu"))).router.routes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def addresses(app_routes: list[AddressRoute]) -> Addresses:
    """Return the addresses of the application, with the area that administration keeps."""
    return Addresses(app_routes, [Address("/admin", key="admin"), Address("/v2/health")])


def test_every_route_declares_its_address(app_routes: list[AddressRoute]) -> None:
    """Every route has its key, label and admission: there is no other list of addresses."""
    assert all(isinstance(route, AddressRoute) for route in app_routes)
    assert {"/classify", "/explain", "/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer"} == {
        route.path for route in app_routes if route.address.admitted
    }
    assert {"/admin/reload"} == {route.path for route in app_routes if route.address.key == "admin"}
    open_to_all = {route.path for route in app_routes if route.address.key is None}
    assert {
        "/", "/docs", "/docs/{name:path}", "/errors", "/page/{name:path}", "/openapi.json", "/livez", "/readyz",
        "/metrics", "/v2/health/live", "/v2/health/ready",
    } == open_to_all  # fmt: skip


@pytest.mark.parametrize(
    ("path", "template", "key"),
    [
        ("/classify", "/classify", "client"),
        ("/classify/", UNMATCHED, "client"),
        ("/classify/further/down", UNMATCHED, "client"),
        ("/classifying", UNMATCHED, None),
        ("/v2", "/v2", "client"),
        ("/v2/models/cub50/infer", "/v2/models/{model}/infer", "client"),
        ("/v2/models/cub50/versions/1/infer", "/v2/models/{model}/versions/{version}/infer", "client"),
        ("/v2/nothing/here", UNMATCHED, "client"),
        ("/v2/health/live", "/v2/health/live", None),
        ("/v2/health/other", UNMATCHED, None),
        ("/admin", UNMATCHED, "admin"),
        ("/admin/other", UNMATCHED, "admin"),
        ("/page/app.js", "/page/{name:path}", None),
        ("/", "/", None),
        ("", UNMATCHED, None),
        ("/nothing", UNMATCHED, None),
        ("/" * 30_000, UNMATCHED, None),
    ],
)  # fmt: skip
def test_an_address_is_found_before_routing(addresses: Addresses, path: str, template: str, key: str | None) -> None:
    """A path has the label of its template; below an address it needs the address's key, however long it is."""
    assert (template, key) == (addresses[path].template, addresses[path].key)
