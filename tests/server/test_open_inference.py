"""The Open Inference Protocol V2: by a real client over a real socket, and by hand where a client would not err."""

import base64
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from tests.server.harness import ADMIN_TOKEN, Coordinator, problem_of, running, settings_for
from tests.server.test_predictions import EchoPredictor
from tritonclient import http as triton
from tritonclient.utils import InferenceServerException

from pfedbayespt.protocol import ClassProbability, PredictionRequest, Uncertainty
from pfedbayespt.server.predictions.predictor import Answer, ServableVersion

PATH = "/v2/models/alpha/infer"
LENGTH = "Inference-Header-Content-Length"
SHARES = {"a": 0.25, "b": 0.5, "c": 0.25}


class WholePredictor(EchoPredictor):
    """Names all classes, the most probable first, and tells images apart by their length."""

    def predict(
        self, version: ServableVersion, request: PredictionRequest, site_id: str | None = None
    ) -> Answer:
        answer = super().predict(version, request, site_id)
        ranked = sorted(SHARES.items(), key=lambda entry: -entry[1])
        doubt = dict.fromkeys(Uncertainty.model_fields, 0.0) | {
            "total_entropy_nats": float(len(request.image))
        }
        prediction = answer.prediction.model_copy(
            update={
                "label": "b",
                "probabilities": tuple(ClassProbability(label=k, probability=v) for k, v in ranked),
                "uncertainty": Uncertainty(**doubt),
            }
        )
        return replace(answer, prediction=prediction)


@pytest.fixture(scope="module")
def predictor() -> WholePredictor:
    return WholePredictor()


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory, predictor: WholePredictor) -> Iterator[Coordinator]:
    folder: Path = tmp_path_factory.mktemp("open inference")
    limits = {"max_image_bytes": 100, "max_batch_images": 4, "max_batch_bytes": 5000}
    with running(settings_for(folder, **limits)) as coordinator:
        state = coordinator.http.app.state
        state.predictions = replace(state.predictions, predictor=predictor)
        coordinator.federation()
        yield coordinator


