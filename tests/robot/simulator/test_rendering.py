"""The two renderers: exact pinhole geometry, and agreement with each other in shape, depth and shade."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from handeye.robot.config import CameraConfig, WorkCellConfig
from handeye.robot.simulator import gl_renderer as gl_backend
from handeye.robot.simulator import renderers
from handeye.robot.simulator.appearance import Appearance, ImageEffects, Light
from handeye.robot.simulator.gl_renderer import GlBackend, can_render, find_gl_backend
from handeye.robot.simulator.objects import Part, Profile, SceneObject, sample_cube, sample_distractor
from handeye.robot.simulator.ray_renderer import RayRenderer
from handeye.robot.simulator.renderers import Renderer, RendererKind, build_renderer
from handeye.robot.simulator.scene import Scene, build_scene, place_arm
from handeye.vision.errors import MissingPackageError

# Off-centre and anisotropic on purpose: a symmetric camera forgives sign errors.
ODD_CAMERA = CameraConfig(width_px=320, height_px=240, fx_px=190.0, fy_px=205.0, cx_px=171.0, cy_px=104.0)


def plain_look(direction: tuple[float, float, float] = (0.3, 0.2, -0.93)) -> Appearance:
    """One lamp far away and a grey table."""
    light = Light(True, (0.0, 0.0, 2.0), direction, (0.6, 0.6, 0.6), (0.1, 0.1, 0.1))
    table = np.full((512, 512, 3), 150, np.uint8)
    grey = (0.4, 0.4, 0.4)
    return Appearance((light,), (0.3, 0.3, 0.3), 0.1, table, 1.0, 0.1, grey, (grey, grey), (*grey, 1.0), ImageEffects())


def ball(pos: tuple[float, float, float], radius_m: float, name: str) -> SceneObject:
    part = Part("sphere", (radius_m,))
    return SceneObject(name, (part,), (0.9, 0.2, 0.1, 1.0), 0.05, radius_m, radius_m).placed(pos)


def loaded(kind: RendererKind, camera: CameraConfig, scene: Scene, *, shadows: bool = False) -> Renderer:
    renderer = build_renderer(kind, camera, shadows=shadows)
    renderer.load(scene)
    return renderer


def project(scene: Scene, camera: CameraConfig, p_base: np.ndarray) -> tuple[float, float, float]:
    """Pixel and depth of a point by K and the camera's pose, independent of either renderer."""
    pose = scene.data.cam("wrist")
    x, y, z = (pose.xmat.reshape(3, 3) * [1, -1, -1]).T @ (p_base - pose.xpos)
    return camera.fx_px * x / z + camera.cx_px, camera.fy_px * y / z + camera.cy_px, z


@pytest.mark.parametrize("camera", [CameraConfig(), ODD_CAMERA], ids=["contract", "odd"])
def test_points_land_on_the_pixels_that_intrinsics_say(
    cell: WorkCellConfig, kind: RendererKind, camera: CameraConfig
) -> None:
    odd_cell = cell.model_copy(update={"camera": camera})
    places = [(0.42, -0.2, 0.1), (0.66, 0.2, 0.05), (0.55, 0.0, 0.2), (0.45, 0.25, 0.02), (0.7, -0.25, 0.15)]
    balls = [ball(place, 0.008, f"object_{i}") for i, place in enumerate(places)]
    scene = build_scene(odd_cell, balls, plain_look())
    renderer = loaded(kind, camera, scene)
    geom_ids, depth = renderer.segment(scene.data), renderer.render(scene.data).depth_m
    renderer.close()
    for item, place in zip(balls, places, strict=True):
        u, v, z = project(scene, camera, np.array(place))
        rows, columns = np.nonzero(geom_ids == scene.model.geom(f"{item.name}_0").id)
        assert len(rows) > 10
        assert columns.mean() == pytest.approx(u, abs=0.4)
        assert rows.mean() == pytest.approx(v, abs=0.4)
        front = z - 0.008
        assert depth[round(v), round(u)] == pytest.approx(front, abs=0.0015)


def test_depth_of_the_table_is_that_of_a_plane(cell: WorkCellConfig, kind: RendererKind) -> None:
    scene = build_scene(cell, [], plain_look())
    renderer = loaded(kind, cell.camera, scene)
    depth, geom_ids = renderer.render(scene.data).depth_m, renderer.segment(scene.data)
    renderer.close()
    pose = scene.data.cam("wrist")
    v, u = np.nonzero(geom_ids == scene.model.geom("table").id)
    rays = np.linalg.inv(cell.camera.K) @ np.stack([u, v, np.ones_like(u)])
    down = (pose.xmat.reshape(3, 3) * [1, -1, -1])[2] @ rays
    np.testing.assert_allclose(depth[v, u], -pose.xpos[2] / down, atol=3e-4)
    assert len(u) > 100_000


def test_sky_has_infinite_depth_and_no_geom(cell: WorkCellConfig, kind: RendererKind) -> None:
    scene = build_scene(cell, [], plain_look())
    raised = np.array(cell.home_qpos) + [0, 0, 0, 2.2, 0, 0]
    place_arm(scene, raised, cell.gripper.opening_max_m)
    renderer = loaded(kind, cell.camera, scene)
    depth, geom_ids = renderer.render(scene.data).depth_m, renderer.segment(scene.data)
    renderer.close()
    assert np.any(geom_ids == -1)
    assert np.all(np.isinf(depth[geom_ids == -1]))
    on_table = geom_ids == scene.model.geom("palm").id
    assert np.all(np.isfinite(depth[on_table]))


