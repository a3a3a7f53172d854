from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from delf_engine.synthesis.buildings import FORMS, Building, draw_building
from delf_engine.synthesis.facades import draw_style
from delf_engine.synthesis.geometry import NEAR, Camera, clipped, facet, look_at, project, wall
from delf_engine.synthesis.rendering import Canvas, plane_nearness, texture_to_face

NUMBER = st.floats(-40, 40)


def camera_at(x: float, y: float, z: float, roll: float = 0.0, size: tuple[int, int] = (160, 120)) -> Camera:
    return look_at((x, y, z), (0.0, 0.0, 5.0), focal=150.0, size=size, roll=roll)


def building(form: str, seed: int = 3) -> Building:
    rng = np.random.default_rng(seed)
    return draw_building(rng, form, draw_style(rng, grand=True), (seed, 1), density=5.0, turn=10.0)


# ------------------------------------------------------------------------------------------------------- faces


@given(x=NUMBER, y=NUMBER, z=st.floats(0.5, 30), roll=st.floats(-20, 20), u=st.floats(0, 12), v=st.floats(0, 7))
def test_the_homography_of_a_face_is_the_camera(
    x: float, y: float, z: float, roll: float, u: float, v: float
) -> None:
    assume(np.hypot(x, y) > 1)
    face, camera = wall("front", (-6, -2), (5, 2), 1.0, 8.0), camera_at(x, y, z, roll)
    point = np.array([[u, v]])
    # Along the wall, then down from its top: nothing of the face is used.
    along = np.array([11.0, 4.0]) / np.hypot(11, 4)
    world = np.array([[-6 + u * along[0], -2 + u * along[1], 8.0 - v]])
    expected = camera.project(world)
    assume(np.isfinite(expected).all())
    np.testing.assert_allclose(project(face.homography(camera), point), expected, rtol=1e-7, atol=1e-5)


def test_the_target_is_in_the_middle_and_up_is_up() -> None:
    camera = camera_at(3, -20, 2)
    middle, above, right = camera.project(np.array([(0, 0, 5.0), (0, 0, 6.0), (1, 0, 5.0)]))
    np.testing.assert_allclose(middle, (79.5, 59.5), atol=1e-9)  # the centre of the first pixel is 0, 0
    assert above[1] < middle[1]
    assert right[0] > middle[0]
    assert np.isnan(camera.project(np.array([(3.0, -40, 2)]))).all()


@pytest.mark.parametrize("form", FORMS)
def test_faces_of_all_forms_look_outwards_and_keep_their_corners(form: str) -> None:
    for surface in building(form).surfaces:
        face = surface.face
        assert face.down[2] < 1e-9
        assert abs(face.right[2]) < 1e-9
        np.testing.assert_allclose([np.linalg.norm(v) for v in (face.right, face.down, face.normal)], 1)
        assert face.outline.min() > -1e-9
        low = face.world(face.outline)[:, 2].min()
        assert low > -1e-9
        # A camera far out on the normal's side sees it, from the other side it does not.
        middle = face.world(face.outline).mean(axis=0)
        for side in (1, -1):
            out = middle + side * 30 * np.add(face.normal, (0, 0, 0.01))
            assert face.faces(look_at(out, np.add(middle, (0.01, 0, 0)), focal=1, size=(9, 9))) == (side > 0)


def test_a_facet_keeps_the_points_it_was_made_of() -> None:
    corners = np.array([(0, 0, 9), (4, 1, 5), (4, 1, 0), (-4, -1, 0), (-4, -1, 5)], float)
    face = facet("gable", corners)
    np.testing.assert_allclose(face.world(face.outline), corners, atol=1e-9)
    assert face.normal[1] < 0


