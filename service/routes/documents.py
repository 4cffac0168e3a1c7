"""Sending a document that is made once for all who ask."""

from fastapi import Request, Response

from service.overview.fleet_view import Document
from service.routes.state import entity_tags


def told(document: Document, request: Request, if_none_match: str | None) -> Response:
    """It, packed where that is accepted; or only that the caller has it already."""
    headers = {"ETag": document.etag, "Vary": "Accept-Encoding", "Cache-Control": "no-cache"}
    if if_none_match is not None and entity_tags(if_none_match) & {document.etag, "*"}:
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        headers["Content-Encoding"] = "gzip"
        return Response(document.packed, media_type="application/json", headers=headers)
    return Response(document.body, media_type="application/json", headers=headers)
