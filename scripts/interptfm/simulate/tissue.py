"""Layout of a simulated section: tumour nests in stroma, cell positions, types and stains."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from interptfm.simulate.design import CELL_TYPES

PIXEL_UM = 0.18
DENSITY_PER_MM2 = 4500.0
FOV_ASPECT = 1.5
SPACING_UM = 5.5
RASTER_UM = 2.0
MARGIN_UM = 160.0
NEST_SCALE_UM = 42.0
NEST_SHARE = 0.42
NICHE_SCALE_UM = 18.0
NICHE_LOG_SD = 1.2
# Shares of the types in CELL_TYPES order before local niches act.
SHARE_IN_NEST = np.array([0.86, 0.015, 0.05, 0.035, 0.0, 0.0, 0.01, 0.03])
SHARE_IN_STROMA = np.array([0.005, 0.28, 0.22, 0.14, 0.105, 0.11, 0.08, 0.06])

IMMUNE = ("macrophage", "T cell", "B cell", "plasma cell", "neutrophil")
# Typical mean intensity of a stain: in the types that carry it, and elsewhere.
STAINS = {
    "MembraneStain": (CELL_TYPES, 2500.0, 2500.0),
    "PanCK": (("tumour",), 9000.0, 350.0),
    "CD45": (IMMUNE, 1600.0, 180.0),
    "CD3": (("T cell",), 900.0, 90.0),
    "DAPI": (CELL_TYPES, 700.0, 700.0),
}
STAIN_LOG_SD = 0.45


class Field:
    """A smooth Gaussian random field with mean 0 and variance 1 over a section.

    White noise on a raster under a Gaussian filter; the variance is scaled by its exact value for
    that filter, so a field does not depend on what part of it the cells sample.
    """

    def __init__(
        self,
        extent: tuple[float, float],
        scale_um: float,
        generator: np.random.Generator,
        margin_um: float = 0.0,
    ) -> None:
        from scipy.ndimage import gaussian_filter

        self.margin = margin_um
        shape = tuple(int(np.ceil((side + 2 * margin_um) / RASTER_UM)) + 1 for side in extent)
        sigma = scale_um / RASTER_UM
        noise = gaussian_filter(generator.standard_normal(shape), sigma, mode="wrap")
        self.values = noise * (2 * sigma * np.sqrt(np.pi))

    def at(self, xy: np.ndarray) -> np.ndarray:
        """Return the field at positions ``xy`` (n, 2) in µm, linear between raster points."""
        return sample_raster(self.values, xy, self.margin)


def sample_raster(values: np.ndarray, xy: np.ndarray, margin_um: float) -> np.ndarray:
    """Return a raster (x, y) at positions (n, 2) in µm, linear between its points."""
    from scipy.ndimage import map_coordinates

    return map_coordinates(values, (xy.T + margin_um) / RASTER_UM, order=1, mode="nearest")


@dataclass(frozen=True)
class Layout:
    """Cells of one section before any expression.

    Attributes
    ----------
    xy
        (n, 2) positions in µm, multiples of the pixel size, from the lower left corner.
    fov, cell_id
        (n,) int, both from 1; cells are numbered from the top of a FOV down.
    cell_type
        (n,) index into ``CELL_TYPES``.
    border_um
        (n,) signed distance to the nearest tumour border in µm, negative inside a nest.
    extent
        Width and height of the section in µm.
    fov_width_px
        Width of one FOV in pixels.
    """

    xy: np.ndarray
    fov: np.ndarray
    cell_id: np.ndarray
    cell_type: np.ndarray
    border_um: np.ndarray
    extent: tuple[float, float]
    fov_width_px: int


def lay_out(n: int, fovs: int, generator: np.random.Generator) -> Layout:
    """Place ``n`` cells in ``fovs`` adjoining FOVs at :data:`DENSITY_PER_MM2`.

    Nests are where a smooth random field exceeds the quantile that gives :data:`NEST_SHARE` of the
    area; types are drawn from the shares of nest or stroma, tilted by one smooth random field a
    type so that equal cells gather.
    """
    fov_area = n / fovs / DENSITY_PER_MM2 * 1e6
    width_px = round(np.sqrt(fov_area * FOV_ASPECT) / PIXEL_UM)
    height_px = round(np.sqrt(fov_area / FOV_ASPECT) / PIXEL_UM)
    extent = (fovs * width_px * PIXEL_UM, height_px * PIXEL_UM)
    xy = place_cells(n, extent, generator)
    xy = np.minimum(np.floor(xy / PIXEL_UM), [fovs * width_px - 1, height_px - 1]) * PIXEL_UM

    border = tumour_distance(extent, generator)
    border_um = sample_raster(border, xy, MARGIN_UM)
    shares = np.where((border_um < 0)[:, None], SHARE_IN_NEST, SHARE_IN_STROMA)
    for column in range(1, len(CELL_TYPES)):
        niche = Field(extent, NICHE_SCALE_UM, generator).at(xy)
        shares[:, column] *= np.exp(NICHE_LOG_SD * niche - NICHE_LOG_SD**2 / 2)
    shares /= shares.sum(axis=1, keepdims=True)
    draw = generator.random(n)[:, None]
    cell_type = np.minimum((shares.cumsum(axis=1) < draw).sum(axis=1), len(CELL_TYPES) - 1)

    x_px = np.rint(xy[:, 0] / PIXEL_UM).astype(int)
    fov = x_px // width_px + 1
    order = np.lexsort((xy[:, 0], -xy[:, 1], fov))
    cell_id = np.empty(n, dtype=np.int64)
    fov_sorted = fov[order]
    starts = np.searchsorted(fov_sorted, fov_sorted)
    cell_id[order] = np.arange(n) - starts + 1
    return Layout(
        xy[order],
        fov_sorted,
        cell_id[order],
        cell_type[order],
        border_um[order],
        extent,
        width_px,
    )


def place_cells(n: int, extent: tuple[float, float], generator: np.random.Generator) -> np.ndarray:
    """Return ``n`` positions (n, 2) in µm, no two of them closer than :data:`SPACING_UM`.

    Random sequential addition: candidates in random order, each kept if it keeps its distance from
    all kept before it. Done in rounds, so that the cost is a few neighbour searches.
    """
    from scipy.spatial import cKDTree

    placed = np.empty((0, 2))
    while len(placed) < n:
        candidates = generator.random((n, 2)) * extent
        if len(placed):
            free = cKDTree(placed).query(candidates)[0] >= SPACING_UM
            candidates = candidates[free]
        pairs = cKDTree(candidates).query_pairs(SPACING_UM, output_type="ndarray")
        keep = np.ones(len(candidates), dtype=bool)
        # The earlier candidate of a pair wins, if it was not itself lost to one before it.
        for first, second in pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]:
            if keep[first]:
                keep[second] = False
        placed = np.concatenate([placed, candidates[keep]])
    return placed[:n]


def tumour_distance(extent: tuple[float, float], generator: np.random.Generator) -> np.ndarray:
    """Return the signed distance to the tumour border in µm on the raster, negative inside.

    The raster reaches :data:`MARGIN_UM` beyond the section, so that borders just outside count.
    """
    field = Field(extent, NEST_SCALE_UM, generator, MARGIN_UM).values
    edge = int(MARGIN_UM / RASTER_UM)
    return signed_distance(field > np.quantile(field[edge:-edge, edge:-edge], 1 - NEST_SHARE))


def signed_distance(inside: np.ndarray) -> np.ndarray:
    """Return the distance of raster points to the border of a bool raster in µm, negative inside."""
    from scipy.ndimage import distance_transform_edt

    # Half a raster step lies between the last point of one side and the border.
    outer = distance_transform_edt(~inside) - 0.5
    inner = distance_transform_edt(inside) - 0.5
    return RASTER_UM * np.where(inside, -inner, outer)


def stain_intensities(cell_type: np.ndarray, generator: np.random.Generator) -> dict[str, np.ndarray]:
    """Return ``Mean.<stain>`` and ``Max.<stain>`` (n,) int, log-normal around the type's level."""
    names = np.asarray(CELL_TYPES)[cell_type]
    columns = {}
    for stain, (carriers, high, low) in STAINS.items():
        level = np.where(np.isin(names, carriers), high, low)
        mean = level * np.exp(STAIN_LOG_SD * generator.standard_normal(len(level)))
        peak = mean * (1.3 + generator.gamma(2.0, 0.6, len(level)))
        columns[f"Mean.{stain}"] = np.rint(mean).astype(np.int64)
        columns[f"Max.{stain}"] = np.rint(peak).astype(np.int64)
    return columns


def cell_shapes(n: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
    """Return ``Area``, ``AspectRatio``, ``Width``, ``Height`` (n,): pixels, ratio two decimals."""
    mean_area = 0.6 * 1e6 / DENSITY_PER_MM2 / PIXEL_UM**2
    area = mean_area * np.exp(0.35 * generator.standard_normal(n) - 0.35**2 / 2)
    aspect = np.exp(0.25 * generator.standard_normal(n))
    # An ellipse of that area and aspect fills its bounding box.
    height = np.sqrt(4 * area / np.pi / aspect)
    width = height * aspect
    return {
        "Area": np.rint(area).astype(np.int64),
        "AspectRatio": np.round(aspect, 2),
        "Width": np.rint(width).astype(np.int64),
        "Height": np.rint(height).astype(np.int64),
    }
