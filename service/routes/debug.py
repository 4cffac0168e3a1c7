"""For whoever looks into a running service; needs the scope `admin` where there are keys. Not part of the documented API."""

import asyncio
import threading
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import PlainTextResponse

from service.errors import Busy
from service.observe.profile import as_text, sample_stacks

router = APIRouter(prefix="/debug", include_in_schema=False)
_one_at_a_time = threading.Lock()


@router.get("/profile")
async def get_profile(seconds: Annotated[float, Query(gt=0, le=60)] = 10.0) -> PlainTextResponse:
    """Folded stacks of all threads over so many seconds.

    Raises:
        Busy: somebody else is taking a profile.
    """
    if not _one_at_a_time.acquire(blocking=False):
        raise Busy("somebody is taking a profile already; ask again when it is done")
    try:
        stacks = await asyncio.to_thread(sample_stacks, seconds)
    finally:
        _one_at_a_time.release()
    return PlainTextResponse(as_text(stacks))
