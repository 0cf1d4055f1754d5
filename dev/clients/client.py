"""A newcomer's program on the Python client that openapi-python-client makes of `/openapi.json`.

It creates a subscription, publishes events, pages through their deliveries and reads problems, all as typed values.
Arguments: the base URL of the api, an API key, the URL of a receiver. Raises where something is not as it should be.
"""

import sys

from postrider_client import AuthenticatedClient
from postrider_client.api.deliveries import list_deliveries
from postrider_client.api.events import publish_event
from postrider_client.api.subscriptions import create_subscription, delete_subscription, get_subscription
from postrider_client.models import (
    Delivery,
    DeliveryList,
    DeliveryStatus,
    EventInput,
    EventInputMetadata,
    Problem,
    PublishedEvent,
    RetryPolicy,
    Subscription,
    SubscriptionInput,
    SubscriptionState,
)
from postrider_client.types import UNSET

EVENTS = 5
PAGE = 2


def create(client: AuthenticatedClient, receiver: str) -> Subscription:
    wanted = SubscriptionInput(
        target_url=receiver, event_types=["python.*"], retry_policy=RetryPolicy(delays_seconds=[5, 60])
    )
    created = create_subscription.sync(client=client, body=wanted)
    assert isinstance(created, Subscription), created
    assert created.state is SubscriptionState.ACTIVE and isinstance(created.secret, str), created
    return created


def publish(client: AuthenticatedClient, number: int) -> list[str]:
    metadata = EventInputMetadata.from_dict({"region": "eu"})
    event = EventInput(event_type="python.ran", payload={"number": number}, metadata=metadata)
    published = publish_event.sync(client=client, body=event, idempotency_key=f"python-{number}")
    assert isinstance(published, PublishedEvent), published
    return published.delivery_ids


def deliveries_of(client: AuthenticatedClient, subscription: Subscription) -> list[Delivery]:
    found: list[Delivery] = []
    cursor = UNSET
    while True:
        page = list_deliveries.sync(client=client, subscription_id=subscription.id, limit=PAGE, cursor=cursor)
        assert isinstance(page, DeliveryList) and len(page.data) <= PAGE, page
        found.extend(page.data)
        cursor = page.next_cursor
        if not isinstance(cursor, str):
            return found


def main() -> None:
    base, key, receiver = sys.argv[1:]
    client = AuthenticatedClient(base_url=base, token=key, httpx_args={"trust_env": False})
    subscription = create(client, receiver)
    published = [delivery for number in range(EVENTS) for delivery in publish(client, number)]
    deliveries = deliveries_of(client, subscription)
    assert len(published) == EVENTS and [one.id for one in reversed(deliveries)] == published, deliveries
    assert all(one.status is DeliveryStatus.PENDING and one.attempt_count == 0 for one in deliveries), deliveries

    unknown = get_subscription.sync(client=client, id="sub_" + "0" * 32)
    assert isinstance(unknown, Problem) and (unknown.status, unknown.code) == (404, "not_found"), unknown
    invalid = create_subscription.sync(client=client, body=SubscriptionInput(target_url=receiver, timeout_ms=1))
    assert isinstance(invalid, Problem) and invalid.status == 422, invalid
    assert isinstance(invalid.errors, list) and invalid.errors[0].field == "timeout_ms", invalid

    gone = delete_subscription.sync_detailed(client=client, id=subscription.id)
    assert gone.status_code == 204, gone


main()