@pytest.mark.usefixtures("needs_gl")
def test_renderers_agree_on_shape_depth_and_shade(cell: WorkCellConfig) -> None:
    rng = np.random.default_rng(5)
    items = [sample_cube(rng, i % 4, f"object_{i}", cell) for i in range(4)]
    items += [sample_distractor(rng, Profile.TRAIN, f"object_{i}") for i in range(4, 8)]
    places = [(0.42 + 0.09 * (i % 4), -0.15 + 0.25 * (i // 4), item.height_m) for i, item in enumerate(items)]
    scene = build_scene(cell, [item.placed(p) for item, p in zip(items, places, strict=True)], plain_look())
    gl, rays = (loaded(kind, cell.camera, scene) for kind in (RendererKind.GL, RendererKind.RAYS))
    ids_gl, ids_rays = gl.segment(scene.data), rays.segment(scene.data)
    image_gl, image_rays = gl.render(scene.data), rays.render(scene.data)
    gl.close()
    same = ids_gl == ids_rays
    assert same.mean() > 0.998
    for geom in np.unique(ids_rays[ids_rays >= 0]):
        mask_gl, mask_rays = ids_gl == geom, ids_rays == geom
        if mask_rays.sum() > 200:
            assert (mask_gl & mask_rays).sum() / (mask_gl | mask_rays).sum() > 0.96, scene.model.geom(geom).name
    error = np.abs(image_gl.depth_m - image_rays.depth_m)[same & (ids_rays >= 0)]
    assert np.median(error) < 2e-5
    assert np.quantile(error, 0.995) < 1e-3
    shade = np.abs(image_gl.image_rgb.astype(float) - image_rays.image_rgb)[same]
    assert shade.mean() < 3.0
    assert np.quantile(shade, 0.99) < 25.0


def test_shadows_darken_the_table_beside_a_cube_and_nothing_else(cell: WorkCellConfig, kind: RendererKind) -> None:
    cube = sample_cube(np.random.default_rng(0), 0, "object_0", cell).placed((0.55, 0.1, 0.025))
    scene = build_scene(cell, [cube], plain_look(direction=(0.0, 0.7, -0.714)))
    shadowless, shadowed = loaded(kind, cell.camera, scene), loaded(kind, cell.camera, scene, shadows=True)
    lit = shadowless.render(scene.data).image_rgb.astype(int).sum(-1)
    shaded = shadowed.render(scene.data).image_rgb.astype(int).sum(-1)
    for renderer in (shadowless, shadowed):
        renderer.close()
    u, v, _ = project(scene, cell.camera, np.array([0.55, 0.145, 0.0]))
    assert shaded[round(v), round(u)] < 0.75 * lit[round(v), round(u)]
    u, v, _ = project(scene, cell.camera, np.array([0.55, 0.05, 0.0]))
    assert shaded[round(v), round(u)] == pytest.approx(lit[round(v), round(u)], rel=0.05)


def test_a_renderer_shows_the_scene_that_was_loaded_last(cell: WorkCellConfig) -> None:
    first = build_scene(cell, [], plain_look())
    second = build_scene(cell, [ball((0.55, 0.0, 0.05), 0.03, "object_0")], plain_look())
    renderer = RayRenderer(cell.camera)
    for scene, expected in ((first, False), (second, True)):
        renderer.load(scene)
        wanted = scene.model.ngeom - 1
        assert np.any(renderer.segment(scene.data) == wanted) == expected


def test_without_gl_rays_are_taken_and_asking_for_gl_says_what_to_install(
    cell: WorkCellConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renderers, "find_gl_backend", lambda: None)
    assert isinstance(build_renderer(RendererKind.AUTO, cell.camera), RayRenderer)
    with pytest.raises(MissingPackageError, match="libegl1.*rays"):
        build_renderer(RendererKind.GL, cell.camera)


def test_the_environment_can_answer_for_the_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    for answer, expected in (("none", None), ("osmesa", GlBackend.OSMESA)):
        find_gl_backend.cache_clear()
        monkeypatch.setenv("HANDEYE_GL", answer)
        assert find_gl_backend() is expected
    find_gl_backend.cache_clear()


def test_a_crashing_driver_counts_as_no(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gl_backend, "_PROBE", "import os; os.abort()  # {backend}")
    assert not can_render(GlBackend.EGL)


def test_no_gl_library_is_loaded_by_rays() -> None:
    program = (
        "import sys, numpy as np\n"
        "from handeye.robot.config import WorkCellConfig\n"
        "from handeye.robot.simulator.cell import SimulatedCell, SimulatorConfig\n"
        "cell = SimulatedCell(WorkCellConfig(), SimulatorConfig.model_validate({'renderer': 'rays'}))\n"
        "cell.reset(0)\n"
        "with cell.camera as camera: camera.read()\n"
        "print([name for name in sys.modules if name.startswith(('OpenGL', 'mujoco.egl', 'mujoco.osmesa'))])\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


@pytest.mark.slow
@pytest.mark.usefixtures("needs_gl")
def test_torch_can_compile_in_a_process_that_has_rendered() -> None:
    """Mesa's LLVM and triton's: loaded in the other order, the process ended with a segmentation fault."""
    program = (
        "from handeye.robot.config import CameraConfig\n"
        "from handeye.robot.simulator.gl_renderer import GlRenderer, find_gl_backend\n"
        "GlRenderer(CameraConfig(), find_gl_backend())\n"
        "import torch._dynamo\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
