"""Exported policies: the same chunks as torch in every engine, and no answer to what was never learnt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
import torch

from handeye.export.graph.operator_support import find_unsupported
from handeye.robot.errors import PolicyInputError
from handeye.robot.learning.act_policy import Observations
from handeye.robot.learning.export import export_policy, measure_policy_parity
from handeye.robot.policies.onnx_policy import METADATA_KEY, OnnxPolicy, read_policy_manifest, resize_image
from handeye.vision.errors import ModelFileError, UserError
from handeye.vision.runtime import openvino_session
from handeye.vision.runtime.engines import installed_engines
from tests.robot.learning.small_policy import CHUNK, small_policy

CAMERAS = ("wrist", "scene")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("policy") / "small.onnx"
    export_policy(small_policy(CAMERAS, relative=2), path, made_by="a test")
    return path


@pytest.fixture
def policy(exported: Path) -> OnnxPolicy:
    return OnnxPolicy.load(exported, engine="onnxruntime", num_threads=1)


def observation() -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
    generator = np.random.default_rng(0)
    images = {f"observation.images.{name}": generator.integers(0, 256, (32, 48, 3), dtype=np.uint8) for name in CAMERAS}
    return generator.normal(size=3), images, generator.normal(size=2)


@pytest.mark.parametrize("engine", installed_engines())
def test_a_chunk_is_what_torch_computes(exported: Path, engine: str) -> None:
    state, images, environment = observation()
    seen = Observations(
        torch.from_numpy(state[None].astype(np.float32)),
        torch.from_numpy(environment[None].astype(np.float32)),
        tuple(torch.from_numpy(image[None]) for image in images.values()),
    )
    with torch.no_grad():
        wanted = small_policy(CAMERAS, relative=2)(seen)[0]
    found = OnnxPolicy.load(exported, engine=engine).predict(state, images, environment)  # pyright: ignore
    assert found.shape == (CHUNK, 3)
    np.testing.assert_allclose(found, wanted.numpy(), atol=2e-5)


def test_tensorrt_takes_all_of_its_layers(exported: Path) -> None:
    assert find_unsupported(onnx.load(exported)) == []


def test_half_the_digits_are_near_and_only_openvino_has_them(exported: Path) -> None:
    """Where the processor has no bfloat16 the answers are those of float32."""
    given = observation()
    whole, halved = (OnnxPolicy.load(exported, engine="openvino", precision=kind) for kind in ("fp32", "bf16"))
    np.testing.assert_allclose(halved.predict(*given), whole.predict(*given), rtol=0.03, atol=0.03)
    with pytest.raises(UserError, match="bf16 is computed by the engine 'openvino' only, not by 'onnxruntime'"):
        OnnxPolicy.load(exported, engine="onnxruntime", precision="bf16")


@pytest.mark.parametrize(("choice", "hint"), [(openvino.Type.bf16, "bf16"), (openvino.Type.f32, "f32")])
def test_auto_computes_what_openvino_would_choose(
    exported: Path, monkeypatch: pytest.MonkeyPatch, choice: openvino.Type, hint: str
) -> None:
    core, asked = openvino_session.shared_core(), []
    compile_model = core.compile_model

    def compile_and_note(model: openvino.Model, device: str, settings: dict[str, object]) -> openvino.CompiledModel:
        asked.append(settings["INFERENCE_PRECISION_HINT"])
        return compile_model(model, device, settings)

    monkeypatch.setattr(core, "get_property", lambda device, name: choice)
    monkeypatch.setattr(core, "compile_model", compile_and_note)
    OnnxPolicy.load(exported, engine="openvino", precision="auto")
    assert asked == [hint]


def test_auto_is_single_precision_where_nothing_else_is_computed(exported: Path) -> None:
    given = observation()
    whole, auto = (OnnxPolicy.load(exported, engine="onnxruntime", precision=kind) for kind in ("fp32", "auto"))
    np.testing.assert_array_equal(auto.predict(*given), whole.predict(*given))
    if openvino_session.shared_core().get_property("CPU", "INFERENCE_PRECISION_HINT") == openvino.Type.f32:
        whole, auto = (OnnxPolicy.load(exported, engine="openvino", precision=kind) for kind in ("fp32", "auto"))
        np.testing.assert_array_equal(auto.predict(*given), whole.predict(*given))


def test_the_parity_report_is_small_and_would_see_another_network(exported: Path) -> None:
    assert all(parity.worst < 1e-4 for parity in measure_policy_parity(small_policy(CAMERAS, relative=2), exported))
    other = small_policy(CAMERAS, relative=2)
    other.act.predict_action.bias.data += 0.1
    assert all(parity.worst > 0.05 for parity in measure_policy_parity(other, exported))


def test_frozen_norms_and_constants_are_folded(exported: Path) -> None:
    kinds = {node.op_type for node in onnx.load(exported).graph.node}
    assert "BatchNormalization" not in kinds
    assert not kinds & {"RandomNormalLike", "Dropout", "Identity"}


def test_products_stand_alone_and_scales_are_in_the_weights(tmp_path: Path) -> None:
    policy = small_policy(CAMERAS)
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    export_policy(policy, tmp_path / "small.onnx")
    graph = onnx.load(tmp_path / "small.onnx").graph
    assert not [node.name for node in graph.node if "attention" in node.name and node.op_type in {"Mul", "Div"}]
    rectified = {node.op_type: node.input[0] for node in graph.node if node.op_type in {"Relu", "Max"}}
    assert "feed_forward" in rectified["Max"]
    assert "backbone" in rectified["Relu"]
    assert not [node.name for node in graph.node if node.op_type == "Relu" and "feed_forward" in node.input[0]]
    for name, value in policy.state_dict().items():
        assert torch.equal(value, before[name]), f"the export changed {name}"


def test_the_manifest_tells_names_rate_and_origin(policy: OnnxPolicy) -> None:
    assert (policy.fps, policy.chunk_size) == (10, CHUNK)
    assert policy.state_names == policy.action_names == ("q1", "q2", "grip")
    assert policy.image_keys == ("observation.images.wrist", "observation.images.scene")
    assert policy.manifest.made_by == "a test"


def test_larger_images_of_the_same_proportions_are_brought_to_size(policy: OnnxPolicy) -> None:
    state, images, environment = observation()
    doubled = {key: image.repeat(2, axis=0).repeat(2, axis=1) for key, image in images.items()}
    np.testing.assert_allclose(
        policy.predict(state, doubled, environment), policy.predict(state, images, environment), atol=1e-6
    )


Inputs = tuple[np.ndarray, dict[str, np.ndarray], "np.ndarray | None"]


def with_state(state: np.ndarray) -> Callable[[Inputs], Inputs]:
    return lambda given: (state, given[1], given[2])


def with_wrist(image: np.ndarray) -> Callable[[Inputs], Inputs]:
    return lambda given: (given[0], {**given[1], "observation.images.wrist": image}, given[2])


def without_wrist(given: Inputs) -> Inputs:
    return given[0], {"observation.images.scene": given[1]["observation.images.scene"]}, given[2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_state(np.zeros(4)), r"shape \(4,\), expected 3 numbers"),
        (with_state(np.array([0.0, np.nan, np.inf])), "q2, grip not finite"),
        (lambda given: (given[0], given[1], None), "was not given observation.environment_state"),
        (without_wrist, "sees .*wrist.*scene.*it was given .*scene"),
        (with_wrist(np.zeros((32, 48, 3), np.float32)), "expected .* bytes, got float32"),
        (with_wrist(np.zeros((32, 48), np.uint8)), r"got uint8 \(32, 48\)"),
        (with_wrist(np.zeros((48, 48, 3), np.uint8)), "not the proportions of 32 x 48"),
    ],
)
def test_inputs_outside_the_signature_are_rejected(
    policy: OnnxPolicy, change: Callable[[Inputs], Inputs], message: str
) -> None:
    with pytest.raises(PolicyInputError, match=message):
        policy.predict(*change(observation()))


def test_files_that_are_no_policies_are_refused(exported: Path, tmp_path: Path) -> None:
    model = onnx.load(exported)
    changed = tmp_path / "changed.onnx"
    model.graph.node[0].name = "another"
    onnx.save(model, changed)
    with pytest.raises(ModelFileError, match="not the one its manifest was written for"):
        OnnxPolicy.load(changed)
    onnx.helper.set_model_props(model, {METADATA_KEY: "{}"})
    onnx.save(model, changed)
    with pytest.raises(ModelFileError, match="manifest cannot be used: signature"):
        read_policy_manifest(changed)
    del model.metadata_props[:]
    onnx.save(model, changed)
    with pytest.raises(ModelFileError, match="is no policy of handeye"):
        OnnxPolicy.load(changed)


def test_a_graph_of_other_inputs_is_refused(policy: OnnxPolicy) -> None:
    signature = policy.signature.model_copy(update={"cameras": ("wrist",)})
    with pytest.raises(ModelFileError, match="the graph takes"):
        OnnxPolicy(policy.session, policy.manifest.model_copy(update={"signature": signature}))


def test_shrinking_averages_pixels() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    image[:2, :2] = [[[0] * 3, [100] * 3], [[200] * 3, [100] * 3]]
    assert resize_image(image, (2, 2))[0, 0].tolist() == [100, 100, 100]
    assert resize_image(image, (4, 4)) is image
