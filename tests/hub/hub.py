"""A double of the model hub, for tests: it stands at the outermost edge, where the network begins.

The real clients (huggingface_hub, transformers, datasets) talk to it through HF_ENDPOINT. It serves
and takes repositories as they do over plain HTTP and git LFS, with the hub's own ways of saying no;
Xet storage it has not (HF_HUB_DISABLE_XET=1). It keeps everything in memory.
"""

import base64
import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qs, unquote, urlsplit

STRANGER = "hf_stranger"
"""A valid token that has been granted nothing."""
READER = "hf_reader"
"""A token that may read what is gated, and write nothing."""
WRITER = "hf_writer"
"""A token that may do the same, and write below `username/`."""
TOKENS = (STRANGER, READER, WRITER)
OWNER = "username"
LARGE = (".safetensors", ".bin", ".parquet", ".gz")
"""Endings of files that are kept in LFS."""


class Commit(NamedTuple):
    sha: str
    files: dict[str, bytes]


class Repo:
    """Versions of one model's or data set's files; the last is `main`."""

    def __init__(self, kind: str, name: str, *, private: bool = False, gated: bool = False) -> None:
        self.kind = kind
        self.name = name
        self.private = private
        self.gated = gated
        self.commits: list[Commit] = []
        self.commit({})

    def commit(self, files: dict[str, bytes]) -> str:
        """Put files over those that are there; the commit's hash."""
        whole = (self.commits[-1].files if self.commits else {}) | files
        digest = hashlib.sha1(f"{self.kind} {self.name} {len(self.commits)}".encode())
        for path, content in sorted(whole.items()):
            digest.update(path.encode() + b"\0" + content)
        self.commits.append(Commit(digest.hexdigest(), whole))
        return self.commits[-1].sha

    def at(self, revision: str) -> Commit:
        if revision == "main":
            return self.commits[-1]
        for commit in self.commits:
            if commit.sha == revision:
                return commit
        raise RefusedError(404, f"Invalid rev id: {revision}", "RevisionNotFound")


