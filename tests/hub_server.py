"""A small server that speaks the part of the Hugging Face Hub's HTTP interface that the clients use, on loopback.

It keeps whole revisions in memory: a commit is all or nothing, as on the Hub. Written from the requests that
huggingface_hub, datasets and minari send, and from the answers that they read.
"""

import base64
import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

Files = dict[str, bytes]


@dataclass
class Repository:
    """Branches, each a list of (commit, files), oldest first."""

    branches: dict[str, list[tuple[str, Files]]] = field(default_factory=dict)
    lfs: set[str] = field(default_factory=set)
    """Paths that were uploaded as large files."""
    private: bool = False

    def find(self, revision: str) -> tuple[str, Files] | None:
        if revision in self.branches:
            return self.branches[revision][-1]
        return next((c for branch in self.branches.values() for c in branch if c[0] == revision), None)


@dataclass
class HubServer:
    """The server and its repositories; use as a context manager."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    """Datasets as ``org/name``, models as ``models/org/name``."""
    blobs: dict[str, bytes] = field(default_factory=dict)
    """Uploaded large files by their sha256."""
    use_lfs: bool = False
    """Answer that every file is to be uploaded by LFS."""
    tokens: list[str | None] = field(default_factory=list)
    """The authorisation that every request came with."""
    requests: list[str] = field(default_factory=list)
    """Method and path of every request."""
    refuse_commits: bool = False
    cut: str | None = None
    """Break the connection off when a request's path has this part: "commit" or "lfs"."""

    def __enter__(self) -> "HubServer":
        hub = self

        class Handler(_Handler):
            server_hub = hub

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.server.shutdown()
        self.server.server_close()

    def reset(self) -> "HubServer":
        """Forget everything, for the next test."""
        for kept in (self.repositories, self.blobs, self.tokens, self.requests):
            kept.clear()
        self.use_lfs, self.refuse_commits, self.cut = False, False, None
        return self

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def page(self, repo: str) -> str:
        return (
            f"{self.url}/{repo.removeprefix('models/')}"
            if repo.startswith("models/")
            else f"{self.url}/datasets/{repo}"
        )

    def files(self, repo: str, revision: str = "main") -> Files:
        found = self.repositories[repo].find(revision)
        assert found is not None
        return found[1]

    def commits(self, repo: str, branch: str = "main") -> list[str]:
        return [commit for commit, _ in self.repositories[repo].branches[branch]]

    def commit(self, repo: str, files: Files, branch: str = "main") -> str:
        history = self.repositories.setdefault(repo, Repository()).branches.setdefault(branch, [])
        content = b"".join(name.encode() + body for name, body in files.items())
        commit = hashlib.sha1(f"{repo}{branch}{len(history)}".encode() + content).hexdigest()
        history.append((commit, files))
        return commit


