"""A Hub in memory on the loopback interface: create, preupload, commit, tag, resolve, over real HTTP.

Clients read their endpoint when huggingface_hub is imported, so they run in processes of their own with
`LoopbackHub.environment(home)`.
"""

import base64
import hashlib
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class LoopbackHub:
    def __init__(self):
        self.commits = {}  # repo -> [(sha, {path: bytes})], oldest first
        self.tags = {}  # repo -> {tag: sha}
        self.requests = []  # "GET /path", in order
        self.unknown = []  # what nobody taught this server
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()

    def environment(self, home, **more):
        """Environment of a client: this endpoint, an own cache, nothing inherited that would lead elsewhere."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
        ours = {"HF_ENDPOINT": self.endpoint, "HF_TOKEN": "hf_dummy", "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
        return {**kept, **ours, "HF_HUB_DISABLE_TELEMETRY": "1", **more}

    def create(self, repo):
        with self._lock:
            known = repo in self.commits
            self.commits.setdefault(repo, [(self._sha(repo, 0), {".gitattributes": b""})])
            self.tags.setdefault(repo, {})
        return known

    def commit(self, repo, changes, deleted=()):
        with self._lock:
            history = self.commits[repo]
            files = {path: body for path, body in {**history[-1][1], **changes}.items() if path not in deleted}
            history.append((self._sha(repo, len(history)), files))
            return history[-1][0]

    def files(self, repo, revision="main"):
        """Return (sha, {path: bytes}) of a revision, or None: a branch, a tag or a commit."""
        history = self.commits.get(repo, [])
        sha = self.tags.get(repo, {}).get(revision, revision)
        found = [commit for commit in history if commit[0] == sha]
        return history[-1] if history and revision == "main" else (found[0] if found else None)

    @staticmethod
    def _sha(repo, index):
        return hashlib.sha1(f"{repo} {index}".encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def answer(self, status, body=b"", **headers):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self):
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def parts(self):
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        return path.strip("/").split("/")

    def missing(self, code, **headers):
        self.answer(404, {"error": code}, X_Error_Code=code, X_Error_Message=code, **headers)

    def do_POST(self):
        body, parts = self.body(), self.parts()
        match parts:
            case ["api", "repos", "create"]:
                wanted = json.loads(body)
                repo = f"{wanted.get('organization') or 'me'}/{wanted['name'].split('/')[-1]}"
                known = self.hub.create(repo)
                url = f"{self.hub.endpoint}/{repo}"
                self.answer(409 if known else 200, {"url": url, "name": repo, "id": repo})
            case ["api", "validate-yaml"]:
                self.answer(200, {"errors": [], "warnings": []})
            case ["api", "models", owner, name, "preupload", _]:
                files = json.loads(body)["files"] if f"{owner}/{name}" in self.hub.commits else []
                plan = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
                self.answer(200, {"files": [{"path": file["path"], **plan} for file in files]})
            case ["api", "models", owner, name, "commit", _]:
                self.take_commit(f"{owner}/{name}", body)
            case ["api", "models", owner, name, "tag", revision]:
                repo, tag = f"{owner}/{name}", json.loads(body)["tag"]
                status = 409 if tag in self.hub.tags[repo] else 200
                self.hub.tags[repo].setdefault(tag, self.hub.files(repo, revision)[0])
                self.answer(status, {})
            case _:
                self.hub.unknown.append(self.hub.requests[-1])
                self.missing("EntryNotFound")

    def take_commit(self, repo, body):
        changes, deleted = {}, set()
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                changes[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "deletedFile":
                deleted.add(line["value"]["path"])
        sha = self.hub.commit(repo, changes, deleted)
        url = f"{self.hub.endpoint}/{repo}/commit/{sha}"
        self.answer(200, {"success": True, "commitUrl": url, "commitOid": sha})

    def do_GET(self):
        parts = self.parts()
        match parts:
            case ["api", "whoami-v2"]:
                self.answer(200, {"name": "me", "type": "user", "orgs": []})
            case ["api", "models", owner, name, *revision]:
                self.describe(f"{owner}/{name}", revision)
            case [owner, name, "resolve", revision, *path]:
                self.resolve(f"{owner}/{name}", revision, "/".join(path))
            case _:
                self.hub.unknown.append(self.hub.requests[-1])
                self.missing("EntryNotFound")

    def do_HEAD(self):
        self.do_GET()

    def describe(self, repo, rest):
        kind, revision = (rest[0], rest[1]) if len(rest) > 1 else ("revision", "main")
        commit = self.hub.files(repo, revision)
        if commit is None:
            return self.missing("RevisionNotFound" if repo in self.hub.commits else "RepoNotFound")
        sha, files = commit
        if kind == "tree":
            return self.answer(
                200, [{"type": "file", "path": path, "size": len(body), "oid": sha} for path, body in files.items()]
            )
        return self.answer(
            200, {"id": repo, "modelId": repo, "sha": sha, "siblings": [{"rfilename": path} for path in files]}
        )

    def resolve(self, repo, revision, path):
        commit = self.hub.files(repo, revision)
        if commit is None:
            return self.missing("RevisionNotFound" if repo in self.hub.commits else "RepoNotFound")
        sha, files = commit
        if path not in files:
            return self.missing("EntryNotFound", X_Repo_Commit=sha)
        etag = hashlib.sha1(files[path]).hexdigest()
        return self.answer(200, files[path], X_Repo_Commit=sha, ETag=f'"{etag}"')
