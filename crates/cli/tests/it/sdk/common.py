"""A published client, with its answers checked."""

import collections
import importlib
import pathlib
import uuid

import aionis_sdk

import shapes


def expect(found, wanted, what):
    if found != wanted:
        raise AssertionError(f"{what}: {found!r:.600} instead of {wanted!r:.600}")


class Client:
    """The client under test; `call` insists on success and on the answer's shape."""

    def __init__(self, settings, **options):
        home = pathlib.Path(aionis_sdk.__file__).resolve().parents[1]
        expect(home, pathlib.Path(settings["sdk"]).resolve(), "the client that was loaded")
        options.setdefault("api_key", settings.get("api_key"))
        options.setdefault("base_url", settings["base_url"])
        self.sdk = aionis_sdk.AionisClient(**options)
        self.types = (
            importlib.import_module("aionis_sdk.types") if (home / "aionis_sdk" / "types.py").exists() else None
        )
        self.sent = collections.defaultdict(set)

    def call(self, method, payload, shape):
        self.sent[method] |= set(payload)
        request_id = str(uuid.uuid4())
        answer = getattr(self.sdk, method)(payload, request_id=request_id)
        expect((answer["status"], answer["request_id"]), (200, request_id), method)
        shapes.check(answer["data"], shape, method)
        return answer["data"]


def refused(status, code, client, method, payload, **options):
    """Insists on a refusal, told by the client's own class, and returns it."""
    options.setdefault("request_id", f"refused-{uuid.uuid4()}")
    options.setdefault("retry", {"max_retries": 0})
    try:
        answer = getattr(client.sdk, method)(payload, **options)
    except aionis_sdk.AionisApiError as error:
        expect((error.status, error.code), (status, code), f"{method}: {error}")
        expect(error.request_id, options["request_id"], f"{method}: request id")
        return error
    raise AssertionError(f"{method} was not refused: {answer}")


def unreachable(client, method, payload, **options):
    """Insists that the client tells of a network failure, and returns it."""
    options.setdefault("request_id", f"unreachable-{uuid.uuid4()}")
    options.setdefault("retry", {"max_retries": 0})
    try:
        answer = getattr(client.sdk, method)(payload, **options)
    except aionis_sdk.AionisNetworkError as error:
        expect(error.request_id, options["request_id"], f"{method}: request id")
        return error
    raise AssertionError(f"{method} reached somebody: {answer}")
