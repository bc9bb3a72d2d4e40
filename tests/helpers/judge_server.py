"""A local server that speaks as much of OpenAI's chat protocol as a judge needs."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = str | int
"""What is said, or the status of an error."""
KEY = "sk-secret-of-the-test"
PROMPT_TOKENS, COMPLETION_TOKENS = 100, 7


class JudgeServer:
    """What it was asked, and how it answers: by the number of the question, from 0."""

    def __init__(self, answer: Callable[[int, dict[str, Any]], Answer]) -> None:
        self.answer = answer
        self.questions: list[dict[str, Any]] = []
        self.keys: set[str] = set()
        self.url = ""
        self.complaint = "no"
        self.page: tuple[str, bytes] | None = None
        """Content type and body that everything is answered with instead, where given."""
        self.lock = threading.Lock()

    @property
    def samples(self) -> list[list[str]]:
        """The sets of samples in the questions."""
        found = []
        for question in self.questions:
            said = question["messages"][1]["content"]
            found.append(json.loads(said[said.index("[") : said.rindex("]") + 1]))
        return found


@contextmanager
def judge_server(answer: Callable[[int, dict[str, Any]], Answer]) -> Iterator[JudgeServer]:
    """Serve on a free port of this machine."""
    state = JudgeServer(answer)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(200, {"object": "list", "data": []})

        def do_POST(self) -> None:
            question = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with state.lock:
                number = len(state.questions)
                state.questions.append(question)
                state.keys.add(self.headers["authorization"])
            said = state.answer(number, question)
            if isinstance(said, int):
                self._send(said, {"error": {"message": f"error: {state.complaint}"}})
                return
            message = {"role": "assistant", "content": said}
            self._send(
                200,
                {
                    "id": "x", "object": "chat.completion", "created": 0, "model": "judge",
                    "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                    "usage": {
                        "prompt_tokens": PROMPT_TOKENS,
                        "completion_tokens": COMPLETION_TOKENS,
                        "total_tokens": PROMPT_TOKENS + COMPLETION_TOKENS,
                    },
                },
            )  # fmt: skip

        def _send(self, status: int, document: dict[str, Any]) -> None:
            kind, body = state.page or ("application/json", json.dumps(document).encode())
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("retry-after-ms", "1")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
