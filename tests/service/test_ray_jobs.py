"""Ray's HTTP interface, beside servers whose answers are not Ray's."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from symadj.api.cluster_view import ClusterView
from symadj.service.ray_jobs import RayJobs, RayUnreachableError
from symadj.service.settings import Settings

# Of a proxy that asks for a name, of a server that has nothing to say, and of one that means something else.
NOT_RAYS = ["<html>Sign in</html>", "", "[]", "{}", '{"data": {"result": {"result": [{"node_id": "a"}]}}}', "null"]


@contextmanager
def answering(text: str, status: int = 200) -> Iterator[str]:
    """Answer every request with a text; yield the URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, format: str, *arguments: object) -> None:
            """Be quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("text", NOT_RAYS)
def test_an_answer_that_is_not_rays_is_taken_for_none(text: str) -> None:
    with answering(text) as url, closing(RayJobs(url)) as ray:
        for ask in (
            ray.nodes,
            ray.nodes_in_use,
            lambda: ray.job("job-1"),
            lambda: ray.submit("job-1", "python", "module", {}, {}),
        ):
            with pytest.raises(RayUnreachableError, match="not an answer of Ray's") as refused:
                ask()
            assert text in str(refused.value), "what was answered is told"
        assert ray.logs("job-1") == ""
        assert ClusterView(Settings(ray_address=url)).nodes() is None, "jobs can be submitted, and wait"


@pytest.mark.parametrize("status", [404, 502, 503])
def test_a_proxy_without_a_ray_behind_it_says_nothing_of_a_job(status: int) -> None:
    with answering("404 page not found", status) as url, closing(RayJobs(url)) as ray:
        for ask in (lambda: ray.job("job-1"), lambda: ray.submit("job-1", "python", "module", {}, {})):
            with pytest.raises(RayUnreachableError, match=f"status {status}: 404 page not found"):
                ask()
