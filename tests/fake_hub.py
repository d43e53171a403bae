"""A Hugging Face hub on loopback: what the real client asks when it makes a repository and commits to it."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

TOKEN = "hf_loopbackonly"
USER = "gardener"
ORGANISATION = "nursery"


class FakeHub:
    """Repositories by name, each a mapping of files to contents.

    Attributes:
        private: the names of those that were made private.
        refuse: whether commits are refused, as a hub that is out of order does.
        role: of the access token.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.commits = 0
        self.refuse = False
        self.role = "write"
        self.address = ""

    def answer(self, method: str, path: str, token: str, body: bytes) -> tuple[int, Any]:
        """Status and JSON for a request."""
        if token != f"Bearer {TOKEN}":
            return 401, {"error": "Invalid credentials in Authorization header"}
        if path == "/api/whoami-v2":
            return 200, {
                "name": USER,
                "orgs": [{"name": ORGANISATION}],
                "auth": {"accessToken": {"role": self.role}},
            }
        if path == "/api/validate-yaml":
            return 200, {"errors": _faults(json.loads(body)["content"]), "warnings": []}
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path.removeprefix("/api/models/") in self.repositories:
            name = path.removeprefix("/api/models/")
            return 200, {"id": name, "private": name in self.private}
        match = re.fullmatch(r"/api/models/(.+?)/(preupload|commit|tree)/main", path)
        if match is None or match[1] not in self.repositories:
            return 404, {"error": "Repository not found"}
        files = self.repositories[match[1]]
        if match[2] == "tree":
            return 200, [{"type": "file", "path": name, "size": 1, "oid": "0"} for name in files]
        if match[2] == "preupload":
            asked = [file["path"] for file in json.loads(body)["files"]]
            return 200, {"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in asked]}
        return self._commit(match[1], body)

    def _create(self, asked: dict[str, Any]) -> tuple[int, Any]:
        name = f"{asked.get('organization') or USER}/{asked['name']}"
        url = {"url": f"{self.address}/{name}"}
        if name in self.repositories:
            return 409, url
        self.repositories[name] = {".gitattributes": b""}
        if asked.get("private") or asked.get("visibility") == "private":
            self.private.add(name)
        return 200, url

    def _commit(self, name: str, body: bytes) -> tuple[int, Any]:
        if self.refuse:
            return 500, {"error": "out of order"}
        files = self.repositories[name]
        for line in body.decode().splitlines():
            row = json.loads(line)
            if row["key"] == "file":
                files[row["value"]["path"]] = base64.b64decode(row["value"]["content"])
            elif row["key"] == "deletedFile":
                del files[row["value"]["path"]]
        self.commits += 1
        return 200, {"commitUrl": f"{self.address}/{name}/commit/1", "commitOid": "1" * 40, "pullRequestUrl": None}


def _faults(card: str) -> list[dict[str, str]]:
    """What the hub refuses of a card's metadata."""
    values = yaml.safe_load(card.split("---")[1])
    named = [values.get("base_model", "owner/name"), *values.get("datasets", [])]
    wrong = [name for name in named if not re.fullmatch(r"[\w.-]+/[\w.-]+", name)]
    if values.get("base_model_relation") not in (None, "adapter", "merge", "quantized", "finetune"):
        wrong.append(values["base_model_relation"])
    return [{"message": f"{each} is not valid"} for each in wrong]


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """A hub while the block runs; `address` is its endpoint."""
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            path = self.path.partition("?")[0]
            body = self.rfile.read(length)
            status, answer = hub.answer(self.command, path, self.headers.get("Authorization", ""), body)
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
