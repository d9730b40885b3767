"""Export a policy to one ONNX file: observations and actions in units, a manifest in the metadata.

Normalisation, relative actions, byte images and batch norms are part of the graph. Opset 17 and a batch of
one, as for detectors.
"""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxslim
import torch
from jaxtyping import Float
from torch import Tensor, nn

from handeye.robot.learning.act_policy import ActPolicy, Observations
from handeye.robot.policies.onnx_policy import METADATA_KEY, OUTPUT_NAME, PolicyManifest, StateStatistics
from handeye.robot.types import ENVIRONMENT_KEY, STATE_KEY
from handeye.vision.files import replacing
from handeye.vision.layers.attention import MultiHeadAttention
from handeye.vision.runtime.engines import installed_engines, open_session
from handeye.vision.runtime.manifest import parse_onnx

OPSET = 17
PARITY_OBSERVATIONS = 8
UNMOVED = 1e-6
"""Largest deviation of an action that never changes."""


@dataclass(frozen=True, slots=True)
class PolicyParity:
    """Largest difference between an engine's chunks and torch's, in standard deviations of each action."""

    engine: str
    worst: float


class _PlainInputs(nn.Module):
    """The policy with its observation as a row of tensors, in the order of the signature, as a graph needs it."""

    def __init__(self, policy: ActPolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, state: Tensor, *others: Tensor) -> Float[Tensor, "1 T A"]:
        return self.policy(_observations(self.policy, [state, *others]))


def export_policy(policy: ActPolicy, path: Path, *, made_by: str = "") -> PolicyManifest:
    """Write `policy` to `path` and return its manifest; `made_by` names its origin."""
    model = _slim(_trace(_folded(policy)))
    leave_relu_alone(model)
    onnx.checker.check_model(model, full_check=True)
    del model.metadata_props[:]
    manifest = PolicyManifest(
        name=path.stem,
        signature=policy.signature,
        chunk_size=policy.config.network.chunk_size,
        state_statistics=StateStatistics(
            mean=tuple(policy.normalise_state.mean.tolist()), std=tuple(policy.normalise_state.std.tolist())
        ),
        graph_sha256=parse_onnx(model.SerializeToString(), origin=str(path)).graph_sha256,
        made_by=made_by,
    )
    onnx.helper.set_model_props(model, {METADATA_KEY: manifest.model_dump_json()})
    with replacing(path) as beside:
        beside.write_bytes(model.SerializeToString())
    return manifest


def measure_policy_parity(policy: ActPolicy, path: Path, seed: int = 0) -> list[PolicyParity]:
    """Compare the file with torch in every installed engine, on random observations with the training statistics."""
    generator = np.random.Generator(np.random.PCG64(seed))
    observations = [_made_up(policy, generator) for _ in range(PARITY_OBSERVATIONS)]
    deviations, parities = policy.normalise_action.std.cpu().numpy(), []
    # An action that never changes is compared in units: rounding alone is many of its deviations.
    deviations = np.where(deviations <= UNMOVED, 1.0, deviations)
    for engine in installed_engines():
        session, worst = open_session(path, engine), 0.0
        for inputs in observations:
            with torch.no_grad():
                wanted = policy.eval()(_observations(policy, [torch.from_numpy(value) for value in inputs.values()]))
            found = session.run(inputs)[OUTPUT_NAME]
            worst = max(worst, float(np.max(np.abs(found - wanted.numpy()) / deviations)))
        parities.append(PolicyParity(session.engine, worst))
    return parities


def _observations(policy: ActPolicy, values: list[Tensor]) -> Observations:
    """The tensors in the order of the signature's inputs."""
    first_image = 2 if policy.signature.environment_names else 1
    environment = values[1] if first_image == 2 else None
    return Observations(values[0], environment, tuple(values[first_image:]))


def _made_up(policy: ActPolicy, generator: np.random.Generator) -> dict[str, np.ndarray]:
    inputs: dict[str, np.ndarray] = {}
    for key, shape in policy.signature.input_shapes().items():
        normalizer = {STATE_KEY: policy.normalise_state, ENVIRONMENT_KEY: policy.normalise_environment}.get(key)
        if normalizer is None:
            inputs[key] = generator.integers(0, 256, (1, *shape), dtype=np.uint8)
        else:
            usual = normalizer.invert(torch.from_numpy(generator.standard_normal((1, *shape), dtype=np.float32)))
            inputs[key] = usual.numpy()
    return inputs


def _folded(policy: ActPolicy) -> ActPolicy:
    """The same policy, with what can be computed beforehand in its weights."""
    policy = copy.deepcopy(policy)
    for module in policy.modules():
        if isinstance(module, MultiHeadAttention):
            module.fold_scale()
    return policy


def leave_relu_alone(model: onnx.ModelProto) -> None:
    """Write each ReLU behind a matrix product as max(x, 0).

    OpenVINO fuses a ReLU to the product, and then has to take a slower product for float32 than it has without; a
    maximum it leaves alone, which makes a whole ACT of the published size 3 % faster.
    """
    makers = {output: node for node in model.graph.node for output in node.output}
    zero = onnx.numpy_helper.from_array(np.zeros((), np.float32), "zero")
    found = [node for node in model.graph.node if node.op_type == "Relu" and _is_of_product(node, makers)]
    for node in found:
        node.op_type = "Max"
        node.input.append(zero.name)
    if found:
        model.graph.initializer.append(zero)


def _is_of_product(node: onnx.NodeProto, makers: Mapping[str, onnx.NodeProto]) -> bool:
    """Whether a node's first input is a matrix product, perhaps with something added and in another shape."""
    maker = makers.get(node.input[0])
    while maker is not None and maker.op_type in {"Add", "Reshape"}:
        maker = next((makers[name] for name in maker.input if name in makers), None)
    return maker is not None and maker.op_type in {"Gemm", "MatMul"}


def _trace(policy: ActPolicy) -> onnx.ModelProto:
    """The graph as torch's exporter writes it."""
    values = [torch.from_numpy(value) for value in _made_up(policy, np.random.default_rng(0)).values()]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # The sizes that tracing turns into constants are meant to be constant.
        warnings.filterwarnings("ignore", message="Converting a tensor", category=Warning)
        warnings.filterwarnings("ignore", message="You are using the legacy", category=DeprecationWarning)
        torch.onnx.export(
            _PlainInputs(policy).eval(),
            tuple(values),
            f"{folder}/traced.onnx",
            opset_version=OPSET,
            input_names=list(policy.signature.input_shapes()),
            output_names=[OUTPUT_NAME],
            dynamo=False,
        )
        return onnx.load(f"{folder}/traced.onnx")


def _slim(model: onnx.ModelProto) -> onnx.ModelProto:
    """Constants folded, frozen norms among them, and operations that change nothing removed."""
    slim = onnxslim.slim(model)
    if not isinstance(slim, onnx.ModelProto):
        raise TypeError(f"onnxslim gave {type(slim).__name__} instead of a model")
    del slim.graph.value_info[:]  # shapes that every engine infers again
    return slim
