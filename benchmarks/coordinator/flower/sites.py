"""All sites of a Flower federation, each a thread of this one process, as those of `bench_coordinator.py` are.

Each speaks Flower's Fleet API through Flower's own client and does what a SuperNode does, in the same order; what
it leaves out is the process of the ClientApp, which costs seconds and none of the server's time. So Flower's rounds
are shorter here than with SuperNodes.
"""

import argparse
import threading
import time
from functools import partial

from flower_bench.client_app import answer
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import (
    inflate_object_from_contents,
    pull_objects,
    push_object_contents_from_iterable,
)
from flwr.supernode.fleet_http_connection import http_request_response


def live(address: str, site: int, megabytes: float, poll_seconds: float) -> None:
    """Answer every message until the process ends."""
    with http_request_response(address, insecure=True) as connection:
        _, receive, send, _, _, pull, push, confirm = connection
        while True:
            received = receive()
            if received is None:
                time.sleep(poll_seconds)
                continue
            envelope, tree = received
            run_id, message_id = envelope.metadata.run_id, envelope.metadata.message_id
            contents = pull_objects(
                [part.object_id for part in iterate_object_tree(tree)], partial(pull, run_id)
            )
            confirm(run_id, message_id)
            message = inflate_object_from_contents(message_id, contents)
            message.metadata.__dict__["_message_id"] = message_id
            begun = time.monotonic()
            reply = answer(message, site, megabytes)
            with no_object_id_recompute():
                reply.metadata.__dict__["_message_id"] = reply.object_id
                objects = get_all_nested_objects(reply)
                wanted, session = send(reply, get_object_tree(reply), time.monotonic() - begun)
                push_object_contents_from_iterable(
                    ((name, each.deflate()) for name, each in objects.items() if name in wanted),
                    partial(push, run_id, session),
                )


def main() -> None:
    """Run the sites."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--superlink", required=True)
    parser.add_argument("--sites", type=int, required=True)
    parser.add_argument("--megabytes", type=float, required=True)
    parser.add_argument("--poll-seconds", type=float, required=True)
    arguments = parser.parse_args()
    threads = [
        threading.Thread(
            target=live, args=(arguments.superlink, number, arguments.megabytes, arguments.poll_seconds)
        )
        for number in range(arguments.sites)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
