"""Which arithmetic a training computes in: what decides, what is said, and that a run keeps what it began with."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from handeye.tools.command_line import run_command
from handeye.tools.doctor import find_precision
from handeye.vision.config import dump_config, load_config, read_yaml
from handeye.vision.errors import ConfigError
from handeye.vision.training import precision as module
from handeye.vision.training.config import TrainDetectorConfig
from handeye.vision.training.lr_finder import find_lr
from handeye.vision.training.precision import (
    Bf16,
    Processor,
    bf16_of_device,
    bf16_of_processor,
    describe,
    settle_precision,
    this_processor,
    weakest,
)
from handeye.vision.training.run_folder import RunFolder
from handeye.vision.training.train_detector import Training, train_detector

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
CPU = torch.device("cpu")
AMX = Bf16(is_fast=True, why="AMX")
NONE = Bf16(is_fast=False, why="this processor does not compute bf16")
XEON = {"has_amx": True, "has_avx512_bf16": True, "capability": "AVX512"}
"""Sapphire Rapids."""
ZEN4 = {"has_avx512_bf16": True, "capability": "AVX512"}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def computes(monkeypatch: pytest.MonkeyPatch):
    """`computes(AMX)`: from now on this machine is one of that kind."""
    return lambda bf16: monkeypatch.setattr(module, "bf16_of_device", lambda device: bf16)


class Said(Console):
    """A console whose words can be read."""

    def __init__(self) -> None:
        self.words = io.StringIO()
        super().__init__(file=self.words, width=200)

    def about_precision(self) -> list[str]:
        return [line for line in self.words.getvalue().splitlines() if line.startswith("precision")]


@pytest.mark.parametrize(
    ("processor", "is_fast", "why"),
    [
        (XEON, True, "AMX"),
        (ZEN4, True, "AVX512"),
        ({}, False, "this processor does not compute bf16"),
        ({"capability": "AVX512"}, False, "this processor does not compute bf16"),
        ({"capability": "DEFAULT"}, False, "this processor does not compute bf16"),
        (XEON | {"capability": "AVX2"}, False, "ATEN_CPU_CAPABILITY holds torch to AVX2"),
        (ZEN4 | {"capability": "DEFAULT"}, False, "ATEN_CPU_CAPABILITY holds torch to DEFAULT"),
        (XEON | {"has_onednn": False}, False, "this torch comes without oneDNN"),
        (XEON | {"onednn_limit": "AVX2"}, False, "ONEDNN_MAX_CPU_ISA holds oneDNN to AVX2"),
        (XEON | {"onednn_limit": "avx512_core"}, False, "ONEDNN_MAX_CPU_ISA holds oneDNN to AVX512_CORE"),
        (ZEN4 | {"onednn_limit": "AVX512_CORE_VNNI"}, False, "holds oneDNN to AVX512_CORE_VNNI"),
        (XEON | {"onednn_limit": "AVX512_CORE_BF16"}, True, "AVX512"),
        (XEON | {"has_avx512_bf16": False, "onednn_limit": "AVX512_CORE_BF16"}, False, "oneDNN to AVX512_CORE_BF16"),
        (XEON | {"onednn_limit": "AVX512_CORE_AMX"}, True, "AMX"),
        (XEON | {"onednn_limit": "ALL"}, True, "AMX"),
    ],
)
def test_bf16_is_chosen_where_the_libraries_will_compute_it(processor, is_fast, why):
    found = bf16_of_processor(Processor(**processor))
    assert found.is_fast == is_fast
    assert why in found.why


@pytest.mark.parametrize(
    ("environment", "limit"),
    [
        ({}, ""),
        ({"DNNL_MAX_CPU_ISA": "AVX2"}, "AVX2"),
        ({"ONEDNN_MAX_CPU_ISA": "", "DNNL_MAX_CPU_ISA": "AVX2"}, "AVX2"),
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "DNNL_MAX_CPU_ISA": "AVX2"}, "AVX512_CORE"),
    ],
)
def test_the_newer_name_of_onednns_limit_goes_first(environment, limit):
    assert this_processor(environment).onednn_limit == limit


@pytest.mark.skipif(not torch.cpu._is_avx2_supported(), reason="the variables hold x86 processors")  # noqa: SLF001
@pytest.mark.parametrize(
    ("environment", "why"),
    [
        ({"ATEN_CPU_CAPABILITY": "avx2"}, "ATEN_CPU_CAPABILITY holds torch to AVX2"),
        ({"ATEN_CPU_CAPABILITY": "default"}, "ATEN_CPU_CAPABILITY holds torch to DEFAULT"),
    ],
)
def test_torch_itself_is_asked_what_it_is_held_to(environment, why):
    """On a processor that claims AMX; whatever it is, torch obeys the variable."""
    words = (
        "import torch; torch.cpu._is_amx_tile_supported = lambda: True\n"
        "from handeye.vision.training.precision import bf16_of_device\n"
        "print(bf16_of_device(torch.device('cpu')))"
    )
    asked = [sys.executable, "-c", words]
    done = subprocess.run(asked, env=os.environ | environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == repr(Bf16(is_fast=False, why=why))


def test_gpus_are_asked_for_arithmetic_of_their_own(monkeypatch):
    asked = []

    def without_bf16(**how: bool) -> bool:
        asked.append(how)
        return False

    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "device", lambda device: io.StringIO())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", without_bf16)
    assert not bf16_of_device(torch.device("cuda")).is_fast
    assert asked == [{"including_emulation": False}]
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **how: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    assert bf16_of_device(torch.device("cuda")) == Bf16(is_fast=True, why="NVIDIA H200")
    assert bf16_of_device(torch.device("mps")) == Bf16(is_fast=False, why="bf16 is not measured on mps")


@pytest.mark.parametrize(
    ("precision", "bf16", "is_chosen", "words"),
    [
        ("bf16", AMX, True, "precision bf16 (AMX)"),
        ("bf16", AMX, False, "precision bf16 (AMX)"),
        ("fp32", NONE, True, "precision fp32: this processor does not compute bf16"),
        ("fp32", NONE, False, "precision fp32"),
        ("fp32", AMX, False, "precision fp32"),
        ("fp16", AMX, False, "precision fp16"),
    ],
)
def test_the_first_line_of_a_run_says_what_and_why(precision, bf16, is_chosen, words):
    assert describe(precision, bf16, is_chosen=is_chosen) == words


def test_bf16_that_is_asked_for_where_nothing_computes_it_is_warned_of():
    words = describe("bf16", NONE, is_chosen=False)
    assert words.startswith("precision bf16: slow here, this processor does not compute bf16; ")
    assert f"{module.SLOWDOWN} times" in words


def test_the_weakest_process_decides_and_is_named():
    assert weakest([AMX]) == weakest([AMX, AMX]) == AMX
    assert weakest([NONE]) == NONE
    assert weakest([AMX, NONE, AMX]) == Bf16(is_fast=False, why=f"process 1: {NONE.why}")


@pytest.mark.parametrize(("bf16", "precision"), [(AMX, "bf16"), (NONE, "fp32")])
@pytest.mark.usefixtures("quick_figures")
def test_a_run_is_said_and_stored_as_it_computes_and_goes_on_so_elsewhere(
    small_config, tmp_path, computes, bf16, precision
):
    config = small_config(precision="auto", max_steps=1)
    computes(bf16)
    run, said = RunFolder.create(tmp_path / "run", config), Said()
    assert read_yaml(run.config)["precision"] == "auto"
    train_detector(config, run, said)
    assert said.about_precision() == [describe(precision, bf16, is_chosen=True)]
    assert load_config(TrainDetectorConfig, run.config) == config.model_copy(update={"precision": precision})
    elsewhere = NONE if bf16 is AMX else AMX
    computes(elsewhere)
    for told in (config, load_config(TrainDetectorConfig, run.config)):
        said = Said()
        training = Training(told, run, said)
        assert training.accelerator.mixed_precision == {"bf16": "bf16", "fp32": "no"}[precision]
        assert training.config.precision == precision
        assert said.about_precision() == [describe(precision, elsewhere, is_chosen=False)]
    assert read_yaml(run.config)["precision"] == precision


@pytest.mark.usefixtures("quick_figures")
def test_the_command_goes_on_with_the_configuration_it_began_with(small_config, tmp_path, computes, capsys):
    """`precision: auto` in the file is no change against what the run settled on; another precision is."""
    path = tmp_path / "auto.yaml"
    path.write_text(dump_config(small_config(precision="auto", max_steps=1)))
    computes(NONE)
    run = str(tmp_path / "run")
    assert run_command(["train", str(path), "--output", run]) == 0
    assert f"precision fp32: {NONE.why}" in capsys.readouterr().err.splitlines()
    computes(AMX)
    assert run_command(["train", str(path), "--resume", run]) == 0
    assert run_command(["train", str(path), "--resume", run, "precision=bf16"]) == 2
    assert "'precision: bf16' instead of 'precision: fp32'" in capsys.readouterr().err


def test_fp16_without_a_gpu_is_refused(small_config, tmp_path):
    """accelerate would compute in fp32 and say nothing."""
    with pytest.raises(ConfigError, match="precision: fp16 needs a GPU"):
        settle_precision(small_config(precision="fp16"), RunFolder(tmp_path), CPU)


@pytest.mark.parametrize("stored", [None, "bf16"])
@pytest.mark.parametrize("is_main", [True, False])
def test_processes_take_what_all_compute_or_what_the_run_began_with(
    small_config, tmp_path, computes, monkeypatch, stored, is_main
):
    """The main process has AMX, the other one has not; only the main one writes."""
    config = small_config(precision="auto")
    run = RunFolder.create(tmp_path / "run", config)
    monkeypatch.setattr(module, "process_state", lambda: SimpleNamespace(num_processes=2))
    monkeypatch.setattr(module, "is_main_process", lambda: is_main)
    monkeypatch.setattr(module, "gather_object", lambda mine: [(AMX, stored), (NONE, None)])
    computes(AMX if is_main else NONE)
    settled, words = settle_precision(config, run, CPU)
    assert settled.precision == (stored or "fp32")
    assert f"process 1: {NONE.why}" in words
    assert read_yaml(run.config)["precision"] == ((stored or "fp32") if is_main else "auto")


def test_a_process_may_train_in_one_precision_after_another(small_config, tmp_path):
    """As a search over `precision=fp32|bf16` does; accelerate by itself refuses the second."""
    for name in ("fp32", "bf16", "fp32"):
        training = Training(small_config(precision=name), RunFolder(tmp_path), Console(quiet=True))
        assert training.accelerator.mixed_precision == {"bf16": "bf16", "fp32": "no"}[name]


def test_doctor_tells_what_auto_would_choose(computes):
    for bf16, detail in ((AMX, "bf16: AMX"), (NONE, f"fp32: {NONE.why}")):
        computes(bf16)
        found = find_precision()
        assert (found.state, found.name, found.detail) == ("ok", "precision: auto", detail)


def test_the_search_for_a_rate_computes_as_the_training_will(small_config, computes):
    computes(NONE)
    said = Said()
    find_lr(small_config(precision="auto"), said, num_steps=10, lowest=1e-5, highest=1e-3)
    assert said.about_precision() == [f"precision fp32: {NONE.why}"]


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*/*.yaml")), ids=lambda path: path.stem)
def test_no_recipe_demands_what_some_processors_lack(path):
    assert read_yaml(path).get("precision", "fp32") in {"auto", "fp32"}