@pytest.fixture(scope="module")
def address(serving: Coordinator) -> Iterator[str]:
    """Where the same application answers on a real socket."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(serving.http.app, lifespan="off", log_config=None))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.fixture
def client(address: str) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(address) as client:
        yield client


def authorised() -> dict[str, str]:
    """Headers for one call: the client adds its own to the dictionary that it is given."""
    return {"Authorization": f"Bearer {ADMIN_TOKEN}"}


def image_input(*images: bytes, binary: bool = True) -> triton.InferInput:
    tensor = triton.InferInput("image", [len(images)], "BYTES")
    content = images if binary else [base64.b64encode(image) for image in images]
    tensor.set_data_from_numpy(np.array(content, dtype=object), binary_data=binary)
    return tensor


# A real client


def test_the_client_finds_server_and_model_alive_and_described(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("alpha", headers=authorised())
    assert client.is_model_ready("alpha", "0", headers=authorised())
    assert not client.is_model_ready("alpha", "7", headers=authorised())
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    described = client.get_model_metadata("alpha", headers=authorised())
    assert described["versions"] == ["0"]
    assert described["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
    shapes = {output["name"]: output["shape"] for output in described["outputs"]}
    assert shapes["probabilities"] == [-1, 3]


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_the_client_gets_the_same_numbers_in_binary_and_in_json(
    client: triton.InferenceServerClient, binary_in: bool, binary_out: bool
) -> None:
    wanted = [
        triton.InferRequestedOutput(name, binary_data=binary_out)
        for name in ("probabilities", "label", "classes", "total_entropy")
    ]
    answer = client.infer(
        "alpha",
        [image_input(b"one", b"seven", binary=binary_in)],
        outputs=wanted,
        headers=authorised(),
        request_id="r1",
    )
    assert answer.as_numpy("probabilities").tolist() == [[0.25, 0.5, 0.25]] * 2
    assert answer.as_numpy("total_entropy").tolist() == [3.0, 5.0]
    texts = {name: [_text(value) for value in answer.as_numpy(name)] for name in ("label", "classes")}
    assert texts == {"label": ["b", "b"], "classes": ["a", "b", "c"]}
    assert answer.get_response()["id"] == "r1"
    assert (answer.get_response()["model_name"], answer.get_response()["model_version"]) == ("alpha", "0")


def test_without_a_wish_the_client_gets_every_output_but_the_classes(
    client: triton.InferenceServerClient,
) -> None:
    answer = client.infer("alpha", [image_input(b"one")], model_version="0", headers=authorised())
    assert [output["name"] for output in answer.get_response()["outputs"]] == [
        "label", "probabilities", "total_entropy", "aleatoric_entropy", "epistemic_entropy",
    ]  # fmt: skip
    assert answer.as_numpy("aleatoric_entropy").dtype == np.float32


def test_options_are_parameters_of_the_request(
    client: triton.InferenceServerClient, predictor: WholePredictor
) -> None:
    client.infer(
        "alpha",
        [image_input(b"one")],
        model_version="0",
        headers=authorised(),
        parameters={"num_samples": 3, "seed": 5},
    )
    assert predictor.asked[-1] == PredictionRequest(image=b"one", num_samples=3, seed=5, model_version=0)


def test_the_client_reads_what_was_wrong(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="no federation 'omega'"):
        client.infer("omega", [image_input(b"one")], headers=authorised())
    with pytest.raises(InferenceServerException, match="an image has 101 bytes; allowed: 100"):
        client.infer("alpha", [image_input(b"x" * 101)], headers=authorised())
    with pytest.raises(InferenceServerException, match="send the header `Authorization"):
        client.infer("alpha", [image_input(b"one")])


# By hand


def body(**changes: Any) -> dict[str, Any]:
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "data": ["b25l"]}
    return {"inputs": [tensor | changes]}


def ask(serving: Coordinator, content: bytes, length: int | None = None) -> Any:
    headers = {} if length is None else {LENGTH: str(length)}
    return serving.admin.request("POST", PATH, content=content, headers=headers)


def test_the_answer_in_json_has_the_protocols_form(serving: Coordinator) -> None:
    asked = body() | {"outputs": [{"name": "probabilities"}]}
    response = ask(serving, json.dumps(asked).encode())
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {
        "model_name": "alpha",
        "model_version": "0",
        "outputs": [
            {"name": "probabilities", "datatype": "FP32", "shape": [1, 3], "data": [0.25, 0.5, 0.25]}
        ],
    }


def test_binary_tensors_follow_the_json_in_the_order_of_the_outputs(serving: Coordinator) -> None:
    head = json.dumps(
        body(data=None, parameters={"binary_data_size": 7}) | {"parameters": {"binary_data_output": True}}
    ).encode()
    response = ask(serving, head + struct.pack("<I", 3) + b"one", len(head))
    assert response.status_code == 200, response.text
    length = int(response.headers[LENGTH])
    described = json.loads(response.content[:length])["outputs"]
    sizes = [output["parameters"]["binary_data_size"] for output in described]
    assert sizes == [4 + 1, 3 * 4, 4, 4, 4]
    assert len(response.content) == length + sum(sizes)
    assert response.content[length:][:5] == struct.pack("<I", 1) + b"b"
    assert np.frombuffer(response.content[length:][5:17], "<f4").tolist() == [0.25, 0.5, 0.25]


@pytest.mark.parametrize(
    ("content", "length"),
    [
        (b"", None),
        (b"nonsense", None),
        (b"{}", None),
        (json.dumps({"inputs": []}).encode(), None),
        (json.dumps(body(name="picture")).encode(), None),
        (json.dumps(body(datatype="FP32")).encode(), None),
        (json.dumps(body(shape=[2])).encode(), None),
        (json.dumps(body(data=["!"])).encode(), None),
        (json.dumps(body(data=[5])).encode(), None),
        (json.dumps(body(data=[])).encode(), None),
        (json.dumps(body(shape=[5], data=["b25l"] * 5)).encode(), None),
        (json.dumps(body() | {"outputs": [{"name": "secret"}]}).encode(), None),
        (json.dumps(body() | {"parameters": {"num_samples": 0}}).encode(), None),
        (json.dumps(body(data=None, parameters={"binary_data_size": 9})).encode(), None),
        (json.dumps(body()).encode(), 10_000),
    ],
)
def test_a_malformed_request_is_refused_in_both_ways_of_saying_so(
    serving: Coordinator, content: bytes, length: int | None
) -> None:
    response = ask(serving, content, length)
    assert problem_of(response) == "invalid_request"
    assert response.json()["error"] == response.json()["detail"]


@pytest.mark.parametrize("tail", [b"\x03", struct.pack("<I", 9) + b"one", struct.pack("<I", 2**32 - 1)])
def test_torn_binary_data_are_refused(serving: Coordinator, tail: bytes) -> None:
    head = json.dumps(body(data=None, parameters={"binary_data_size": len(tail)})).encode()
    response = ask(serving, head + tail, len(head))
    assert problem_of(response) == "invalid_request"
    assert "end inside an element" in response.json()["detail"]


@pytest.mark.parametrize("version", ["x", "-1", "7", "1" * 15, "²"])
def test_a_version_that_is_none_is_not_found(serving: Coordinator, version: str) -> None:
    response = serving.admin.request("GET", f"/v2/models/alpha/versions/{version}")
    assert problem_of(response) == "not_found"


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
