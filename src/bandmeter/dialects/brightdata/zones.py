"""The neighbours that clients of usage and cost ask first: which zones there are, and whether the account works."""

from __future__ import annotations

from typing import Any

from bandmeter.dialects.brightdata.wire import ZONE, both, iso, read_zone, reply
from bandmeter.domain import errors
from bandmeter.domain.contracts import Call, Endpoint, Parameter, Reply
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.questions import AccountQuestion, ZonesQuestion
from bandmeter.domain.tenancy import Account, AccountStatus, Zone, ZoneStatus

# Network → the vendor's word. A CDN zone has none: `dc`, because its bytes leave from servers and clients know no
# other word that fits [ours].
TYPES = {
    "dc": "dc",
    "isp": "isp",
    "res": "res_rotating",
    "mobile": "mobile",
    "unlocker": "unblocker",
    "serp": "serp",
    "browser": "browser_api",
    "cdn": "dc",
}
WORDS = ["dc", "res_rotating", "res_static", "isp", "mobile", "serp", "unblocker", "browser_api"]  # [live]
STATUSES = {ZoneStatus.ACTIVE: "active", ZoneStatus.SUSPENDED: "disabled", ZoneStatus.DELETED: "deleted"}
NETWORKS = ("all", "res", "dc", "mobile")


def _ask_zones(call: Call) -> ZonesQuestion:
    return ZonesQuestion(call.account.id)


def _ask_zone(call: Call) -> ZonesQuestion:
    return ZonesQuestion(call.account.id, (read_zone(call),))


def _ask_account(call: Call) -> AccountQuestion:
    return AccountQuestion(call.account.id)


def _named(zone: Zone) -> dict[str, Any]:
    return {"name": zone.name, "type": TYPES[zone.network]}


def _render_active(_call: Call, _question: object, answer: list[Zone]) -> Reply:
    return reply([_named(zone) for zone in answer if zone.status is ZoneStatus.ACTIVE])


def _render_all(_call: Call, _question: object, answer: list[Zone]) -> Reply:
    return reply([_named(zone) | {"status": STATUSES[zone.status]} for zone in answer])


def _render_zone(_call: Call, _question: object, answer: list[Zone]) -> Reply:
    """What a proxy's front end would configure, and metering does not know, has the vendor's empty or open value."""
    (zone,) = answer
    created = iso(zone.created_s)
    plan = {"start": created, "product": TYPES[zone.network], "type": "static", "bandwidth": "unlimited"}
    return reply({"created": created, "password": [], "ips": ["any"], "plan": plan, "description": ""})


def _render_zone_status(_call: Call, _question: object, answer: list[Zone]) -> Reply:
    return reply({"status": STATUSES[answer[0].status]})


def _render_status(call: Call, _question: object, answer: Account) -> Reply:
    is_active = answer.status is AccountStatus.ACTIVE
    return reply(
        {
            "status": "active" if is_active else "suspended",
            "customer": answer.id,
            "can_make_requests": is_active,
            "auth_fail_reason": "" if is_active else "account_is_suspended",
            "ip": call.client_ip,
        },
    )


def _ask_network(call: Call) -> None:
    """A network that the vendor has no page for is no endpoint."""
    if call.parameters["network"] not in NETWORKS:
        raise BandmeterError(errors.ROUTE_UNKNOWN, "Not Found")


def _render_network(_call: Call, _question: object, _answer: object) -> Reply:
    return reply({"status": True})


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


_TEXT = {"type": "string"}
_STAMP = {"type": "string", "format": "date-time"}
_TYPE = {"type": "string", "enum": WORDS}
_STATUS = {"type": "string", "enum": list(STATUSES.values())}
_PLAN = _object({"start": _STAMP, "product": _TYPE, "type": _TEXT, "bandwidth": _TEXT})
_TEXTS = {"type": "array", "items": _TEXT}
_ZONE = {"created": _STAMP, "password": _TEXTS, "ips": _TEXTS, "plan": _PLAN, "description": _TEXT}
_ACCOUNT_STATUS = {
    "status": {"type": "string", "enum": ["active", "suspended"]},
    "customer": _TEXT,
    "can_make_requests": {"type": "boolean"},
    "auth_fail_reason": _TEXT,
    "ip": _TEXT | {"description": "The caller's address as this server sees it."},
}

NEIGHBOURS = (
    Endpoint(
        name="get_active_zones",
        paths=both("/zone/get_active_zones"),
        summary="The account's active zones",
        parse=_ask_zones,
        render=_render_active,
        schema={"type": "array", "items": _object({"name": _TEXT, "type": _TYPE})},
    ),
    Endpoint(
        name="get_all_zones",
        paths=both("/zone/get_all_zones"),
        summary="The account's zones, whatever their status",
        parse=_ask_zones,
        render=_render_all,
        schema={"type": "array", "items": _object({"name": _TEXT, "type": _TYPE, "status": _STATUS})},
    ),
    Endpoint(
        name="zone",
        paths=both("/zone"),
        summary="A zone's settings; never a password",
        parse=_ask_zone,
        render=_render_zone,
        schema=_object(_ZONE),
        parameters=(ZONE,),
        errors=(errors.ZONE_UNKNOWN,),
    ),
    Endpoint(
        name="zone_status",
        paths=both("/zone/status"),
        summary="A zone's status",
        parse=_ask_zone,
        render=_render_zone_status,
        schema=_object({"status": _STATUS}),
        parameters=(ZONE,),
        errors=(errors.ZONE_UNKNOWN,),
    ),
    Endpoint(
        name="status",
        paths=both("/status"),
        summary="Whether the account may use its proxies",
        parse=_ask_account,
        render=_render_status,
        schema=_object(_ACCOUNT_STATUS),
    ),
    Endpoint(
        name="network_status",
        paths=both("/network_status/{network}"),
        summary="Whether a network works",
        parse=_ask_network,
        render=_render_network,
        schema=_object({"status": {"type": "boolean"}}),
        parameters=(
            Parameter(
                "network", {"type": "string", "enum": list(NETWORKS)}, "The network.", required=True, where="path"
            ),
        ),
        errors=(errors.ROUTE_UNKNOWN,),
    ),
)
