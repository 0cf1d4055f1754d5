"""Verifies deliveries with the official Standard Webhooks library.

Standard input has one case in each line, as JSON: {name, secret, headers, body_base64, expect}, where `expect` is
`verified` or `refused`. The exit code is 1 if a case ends differently.
"""

import base64
import hashlib
import hmac
import json
import sys
import time

from standardwebhooks.webhooks import Webhook, WebhookVerificationError


def by_library(secret, headers, body):
    try:
        Webhook(secret).verify(body, headers, json_parse=False)
    except WebhookVerificationError:
        return "refused"
    return "verified"


def by_hand(secret, headers, body):
    """As the README does it."""
    if abs(time.time() - int(headers["webhook-timestamp"])) > 300:
        return "refused"
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    given = headers["webhook-signature"].split()
    return "verified" if any(hmac.compare_digest(expected, one) for one in given) else "refused"


def outcome(case):
    body = base64.b64decode(case["body_base64"])
    try:
        body.decode()
    except UnicodeDecodeError:
        # The library takes text only.
        return by_hand(case["secret"], case["headers"], body)
    return by_library(case["secret"], case["headers"], body)


cases = [json.loads(line) for line in sys.stdin if line.strip()]
wrong = [case["name"] for case in cases if outcome(case) != case["expect"]]
for name in wrong:
    print(f"not as expected: {name}")
if wrong:
    sys.exit(1)
print(f"{len(cases)} cases as expected")
