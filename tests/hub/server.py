"""A small Hub-compatible server on loopback, for tests: repositories, commits, LFS, redirects, ETags, ranges, tokens.

Written from the client's side: it answers what ``huggingface_hub`` asks. It can be told to misbehave.
"""

import base64
import hashlib
import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

LFS_FROM = 4096
"""Files of this size and more, and .safetensors, are LFS."""


@dataclass
class Repo:
    private: bool
    commits: list = field(default_factory=list)  # (oid, {path: content})

    @property
    def files(self):
        return self.commits[-1][1]

    def at(self, revision):
        if revision == "main":
            return self.commits[-1]
        return next((c for c in self.commits if c[0] == revision), None)


class Hub:
    """State, and what goes wrong next.

    Attributes:
        repos: By "owner/name".
        token: The one that may write and see private repositories.
        faults: Applied to bodies of large files, first to last: ("flip", n) changes byte n; ("cut", share) ends
            the connection after that share; ("stall", share) stops there, sets ``stalled`` and waits; ("slow",
            seconds) waits between blocks; None behaves.
        log: (method, path, range header) of each request.
    """

    def __init__(self, token="hf_testtoken0123456789"):
        self.token = token
        self.repos = {}
        self.lfs = {}
        self.faults = []
        self.log = []
        self.stalled = threading.Event()
        self.lock = threading.Lock()
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{port}"
        # Another host: the client follows redirects on the hub itself, and takes its token off for others.
        self.cdn_url = f"http://localhost:{port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def commit(self, repo_id, changes, private=False):
        """Change files as a push would; None deletes."""
        repo = self.repos.setdefault(repo_id, Repo(private))
        files = {**(repo.files if repo.commits else {}), **changes}
        files = {path: content for path, content in files.items() if content is not None}
        described = f"{repo_id}{len(repo.commits)}{sorted((p, hashlib.sha1(c).hexdigest()) for p, c in files.items())}"
        oid = hashlib.sha1(described.encode()).hexdigest()
        repo.commits.append((oid, files))
        return oid


def _is_lfs(path, size):
    return path.endswith(".safetensors") or size >= LFS_FROM


