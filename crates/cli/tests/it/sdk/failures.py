"""What the clients make of refusals and failures, and what repeated requests do."""

import contextlib
import http.client
import http.server
import socket
import threading
import time
import unittest.mock

import aionis_sdk

import methods
import shapes
from common import Client, expect, refused, unreachable

NOTE = {"client_id": "note", "type": "event", "text_summary": "The ferry leaves at noon."}


def writing(settings, **more):
    return {"scope": settings["scope"], "input_text": "a note", "memory_lane": "shared", "nodes": [NOTE], **more}


def refusals(settings):
    """400 with issues and with details, 401, 403, 404."""
    client = Client(settings)
    wrong = writing(settings, nodes=[{"type": "poem"}, {"type": "event", "salience": 2}])
    error = refused(400, "invalid_request", client, "write", wrong)
    shapes.check(error.issues, [{"path": str, "message": str}], "issues")
    expect([issue["path"] for issue in error.issues], ["nodes.0.type", "nodes.1.salience"], "paths")
    expect(
        (str(error), error.details), ("request failed with status 400", None), "problems of fields come as issues alone"
    )
    for method, payload, path in (
        ("recall", {}, "query_embedding"),
        ("recall_text", {"query_text": ""}, "query_text"),
        ("rules_evaluate", {"context": {}, "limit": 0}, "limit"),
        ("tools_select", {"context": {}}, "candidates"),
        ("tools_feedback", {"input_text": "x", "context": {}, "candidates": ["a"], "selected_tool": "a"}, "outcome"),
    ):
        error = refused(400, "invalid_request", client, method, payload)
        expect(path in [issue["path"] for issue in error.issues], True, f"{method}: {error.issues}")
    unknown = "00000000-0000-4000-8000-000000000000"
    report = {
        "scope": settings["scope"],
        "input_text": "x",
        "outcome": "positive",
        "context": {},
        "candidates": ["a"],
        "selected_tool": "a",
    }
    error = refused(400, "decision_not_found_in_scope", client, "tools_feedback", {**report, "decision_id": unknown})
    wanted = {"decision_id": unknown, "scope": settings["scope"], "tenant_id": settings["tenant"]}
    expect(({name: error.details.get(name) for name in wanted}, error.issues), (wanted, None), "details")
    for options in ({"api_key": "wrong"}, {"api_key": None}, {"api_key": None, "auth_bearer": "a.b.c"}):
        error = refused(401, "unauthorized", Client(settings, **options), "write", writing(settings))
        expect((error.details, error.issues), (None, None), "nothing is told")
    asked = {"scope": settings["scope"], "query_text": "ferry", "consumer_agent_id": "ben"}
    error = refused(403, "identity_mismatch", client, "recall_text", asked)
    expect(error.details, {"field": "consumer_agent_id", "provided": "ben", "expected": settings["agent"]}, "details")
    refused(403, "forbidden", Client(settings, api_key=settings["reader_key"]), "write", writing(settings))
    elsewhere = Client(settings, base_url=settings["base_url"] + "/elsewhere")
    refused(404, "Not Found", elsewhere, "write", writing(settings))


def network(settings):
    """Nobody listens; somebody listens and never answers."""
    with socket.socket() as closed, socket.socket() as silent:
        closed.bind(("127.0.0.1", 0))
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        for one, options in ((closed, {}), (silent, {"timeout_s": 0.2})):
            client = Client(settings, base_url=f"http://127.0.0.1:{one.getsockname()[1]}")
            unreachable(client, "write", writing(settings), **options)


def saturated(settings):
    """With one recall a second, the next is told to come again, and when."""
    client = Client(settings)
    asked = {"scope": settings["scope"], "query_text": "ferry"}
    error = until_refused(client, asked)
    expect((error.status, error.code), (429, "rate_limited_recall"), "saturated")
    shapes.check(error.details, {"retry_after_ms": int, "waited_ms": int}, "details")
    pauses, sleep = [], time.sleep

    def pause(seconds):
        # The client waits as long as it was told, after which there is a token again.
        pauses.append(seconds)
        sleep(seconds)

    with unittest.mock.patch("aionis_sdk.client.time.sleep", pause):
        answer = client.sdk.recall_text(asked, retry={"max_retries": 1, "base_delay_s": 0.001, "jitter_ratio": 0})
    expect((pauses, answer["status"]), ([1.0], 200), "one pause of retry-after seconds, then an answer")


