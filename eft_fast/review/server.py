"""The page of a review, served to this machine alone.

Loopback only; the address holds a word that nobody else knows, the name that the browser asks for
has to be this machine's, and changes come as JSON from the page itself, so that no other page that
happens to be open can read or change anything.
"""

from __future__ import annotations

import json
import secrets
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from eft_fast.files import OutputError
from eft_fast.review.describe import describe_all, describe_person, encode_photo
from eft_fast.review.session import ReviewSession
from eft_fast.viz.page import make_environment, script_json

HOST: Final = "127.0.0.1"
#: Most bytes of a request.
_MOST: Final = 65_536
_POLICY: Final = (
    "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


class ReviewServer:
    """Serves one session; ``with`` starts and ends it.

    Args:
        session: What is reviewed.
        port: 0: any that is free.

    Raises:
        OSError: If the port is taken.
    """

    def __init__(self, session: ReviewSession, port: int = 0) -> None:
        self.session = session
        self._token, self._lock = secrets.token_urlsafe(16), threading.Lock()
        self._server = _Server((HOST, port), _make_handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    @property
    def address(self) -> str:
        """What to open in a browser."""
        return f"http://{HOST}:{self.port}/{self._token}/"

    def __enter__(self) -> ReviewServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def is_own(self, host: str | None) -> bool:
        """Whether a browser asked for this machine, and not for a name that leads here."""
        return host in (f"{HOST}:{self.port}", f"localhost:{self.port}")

    def answer(self, path: str) -> tuple[bytes, str] | None:
        """What a path holds and of which kind; None if there is nothing."""
        parts = path.partition("?")[0].strip("/").split("/")
        if not secrets.compare_digest(parts[0].encode(), self._token.encode()):
            return None
        with self._lock:
            match parts[1:]:
                case []:
                    return self._page(), "text/html; charset=utf-8"
                case ["photo", row] if self._is_row(row):
                    try:
                        return encode_photo(self.session.photo(int(row))), "image/jpeg"
                    except ValueError:
                        return None
                case ["person", row] if self._is_row(row):
                    return _json(describe_person(self.session, int(row)))
        return None

    def change(self, path: str, asked: dict[str, Any]) -> tuple[bytes, str] | None:
        """Do what is asked; answer with the person as it then is, or with a sentence."""
        parts = path.strip("/").split("/")
        if not secrets.compare_digest(parts[0].encode(), self._token.encode()):
            return None
        with self._lock:
            try:
                match parts[1:]:
                    case ["save"]:
                        return _json({"saved": str(self.session.save())})
                    case ["undo"]:
                        row = self.session.undo()
                        return _json({"row": row} if row is None else self._state(row))
                    case ["person", row] if self._is_row(row):
                        self._act(int(row), asked)
                        return _json(self._state(int(row)))
            except (ValueError, OutputError) as error:
                return _json({"refused": str(error)})
            except (KeyError, TypeError) as error:
                return _json({"refused": f"review: the request is not understood ({error})"})
        return None

    def _act(self, row: int, asked: dict[str, Any]) -> None:
        session = self.session
        match asked["do"]:
            case "move":
                session.move(row, int(asked["keypoint"]), float(asked["x"]), float(asked["y"]))
            case "remove":
                session.remove(row, int(asked["keypoint"]))
            case "flip":
                session.flip(row, str(asked["bone"]))
            case "reset":
                session.reset(row)
            case "say":
                session.say(row, asked["verdict"], str(asked.get("note", "")))
            case other:
                raise ValueError(f"review: nobody can do {str(other)[:40]!r}")

    def _state(self, row: int) -> dict[str, Any]:
        return {"person": describe_person(self.session, row), "saved": self.session.is_saved}

    def _is_row(self, text: str) -> bool:
        return text.isascii() and text.isdigit() and int(text) < len(self.session)

    def _page(self) -> bytes:
        content = {
            "people": describe_all(self.session),
            "place": str(self.session.place),
            "saved": self.session.is_saved,
        }
        template = make_environment().get_template("review.html.j2")
        return template.render(content=script_json(content)).encode("utf-8", "backslashreplace")


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away in the middle of an answer is nobody's fault."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def _json(content: dict[str, Any]) -> tuple[bytes, str]:
    return json.dumps(content, allow_nan=False).encode("utf-8"), "application/json"


def _make_handler(owner: ReviewServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._send(owner.answer(self.path) if owner.is_own(self.headers["Host"]) else None)

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            is_json = self.headers.get("Content-Type", "") == "application/json"
            is_own = owner.is_own(self.headers["Host"])
            if not (is_json and is_own and length.isdigit() and int(length) <= _MOST):
                self.close_connection = True
                self._send(None)
                return
            try:
                asked = json.loads(self.rfile.read(int(length)) or b"{}")
            except ValueError:
                asked = None
            self._send(owner.change(self.path, asked) if isinstance(asked, dict) else None)

        def _send(self, found: tuple[bytes, str] | None) -> None:
            data, kind = found or (b"there is nothing here\n", "text/plain; charset=utf-8")
            self.send_response(HTTPStatus.OK if found else HTTPStatus.NOT_FOUND)
            for name, value in (
                ("Content-Type", kind),
                ("Content-Length", str(len(data))),
                ("Cache-Control", "no-store"),
                ("X-Content-Type-Options", "nosniff"),
                ("Referrer-Policy", "no-referrer"),
                ("Content-Security-Policy", _POLICY),
            ):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing: the terminal is the command's."""

    return Handler