def _git_sha1(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_):
        pass

    def _json(self, value, status=200, **headers):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for key, text in headers.items():
            self.send_header(key.replace("_", "-"), text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _fail(self, status, code):
        self._json({"error": code}, status, X_Error_Code=code, X_Error_Message=code)

    def _body(self):
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _authorized(self):
        return self.headers.get("Authorization") == f"Bearer {self.hub.token}"

    def _repo(self, repo_id):
        """The repository, or None after answering as the hub does: what you may not see does not exist."""
        repo = self.hub.repos.get(repo_id)
        if repo is None or (repo.private and not self._authorized()):
            self._fail(404 if self._authorized() else 401, "RepoNotFound")
            return None
        return repo

    def _at(self, repo, revision):
        found = repo.at(unquote(revision)) if repo.commits else ("0" * 40, {})
        if found is None:
            self._fail(404, "RevisionNotFound")
        return found

    def handle_one_request(self):
        try:
            super().handle_one_request()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _route(self):
        url = urlsplit(self.path)
        with self.hub.lock:
            self.hub.log.append((self.command, unquote(url.path), self.headers.get("Range")))
        for pattern, name in _ROUTES[self.command]:
            if match := re.fullmatch(pattern, url.path):
                return getattr(self, name)(*match.groups(), query=parse_qs(url.query))
        return self._fail(404, "EntryNotFound")

    do_GET = do_HEAD = do_POST = do_PUT = _route

    # -- reading -------------------------------------------------------------------------------------------

    def list_models(self, *, query):
        author = query.get("author", [""])[0]
        seen = [
            n for n, r in self.hub.repos.items() if n.startswith(f"{author}/") and (not r.private or self._authorized())
        ]
        self._json([{"id": name, "modelId": name, "private": False, "tags": []} for name in seen])

    def repo_info(self, repo_id, revision=None, *, query):
        repo = self._repo(repo_id)
        found = repo and self._at(repo, revision or "main")
        if found:
            siblings = [{"rfilename": path} for path in found[1]]
            self._json({"id": repo_id, "sha": found[0], "siblings": siblings, "private": repo.private, "tags": []})

    def tree(self, repo_id, revision, *, query):
        repo = self._repo(repo_id)
        found = repo and self._at(repo, revision)
        if found:
            entries = []
            for path, content in found[1].items():
                entry = {"type": "file", "path": path, "size": len(content), "oid": _git_sha1(content)}
                if _is_lfs(path, len(content)):
                    sha256 = hashlib.sha256(content).hexdigest()
                    entry["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 130}
                entries.append(entry)
            self._json(entries)

    def resolve(self, repo_id, revision, path, *, query):
        repo = self._repo(repo_id)
        found = repo and self._at(repo, revision)
        if not found:
            return
        content = found[1].get(unquote(path))
        if content is None:
            self._json({"error": "no file"}, 404, X_Error_Code="EntryNotFound", X_Repo_Commit=found[0])
        elif _is_lfs(path, len(content)):
            sha256 = hashlib.sha256(content).hexdigest()
            self.hub.lfs[sha256] = content
            self._json(
                {}, 302, Location=f"{self.hub.cdn_url}/cdn/{sha256}", X_Repo_Commit=found[0],
                X_Linked_Etag=f'"{sha256}"', X_Linked_Size=str(len(content)),
            )  # fmt: skip
        else:
            self._content(content, f'"{_git_sha1(content)}"', X_Repo_Commit=found[0])

    def cdn(self, sha256, *, query):
        if "Authorization" in self.headers:
            return self._fail(400, "TokenSentToStorage")
        return self._content(self.hub.lfs[sha256], f'"{sha256}"')

    def _content(self, content, etag, **headers):
        size, start = len(content), 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        self.send_response(206 if asked else 200)
        if asked:
            start = int(asked[1])
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.send_header("Content-Length", str(size - start))
        self.send_header("ETag", etag)
        self.send_header("Accept-Ranges", "bytes")
        for key, text in headers.items():
            self.send_header(key.replace("_", "-"), text)
        self.end_headers()
        if self.command == "HEAD":
            return
        kind, value = (self.hub.faults.pop(0) if self.hub.faults and size >= LFS_FROM else None) or (None, None)
        if kind == "flip":
            content = content[:value] + bytes([content[value] ^ 1]) + content[value + 1 :]
        if kind == "cut":
            self.wfile.write(content[start : int(size * value)])
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(2)
            return
        if kind == "stall":
            self.wfile.write(content[start : int(size * value)])
            self.wfile.flush()
            self.hub.stalled.set()
            self.rfile.read(1)  # until the client is gone
            self.close_connection = True
            return
        for at in range(start, size, 65536):
            self.wfile.write(content[at : min(at + 65536, size)])
            if kind == "slow":
                time.sleep(value)

    # -- writing -------------------------------------------------------------------------------------------

    def create(self, *, query):
        asked = json.loads(self._body())
        if not self._authorized():
            return self._fail(401, "Unauthorized")
        repo_id = f"{asked.get('organization') or 'me'}/{asked['name']}"
        if repo_id in self.hub.repos:
            return self._json({"error": "exists", "url": f"{self.hub.url}/{repo_id}"}, 409, X_Error_Code="RepoExists")
        self.hub.repos[repo_id] = Repo(asked.get("visibility") == "private" or bool(asked.get("private")))
        self.hub.commit(repo_id, {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"})
        return self._json({"url": f"{self.hub.url}/{repo_id}", "id": repo_id, "name": repo_id})

    def whoami(self, *, query):
        if not self._authorized():
            return self._fail(401, "Unauthorized")
        return self._json({"name": "me", "type": "user", "orgs": [], "auth": {"type": "access_token"}})

    def validate_yaml(self, *, query):
        self._body()
        self._json({"errors": [], "warnings": []})

    def preupload(self, repo_id, revision, *, query):
        asked = json.loads(self._body())
        if self._repo(repo_id) is None:
            return
        modes = [
            {
                "path": f["path"],
                "uploadMode": "lfs" if _is_lfs(f["path"], f["size"]) else "regular",
                "shouldIgnore": False,
            }
            for f in asked["files"]
        ]
        self._json({"files": modes})

    def lfs_batch(self, repo_id, *, query):
        asked = json.loads(self._body())
        if not self._authorized():
            return self._fail(401, "Unauthorized")
        objects = []
        for one in asked["objects"]:
            entry = {"oid": one["oid"], "size": one["size"]}
            if one["oid"] not in self.hub.lfs:
                header = {}
                verify = {"href": f"{self.hub.url}/lfs/verify", "header": header}
                entry["actions"] = {
                    "upload": {"href": f"{self.hub.url}/lfs/{one['oid']}", "header": header},
                    "verify": verify,
                }
            objects.append(entry)
        return self._json({"transfer": "basic", "objects": objects})

    def lfs_put(self, sha256, *, query):
        content = self._body()
        if hashlib.sha256(content).hexdigest() != sha256:
            return self._fail(400, "BadDigest")
        self.hub.lfs[sha256] = content
        return self._json({})

    def lfs_verify(self, *, query):
        asked = json.loads(self._body())
        held = self.hub.lfs.get(asked["oid"])
        return self._json({}) if held is not None and len(held) == asked["size"] else self._fail(404, "NotUploaded")

    def commit(self, repo_id, revision, *, query):
        lines = [json.loads(line) for line in self._body().splitlines() if line]
        if not self._authorized():
            return self._fail(401, "Unauthorized")
        if self._repo(repo_id) is None:
            return None
        changes = {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                changes[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                changes[value["path"]] = self.hub.lfs[value["oid"]]
            elif line["key"] == "deletedFile":
                changes[value["path"]] = None
        oid = self.hub.commit(repo_id, changes)
        return self._json({"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{repo_id}/commit/{oid}"})


_ID = r"([\w.-]+/[\w.-]+)"
_READ = [
    (r"/api/models", "list_models"),
    (r"/api/whoami-v2", "whoami"),
    (rf"/api/models/{_ID}/tree/([^/]+)/?", "tree"),
    (rf"/api/models/{_ID}/revision/([^/]+)", "repo_info"),
    (rf"/api/models/{_ID}", "repo_info"),
    (rf"/{_ID}/resolve/([^/]+)/(.+)", "resolve"),
    (r"/cdn/(\w+)", "cdn"),
]
_ROUTES = {
    "GET": _READ,
    "HEAD": _READ,
    "PUT": [(r"/lfs/(\w+)", "lfs_put")],
    "POST": [
        (r"/api/repos/create", "create"),
        (r"/api/validate-yaml", "validate_yaml"),
        (rf"/api/models/{_ID}/preupload/([^/]+)", "preupload"),
        (rf"/api/models/{_ID}/commit/([^/]+)", "commit"),
        (rf"/{_ID}\.git/info/lfs/objects/batch", "lfs_batch"),
        (r"/lfs/verify", "lfs_verify"),
    ],
}