class _Handler(BaseHTTPRequestHandler):
    server_hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self, status: int, value=None, *, body: bytes = b"", **headers: str) -> None:
        if value is not None:
            body = json.dumps(value).encode()
        self.send_response(status)
        for key, text in {"Content-Length": str(len(body)), "Content-Type": "application/json", **headers}.items():
            self.send_header(key.replace("_", "-"), text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _missing(self, what: str) -> None:
        self._answer(404, {"error": f"{what} not found"}, X_Error_Code=f"{what}NotFound")

    def _handle(self) -> None:
        hub = self.server_hub
        hub.tokens.append(self.headers.get("Authorization"))
        hub.requests.append(f"{self.command} {self.path}")
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        address = urlsplit(self.path)
        parts = [unquote(part) for part in address.path.strip("/").split("/")]
        if hub.cut is not None and hub.cut in parts:
            self.close_connection = True
            self.connection.close()
        elif parts == ["api", "repos", "create"]:
            self._create(json.loads(data))
        elif parts == ["api", "validate-yaml"]:
            self._answer(200, {"errors": [], "warnings": []})
        elif parts == ["api", "datasets"]:
            author = parse_qs(address.query).get("author", [""])[0]
            self._answer(200, [{"id": repo} for repo in hub.repositories if repo.startswith(f"{author}/")])
        elif parts[:2] == ["api", "datasets"]:
            self._api("/".join(parts[2:4]), parts[4:], data)
        elif parts[:2] == ["api", "models"]:
            self._api("/".join(parts[1:4]), parts[4:], data)
        elif parts[0] == "datasets" and parts[3:4] == ["resolve"]:
            self._resolve("/".join(parts[1:3]), parts[4], "/".join(parts[5:]))
        elif parts[2:3] == ["resolve"]:  # a model's address has no word before its name
            self._resolve("/".join(["models", *parts[:2]]), parts[3], "/".join(parts[4:]))
        elif parts[-1] == "batch":
            wanted = json.loads(data)["objects"]
            links = [{**o, "actions": {"upload": {"href": f"{hub.url}/lfs/{o['oid']}"}}} for o in wanted]
            self._answer(200, {"transfer": "basic", "objects": links})
        elif parts[0] == "lfs" and self.command == "PUT":
            assert hashlib.sha256(data).hexdigest() == parts[1]
            hub.blobs[parts[1]] = data
            self._answer(200, {})
        elif parts[0] == "lfs":
            self._answer(200, body=hub.blobs[parts[1]], ETag=f'"{parts[1]}"')
        else:
            self._missing("Entry")

    do_GET = do_POST = do_HEAD = do_PUT = _handle  # noqa: N815  # the base class wants these names

    def _create(self, request: dict) -> None:
        hub = self.server_hub
        name = f"{request.get('organization') or 'me'}/{request['name']}"
        repo = name if request.get("type") == "dataset" else f"models/{name}"
        if repo in hub.repositories:
            self._answer(409, {"error": "You already created this repo", "url": hub.page(repo)})
            return
        hub.commit(repo, {".gitattributes": b""})
        hub.repositories[repo].private = request.get("visibility") == "private" or bool(request.get("private"))
        self._answer(200, {"url": hub.page(repo), "name": name, "id": name})

    def _api(self, repo: str, rest: list[str], data: bytes) -> None:
        hub = self.server_hub
        if repo not in hub.repositories:
            self._missing("Repo")
            return
        kind, revision = (rest[:1] or ["revision"])[0], (rest[1:2] or ["main"])[0]
        here = hub.repositories[repo]
        found = here.find("main" if kind == "branch" else revision)
        if found is None:
            self._missing("Revision")
            return
        commit, files = found
        if kind == "branch":
            here.branches[revision] = [found]
            self._answer(200, {})
        elif kind == "preupload":
            wanted = [each["path"] for each in json.loads(data)["files"]]
            mode = "lfs" if hub.use_lfs else "regular"
            oids = {path: self._oid(here, path, files[path]) for path in wanted if path in files}
            rows = [{"path": p, "uploadMode": mode, "shouldIgnore": False, "oid": oids.get(p)} for p in wanted]
            self._answer(200, {"files": rows})
        elif kind == "commit":
            self._commit(repo, revision, [json.loads(line) for line in data.splitlines() if line])
        elif kind == "revision":
            names = [{"rfilename": name, "size": len(body)} for name, body in files.items()]
            self._answer(
                200,
                {
                    "id": repo.removeprefix("models/"),
                    "sha": commit,
                    "siblings": names,
                    "private": here.private,
                    "tags": [],
                },
            )
        elif kind == "tree":
            recursive = parse_qs(urlsplit(self.path).query).get("recursive", [""])[0].lower() in ("true", "1")
            self._answer(200, self._tree(here, files, "/".join(rest[2:]), recursive=recursive))
        elif kind == "paths-info":
            wanted = json.loads(data)["paths"] if data.startswith(b"{") else parse_qs(data.decode())["paths"]
            self._answer(200, [row for row in self._tree(here, files, "", recursive=True) if row["path"] in wanted])
        else:
            self._missing("Entry")

    def _oid(self, here: Repository, path: str, body: bytes) -> str:
        return hashlib.sha256(body).hexdigest() if path in here.lfs else _git_oid(body)

    def _tree(self, here: Repository, files: Files, under: str, *, recursive: bool) -> list[dict]:
        rows = []
        prefix = f"{under}/" if under else ""
        for path, body in files.items():
            if not path.startswith(prefix):
                continue
            folder, inside, _ = path.removeprefix(prefix).partition("/")
            if inside and not recursive:
                row = {"type": "directory", "path": prefix + folder, "size": 0, "oid": _git_oid(folder.encode())}
                rows += [] if row in rows else [row]
                continue
            row = {"type": "file", "path": path, "size": len(body), "oid": _git_oid(body)}
            if path in here.lfs:
                row["lfs"] = {"oid": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 120}
            rows.append(row)
        return rows

    def _commit(self, repo: str, branch: str, lines: list[dict]) -> None:
        hub = self.server_hub
        if hub.refuse_commits:
            self._answer(403, {"error": "you may not write here"})
            return
        parent = next(line["value"] for line in lines if line["key"] == "header").get("parentCommit")
        if parent is not None and parent != hub.commits(repo, branch)[-1]:
            self._answer(412, {"error": "the branch has moved on"})
            return
        files = dict(hub.files(repo, branch))
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
                hub.repositories[repo].lfs.discard(value["path"])
            elif line["key"] == "deletedFile":
                del files[value["path"]]
            elif line["key"] == "lfsFile":
                files[value["path"]] = hub.blobs[value["oid"]]
                hub.repositories[repo].lfs.add(value["path"])
        commit = hub.commit(repo, files, branch)
        self._answer(200, {"commitUrl": f"{hub.page(repo)}/commit/{commit}", "commitOid": commit})

    def _resolve(self, repo: str, revision: str, path: str) -> None:
        hub = self.server_hub
        found = hub.repositories[repo].find(revision) if repo in hub.repositories else None
        if found is None:
            self._missing("Repo" if repo not in hub.repositories else "Revision")
            return
        commit, files = found
        body = files.get(path)
        if body is None:
            self._answer(404, {}, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        elif path in hub.repositories[repo].lfs:  # as on the Hub: elsewhere, under the name of its content
            oid = hashlib.sha256(body).hexdigest()
            hub.blobs[oid] = body
            linked = {"X_Linked_Etag": f'"{oid}"', "X_Linked_Size": str(len(body))}
            store = f"http://localhost:{hub.server.server_port}/lfs/{oid}"  # another host, so the HEAD stays here
            self._answer(302, {}, body=b"", X_Repo_Commit=commit, Location=store, **linked)
        else:
            self._answer(200, body=body, ETag=f'"{_git_oid(body)}"', X_Repo_Commit=commit)


def _git_oid(body: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
