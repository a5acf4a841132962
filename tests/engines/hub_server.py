"""
A Hub on loopback: the HTTP protocol that huggingface_hub 1.x speaks to push a repository and to load it back.

Uploads: `create_repo`, `validate-yaml`, `preupload`, the LFS batch with its `PUT`, and `commit` as ndjson. Downloads:
`resolve` by `HEAD` and `GET`, `tree` and the model's information. Every commit is one version of all files. As the Hub
does, it takes weights as LFS objects only, checks their hashes, wants a token, and refuses metadata that names models
or data sets by anything but a Hub id. Xet is not spoken: its client is part of a native library, so clients
need `HF_HUB_DISABLE_XET=1`, and then fall back on LFS.
"""

import base64
import hashlib
import json
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import yaml


USER = "tester"
TOKEN = "hf_" + "t" * 34


def git_oid(content: bytes) -> str:
    """Id of a blob in git, the etag of a regular file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class HubServer:
    """
    The server, as a context manager.

    Args:
        fail (`dict[tuple[str, str], int]`, *optional*):
            Status to answer with instead, per operation (`"preupload"`, `"batch"` or `"commit"`) and
            repository; 0 drops the connection.
    """

    def __init__(self, fail: dict[tuple[str, str], int] | None = None) -> None:
        self.fail = fail or {}
        self.commits: dict[str, list[tuple[str, str, dict[str, bytes]]]] = {}  # repo: (oid, message, files)
        self.lfs_paths: set[str] = set()
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def environment(self) -> dict[str, str]:
        """What a client's environment needs beside its own."""
        return {"HF_ENDPOINT": self.endpoint, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}

    def files(self, repo: str) -> dict[str, bytes]:
        """Files of the last commit."""
        return self.commits[repo][-1][2]

    def messages(self, repo: str) -> list[str]:
        """Messages of all commits but the first, empty one."""
        return [message for _, message, _ in self.commits[repo][1:]]

    def commit(self, repo: str, message: str, files: dict[str, bytes]) -> str:
        """Add a version."""
        oid = hashlib.sha1(f"{repo}{len(self.commits[repo])}{message}".encode()).hexdigest()
        self.commits[repo].append((oid, message, files))
        return oid


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer

    ROUTES = (
        ("POST", r"/api/repos/create", "create"),
        ("GET", r"/api/whoami-v2", "whoami"),
        ("POST", r"/api/validate-yaml", "validate"),
        ("POST", r"/api/models/([^/]+/[^/]+)/preupload/([^/]+)", "preupload"),
        ("POST", r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", "batch"),
        ("PUT", r"/lfs/([0-9a-f]{64})", "put"),
        ("POST", r"/api/models/([^/]+/[^/]+)/commit/([^/]+)", "commit"),
        ("GET", r"/api/models/([^/]+/[^/]+)/tree/([^/]+)(?:/(.+))?", "tree"),
        ("GET", r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", "info"),
        ("(?:GET|HEAD)", r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", "resolve"),
    )

    def handle_request(self) -> None:
        path = urlsplit(self.path).path
        self.body = self.read_body()
        for method, pattern, operation in self.ROUTES:
            match = re.fullmatch(pattern, path)
            if match and re.fullmatch(method, self.command):
                with self.hub.lock:
                    self.hub.requests.append((operation, path))
                    return self.dispatch(operation, [unquote(group) if group else "" for group in match.groups()])
        self.answer(404, {"error": f"no route for {self.command} {path}"}, {"X-Error-Code": "RepoNotFound"})

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    def log_message(self, *arguments: object) -> None:
        pass  # `HubServer.requests` has them

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def dispatch(self, operation: str, groups: list[str]) -> None:
        status = self.hub.fail.get((operation, groups[0] if groups else ""))
        if status == 0:
            self.close_connection = True
            return self.connection.shutdown(socket.SHUT_RDWR)
        if status is not None:
            return self.answer(status, {"error": "as told"})
        # The pre-signed addresses of LFS need no token, nor does reading a public repository.
        if (
            operation not in ("put", "resolve", "tree", "info")
            and self.headers.get("Authorization") != f"Bearer {TOKEN}"
        ):
            return self.answer(401, {"error": "Invalid credentials"})
        known = operation in ("create", "whoami", "validate", "put") or groups[0] in self.hub.commits
        if not known:
            return self.answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        getattr(self, f"on_{operation}")(*groups)

    def answer(self, status: int, content: object = None, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def on_whoami(self) -> None:
        self.answer(200, {"type": "user", "name": USER, "orgs": [], "auth": {"type": "access_token"}})

    def on_create(self) -> None:
        request = json.loads(self.body)
        repo = f"{request['organization'] or USER}/{request['name']}"
        exists = repo in self.hub.commits
        if not exists:
            self.hub.commits[repo] = []
            self.hub.commit(repo, "initial commit", {})
        self.answer(409 if exists else 200, {"url": f"{self.hub.endpoint}/{repo}"})

    def on_validate(self) -> None:
        content = json.loads(self.body)["content"]
        match = re.match(r"---\r?\n(.*?)\r?\n---", content, re.DOTALL)
        metadata = yaml.safe_load(match[1]) if match else {}
        errors = []
        for key in ("base_model", "datasets"):
            values = metadata.get(key) or []
            for value in [values] if isinstance(values, str) else values:
                if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(value)):
                    errors.append({"message": f'"{key}" with value "{value}" is not valid. Use a Hub id'})
        self.answer(400 if errors else 200, {"errors": errors, "warnings": []})

    def on_preupload(self, repo: str, revision: str) -> None:
        current = self.hub.files(repo)
        answers = []
        for file in json.loads(self.body)["files"]:
            path = file["path"]
            sample = base64.b64decode(file["sample"])
            is_lfs = path.endswith((".safetensors", ".bin", ".pt", ".png", ".parquet")) or b"\0" in sample
            oid = git_oid(current[path]) if path in current and path not in self.hub.lfs_paths else None
            mode = "lfs" if is_lfs else "regular"
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.answer(200, {"files": answers, "commitOid": self.hub.commits[repo][-1][0]})

    def on_batch(self, repo: str) -> None:
        answers = []
        for item in json.loads(self.body)["objects"]:
            answer = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.hub.objects:
                answer["actions"] = {"upload": {"href": f"{self.hub.endpoint}/lfs/{item['oid']}"}}
            answers.append(answer)
        self.answer(200, {"transfer": "basic", "objects": answers})

    def on_put(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self.answer(400, {"error": "hash of the object differs"})
        self.hub.objects[oid] = self.body
        self.answer(200, {})

    def on_commit(self, repo: str, revision: str) -> None:
        files = dict(self.hub.files(repo))
        message = ""
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                message = value["summary"]
            elif item["key"] == "file":
                content = base64.b64decode(value["content"])
                if value["path"].endswith(".safetensors"):
                    return self.answer(400, {"error": "binary files are LFS objects"})
                files[value["path"]] = content
            elif item["key"] == "lfsFile":
                if value["oid"] not in self.hub.objects:
                    return self.answer(400, {"error": f"{value['path']}: no object {value['oid']}"})
                files[value["path"]] = self.hub.objects[value["oid"]]
                self.hub.lfs_paths.add(value["path"])
            else:
                return self.answer(400, {"error": f"unknown operation {item['key']}"})
        oid = self.hub.commit(repo, message, files)
        url = f"{self.hub.endpoint}/{repo}/commit/{oid}"
        self.answer(200, {"success": True, "commitOid": oid, "commitUrl": url, "pullRequestUrl": None})

    def on_info(self, repo: str, revision: str) -> None:
        siblings = [{"rfilename": path} for path in self.hub.files(repo)]
        sha = self.hub.commits[repo][-1][0]
        self.answer(200, {"_id": sha, "id": repo, "sha": sha, "private": False, "tags": [], "siblings": siblings})

    def on_tree(self, repo: str, revision: str, folder: str) -> None:
        prefix = f"{folder}/" if folder else ""
        files = [
            {"type": "file", "path": path, "size": len(content), "oid": git_oid(content)}
            for path, content in self.hub.files(repo).items()
            if path.startswith(prefix)
        ]
        if folder and not files:
            return self.answer(404, {"error": "no such folder"}, {"X-Error-Code": "EntryNotFound"})
        self.answer(200, files)

    def on_resolve(self, repo: str, revision: str, path: str) -> None:
        sha = self.hub.commits[repo][-1][0]
        headers = {"X-Repo-Commit": sha}
        content = self.hub.files(repo).get(path)
        if content is None:
            return self.answer(404, {"error": "Entry not found"}, {**headers, "X-Error-Code": "EntryNotFound"})
        oid = hashlib.sha256(content).hexdigest() if path in self.hub.lfs_paths else git_oid(content)
        self.answer(200, content, {**headers, "ETag": f'"{oid}"', "Accept-Ranges": "none"})