class RefusedError(Exception):
    """An answer that is no success, with what the hub says in its headers."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        self.answer = Answer(
            json.dumps({"error": message}).encode(),
            {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {}),
            status,
        )


class Answer(NamedTuple):
    body: bytes
    headers: Mapping[str, str] = MappingProxyType({})
    status: int = HTTPStatus.OK


class Request(NamedTuple):
    token: str | None
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Hub:
    """The server; `with Hub() as hub` starts it on a free port of this machine, for itself alone
    unless `host` is another of its addresses.
    """

    def __init__(self, port: int = 0, host: str = "127.0.0.1") -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.requests: list[str] = []
        """Method and path of each request, in their order."""
        self.large: dict[str, bytes] = {}
        """LFS objects by their SHA-256."""
        self.full = False
        """No more LFS objects are taken."""
        self._host = host
        self._port = port

    def __enter__(self) -> Self:
        hub = self

        class Handler(_Handler):
            def answer(self, method: str, path: str, request: Request) -> Answer:
                return hub.answer(method, path, request)

        self._server = ThreadingHTTPServer((self._host, self._port), Handler)
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def endpoint(self) -> str:
        """What HF_ENDPOINT is set to."""
        return f"http://{self._host}:{self._port}"

    def environment(self, home: Path, token: str | None = None, **more: str) -> dict[str, str]:
        """Variables of a process that knows no hub but this one, and keeps its cache in `home`."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        own = {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
        return (
            kept | own | {"NO_PROXY": "127.0.0.1"} | ({"HF_TOKEN": token} if token else {}) | more
        )

    def add(self, kind: str, name: str, folder: Path, **access: bool) -> str:
        """Serve a folder as a `model` or `dataset` of this name; again: as its next commit.

        Returns:
            The commit's hash.
        """
        repo = self.repos.setdefault((kind, name), Repo(kind, name, **access))
        files = (path for path in folder.rglob("*") if path.is_file())
        return repo.commit({str(path.relative_to(folder)): path.read_bytes() for path in files})

    def answer(self, method: str, path: str, request: Request) -> Answer:
        """What is said to one request."""
        self.requests.append(f"{method} {path}")
        if request.token is not None and request.token not in TOKENS:
            return RefusedError(401, "Invalid credentials in Authorization header").answer
        for verb, pattern, act in ROUTES:
            found = pattern.fullmatch(urlsplit(path).path)
            if found and verb == method.replace("HEAD", "GET"):
                words = {name: unquote(word or "") for name, word in found.groupdict().items()}
                try:
                    return act(self, request, **words)
                except RefusedError as refused:
                    return refused.answer
        return RefusedError(404, f"the double does not know {method} {path}").answer

    def info(self, request: Request, kind: str, name: str, revision: str) -> Answer:
        repo = self._visible(request, kind, name)
        commit = repo.at(revision or "main")
        return _json({
            "id": name,
            "sha": commit.sha,
            "private": repo.private,
            "gated": "manual" if repo.gated else False,
            "tags": [],
            "siblings": [{"rfilename": path} for path in sorted(commit.files)],
        })  # fmt: skip

    def tree(self, request: Request, kind: str, name: str, revision: str, path: str) -> Answer:
        files = self._readable(request, kind, name).at(revision).files
        prefix = f"{path}/" if path else ""
        below = {one.removeprefix(prefix): one for one in files if one.startswith(prefix)}
        if path and not below:
            raise RefusedError(404, f"{path} does not exist", "EntryNotFound")
        folders = {
            "/".join(parts[:depth])
            for parts in (one.split("/") for one in below)
            for depth in range(1, len(parts))
        }
        recursive = parse_qs(urlsplit(self.requests[-1]).query).get("recursive") == ["true"]
        entries = [_folder_entry(prefix + folder) for folder in sorted(folders)]
        entries += [_file_entry(one, files[one]) for one in below.values()]
        return _json([
            entry
            for entry in entries
            if recursive or "/" not in entry["path"].removeprefix(prefix)
        ])  # fmt: skip

    def paths_info(self, request: Request, kind: str, name: str, revision: str) -> Answer:
        files = self._readable(request, kind, name).at(revision).files
        asked = parse_qs(request.body.decode())["paths"]
        entries = [_file_entry(path, files[path]) for path in asked if path in files]
        entries += [
            _folder_entry(path)
            for path in asked
            if any(file.startswith(f"{path}/") for file in files)
        ]
        return _json(entries)

    def resolve(self, request: Request, kind: str, name: str, revision: str, path: str) -> Answer:
        """A file, or the part of it that is asked for."""
        repo = self._readable(request, kind.removesuffix("s/") or "model", name)
        commit = repo.at(revision)
        headers = {"X-Repo-Commit": commit.sha, "Accept-Ranges": "bytes"}
        if path not in commit.files:
            refused = RefusedError(404, "Entry not found", "EntryNotFound").answer
            return refused._replace(headers={**refused.headers, **headers})
        content = commit.files[path]
        headers["ETag"] = f'"{_oid(path, content)}"'
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        if part is None:
            return Answer(content, headers)
        first, last = int(part[1]), min(int(part[2] or len(content)), len(content) - 1)
        if first > last:
            return Answer(b"", {"Content-Range": f"bytes */{len(content)}"}, 416)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        return Answer(content[first : last + 1], headers, HTTPStatus.PARTIAL_CONTENT)

    def whoami(self, request: Request) -> Answer:
        if request.token is None:
            raise RefusedError(401, "Invalid username or password.")
        writes = request.token == WRITER
        role = "write" if writes else "read"
        return _json({
            "type": "user",
            "name": OWNER if writes else "somebody",
            "orgs": [],
            "auth": {"accessToken": {"role": role}},
        })  # fmt: skip

    def create(self, request: Request) -> Answer:
        asked = request.json
        kind = asked.get("type") or "model"
        name = f"{asked['organization'] or OWNER}/{asked['name']}"
        self._may_write(request, name)
        url = f"{self.endpoint}/{'' if kind == 'model' else kind + 's/'}{name}"
        if (kind, name) in self.repos:
            return _json({"error": "You already created this repo", "url": url}, 409)
        self.repos[kind, name] = Repo(kind, name, private=asked.get("visibility") == "private")
        return _json({"url": url, "name": name})

    def check_card(self, _: Request) -> Answer:
        return _json({"errors": [], "warnings": []})

    def preupload(self, request: Request, kind: str, name: str, revision: str) -> Answer:
        """How each file is to be sent."""
        self._may_write(request, name)
        self._visible(request, kind, name).at(revision)
        modes = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                "shouldIgnore": False,
            }
            for file in request.json["files"]
        ]
        return _json({"files": modes})

    def batch(self, request: Request, kind: str, name: str) -> Answer:
        """Where LFS objects are to be sent; those that are there already need not be."""
        del kind
        self._may_write(request, name)
        objects = [
            wanted
            if wanted["oid"] in self.large
            else wanted | {"actions": {"upload": {"href": f"{self.endpoint}/lfs/{wanted['oid']}"}}}
            for wanted in request.json["objects"]
        ]
        return _json({"transfer": "basic", "objects": objects})

    def store(self, request: Request, oid: str) -> Answer:
        if self.full:
            raise RefusedError(HTTPStatus.INSUFFICIENT_STORAGE, "over quota")
        if hashlib.sha256(request.body).hexdigest() != oid:
            raise RefusedError(400, "the content does not have this hash")
        self.large[oid] = request.body
        return Answer(b"")

    def commit(self, request: Request, kind: str, name: str, revision: str) -> Answer:
        self._may_write(request, name)
        repo = self._visible(request, kind, name)
        repo.at(revision)
        files = {}
        for line in request.body.splitlines():
            key, value = (entry := json.loads(line))["key"], entry["value"]
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.large[value["oid"]]
            elif key != "header":
                raise RefusedError(400, f"the double cannot do {key}")
        sha = repo.commit(files)
        return _json({"commitOid": sha, "commitUrl": f"{self.endpoint}/{name}/commit/{sha}"})

    def _visible(self, request: Request, kind: str, name: str) -> Repo:
        """The repository; to those whom it is hidden from, the hub denies that there is one."""
        repo = self.repos.get((kind, name))
        owned = request.token == WRITER and name.startswith(f"{OWNER}/")
        if repo is not None and (owned or not repo.private):
            return repo
        if request.token is None:
            raise RefusedError(401, "Invalid username or password.")
        raise RefusedError(404, "Repository not found", "RepoNotFound")

    def _readable(self, request: Request, kind: str, name: str) -> Repo:
        repo = self._visible(request, kind, name)
        if repo.gated and request.token is None:
            raise RefusedError(401, f"Access to {kind} {name} is restricted.", "GatedRepo")
        if repo.gated and request.token == STRANGER:
            raise RefusedError(403, f"Access to {kind} {name} is restricted.", "GatedRepo")
        return repo

    def _may_write(self, request: Request, name: str) -> None:
        if request.token is None:
            raise RefusedError(401, "Invalid username or password.")
        if request.token != WRITER or not name.startswith(f"{OWNER}/"):
            raise RefusedError(403, f"You don't have the rights to write to {name}")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, method: str, path: str, request: Request) -> Answer:
        raise NotImplementedError

    def respond(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
        answer = self.answer(self.command, self.path, Request(token, self.headers, body))
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    do_GET = do_HEAD = do_POST = do_PUT = respond  # noqa: N815 - the base class calls them so

    def log_message(self, *_: object) -> None:
        """Say nothing: `Hub.requests` has it."""


def _json(value: Any, status: int = HTTPStatus.OK) -> Answer:
    return Answer(json.dumps(value).encode(), {"Content-Type": "application/json"}, status)


def _oid(path: str, content: bytes) -> str:
    """The hash that stands for a file: LFS's, or git's of a blob."""
    if path.endswith(LARGE):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _file_entry(path: str, content: bytes) -> dict[str, Any]:
    oid = _oid(path, content)
    entry = {"type": "file", "path": path, "size": len(content), "oid": oid}
    if path.endswith(LARGE):
        entry["lfs"] = {"oid": oid, "size": len(content), "pointerSize": 134}
    return entry


def _folder_entry(path: str) -> dict[str, Any]:
    oid = hashlib.sha1(path.encode()).hexdigest()
    return {"type": "directory", "path": path, "size": 0, "oid": oid}


_NAME = r"(?P<name>[^/]+/[^/]+)"
_API = rf"/api/(?P<kind>model|dataset)s/{_NAME}"
_FILES = rf"/(?P<kind>datasets/)?{_NAME}"
_REVISION = r"/(?P<revision>[^/]+)"
ROUTES: list[tuple[str, re.Pattern[str], Callable[..., Answer]]] = [
    (method, re.compile(pattern), act)
    for method, pattern, act in (
        ("GET", rf"{_API}(?:/revision{_REVISION})?", Hub.info),
        ("GET", rf"{_API}/tree{_REVISION}(?:/(?P<path>.+))?", Hub.tree),
        ("POST", rf"{_API}/paths-info{_REVISION}", Hub.paths_info),
        ("GET", rf"{_FILES}/resolve{_REVISION}/(?P<path>.+)", Hub.resolve),
        ("GET", r"/api/whoami-v2", Hub.whoami),
        ("POST", r"/api/repos/create", Hub.create),
        ("POST", r"/api/validate-yaml", Hub.check_card),
        ("POST", rf"{_API}/preupload{_REVISION}", Hub.preupload),
        ("POST", rf"{_FILES}\.git/info/lfs/objects/batch", Hub.batch),
        ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", Hub.store),
        ("POST", rf"{_API}/commit{_REVISION}", Hub.commit),
    )
]
