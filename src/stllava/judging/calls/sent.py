"""What has left this machine, as the ledger tells it: which images went to which host."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from stllava.generation.wire import is_local
from stllava.judging.calls.database import Database

# An image stands in a stored request by the hash of its pixels; what is sent in an image's place,
# as in the blank-image audit, by another one. Failed calls count: they may have arrived.
_SENT = """
SELECT DISTINCT
    json_extract(calls.request, '$.host'),
    json_extract(calls.request, part.fullkey || '.image_url.url') AS image
FROM calls, json_each(calls.request, '$.messages[0].content') AS part
WHERE calls.request_id IN (SELECT value FROM json_each(?)) AND image LIKE 'pixels-sha256:%'
"""


def images_sent(ledger: Path, request_ids: Iterable[str]) -> dict[str, set[str]]:
    """Remote host -> hashes of the images that these requests showed it."""
    found: dict[str, set[str]] = {}
    if not ledger.is_file():
        return found
    with closing(Database(ledger)) as database, database.lock:
        rows = database.connection.execute(_SENT, (json.dumps(list(request_ids)),)).fetchall()
    for host, image in rows:
        if not is_local(f"//{host}"):
            found.setdefault(host, set()).add(image)
    return found
