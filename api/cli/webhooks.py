"""``symadj webhooks`` and ``symadj audit``: who is told of jobs, and who changed what."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich import box
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from symadj.api.cli.shared import AsJson, client_command, print_answer
from symadj.api.client import Client
from symadj.api.schemas.audit import AuditEntryRead
from symadj.api.schemas.webhooks import DeliveryRead, WebhookRead
from symadj.service.contract.notices import Notice

app = typer.Typer(no_args_is_help=True, help="Addresses that are told of jobs' new states and alerts.")
lists = typer.Typer()

WebhookId = Annotated[str, typer.Argument(metavar="WEBHOOK", help="As `symadj webhooks list` shows it.")]


@client_command(lists)
def audit(
    client: Client,
    who: Annotated[str | None, typer.Option(help="Only of this key's name.")] = None,
    route: Annotated[str | None, typer.Option(help="Only of this route: /api/v1/jobs/{job_id}/cancel.")] = None,
    about: Annotated[str | None, typer.Option("--id", help="Only about this job, key, webhook or request.")] = None,
    status: Annotated[int | None, typer.Option(help="Only with this status: 403.")] = None,
    since: Annotated[datetime | None, typer.Option(help="Only from this time on, by the clock here.")] = None,
    until: Annotated[datetime | None, typer.Option(help="Only before this time.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 50,
    as_json: AsJson = False,
) -> None:
    """List who changed what, and who was refused, the newest first (for admins)."""
    page = client.audit(
        who=who, route=route, id=about, status=status, since=_here(since), until=_here(until), limit=limit
    )
    more = [Text(f"(the newest {limit}; --limit shows more)")] if page.has_more else []
    print_answer(page, [_audit_table(page.items), *more], as_json)


@client_command(app)
def add(
    client: Client,
    address: Annotated[str, typer.Argument(help="https://host/path, of a host that the server's operator allows.")],
    event: Annotated[
        list[Notice] | None, typer.Option(help="What it is told; of several, each. Default: the ends of jobs.")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Only of jobs with this label; of several, all.")
    ] = None,
    all_owners: Annotated[bool, typer.Option("--all-owners", help="Of everybody's jobs (for admins).")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a webhook and print its secret, this once."""
    labels = dict(_pair(item) for item in label or ())
    made = client.create_webhook(address, events=event or None, labels=labels, all_owners=all_owners)
    told = f"{made.id}: {', '.join(made.events)} to {made.url}\nsecret, shown this once: {made.secret}"
    print_answer(made, [Text(told)], as_json)


@client_command(app, "list")
def list_webhooks(client: Client, as_json: AsJson = False) -> None:
    """List one's webhooks; with an admin's key everybody's."""
    read = client.webhooks()
    print_answer(read, [_webhook_table(read.items)], as_json)


@client_command(app)
def deliveries(
    client: Client,
    webhook: WebhookId,
    state: Annotated[str | None, typer.Option(help="Only what is pending, delivered or failed.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 20,
    as_json: AsJson = False,
) -> None:
    """List what a webhook was told, and why it did not arrive."""
    read = client.deliveries(webhook, state=state, limit=limit)
    print_answer(read, [_delivery_table(read.items)], as_json)


@client_command(app)
def ping(client: Client, webhook: WebhookId, as_json: AsJson = False) -> None:
    """Send a webhook the event `ping`; its deliveries say whether it arrived."""
    made = client.ping_webhook(webhook)
    print_answer(made, [Text(f"{made.id}: `symadj webhooks deliveries {webhook}` says whether it arrived")], as_json)


@client_command(app)
def enable(client: Client, webhook: WebhookId, as_json: AsJson = False) -> None:
    """Let a webhook be told again after it was disabled."""
    read = client.enable_webhook(webhook)
    print_answer(read, [Text(f"{read.id}: enabled")], as_json)


@client_command(app)
def remove(client: Client, webhook: WebhookId) -> None:
    """Remove a webhook, and what it has not been told yet."""
    client.delete_webhook(webhook)
    print(f"{webhook}: removed")


def _pair(label: str) -> tuple[str, str]:
    name, equals, value = label.partition("=")
    if not equals:
        raise typer.BadParameter(f"{label!r} is not of the form name=value", param_hint="--label")
    return name, value


def _here(time: datetime | None) -> datetime | None:
    return None if time is None else time.astimezone(UTC)


def _when(time: datetime | None) -> str:
    return "" if time is None else f"{time.astimezone():%Y-%m-%d %H:%M:%S}"


def _table(*headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _audit_table(entries: Sequence[AuditEntryRead]) -> Table:
    table = _table("time", "who", "role", "what", "about", "status")
    for entry in entries:
        about = " -> ".join(part for part in (entry.target, entry.made) if part)
        who = entry.who or f"no valid key, {entry.address}"
        what = f"{entry.method} {entry.route}"
        row = (_when(entry.time), who, entry.role or "", what, about, str(entry.status))
        table.add_row(*map(escape, row))
    return table


def _webhook_table(webhooks: Sequence[WebhookRead]) -> Table:
    table = _table("webhook", "owner", "url", "events", "of", "state")
    for webhook in webhooks:
        labels = ", ".join(f"{name}={value}" for name, value in webhook.labels.items())
        whose = "everybody's jobs" if webhook.all_owners else "own jobs"
        state = "enabled" if webhook.disabled_at is None else f"disabled {_when(webhook.disabled_at)}"
        of = f"{whose}, {labels}" if labels else whose
        row = (webhook.id, webhook.owner, webhook.url, ", ".join(webhook.events), of, state)
        table.add_row(*map(escape, row))
    return table


def _delivery_table(deliveries: Sequence[DeliveryRead]) -> Table:
    table = _table("delivery", "event", "job", "created", "state", "tries", "next try", "last answer")
    for item in deliveries:
        told = item.error or (str(item.status) if item.status else "")
        row = (item.id, item.event, item.job_id or "", _when(item.created_at), item.state, str(item.tries))
        table.add_row(*map(escape, (*row, _when(item.next_try_at), told)))
    return table
