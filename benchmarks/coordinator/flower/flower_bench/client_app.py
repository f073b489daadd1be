"""What a site answers: the arrays it was sent, and its numbers of the round added."""

from functools import cache

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from flower_bench.numbers import Arrays, draws, factor

app = ClientApp()
_NUM_EXAMPLES = 100


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answer as the site that the node's configuration names."""
    return answer(message, int(context.node_config["site"]), float(context.run_config["megabytes"]))


def answer(message: Message, site: int, megabytes: float) -> Message:
    """Return the site's reply."""
    round_number = int(message.content["config"]["server-round"])
    arrays = message.content["arrays"].to_numpy_ndarrays()
    moved = [
        array + numbers * factor(round_number)
        for array, numbers in zip(arrays, _draws(site, megabytes), strict=True)
    ]
    content = {
        "arrays": ArrayRecord(moved),
        "metrics": MetricRecord({"num-examples": _NUM_EXAMPLES}),
    }
    return Message(content=RecordDict(content), reply_to=message)


@cache
def _draws(site: int, megabytes: float) -> Arrays:
    return draws(site, megabytes)
