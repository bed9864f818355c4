"""The pages for people: `/`, `/docs`, `/errors`, and their files, held in memory.

Swagger UI's files come from the `fastapi-offline` package, so that `/docs` works without a network and this repository
holds no minified file.
"""

import hashlib
import html
import importlib.util
import json
import mimetypes
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from service.errors import error_types
from service.http.addresses import Routes
from service.samples.plates import PLATES

_HERE = Path(__file__).parent
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'{style}; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_PAGE_HEADERS = {
    "Content-Security-Policy": _POLICY.format(style=""),
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
}
# Swagger UI writes style attributes; scripts stay as strict as elsewhere.
_DOCS_HEADERS = _PAGE_HEADERS | {"Content-Security-Policy": _POLICY.format(style=" 'unsafe-inline'")}


class Asset:
    """One static file.

    Its ETag is of its content, so that replicas agree and a new release is noticed; Starlette's `StaticFiles` makes
    one of the file's time and size.

    Args:
        content: its bytes.
        name: of the file, which gives the media type.
    """

    def __init__(self, content: bytes, name: str) -> None:
        self._content = content
        self._media_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
        if self._media_type.startswith("text/") or self._media_type.endswith(("javascript", "json")):
            self._media_type += "; charset=utf-8"
        self._etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'

    def response(self, request: Request, headers: dict[str, str]) -> Response:
        """Return the file, or 304 where the client has it already."""
        known = ",".join(request.headers.getlist("if-none-match"))
        fixed = {**headers, "ETag": self._etag, "Cache-Control": "no-cache"}
        if self._etag in {tag.strip().removeprefix("W/") for tag in known.split(",")} or known.strip() == "*":
            return Response(status_code=304, headers=fixed)
        return Response(self._content, headers=fixed, media_type=self._media_type)


def routes() -> Routes:
    """Return the routes of all pages and their files; the OpenAPI document, which is for programs, leaves them out."""
    docs = _folder(_HERE / "docs") | _swagger_ui()
    page = _folder(_HERE / "page") | _plates() | _colours()
    found = Routes(include_in_schema=False)
    _page(found, "/docs", docs["docs.html"], _DOCS_HEADERS)
    _page(found, "/errors", Asset(errors_page().encode(), "errors.html"), _PAGE_HEADERS)
    _files(found, "/docs/{name:path}", docs, _DOCS_HEADERS)
    if "index.html" in page:
        _page(found, "/", page["index.html"], _PAGE_HEADERS)
        _files(found, "/page/{name:path}", page, _PAGE_HEADERS)
    return found


def errors_page() -> str:
    """Return the page that explains every code of `service.errors`."""
    entries = "\n".join(
        f'<h2 id="{kind.code}"><code>{kind.code}</code> <span class="status">{kind.status}</span></h2>\n'
        f"<p>{html.escape(kind.title)}. {_with_code(kind.__doc__.splitlines()[0] if kind.__doc__ else '')}</p>\n"
        f"<p>{_with_code(kind.remedy)}</p>"
        for kind in error_types()
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>fieldmark: errors</title>\n'
        '<link rel="icon" href="page/icon.svg" type="image/svg+xml">\n'
        '<link rel="stylesheet" href="docs/errors.css">\n</head>\n<body>\n<h1>Errors</h1>\n'
        "<p>Every error is a problem document (RFC 9457, <code>application/problem+json</code>); "
        "<code>code</code> is stable, <code>request_id</code> finds the request in the server's log.</p>\n"
        f"{entries}\n</body>\n</html>\n"
    )


def _with_code(text: str) -> str:
    """Return text as HTML, with `…` as code."""
    pieces = html.escape(text).split("`")
    return "".join(f"<code>{piece}</code>" if index % 2 else piece for index, piece in enumerate(pieces))


def _page(routes: Routes, path: str, asset: Asset, headers: dict[str, str]) -> None:
    @routes.get(path)
    async def serve(request: Request) -> Response:
        return asset.response(request, headers)


def _files(routes: Routes, path: str, assets: dict[str, Asset], headers: dict[str, str]) -> None:
    @routes.get(path)
    async def serve(request: Request) -> Response:
        asset = assets.get(request.path_params["name"])
        if asset is None:
            raise HTTPException(404)
        return asset.response(request, headers)


def _folder(folder: Path) -> dict[str, Asset]:
    """Return the files below a folder by their path in it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []
    return {path.relative_to(folder).as_posix(): Asset(path.read_bytes(), path.name) for path in files}


def _plates() -> dict[str, Asset]:
    """Return the drawn birds, each as it is and repainted, and their list."""
    found, tiles = {}, []
    for plate, repainted in ((plate, repainted) for plate in PLATES for repainted in (False, True)):
        name = f"plates/{plate.name}{'-repainted' if repainted else ''}.png"
        words = f"its {plate.mark} painted {plate.paint}" if repainted else plate.label
        found[name] = Asset(plate.picture(repainted=repainted), name)
        tiles.append({"label": plate.label, "words": words, "picture": f"page/{name}"})
    return found | {"plates/plates.json": Asset(json.dumps(tiles).encode(), "plates.json")}


def _colours() -> dict[str, Asset]:
    """Return the tables of the maps' colours, by which the page reads values back from a map's picture."""
    name = "colormaps.png"
    return {name: Asset((_HERE.parents[1] / "drawing" / name).read_bytes(), name)}


def _swagger_ui() -> dict[str, Asset]:
    # The package is not imported: its code is not needed.
    spec = importlib.util.find_spec("fastapi_offline")
    if spec is None or spec.origin is None:  # an incomplete installation still answers photos
        return {}
    folder = Path(spec.origin).parent / "static"
    names = ("swagger-ui.css", "swagger-ui-bundle.js")
    return {name: Asset((folder / name).read_bytes(), name) for name in names}
