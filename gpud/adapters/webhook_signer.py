"""Makes webhook secrets and signatures, with the library of the Standard Webhooks specification."""

from __future__ import annotations

import base64
import secrets as random
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from standardwebhooks import Webhook

if TYPE_CHECKING:
    from collections.abc import Sequence

_SECRET_BYTES = 32


class StandardSigner:
    """Signs as receivers in any language verify (port `WebhookSigner`)."""

    def new_secret(self) -> str:
        """Make `whsec_` and 32 random bytes in base64."""
        return f"whsec_{base64.b64encode(random.token_bytes(_SECRET_BYTES)).decode('ascii')}"

    def headers(self, secrets: Sequence[str], *, message_id: str, at_ms: int, body: bytes) -> dict[str, str]:
        """The headers of Standard Webhooks, one signature for each secret."""
        moment = datetime.fromtimestamp(at_ms // 1000, tz=UTC)
        signed = [Webhook(secret).sign(message_id, moment, body.decode("utf-8")) for secret in secrets]
        headers = {"webhook-id": message_id, "webhook-timestamp": str(at_ms // 1000)}
        return headers | ({"webhook-signature": " ".join(signed)} if signed else {})
