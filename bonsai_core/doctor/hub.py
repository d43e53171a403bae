"""Whether the hub can be reached, for those who ask."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from bonsai_core.doctor.finding import Finding
from bonsai_core.errors import shortened

TIMEOUT_S = 10
ADVICE = (
    "What is on this machine works without it, and so do demo and builtin. Behind a proxy set HTTPS_PROXY; for a "
    "mirror set HF_ENDPOINT."
)


def hub() -> Iterator[Finding]:
    """One request to the hub that models and data sets are downloaded from."""
    from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE

    address = urlsplit(ENDPOINT)
    host, place = address.hostname or "", address.netloc.rpartition("@")[2]  # a name and password stay out
    if HF_HUB_OFFLINE:
        advice = "Unset HF_HUB_OFFLINE to download models and texts."
        yield Finding("hub", host, "was not asked, since HF_HUB_OFFLINE is set", "note", advice)
        return
    try:
        with urlopen(Request(address._replace(netloc=place).geturl(), method="HEAD"), timeout=TIMEOUT_S):
            yield Finding("hub", host, "answers")
    except HTTPError as error:
        yield Finding("hub", host, f"answers with status {error.code}", "note", ADVICE)
    except (OSError, ValueError) as error:  # no network; HF_ENDPOINT is not an address
        yield Finding("hub", host, f"cannot be reached: {shortened(str(error))}", "note", ADVICE)
