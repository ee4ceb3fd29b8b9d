"""A small server that speaks the part of the Hugging Face Hub's HTTP interface that push and pull use, on loopback.

It keeps whole revisions in memory: a commit is all or nothing, as on the Hub.
"""

import base64
import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

Files = dict[str, bytes]


@dataclass
class HubServer:
    """The server and its repositories; use as a context manager."""

    repositories: dict[str, list[tuple[str, Files]]] = field(default_factory=dict)
    """Repository to its revisions, oldest first: (commit, files)."""
    lfs: dict[str, bytes] = field(default_factory=dict)
    """Uploaded large files by their sha256."""
    use_lfs: bool = False
    """Answer that every file is to be uploaded by LFS."""
    tokens: list[str | None] = field(default_factory=list)
    """The authorisation that every request came with."""
    refuse_commits: bool = False

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

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def files(self, repo: str, revision: str = "main") -> Files:
        revisions = self.repositories[repo]
        return next(files for commit, files in reversed(revisions) if revision in ("main", commit))

    def commit(self, repo: str, files: Files) -> str:
        number = len(self.repositories.setdefault(repo, []))
        commit = hashlib.sha1(f"{repo}{number}".encode()).hexdigest()
        self.repositories[repo].append((commit, files))
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
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        if parts == ["api", "repos", "create"]:
            request = json.loads(data)
            repo = f"{request.get('organization') or 'me'}/{request['name']}"
            hub.commit(repo, {".gitattributes": b""})
            self._answer(200, {"url": f"{hub.url}/datasets/{repo}", "name": repo, "id": repo})
        elif parts == ["api", "validate-yaml"]:
            self._answer(200, {"errors": [], "warnings": []})
        elif parts[:2] == ["api", "datasets"]:
            self._api("/".join(parts[2:4]), parts[4:], data)
        elif parts[0] == "datasets" and parts[3:4] == ["resolve"]:
            self._resolve("/".join(parts[1:3]), parts[4], "/".join(parts[5:]))
        elif parts[0] == "datasets" and parts[-1] == "batch":
            wanted = json.loads(data)["objects"]
            links = [{**o, "actions": {"upload": {"href": f"{hub.url}/lfs/{o['oid']}"}}} for o in wanted]
            self._answer(200, {"transfer": "basic", "objects": links})
        elif parts[0] == "lfs" and self.command == "PUT":
            hub.lfs[parts[1]] = data
            self._answer(200, {})
        else:
            self._missing("Entry")

    do_GET = do_POST = do_HEAD = do_PUT = _handle  # noqa: N815  # the base class wants these names

    def _api(self, repo: str, rest: list[str], data: bytes) -> None:
        hub = self.server_hub
        if repo not in hub.repositories:
            self._missing("Repo")
        elif rest[:1] == ["preupload"]:
            mode = "lfs" if hub.use_lfs else "regular"
            files = [{"path": f["path"], "uploadMode": mode, "shouldIgnore": False} for f in json.loads(data)["files"]]
            self._answer(200, {"files": files})
        elif rest[:1] == ["commit"]:
            self._commit(repo, [json.loads(line) for line in data.splitlines() if line])
        elif not rest or rest[0] == "revision":
            revision = rest[1] if rest else "main"
            known = [commit for commit, _ in hub.repositories[repo]]
            if revision not in ("main", *known):
                self._missing("Revision")
                return
            names = [{"rfilename": name} for name in hub.files(repo, revision)]
            sha = known[-1] if revision == "main" else revision
            self._answer(200, {"id": repo, "sha": sha, "siblings": names, "private": False, "tags": [], "downloads": 0})
        elif rest[0] == "tree":
            rows = [
                {"type": "file", "path": path, "size": len(body), "oid": _git_oid(body)}
                for path, body in hub.files(repo, rest[1]).items()
            ]
            self._answer(200, rows)
        else:
            self._missing("Entry")

    def _commit(self, repo: str, lines: list[dict]) -> None:
        hub = self.server_hub
        if hub.refuse_commits:
            self._answer(403, {"error": "you may not write here"})
            return
        files = dict(hub.files(repo))
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                del files[value["path"]]
            elif line["key"] == "lfsFile":
                files[value["path"]] = hub.lfs[value["oid"]]
        commit = hub.commit(repo, files)
        self._answer(200, {"commitUrl": f"{hub.url}/datasets/{repo}/commit/{commit}", "commitOid": commit})

    def _resolve(self, repo: str, revision: str, path: str) -> None:
        hub = self.server_hub
        body = hub.files(repo, revision).get(path)
        commit = hub.repositories[repo][-1][0] if revision == "main" else revision
        if body is None:
            self._answer(404, {}, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        else:
            self._answer(200, body=body, ETag=f'"{_git_oid(body)}"', X_Repo_Commit=commit)


def _git_oid(body: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
