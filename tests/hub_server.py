"""A hub on this machine: an HTTP server that speaks as much of the Hugging Face Hub's protocol as push and pull use."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Hub:
    """What the hub holds.

    Attributes:
        url: The base address.
        token: The only token that may write.
        repositories: Name -> file -> content.
        private: Names of the private ones.
    """

    url: str = ""
    token: str = "hf_test"
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)

    def commit(self, name: str) -> str:
        """Return the hash of the newest commit: one of the content."""
        return hashlib.sha1(repr(sorted(self.repositories[name].items())).encode()).hexdigest()


@contextmanager
def hub() -> Iterator[Hub]:
    """Serve on a port of the loopback interface until the block ends."""
    state = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._get(body=False)

        def do_GET(self) -> None:
            self._get(body=True)

        def do_POST(self) -> None:
            path = self._asked()
            given = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if path == "/api/validate-yaml":
                self._json({"errors": [], "warnings": []})
            elif self.headers.get("Authorization") != f"Bearer {state.token}":
                self._json({"error": "Invalid username or password."}, 401)
            elif path == "/api/repos/create":
                asked = json.loads(given)
                name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
                known = name in state.repositories
                state.repositories.setdefault(name, {".gitattributes": b""})
                if asked.get("private") or asked.get("visibility") == "private":
                    state.private.add(name)
                self._json({"url": f"{state.url}/{name}", "id": name, "name": name}, 409 if known else 200)
            elif re.fullmatch(r"/api/models/\w+/\w+/preupload/main", path):
                files = [
                    {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for one in json.loads(given)["files"]
                ]
                self._json({"files": files})
            elif match := re.fullmatch(r"/api/models/(\w+/\w+)/commit/main", path):
                for line in given.decode().splitlines():
                    one = json.loads(line)
                    if one["key"] == "file":
                        state.repositories[match[1]][one["value"]["path"]] = base64.b64decode(one["value"]["content"])
                    elif one["key"] == "deletedFile":
                        del state.repositories[match[1]][one["value"]["path"]]
                self._json(
                    {
                        "commitUrl": f"{state.url}/{match[1]}/commit/{state.commit(match[1])}",
                        "commitOid": state.commit(match[1]),
                    }
                )
            else:
                self._json({"error": "not known"}, 404)

        def _get(self, *, body: bool) -> None:
            path = self._asked()
            match = re.fullmatch(r"(?:/api/models)?/(\w+/\w+)/(revision|tree|resolve)/\w+(?:/(.+))?", path)
            files = state.repositories.get(match[1]) if match else None
            if match is None or files is None:
                self._json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
            elif match[2] == "revision":
                siblings = [{"rfilename": name} for name in files]
                self._json({"id": match[1], "modelId": match[1], "sha": state.commit(match[1]), "siblings": siblings})
            elif match[2] == "tree":
                entries = [
                    {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                    for name, content in files.items()
                ]
                self._json(entries)
            elif match[3] not in files:
                self._json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
            else:
                content = files[match[3]]
                headers = {"X-Repo-Commit": state.commit(match[1]), "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
                self._answer(content, 200, headers, body=body)

        def _asked(self) -> str:
            return unquote(urlsplit(self.path).path)

        def _json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
            self._answer(json.dumps(value).encode(), status, {"Content-Type": "application/json", **(headers or {})})

        def _answer(self, content: bytes, status: int, headers: dict[str, str], *, body: bool = True) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if body and self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