@given(
    y=st.floats(-6, 6),
    x=st.floats(-6, 6),
    points=st.lists(st.tuples(st.floats(0, 11), st.floats(0, 7)), max_size=8),
)
def test_clipping_keeps_what_is_before_the_camera(x: float, y: float, points: list[tuple[float, float]]) -> None:
    face = wall("front", (-6, -2), (5, 2), 1.0, 8.0)
    homography = face.homography(look_at((x, y, 2.0), (x + 3, y + 1, 2.5), focal=100, size=(160, 120)))
    kept = clipped(homography, face.outline)
    depths = np.column_stack([kept, np.ones(len(kept))]) @ homography[2]
    assert (depths > NEAR - 1e-9).all()
    for u, v in points:
        depth = homography[2] @ (u, v, 1)
        assume(abs(depth - NEAR) > 1e-3)
        inside = 0.01 < u < face.bounds[0] - 0.01 and 0.01 < v < 6.99
        if inside and depth > NEAR:
            assert cv2.pointPolygonTest(kept.astype(np.float32), (u, v), False) >= 0
        elif depth < NEAR and len(kept) > 2:
            assert cv2.pointPolygonTest(kept.astype(np.float32), (u, v), False) <= 0


# --------------------------------------------------------------------------------------------------- rendering


def cast(building: Building, camera: Camera, pixel: tuple[int, int]) -> tuple[int, float]:
    """What a ray hits first, one surface at a time: its number from 1, and the distance along the axis."""
    ray = camera.rotation.T @ np.linalg.inv(camera.intrinsics) @ (*pixel, 1.0)
    best, nearest = 0, np.inf
    for number, surface in enumerate(building.surfaces, start=1):
        face = surface.face
        towards = face.normal @ ray
        if towards >= 0:
            continue
        t = face.normal @ (face.corner - camera.centre) / towards
        hit = camera.centre + t * ray - face.corner
        at = (float(hit @ face.right), float(hit @ face.down))
        if NEAR < t < nearest and cv2.pointPolygonTest(face.outline.astype(np.float32), at, False) >= 0:
            best, nearest = number, t
    return best, nearest


@pytest.mark.parametrize("form", FORMS)
def test_each_pixel_shows_what_its_ray_hits_first(form: str) -> None:
    subject, camera = building(form), camera_at(24, -32, 3, roll=4)
    canvas = Canvas(camera)
    for number, surface in reversed(list(enumerate(subject.surfaces, start=1))):
        canvas.draw_surface(surface, number, np.ones(3))
    pixels = [(x, y) for x in range(2, 158, 7) for y in range(2, 118, 7)]
    hits = [cast(subject, camera, pixel) for pixel in pixels]
    assert len({number for number, _ in hits}) > 2
    compared = 0
    for (x, y), (number, distance) in zip(pixels, hits, strict=True):
        if len(np.unique(canvas.labels[y - 1 : y + 2, x - 1 : x + 2])) == 1:  # not on an edge
            compared += 1
            assert canvas.labels[y, x] == number, (x, y)
            assert canvas.nearness[y, x] == pytest.approx(1 / distance if number else 0.0, rel=1e-4)
    assert compared > 0.8 * len(pixels)


def test_a_plane_through_the_picture_ends_at_the_horizon() -> None:
    camera = camera_at(0, -20, 2)
    ground = facet("slope", [(-50, 50, 0.01), (50, 50, 0.01), (50, -50, 0), (-50, -50, 0)])
    nearness = plane_nearness(ground, camera, (0, 0, *camera.size))
    assert (nearness[:5] <= 0).all()
    assert (nearness[-1] > 0).all()


@pytest.mark.parametrize("shape", [(7, 11, 3), (1, 1, 3), (40, 20, 3)])
def test_texels_cover_the_face_evenly(shape: tuple[int, int, int]) -> None:
    face = wall("front", (0, 0), (10, 0), 0.0, 5.0)
    rows, columns = shape[:2]
    corners = np.array([(-0.5, -0.5), (columns - 0.5, rows - 0.5)])
    np.testing.assert_allclose(project(texture_to_face(face, shape), corners), [(0, 0), (10, 5)], atol=1e-9)