def until_refused(client, asked):
    for _ in range(20):
        try:
            client.sdk.recall_text(asked, retry={"max_retries": 0})
        except aionis_sdk.AionisApiError as error:
            return error
    raise AssertionError("nothing is ever refused")


def broken(settings):
    """The store is damaged: a table is gone."""
    client = Client(settings)
    for method, payload in (
        ("write", writing(settings)),
        ("recall_text", {"scope": settings["scope"], "query_text": "When does the ferry leave?"}),
    ):
        error = refused(500, "internal_error", client, method, payload)
        expect((error.details, error.issues), (None, None), "the inside is not told")
        expect("memory_nodes" in str(error), False, f"nor here: {error}")
    pauses = []
    with unittest.mock.patch("aionis_sdk.client.time.sleep", pauses.append):
        refused(500, "internal_error", client, "write", writing(settings), retry={"max_retries": 2})
    expect(len(pauses), 2, "a failure is tried again")


class Relay(http.server.BaseHTTPRequestHandler):
    """Passes requests on, and loses the first answer to each path."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        connection = http.client.HTTPConnection(*self.server.behind)
        connection.request("POST", self.path, body, dict(self.headers))
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        seen = self.server.seen.setdefault(self.path, [])
        seen.append((self.headers["x-request-id"], answer.status, data))
        self.close_connection = True
        if len(seen) == 1:
            return
        self.send_response(answer.status)
        for name in ("content-type", "x-request-id"):
            self.send_header(name, answer.headers[name])
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def losing_answers(settings):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Relay)
    host, port = settings["base_url"].removeprefix("http://").split(":")
    server.behind, server.seen = (host, int(port)), {}
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def retries(settings):
    """A request whose answer was lost is sent again by the client, under the same id, and has one effect."""
    direct = Client(settings)
    ids = methods.store(direct, settings)
    place = {"scope": settings["scope"]}
    select = {**place, "context": methods.DEPLOY, "candidates": methods.TOOLS}

    def positive():
        active = direct.sdk.rules_evaluate({**place, "context": methods.DEPLOY})["data"]["active"]
        return {match["rule_node_id"]: match["stats"]["positive"] for match in active}

    with losing_answers(settings) as relay:
        host, port = relay.server_address
        client = Client(settings, base_url=f"http://{host}:{port}", retry={"max_retries": 1, "base_delay_s": 0.001})
        written = client.call("write", writing(settings), shapes.WRITE)
        expect(
            (written["replayed"], written["nodes"][0]["status"]),
            (True, "created"),
            "the second answer repeats the first",
        )
        chosen = client.call("tools_select", select, shapes.SELECT)
        report = {
            **select,
            "outcome": "positive",
            "input_text": "it went well",
            "selected_tool": chosen["selection"]["selected"],
            "decision_id": chosen["decision"]["decision_id"],
        }
        credited = client.call("tools_feedback", report, shapes.TOOLS_FEEDBACK)
        expect(credited["updated_rules"], 2, "credited")
        expect(positive(), {ids["safe"]: 1, ids["fast"]: 1}, "and once only")
        client.call("recall_text", {**place, "query_text": "ferry"}, shapes.RECALL)
        for path, seen in relay.seen.items():
            expect(([status for _, status, _ in seen], len({request for request, _, _ in seen})), ([200, 200], 1), path)
        expect(len(relay.seen), 4, "paths")
        # Without a repetition the caller is told that the answer was lost; the write is the stored one anyway.
        relay.seen.clear()
        unreachable(client, "write", writing(settings))
    again = direct.call("write", writing(settings, input_text="another note"), shapes.WRITE)
    expect(
        again["commit_seq"], written["commit_seq"] + 2, "one commit for the write, one for the feedback, then this one"
    )
