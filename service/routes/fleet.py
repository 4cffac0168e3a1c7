"""`POST /v1/telemetry`: samples of many vehicles in one request."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from model.channels import ChannelSchema
from service.deps import get_running
from service.routes.bodies import fleet_body
from service.routes.schemas import Summary, problems
from service.routes.telemetry import MINIMAL, PREFER_PARAMETER, WAIT, all_answers, answers_for
from service.wire.request_body import fleet_samples


def router(schema: ChannelSchema) -> APIRouter:
    """The route; its documented body follows the checkpoint's signals."""
    routes = APIRouter(tags=["telemetry"])

    @routes.post(
        "/v1/telemetry",
        response_model=Summary,
        responses={
            200: {"description": "every sample is applied or known already", "headers": MINIMAL},
            207: {
                "model": Summary,
                "description": "some were not accepted; read the items",
                "headers": MINIMAL | WAIT,
            },
            **problems(400, 408, 413, 415, 422, 429, 503),
        },
        openapi_extra={"requestBody": fleet_body(schema), "parameters": [PREFER_PARAMETER]},
        summary="Send samples of many vehicles",
    )
    async def post_fleet(request: Request) -> Response:
        """Any mix of vehicles, any number of samples of each; those of one vehicle are applied in the order given."""
        running = await get_running(request)
        decoded = await fleet_samples(request, running.decoder, running.settings.max_body_bytes)
        return all_answers(await answers_for(request, running, decoded), request)

    return routes
