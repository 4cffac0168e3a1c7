"""`GET /v1/alerts`: the last alert of each vehicle that has had one."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query

from service.deps import RunningDep
from service.routes.schemas import Alert, AlertList, problems

router = APIRouter(tags=["alerts"])


@router.get("/v1/alerts", responses=problems(422, 503), summary="List alerts")
async def get_alerts(
    running: RunningDep,
    phase: Annotated[
        list[Literal["pending", "firing", "resolved"]] | None,
        Query(description="only these phases", examples=["firing"]),
    ] = None,
) -> AlertList:
    """The last alert of each vehicle, the latest change first; a pending one may still lapse."""
    alerts = [Alert(**record) for record in await running.store.alerts()]
    chosen = [alert for alert in alerts if phase is None or alert.phase in phase]
    return AlertList(alerts=sorted(chosen, key=lambda alert: (alert.updated_ms, alert.id), reverse=True))
