"""A stand-in of the Hugging Face Hub: what huggingface_hub asks of it to read and write models."""

import base64
import hashlib
import http.server
import json
import re
from urllib.parse import unquote, urlsplit

TOKEN = "hf_good"


class Hub(http.server.ThreadingHTTPServer):
    """Repository → its commits, oldest first: an identifier and what its files hold, by name."""

    def __init__(self):
        self.repositories, self.large, self.broken = {}, {}, False
        super().__init__(("127.0.0.1", 0), Page)
        self.url = f"http://127.0.0.1:{self.server_port}"

    def commit(self, repository, files):
        """The identifier of a new commit."""
        commits = self.repositories.setdefault(repository, [])
        identifier = hashlib.sha1(f"{repository} {len(commits)}".encode()).hexdigest()
        commits.append((identifier, {**(commits[-1][1] if commits else {}), **files}))
        return identifier


class Page(http.server.BaseHTTPRequestHandler):
    def reply(self, status, value=None, content=b"", **headers):
        content = content if value is None else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Length": len(content), **headers}.items():
            self.send_header(name.replace("_", "-"), str(text))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def find(self, repository, revision):
        commits = self.server.repositories.get(repository)
        if commits is None:
            return self.reply(404, {"error": "no repository"}, X_Error_Code="RepoNotFound")
        named = {**dict(commits), "main": commits[-1][1]}
        if revision not in named:
            return self.reply(404, {"error": "no revision"}, X_Error_Code="RevisionNotFound")
        return (commits[-1][0] if revision == "main" else revision), named[revision]

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", path):
            if commit := self.find(*found.groups()):
                kind = {"type": "file", "oid": "0" * 40}
                self.reply(200, [{**kind, "path": n, "size": len(c)} for n, c in commit[1].items()])
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            if commit := self.find(found[1], found[2] or "main"):
                siblings = [{"rfilename": name} for name in commit[1]]
                self.reply(200, {"id": found[1], "sha": commit[0], "siblings": siblings})
        elif (found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)) is None:
            self.reply(404)
        elif commit := self.find(found[1], found[2]):
            content = commit[1][found[3]]
            etag = f'"{hashlib.sha256(content).hexdigest()}"'
            self.reply(200, content=content, ETag=etag, X_Repo_Commit=commit[0])

    do_HEAD = do_GET

    def body(self):
        if length := self.headers["Content-Length"]:
            return self.rfile.read(int(length))
        content = b""
        while size := int(self.rfile.readline(), 16):  # sent in chunks
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def do_PUT(self):
        self.server.large[self.path.rpartition("/")[2]] = self.body()
        self.reply(200)

    def do_POST(self):
        body = self.body()
        path = unquote(urlsplit(self.path).path)
        repository = re.search(r"^(?:/api/models)?/([^/]+/[^/]+?)(?:\.git)?/", path)
        if path == "/api/validate-yaml":
            assert json.loads(body)["content"].startswith("---\n")
            self.reply(200, {"errors": [], "warnings": []})
        elif self.headers["Authorization"] != f"Bearer {TOKEN}":
            self.reply(401, {"error": "Invalid username or password."})
        elif path == "/api/repos/create":
            name = "{organization}/{name}".format(**json.loads(body))
            known = name in self.server.repositories
            if not known:
                self.server.commit(name, {".gitattributes": b""})
            self.reply(409 if known else 200, {"url": f"{self.server.url}/{name}"})
        elif "/preupload/" in path:
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            self.reply(200, {"files": files})
        elif path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            for file in objects:
                href = f"{self.server.url}/large/{file['oid']}"
                file["actions"] = {"upload": {"href": href}}
            self.reply(200, {"objects": objects, "transfer": "basic"})
        elif self.server.broken:
            self.reply(412, {"error": "a commit has happened since"})
        else:
            header, *changes = map(json.loads, body.splitlines())
            assert header["value"]["parentCommit"] == self.server.repositories[repository[1]][-1][0]
            identifier = self.server.commit(repository[1], dict(map(self.changed, changes)))
            url = f"{self.server.url}/{repository[1]}/commit/{identifier}"
            self.reply(200, {"success": True, "commitOid": identifier, "commitUrl": url})

    def changed(self, line):
        value = line["value"]
        if line["key"] == "file":
            return value["path"], base64.b64decode(value["content"])
        return value["path"], self.server.large[value["oid"]]

    def log_message(self, *arguments):
        pass
