"""The detector whole: its configuration, any size of input, one kind of output."""

from __future__ import annotations

import pytest
import torch

from handeye.vision.config import validate_config
from handeye.vision.detector import Detector, DetectorConfig, DetectorOutput
from handeye.vision.errors import ConfigError

SMALL = {
    "backbone": {"kind": "cspdarknet", "width": 0.125, "depthwise": True},
    "neck": {"kind": "path_aggregation", "depthwise": True},
    "head": {"kind": "yolox", "hidden_dim": 16, "depthwise": True},
    "preprocessing": {"size_hw": [64, 96]},
}


def small_config(**changes) -> DetectorConfig:
    return validate_config(DetectorConfig, {**SMALL, "num_classes": 3, **changes}, origin="test")


@pytest.fixture(scope="module")
def detector() -> Detector:
    torch.manual_seed(0)
    return Detector(small_config()).eval()


@pytest.mark.parametrize("size_hw", [(32, 32), (96, 64), (32, 160)])
def test_any_multiple_of_32_will_do(detector, size_hw):
    height, width = size_hw
    output = detector(torch.rand(2, 3, height, width))
    num_cells = sum((height // stride) * (width // stride) for stride in (8, 16, 32))
    assert output.raw.shape == (2, num_cells, 5 + 3)
    centres = (output.cell_xy + 0.5) * output.strides
    assert (centres > 0).all()
    assert (centres < torch.tensor([width, height])).all()


@pytest.mark.parametrize("size_hw", [(100, 64), (64, 100)])
def test_other_sizes_are_refused_in_words(detector, size_hw):
    with pytest.raises(ValueError, match="multiples of 32, got"):
        detector(torch.rand(1, 3, *size_hw))


@pytest.mark.parametrize(("size_hw", "next_size"), [([72, 128], "96 x 128"), ([720, 1280], "736 x 1280")])
def test_a_configured_size_that_the_stride_does_not_divide_is_a_mistake_in_the_configuration(size_hw, next_size):
    content = {**small_config().model_dump(), "preprocessing": {"size_hw": size_hw}}
    with pytest.raises(ConfigError, match=rf"size_hw.*multiples of 32, got .*{next_size} would do") as caught:
        validate_config(DetectorConfig, content, origin="train.yaml")
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("would do"), "the whole group would bury what is wrong with it"


def test_the_class_that_is_named_twice_is_told():
    content = {**small_config().model_dump(), "num_classes": 3, "class_names": ("a", "b", "a")}
    with pytest.raises(ConfigError, match="class_names holds a name twice: a"):
        validate_config(DetectorConfig, content, origin="train.yaml")


def test_training_and_use_give_the_same_kind_of_output(detector):
    images = torch.rand(2, 3, 64, 96)
    in_use = detector(images)
    training = Detector(small_config()).train()(images)
    assert isinstance(in_use, DetectorOutput)
    assert isinstance(training, DetectorOutput)
    assert training.raw.shape == in_use.raw.shape


def test_images_of_a_batch_do_not_see_each_other(detector):
    images = torch.rand(3, 3, 64, 64)
    together = detector(images).raw
    torch.testing.assert_close(together[1:2], detector(images[1:2]).raw, rtol=1e-4, atol=1e-4)


def test_single_precision_agrees_with_double(detector):
    images = torch.rand(1, 3, 64, 64)
    single = detector(images).raw
    double = Detector(detector.config).double().eval()
    double.load_state_dict(detector.state_dict())
    torch.testing.assert_close(single.double(), double(images.double()).raw, rtol=1e-4, atol=1e-4)


def test_every_weight_takes_part():
    detector = Detector(small_config()).train()
    detector(torch.rand(2, 3, 64, 64)).raw.sum().backward()
    assert [name for name, weight in detector.named_parameters() if weight.grad is None] == []


def test_two_sizes_in_one_process_do_not_disturb_each_other():
    first = [tuple(weight.shape) for weight in Detector(small_config()).parameters()]
    Detector(small_config(backbone={"kind": "cspdarknet", "width": 0.25, "depth": 1.0}))
    assert [tuple(weight.shape) for weight in Detector(small_config()).parameters()] == first


def test_class_names_are_made_up_when_only_their_number_is_known():
    assert small_config(num_classes=2).class_names == ("class_0", "class_1")


def test_the_number_of_classes_follows_from_their_names():
    config = validate_config(DetectorConfig, {**SMALL, "class_names": ["cat", "dog"]}, origin="test")
    assert config.num_classes == 2


def test_a_configuration_survives_json():
    config = small_config(class_names=["a", "b", "c"])
    assert DetectorConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"class_names": ["only one"]}, "num_classes is 3 but class_names holds 1"),
        ({"class_names": ["a", "b", "a"]}, "a name twice"),
        ({"num_classes": 0}, "greater than 0"),
        ({"backbone": {"kind": "cspdarknet", "widht": 0.5}}, "did you mean width"),
        ({"backbone": {"kind": "unknown"}}, "cspdarknet"),
        ({"head": {"kind": "yolox", "hidden_dim": -1}}, "head.hidden_dim"),
        ({"backbone": {"kind": "cspdarknet", "width": 0.01}}, "backbone.width"),
    ],
)
def test_wrong_configurations_are_refused_with_their_key(changes, complaint):
    with pytest.raises(ConfigError, match=complaint):
        small_config(**changes)


def test_a_configuration_without_classes_is_refused():
    with pytest.raises(ConfigError, match="num_classes"):
        validate_config(DetectorConfig, SMALL, origin="test")
