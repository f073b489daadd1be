"""The Open Inference Protocol V2 (`/v2/...`) over the same predictions, so that existing clients work unchanged.

A model is a federation, a version of it a model version. Rules:
1. One input, `image`: BYTES of shape [n], one JPEG, PNG or WEBP file each; base64 where it stands in JSON.
2. Outputs: `label` BYTES [n]; `probabilities` FP32 [n, C]; `total_entropy`, `aleatoric_entropy` and
   `epistemic_entropy` FP32 [n], in nats; on request `classes` BYTES [C], the order of the probabilities.
3. Tensors travel in JSON or by the binary tensor extension, each as the client asks.
4. The protocol knows no answer for a part of a request: one bad image refuses all of them.
5. Errors are problem documents with the protocol's member `error` added.
"""
